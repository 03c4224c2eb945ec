/** Which of the last requests are wanted: all of it stands in the address. */
import { html } from "../../lib/html.js";
import { isWithin, rangeOf, rangeWords } from "../../lib/histogram.js";
import { REASONS } from "../../lib/misses.js";
import { query, setQuery } from "../../lib/router.js";
import { Choice } from "../../components/fields.js";

export const failed = (request) => request.status >= 400 || Boolean(request.code);
export const versionOf = (request) => (request.adapter && request.version ? `${request.adapter}@${request.version}` : "");
export const tenantOf = (request) => request.tenant ?? (request.key_id ? "administrators" : "unknown");

/** [parameter, label, of a request: its value, in words] */
const FACETS = [
  ["code", "Code", (request) => request.code ?? (request.status === null ? "running" : String(request.status))],
  ["version", "Version", versionOf],
  ["tenant", "Tenant", tenantOf],
  ["key", "Key", (request) => request.key_id],
  ["miss", "Missed because", (request) => request.miss_reason, (value) => REASONS[value] ?? value],
  ["replica", "Replica", (request) => request.placement?.replica],
];
/** What ranges are of; `of` a request: seconds. */
export const TIMES = [
  { param: "ttft", label: "First token", title: "Time to the first token", of: (request) => request.ttft },
  { param: "total", label: "Total", title: "Total time", of: (request) => request.total_seconds },
];
const SPANS = [["60", "last minute"], ["300", "last 5 minutes"], ["900", "last 15 minutes"], ["3600", "last hour"]];
const CLEARED = Object.fromEntries(["q", "show", "last", ...FACETS.map(([param]) => param), ...TIMES.map(({ param }) => param)].map((param) => [param, null]));

/** Those that the address asks for, newest first as they came. ignored: one of TIMES, whose range is left out */
export function wanted(items, asked, ignored) {
  const text = (asked.get("q") ?? "").toLowerCase();
  const shown = asked.get("show");
  const since = asked.has("last") ? Date.now() / 1000 - Number(asked.get("last")) : 0;
  const facets = FACETS.filter(([param]) => asked.has(param));
  const ranges = rangesOf(asked).filter(({ time }) => time !== ignored);
  return items.filter((one) => one.at >= since && (!shown || failed(one) === (shown === "failed"))
    && facets.every(([param, , of]) => of(one) === asked.get(param))
    && ranges.every(({ time, range }) => isWithin(time.of(one), range))
    && (!text || [one.model, versionOf(one), one.tenant, one.code, one.id, one.path].join(" ").toLowerCase().includes(text)));
}

const rangesOf = (asked) => TIMES.map((time) => ({ time, range: rangeOf(asked.get(time.param)) })).filter(({ range }) => range);

export const showAll = () => setQuery(CLEARED);

const PHONE = matchMedia("(max-width: 640px)");

/** A choice of what there is among the requests, and of what the address asks for. */
export function Filters({ items }) {
  const asked = query.value;
  const some = [...asked.keys()].some((param) => param in CLEARED);
  return html`<details open=${some || !PHONE.matches}><summary class="small muted">Filters</summary><div class="row filters" role="group" aria-label="Filters">
    <${Choice} param="last" label="Time" any="any time" of=${SPANS} />
    ${FACETS.map(([param, label, of, words = String]) => {
      const values = [...new Set([...items.map(of), asked.get(param)])].filter(Boolean).sort();
      return values.length > 0 && html`<${Choice} key=${param} param=${param} label=${label} any="any" of=${values.map((value) => [value, words(value)])} />`;
    })}
    ${rangesOf(asked).map(({ time, range }) => html`<button key=${time.param} type="button" class="tag" aria-label=${`Remove ${time.label} ${rangeWords(range)}`} onClick=${() => setQuery({ [time.param]: null })}>${time.label} ${rangeWords(range)} <span aria-hidden="true">×</span></button>`)}
    ${some && html`<button class="button small quiet" onClick=${showAll}>Clear</button>`}
  </div></details>`;
}
