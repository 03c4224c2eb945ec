/** Overview: what the server does now and did lately, and what needs attention. */
import { html, useMemo } from "../lib/html.js";
import { get } from "../lib/api.js";
import { kvUse } from "../lib/bases.js";
import { eventWords } from "../lib/events.js";
import { moment } from "../lib/format.js";
import { t } from "../lib/language.js";
import { useSeries } from "../lib/live.js";
import { highest, intervalOf, mean } from "../lib/measured.js";
import { useResource } from "../lib/resource.js";
import { query, setQuery } from "../lib/router.js";
import { colourOf } from "../lib/theme.js";
import { Card, PageHeader, Segmented } from "../components/bits.js";
import { Chart } from "../components/chart.js";
import { Failure, Skeleton } from "../components/states.js";
import { Attention } from "./overview/attention.js";
import { Beside } from "./overview/beside.js";
import { FirstSteps } from "./overview/first-steps.js";
import { HeatMap } from "./overview/heat-map.js";
import { Memory } from "./overview/memory.js";
import { linesByBase, linesByModel } from "./overview/models.js";
import { Tiles } from "./overview/tiles.js";

const spans = () => [["900", t`${15} min`], ["3600", t`${1} h`], ["21600", t`${6} h`], ["86400", t`${24} h`]];
const MOST_POINTS = 300;
const MOST_MARKS = 200;
/** Deployments, and what moves traffic or stops it; an engine that restarts raises an alert. */
const MARKED = ["alias.moved", "alias.deleted", "rollout.started", "rollout.stepped", "rollout.promoted", "rollout.rolled_back", "rollout.aborted", "version.ready", "model.loading", "model.unloading", "alert.raised", "alert.cleared"];

export default function Overview() {
  const span = Number(query.value.get("window") ?? 900);
  const series = useSeries(span);
  const rollouts = useResource((signal) => get("/api/v1/rollouts?limit=100", { signal }), [], { watch: ["records", "requests"], pause: 5 });
  const actions = html`<${Segmented} label=${t("Time shown")} of=${spans()} value=${String(span)} onChange=${(value) => setQuery({ window: value === "900" ? null : value })} />`;
  return html`<${PageHeader} title=${t("Overview")} actions=${actions} />
    <${Attention} rollouts=${rollouts.data?.items} />
    <${FirstSteps} />
    ${series.points ? html`<${Charts} points=${series.points} span=${span} rollouts=${rollouts.data?.items} />`
      : series.error ? html`<${Failure} error=${series.error} onRetry=${series.reload} />` : html`<${Skeleton} lines=${10} />`}`;
}

/** At most so many points that each is seen: means of a few, the worst for what ends in _p95, of base models the last. */
function thinned(points) {
  const size = Math.ceil(points.length / MOST_POINTS);
  if (size < 2) return points;
  const groups = Map.groupBy(points, (point) => Math.floor(point.at / (size * intervalOf(points))));
  return [...groups.values()].map((group) => ({ ...merged(group), at: group.at(-1).at, by_model: means(group), by_base: group.at(-1).by_base }));
}

function merged(group) {
  const fields = Object.keys(group[0]).filter((field) => !field.includes("by_"));
  return Object.fromEntries(fields.map((field) => {
    const values = group.map((point) => point[field]);
    return [field, field.endsWith("_p95") ? highest(values) : mean(values)];
  }));
}

function means(group) {
  const sums = {};
  for (const point of group) {
    for (const [model, value] of Object.entries(point.by_model ?? {})) sums[model] = (sums[model] ?? 0) + value / group.length;
  }
  return sums;
}

/** What changed at once what the charts show. */
function useMarks() {
  const types = MARKED.map((type) => `&type=${type}`).join("");
  const events = useResource((signal) => get(`/api/v1/events?newest=true&limit=${MOST_MARKS}${types}`, { signal }), [], { watch: ["records"], pause: 3 });
  return useMemo(() => (events.data?.items ?? []).map((event) => ({ at: moment(event.at), label: markOf(event) })), [events.data]);
}

function markOf({ type, adapter, payload: { alias, version, model, title } }) {
  const of = title ?? (adapter ? `${adapter}${alias ? `@${alias}` : ""}${version ? ` v${version}` : ""}` : model);
  return `${eventWords(type)}${of ? ` (${of})` : ""}`;
}

function Charts({ points: all, span, rollouts }) {
  const marks = useMarks();
  const points = useMemo(() => thinned(all), [all]);
  const times = useMemo(() => points.map((point) => point.at), [points]);
  const line = (label, field, slot) => ({ label, slot, values: points.map((point) => point[field]) });
  const lines = useMemo(() => ({
    tokens: linesByModel(points, colourOf),
    ttft: [line("p50", "ttft_p50", 1), line("p95", "ttft_p95", 0)],
    itl: [line("p50", "itl_p50", 1), line("p95", "itl_p95", 0)],
    load: [line(t("running"), "running", 2), line(t("waiting"), "waiting", 3)],
    cache: [...linesByBase(points, colourOf, { label: t("KV blocks in use"), slot: 4 }, kvUse), line(t("cache hit rate"), "cache_hit_rate", 2)],
    errors: [line(t("requests"), "requests", 1), line(t("errors"), "errors", 0)].map((one) => ({ ...one, values: one.values.map((value) => value / intervalOf(all)) })),
  }), [points, all]);
  const chart = (title, name, unit, more) => html`<${Card} title=${title} wide=${more?.wide}><${Chart} label=${title} times=${times} lines=${lines[name]} unit=${unit} span=${span} marks=${marks} ...${more} /><//>`;
  return html`<${Tiles} points=${all} />
    <div class="split-view overview">
      <div class="grid">
        ${chart(t("Generated tokens per second, by model"), "tokens", "rate", { stacked: true, wide: true, height: 220 })}
        ${chart(t("Time to first token"), "ttft", "seconds")}
        ${chart(t("Time between tokens"), "itl", "seconds")}
        ${chart(t("Concurrent requests"), "load", "count")}
        ${chart(t("KV cache"), "cache", "percent", { range: [0, 1] })}
        <${Memory} points=${points} times=${times} span=${span} marks=${marks} />
        ${chart(t("Requests and errors per second"), "errors", "rate")}
        <${HeatMap} points=${all} span=${span} />
      </div>
      <${Beside} points=${all} span=${span} rollouts=${rollouts} />
    </div>`;
}
