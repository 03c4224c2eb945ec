/** Which of the last requests are wanted: all of it stands in the address. */
import { html, useMemo } from "../../lib/html.js";
import { isWithin, rangeOf, rangeWords } from "../../lib/histogram.js";
import { t } from "../../lib/language.js";
import { reasons } from "../../lib/misses.js";
import { query, setQuery } from "../../lib/router.js";
import { isAdmin } from "../../lib/session.js";
import { Choice } from "../../components/fields.js";

export const failed = (request) => request.status >= 400 || Boolean(request.code);
export const versionOf = (request) => (request.adapter && request.version ? `${request.adapter}@${request.version}` : "");
export const tenantOf = (request) => request.tenant ?? (request.key_id ? "administrators" : "unknown");

/** A tenant as it is shown, or in words who else. */
export const tenantWords = (tenant) => ({ administrators: t("administrators"), unknown: t("unknown") })[tenant] ?? tenant;

/** [parameter, label, of a request: its value, in words] */
const allFacets = () => [
  ["code", t("Code"), (request) => request.code ?? (request.status === null ? "running" : String(request.status)), (value) => (value === "running" ? t("running") : value)],
  ["version", t("Version"), versionOf],
  ["tenant", t("Tenant"), tenantOf, tenantWords],
  ["key", t("Key"), (request) => request.key_id],
  ["miss", t("Missed because"), (request) => request.miss_reason, (value) => reasons()[value] ?? value],
  ["replica", t("Replica"), (request) => request.placement?.replica],
];
/** What ranges are of; `of` a request: seconds. */
export const requestTimes = () => [
  { param: "ttft", label: t("First token"), title: t("Time to the first token"), of: (request) => request.ttft },
  { param: "total", label: t("Total"), title: t("Total time"), of: (request) => request.total_seconds },
];
const spans = () => [["60", t("last minute")], ["300", t("last 5 minutes")], ["900", t("last 15 minutes")], ["3600", t("last hour")]];
const CLEARED = Object.fromEntries(["q", "show", "last", ...allFacets().map(([param]) => param), ...requestTimes().map(({ param }) => param)].map((param) => [param, null]));

/** Those that the address asks for, newest first as they came. ignored: the time whose range is left out */
export function wanted(items, asked, ignored) {
  const text = (asked.get("q") ?? "").toLowerCase();
  const shown = asked.get("show");
  const since = asked.has("last") ? Date.now() / 1000 - Number(asked.get("last")) : 0;
  const facets = allFacets().filter(([param]) => asked.has(param));
  const ranges = rangesOf(asked).filter(({ time }) => time.param !== ignored?.param);
  return items.filter((one) => one.at >= since && (!shown || failed(one) === (shown === "failed"))
    && facets.every(([param, , of]) => of(one) === asked.get(param))
    && ranges.every(({ time, range }) => isWithin(time.of(one), range))
    && (!text || [one.model, versionOf(one), one.tenant, one.code, one.id, one.path].join(" ").toLowerCase().includes(text)));
}

const rangesOf = (asked) => requestTimes().map((time) => ({ time, range: rangeOf(asked.get(time.param)) })).filter(({ range }) => range);

export const showAll = () => setQuery(CLEARED);

const PHONE = matchMedia("(max-width: 640px)");

/** A choice of what there is among the requests, and of what the address asks for. */
export function Filters({ items }) {
  const asked = query.value;
  const some = [...asked.keys()].some((param) => param in CLEARED);
  const valuesOf = useMemo(() => new Map(allFacets().map(([param, , of]) => [param, new Set(items.map(of))])), [items]);
  return html`<details open=${some || !PHONE.matches}><summary class="small muted">${t("Filters")}</summary><div class="row filters" role="group" aria-label=${t("Filters")}>
    <${Choice} param="last" label=${t("Time")} any=${t("any time")} of=${spans()} />
    ${allFacets().filter(([param]) => isAdmin.value || param !== "tenant").map(([param, label, , words = String]) => {
      const values = [...new Set([...valuesOf.get(param), asked.get(param)])].filter(Boolean).sort();
      return values.length > 0 && html`<${Choice} key=${param} param=${param} label=${label} any=${t("any")} of=${values.map((value) => [value, words(value)])} />`;
    })}
    ${rangesOf(asked).map(({ time, range }) => html`<button key=${time.param} type="button" class="tag" aria-label=${t`Remove ${time.label} ${rangeWords(range)}`} onClick=${() => setQuery({ [time.param]: null })}>${time.label} ${rangeWords(range)} <span aria-hidden="true">×</span></button>`)}
    ${some && html`<button class="button small quiet" onClick=${showAll}>${t("Clear")}</button>`}
  </div></details>`;
}
