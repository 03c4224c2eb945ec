/** Tokens by day as bars between two axes, their sums, and the same numbers as a file. */
import { html } from "../lib/html.js";
import { getAll } from "../lib/api.js";
import { count, money, percent, seconds } from "../lib/format.js";
import { t } from "../lib/language.js";
import { useResource } from "../lib/resource.js";
import { spent } from "../lib/tables.js";
import { Card, Stats } from "./bits.js";
import { Export } from "./export.js";
import { Empty, Loaded } from "./states.js";

const DAYS = 30;
const COLUMNS = ["day", "requests", "prompt_tokens", "cached_tokens", "cache_write_tokens", "uncached_tokens", "completion_tokens", "device_ms"].map((key) => ({ key }));

/** @param {{title: string, filter: {adapter?: string, tenant?: string}}} props */
export function UsageDays({ title, filter }) {
  const since = new Date(Date.now() - (DAYS - 1) * 86_400_000).toISOString().slice(0, 10);
  const search = new URLSearchParams({ ...filter, since, group_by: "day" });
  const usage = useResource((signal) => getAll(`/api/v1/usage?${search}`, { signal }), [search.toString()], { watch: ["records"], pause: 5 });
  return html`<${Card} title=${title}><${Loaded} resource=${usage} lines=${4}>${(rows) => (rows.length
    ? html`<${Shown} rows=${rows} since=${since} />` : html`<${Empty} title=${t("Not used yet")}>${t("Requests are counted here by day, a few seconds after they end.")}<//>`)}<//><//>`;
}

function Shown({ rows, since }) {
  const sum = (field) => rows.reduce((total, row) => total + row[field], 0);
  const days = Array.from({ length: DAYS }, (_, i) => new Date(Date.parse(since) + i * 86_400_000).toISOString().slice(0, 10));
  const by = new Map(rows.map((row) => [row.day, row]));
  const most = Math.max(...rows.map((row) => row.prompt_tokens + row.completion_tokens), 1);
  const top = roundedUp(most);
  const total = sum("prompt_tokens");
  const currency = rows.find((row) => row.money)?.money.currency;
  const cost = currency ? [[t("Cost"), money(rows.reduce((all, row) => all + (spent(row.money) ?? 0), 0), currency)]] : [];
  return html`<div class="stack">
    <${Stats} label=${t("Sums")} of=${[[t("Requests"), count(sum("requests"))], [t("Prompt tokens"), count(total), t`${percent(total ? sum("cached_tokens") / total : 0)} cached`],
      [t("Generated tokens"), count(sum("completion_tokens"))], [t("Device time"), seconds(sum("device_ms") / 1000)], ...cost]} />
    <div class="days-axes">
    <span class="days-up" aria-hidden="true">${[top, top / 2, 0].map((value) => html`<span key=${value}>${count(value)}</span>`)}</span>
    <div class="days" role="img" aria-label=${t`Tokens by day: ${rows.map((row) => `${row.day} ${row.prompt_tokens + row.completion_tokens}`).join(", ")}`}>
      ${days.map((day) => html`<${Day} key=${day} day=${day} row=${by.get(day)} most=${top} />`)}</div>
    <span class="days-along" aria-hidden="true">${days.filter((_, i) => (DAYS - 1 - i) % 7 === 0).map((day) => html`<span key=${day}>${day.slice(5)}</span>`)}</span></div>
    <ul class="legend"><li><i class="s2"></i>${t("prompt")}</li><li><i class="s1"></i>${t("generated")}</li><li>${t`${days[0]} to ${days.at(-1)}`}</li></ul>
    <${Export} name="usage by day" label=${t("Usage by day")} columns=${COLUMNS} rows=${rows} />
  </div>`;
}

/** To 1, 2 or 5 of a power of ten, so that the axis has round numbers. */
const roundedUp = (most) => {
  const power = 10 ** Math.floor(Math.log10(most));
  return power * [1, 2, 5, 10].find((part) => part * power >= most);
};

function Day({ day, row, most }) {
  const height = (value) => ({ height: `${(100 * value) / most}%` });
  const text = row ? t`${day}: ${count(row.requests)} requests, ${count(row.prompt_tokens)} + ${count(row.completion_tokens)} tokens` : t`${day}: nothing`;
  return html`<span class="day" title=${text}>${row && html`<i class="s1" style=${height(row.completion_tokens)}></i><i class="s2" style=${height(row.prompt_tokens)}></i>`}</span>`;
}
