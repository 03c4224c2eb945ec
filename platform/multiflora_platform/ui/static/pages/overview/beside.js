/** Beside the charts: what one would look for next. */
import { html } from "../../lib/html.js";
import { count, money, percent, seconds } from "../../lib/format.js";
import { t } from "../../lib/language.js";
import { loadNewest } from "../../lib/requests.js";
import { useResource } from "../../lib/resource.js";
import { href } from "../../lib/router.js";
import { colourOf } from "../../lib/theme.js";
import { Card, Share, Time } from "../../components/bits.js";
import { sumsByModel } from "./models.js";

const LISTED = 5;

/** @param {{rollouts: Array|undefined}} props */
export function Beside({ points, span, rollouts }) {
  const requests = useResource(loadNewest, [], { watch: ["requests"], pause: 5 });
  const since = (points.at(-1)?.at ?? 0) - span;
  const recent = (requests.data ?? []).filter((request) => request.at >= since);
  return html`<div class="stack">
    <${Rollouts} of=${rollouts ?? []} />
    <${Costliest} of=${recent} />
    <${Busiest} points=${points} />
    <${Tenants} of=${recent} />
    <${Slowest} of=${recent} />
    <${Refusals} of=${recent} />
  </div>`;
}

/** Nothing is drawn where there is nothing to list. */
const List = ({ title, about, rows }) => rows.length > 0 && html`<${Card} title=${title} about=${about}><ul class="ranked">${rows}</ul><//>`;

/** Those that run; one that was rolled back is told above the charts. */
const Rollouts = ({ of }) => html`<${List} title=${t("Rollouts")} rows=${of.filter((one) => one.state === "running").map((one) => html`<${Running} key=${one.id} of=${one} />`)} />`;

const Link = ({ of }) => html`<a href=${href(`/adapters/${of.adapter}?tab=aliases`)}>${of.adapter}@${of.alias}</a>`;

const Running = ({ of: one }) => html`<li><${Link} of=${one} /><span class="muted small">${t`v${one.stable} to v${one.candidate}, ${one.percent}%${one.candidate_observed ? t`, ${percent(one.candidate_observed.errors / Math.max(one.candidate_observed.requests, 1))} errors of ${count(one.candidate_observed.requests)}` : ""}`}</span></li>`;

function Busiest({ points }) {
  const sums = sumsByModel(points);
  const total = sums.reduce((sum, [, value]) => sum + value, 0);
  return html`<${List} title=${t("Busiest models")} about=${t("By generated tokens")} rows=${sums.slice(0, LISTED).map(([name, value]) => html`<li key=${name}>
    <a class="cut" href=${href(`/requests?q=${encodeURIComponent(name)}`)}>${name}</a><span class="muted small">${percent(value / total)}</span>
    <${Share} label=${name} parts=${[{ label: name, value, colour: colourOf(name) }, { label: t("others"), value: total - value, colour: "var(--hover)" }]} /></li>`)} />`;
}

/** Of requests. @returns {{amount, currency}|null} null without prices */
function costOf(requests) {
  const priced = requests.filter((one) => one.cost);
  return priced.length ? { amount: priced.reduce((sum, one) => sum + one.cost.amount, 0), currency: priced[0].cost.currency } : null;
}

/** "USD 0.0012, ", or nothing without prices. */
const priceWords = (cost) => (cost ? `${money(cost.amount, cost.currency)}, ` : "");

function Tenants({ of }) {
  const tokens = (requests) => requests.reduce((sum, one) => sum + one.prompt_tokens + one.completion_tokens, 0);
  const rows = [...Map.groupBy(of.filter((one) => one.tenant), (one) => one.tenant)].map(([name, requests]) => ({ name, cost: costOf(requests), tokens: tokens(requests) }));
  const most = rows.sort((a, b) => b.tokens - a.tokens).slice(0, LISTED);
  return html`<${List} title=${t("Busiest tenants")} about=${t("Of the last 1,000 requests")} rows=${most.map(({ name, cost, tokens }) => html`<li key=${name}>
    <a class="cut" href=${href(`/tenants/${encodeURIComponent(name)}`)}>${name}</a><span class="muted small">${priceWords(cost)}${t`${count(tokens)} tokens`}</span></li>`)} />`;
}

/** What took the device longest, prompt and answer. */
function Costliest({ of }) {
  const rows = of.filter((one) => one.device_seconds > 0).toSorted((a, b) => b.device_seconds - a.device_seconds).slice(0, LISTED);
  return html`<${List} title=${t("Costliest requests")} about=${html`${t("By device time, of the last 1,000 requests")} · <a href=${href("/requests?sort=-device_seconds")}>${t("All")}</a>`} rows=${rows.map((one) => html`<li key=${one.id}>
    <a class="cut" href=${href(`/requests/${one.id}`)}>${one.model}</a><span class="muted small">${one.cost ? money(one.cost.amount, one.cost.currency) : seconds(one.device_seconds)}${t`, ${count(one.prompt_tokens + one.completion_tokens)} tokens`}</span></li>`)} />`;
}

function Slowest({ of }) {
  const rows = of.filter((one) => one.ttft !== null).toSorted((a, b) => b.ttft - a.ttft).slice(0, LISTED);
  return html`<${List} title=${t("Slowest first tokens")} about=${t("Of the last 1,000 requests")} rows=${rows.map((one) => html`<li key=${one.id}>
    <a class="cut" href=${href(`/requests/${one.id}`)}>${one.model}</a><span class="muted small">${t`${seconds(one.ttft)}, ${count(one.prompt_tokens)} tokens,`} <${Time} at=${one.at} /></span></li>`)} />`;
}

function Refusals({ of }) {
  const counts = new Map();
  for (const one of of) if (one.status >= 400 && one.status < 500) counts.set(one.code ?? one.status, (counts.get(one.code ?? one.status) ?? 0) + one.count);
  const rows = [...counts].sort((a, b) => b[1] - a[1]).slice(0, LISTED);
  return html`<${List} title=${t("Refused")} about=${t("By cause")} rows=${rows.map(([code, times]) => html`<li key=${code}>
    <a class="cut" href=${href(`/requests?show=failed&q=${encodeURIComponent(code)}`)}>${code}</a><span class="muted small">${count(times)}×</span></li>`)} />`;
}
