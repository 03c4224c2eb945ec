/** What has the memory: by part, or by engine where there are several. */
import { html, useMemo } from "../../lib/html.js";
import { t } from "../../lib/language.js";
import { query, setQuery } from "../../lib/router.js";
import { Card, Segmented } from "../../components/bits.js";
import { Chart } from "../../components/chart.js";

const PARTS = ["weights", "kv", "adapters", "copies", "rest"];
const labels = () => ({ weights: t("weights"), kv: t("KV blocks"), adapters: t("adapters"), copies: t("copies in host memory"), rest: t("engine") });
const choices = () => [["part", t("By part")], ["replica", t("By replica")]];

export function Memory({ points, times, span, marks }) {
  const replicas = useMemo(() => linesByReplica(points), [points]);
  const hasSeveral = replicas.length > 1;
  const by = hasSeveral && query.value.get("memory") === "replica" ? "replica" : "part";
  const lines = useMemo(() => [
    ...(by === "part" ? linesByPart(points) : replicas),
    { label: t("gateway"), slot: 7, values: points.map((point) => point.gateway_bytes) },
  ], [replicas, by]);
  return html`<${Card} title=${t("Memory")} actions=${hasSeveral && html`<${Segmented} label=${t("Memory")} of=${choices()} value=${by} onChange=${(value) => setQuery({ memory: value === "part" ? null : value })} />`}>
    <${Chart} label=${t("Memory")} times=${times} lines=${lines} unit="bytes" stacked span=${span} marks=${marks} /><//>`;
}

/** [name, ReplicaMemory] of each engine that ran; of several base models with the model's name. */
function enginesOf({ by_base: bases }) {
  const several = Object.keys(bases).length > 1;
  return Object.entries(bases).flatMap(([base, { memory }]) => Object.entries(memory).map(([id, one]) => [several ? `${base} ${id}` : t`replica ${id}`, one]));
}

/** Parts that no engine has are not drawn. */
export function linesByPart(points) {
  const lines = PARTS.map((part, slot) => ({ label: labels()[part], slot, values: points.map((point) => enginesOf(point).reduce((sum, [, one]) => sum + (one[part] ?? 0), 0)) }));
  return lines.filter((line) => line.values.some(Boolean));
}

export function linesByReplica(points) {
  const names = [...new Set(points.flatMap((point) => enginesOf(point).map(([name]) => name)))];
  return names.map((name, slot) => ({ label: name, slot, values: points.map((point) => totalOf(enginesOf(point).find(([one]) => one === name)?.[1])) }));
}

const totalOf = (memory) => PARTS.reduce((sum, part) => sum + (memory?.[part] ?? 0), 0);
