/** Beside the charts: what one would look for next. */
import { html } from "../../lib/html.js";
import { get } from "../../lib/api.js";
import { count, moment, percent, seconds } from "../../lib/format.js";
import { t } from "../../lib/language.js";
import { loadNewest } from "../../lib/requests.js";
import { useResource } from "../../lib/resource.js";
import { href } from "../../lib/router.js";
import { colourOf } from "../../lib/theme.js";
import { Card, Share, State, Time } from "../../components/bits.js";
import { sumsByModel } from "./models.js";

const LISTED = 5;

export function Beside({ points, span }) {
  const requests = useResource(loadNewest, [], { watch: ["requests"], pause: 5 });
  const since = (points.at(-1)?.at ?? 0) - span;
  const recent = (requests.data ?? []).filter((request) => request.at >= since);
  return html`<div class="stack">
    <${Rollouts} since=${since} />
    <${Busiest} points=${points} />
    <${Tenants} of=${recent} />
    <${Costliest} of=${recent} />
    <${Slowest} of=${recent} />
    <${Refusals} of=${recent} />
  </div>`;
}

/** Nothing is drawn where there is nothing to list. */
const List = ({ title, about, rows }) => rows.length > 0 && html`<${Card} title=${title} about=${about}><ul class="ranked">${rows}</ul><//>`;

/** Those that run, and why others were rolled back. since: in seconds, when that is news. */
function Rollouts({ since }) {
  const rollouts = useResource((signal) => get("/api/v1/rollouts?limit=100", { signal }), [], { watch: ["records", "requests"], pause: 5 });
  const shown = (rollouts.data?.items ?? []).filter((one) => one.state === "running" || (one.state === "rolled_back" && moment(one.ended_at) >= since));
  return html`<${List} title=${t("Rollouts")} rows=${shown.map((one) => (one.state === "running" ? html`<${Running} key=${one.id} of=${one} />` : html`<${RolledBack} key=${one.id} of=${one} />`))} />`;
}

const Link = ({ of }) => html`<a href=${href(`/adapters/${of.adapter}?tab=aliases`)}>${of.adapter}@${of.alias}</a>`;

const RolledBack = ({ of }) => html`<li><${Link} of=${of} /><${State} of=${of.state} /><span class="reason small">${t`v${of.candidate}: ${of.reason}`} <span class="muted"><${Time} at=${of.ended_at} /></span></span></li>`;

const Running = ({ of: one }) => html`<li><${Link} of=${one} /><span class="muted small">${t`v${one.stable} to v${one.candidate}, ${one.percent}%${one.candidate_observed ? t`, ${percent(one.candidate_observed.errors / Math.max(one.candidate_observed.requests, 1))} errors of ${count(one.candidate_observed.requests)}` : ""}`}</span></li>`;

function Busiest({ points }) {
  const sums = sumsByModel(points);
  const total = sums.reduce((sum, [, value]) => sum + value, 0);
  return html`<${List} title=${t("Busiest models")} about=${t("By generated tokens")} rows=${sums.slice(0, LISTED).map(([name, value]) => html`<li key=${name}>
    <a class="cut" href=${href(`/requests?q=${encodeURIComponent(name)}`)}>${name}</a><span class="muted small">${percent(value / total)}</span>
    <${Share} label=${name} parts=${[{ label: name, value, colour: colourOf(name) }, { label: t("others"), value: total - value, colour: "var(--hover)" }]} /></li>`)} />`;
}

function Tenants({ of }) {
  const sums = new Map();
  for (const one of of) if (one.tenant) sums.set(one.tenant, (sums.get(one.tenant) ?? 0) + one.prompt_tokens + one.completion_tokens);
  const rows = [...sums].sort((a, b) => b[1] - a[1]).slice(0, LISTED);
  return html`<${List} title=${t("Busiest tenants")} about=${t("Of the last 1,000 requests")} rows=${rows.map(([name, tokens]) => html`<li key=${name}>
    <a class="cut" href=${href(`/tenants/${encodeURIComponent(name)}`)}>${name}</a><span class="muted small">${t`${count(tokens)} tokens`}</span></li>`)} />`;
}

/** What took the device longest, prompt and answer. */
function Costliest({ of }) {
  const rows = of.filter((one) => one.device_seconds > 0).toSorted((a, b) => b.device_seconds - a.device_seconds).slice(0, LISTED);
  return html`<${List} title=${t("Costliest requests")} about=${t("By device time, of the last 1,000 requests")} rows=${rows.map((one) => html`<li key=${one.id}>
    <a class="cut" href=${href(`/requests/${one.id}`)}>${one.model}</a><span class="muted small">${t`${seconds(one.device_seconds)}, ${count(one.prompt_tokens + one.completion_tokens)} tokens`}</span></li>`)} />`;
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
