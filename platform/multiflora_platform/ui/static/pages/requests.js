/** Requests: the last ones, what they waited for, and which failed. */
import { html, useMemo, useState } from "../lib/html.js";
import { clock, count, dateTime, quantile, seconds } from "../lib/format.js";
import { REASONS } from "../lib/misses.js";
import { loadRequests } from "../lib/requests.js";
import { useResource } from "../lib/resource.js";
import { go, href, query, setQuery } from "../lib/router.js";
import { Badge, PageHeader, Search, Segmented, Swatch } from "../components/bits.js";
import { Phases, PhaseLegend } from "../components/phases.js";
import { Empty, Loaded } from "../components/states.js";
import { VirtualTable } from "../components/virtual-table.js";
import { failed, Filters, showAll, tenantOf, versionOf, wanted } from "./requests/filters.js";
import { Histogram } from "./requests/histogram.js";
import { AxisSwitch, SharedAxis } from "./requests/shared-axis.js";

const SHOWN = [["all", "All"], ["ok", "Succeeded"], ["failed", "Failed"]];
const LOOK_SECONDS = 2;

export default function Requests() {
  const [paused, setPaused] = useState(false);
  const requests = useResource(loadRequests, [], { every: paused ? 0 : LOOK_SECONDS });
  const pause = html`<button class="button" aria-pressed=${paused} onClick=${() => setPaused(!paused)}>${paused ? "Go on" : "Pause"}</button>`;
  return html`<${PageHeader} title="Requests" about=${paused ? "Paused: what comes is not shown until you go on" : "The last 1,000 of this server process, in numbers"} actions=${pause} />
    <div class="row"><${Search} label="Model, tenant, error, id" value=${query.value.get("q") ?? ""} onInput=${(value) => setQuery({ q: value })} />
      <${Segmented} label="Which requests" of=${SHOWN} value=${query.value.get("show") ?? "all"} onChange=${(value) => setQuery({ show: value === "all" ? null : value })} />
      <span class="choice"><span aria-hidden="true">On one axis</span><${AxisSwitch} asked=${query.value} /></span><${PhaseLegend} /></div>
    <${Filters} items=${requests.data ?? []} />
    ${requests.data?.length > 0 && html`<${Histogram} items=${requests.data} asked=${query.value} /><${SharedAxis} items=${requests.data} asked=${query.value} />`}
    <div class="card"><${Loaded} resource=${requests} lines=${10}>${(items) => html`<${Table} items=${items} asked=${query.value} />`}<//></div>`;
}

export const Outcome = ({ of }) => html`<${Badge} kind=${failed(of) ? "bad" : "ok"}>${of.code ?? of.status ?? "running"}${of.count > 1 ? ` × ${count(of.count)}` : ""}<//>`;

function Table({ items, asked }) {
  const rows = useMemo(() => wanted(items, asked), [items, asked]);
  const longest = useMemo(() => Math.max(quantile(rows.slice(0, 200).map((row) => row.total_seconds), 0.9) ?? 0, 0.001), [rows]);
  if (!items.length) return html`<${Empty} title="No requests yet" action=${html`<a class="button" href=${href("/playground")}>Send one from the playground</a>`} />`;
  if (!rows.length) return html`<${Empty} title="Nothing matches" action=${html`<button class="button" onClick=${showAll}>Show all</button>`} />`;
  return html`<${VirtualTable} name="requests" label="Requests" rows=${rows} keyOf=${(row) => row.id} onOpen=${(row) => go(`/requests/${row.id}`)} columns=${columns(longest)} least=${1010} />`;
}

const columns = (longest) => [
  { key: "at", label: "Time", time: true, width: "70px", cell: (row) => html`<a href=${href(`/requests/${row.id}`)} title=${dateTime(row.at)}>${clock(row.at)}</a>` },
  { key: "id", label: "ID", unseen: true },
  { key: "model", label: "Model", width: "minmax(100px, 1.2fr)", value: (row) => row.model || row.path, cell: (row) => html`${row.model && html`<${Swatch} of=${row.adapter ?? row.model} />`}<b title=${row.model || row.path}>${row.model || row.path}</b>` },
  { key: "version", label: "Version", width: "52px", cell: (row) => html`<span title=${versionOf(row)}>${row.version ? `v${row.version}` : "–"}</span>` },
  { key: "replica", label: "Replica", width: "52px", value: (row) => row.placement?.replica, cell: (row) => row.placement?.replica ?? "–" },
  { key: "tenant", label: "Tenant", width: "minmax(56px, 0.6fr)", value: tenantOf, cell: (row) => row.tenant ?? html`<span class="muted" title=${tenantOf(row)}>${row.key_id ? "admin" : "unknown"}</span>` },
  { key: "key_id", label: "Key", unseen: true },
  { key: "status", label: "Outcome", width: "minmax(66px, 1fr)", value: (row) => row.code ?? row.status, cell: (row) => html`<${Outcome} of=${row} />` },
  { key: "prompt_tokens", label: "Prompt", width: "52px", number: true, cell: (row) => count(row.prompt_tokens) },
  { key: "cached_tokens", label: "Cached", width: "52px", number: true, cell: (row) => html`<span title=${row.miss_reason && `Why not more: ${REASONS[row.miss_reason] ?? row.miss_reason}`}>${count(row.cached_tokens)}</span>` },
  { key: "miss_reason", label: "Why not more", unseen: true, width: "100px", cell: (row) => REASONS[row.miss_reason] ?? row.miss_reason },
  { key: "completion_tokens", label: "Answer", width: "52px", number: true, cell: (row) => count(row.completion_tokens) },
  { key: "ttft", label: "First token", width: "76px", number: true, cell: (row) => seconds(row.ttft) },
  { key: "total_seconds", label: "Total", width: "60px", number: true, cell: (row) => seconds(row.total_seconds) },
  ...[["queue", "Queue"], ["load", "Load"], ["prefill", "Prefill"], ["decode", "Decode"]].map(([stage, label]) => ({ key: `${stage}_seconds`, label, unseen: true, width: "60px", number: true, cell: (row) => seconds(row[`${stage}_seconds`]) })),
  { key: "phases", label: "Where the time went", picture: true, width: "minmax(110px, 1.4fr)", cell: (row) => html`<${Phases} of=${row} longest=${longest} />` },
];
