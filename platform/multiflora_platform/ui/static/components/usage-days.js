/** Tokens by day as bars, with the same numbers as a table. */
import { html } from "../lib/html.js";
import { getAll } from "../lib/api.js";
import { count, percent, seconds } from "../lib/format.js";
import { t } from "../lib/language.js";
import { useResource } from "../lib/resource.js";
import { Card, Stats } from "./bits.js";
import { Export } from "./export.js";
import { Empty, Loaded } from "./states.js";

const DAYS = 30;
const COLUMNS = ["day", "requests", "prompt_tokens", "cached_tokens", "cache_write_tokens", "uncached_tokens", "completion_tokens", "device_ms"].map((key) => ({ key }));

/** @param {{title: string, filter: {adapter?: string, tenant?: string}}} props */
export function UsageDays({ title, filter }) {
  const since = new Date(Date.now() - (DAYS - 1) * 86_400_000).toISOString().slice(0, 10);
  const search = new URLSearchParams({ ...filter, since, group_by: "day" });
  const usage = useResource((signal) => getAll(`/api/v1/usage?${search}`, { signal }), [search.toString()], { every: 15 });
  return html`<${Card} title=${title}><${Loaded} resource=${usage} lines=${4}>${(rows) => (rows.length
    ? html`<${Shown} rows=${rows} since=${since} />` : html`<${Empty} title=${t("Not used yet")}>${t("Requests are counted here by day, a few seconds after they end.")}<//>`)}<//><//>`;
}

function Shown({ rows, since }) {
  const sum = (field) => rows.reduce((total, row) => total + row[field], 0);
  const days = Array.from({ length: DAYS }, (_, i) => new Date(Date.parse(since) + i * 86_400_000).toISOString().slice(0, 10));
  const by = new Map(rows.map((row) => [row.day, row]));
  const most = Math.max(...rows.map((row) => row.prompt_tokens + row.completion_tokens), 1);
  const total = sum("prompt_tokens");
  return html`<div class="stack">
    <${Stats} label=${t("Sums")} of=${[[t("Requests"), count(sum("requests"))], [t("Prompt tokens"), count(total), t`${percent(total ? sum("cached_tokens") / total : 0)} cached`],
      [t("Generated tokens"), count(sum("completion_tokens"))], [t("Device time"), seconds(sum("device_ms") / 1000)]]} />
    <div class="days" role="img" aria-label=${t`Tokens by day: ${rows.map((row) => `${row.day} ${row.prompt_tokens + row.completion_tokens}`).join(", ")}`}>
      ${days.map((day) => html`<${Day} key=${day} day=${day} row=${by.get(day)} most=${most} />`)}</div>
    <ul class="legend"><li><i class="s2"></i>${t("prompt")}</li><li><i class="s1"></i>${t("generated")}</li><li>${t`${days[0]} to ${days.at(-1)}`}</li></ul>
    <${Export} name="usage by day" label=${t("Usage by day")} columns=${COLUMNS} rows=${rows} />
  </div>`;
}

function Day({ day, row, most }) {
  const height = (value) => ({ height: `${(100 * value) / most}%` });
  const text = row ? t`${day}: ${count(row.requests)} requests, ${count(row.prompt_tokens)} + ${count(row.completion_tokens)} tokens` : t`${day}: nothing`;
  return html`<span class="day" title=${text}>${row && html`<i class="s1" style=${height(row.completion_tokens)}></i><i class="s2" style=${height(row.prompt_tokens)}></i>`}</span>`;
}
