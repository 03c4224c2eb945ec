/** Requests: the last ones, what they waited for, and which failed. */
import { html, useMemo } from "../lib/html.js";
import { clock, count, dateTime, quantile, seconds } from "../lib/format.js";
import { loadRequests } from "../lib/requests.js";
import { useResource } from "../lib/resource.js";
import { go, href, query, setQuery } from "../lib/router.js";
import { Badge, PageHeader, Search, Segmented, Swatch } from "../components/bits.js";
import { Phases, PhaseLegend } from "../components/phases.js";
import { Empty, Loaded } from "../components/states.js";
import { VirtualTable } from "../components/virtual-table.js";

const SHOWN = [["all", "All"], ["ok", "Succeeded"], ["failed", "Failed"]];

export default function Requests() {
  const requests = useResource(loadRequests, [], { every: 2 });
  const text = query.value.get("q") ?? "";
  const shown = query.value.get("show") ?? "all";
  return html`<${PageHeader} title="Requests" about="The last 1,000 of this server process, in numbers" />
    <div class="row"><${Search} label="Model, tenant, error, id" value=${text} onInput=${(value) => setQuery({ q: value })} />
      <${Segmented} label="Which requests" of=${SHOWN} value=${shown} onChange=${(value) => setQuery({ show: value === "all" ? null : value })} />
      <${PhaseLegend} /></div>
    <div class="card"><${Loaded} resource=${requests} lines=${10}>${(items) => html`<${Table} items=${items} text=${text.toLowerCase()} shown=${shown} />`}<//></div>`;
}

export const failed = (request) => request.status >= 400 || Boolean(request.code);

export const Outcome = ({ of }) => html`<${Badge} kind=${failed(of) ? "bad" : "ok"}>${of.code ?? of.status}${of.count > 1 ? ` × ${count(of.count)}` : ""}<//>`;

function Table({ items, text, shown }) {
  const rows = useMemo(() => items.filter((one) => (shown === "all" || failed(one) === (shown === "failed"))
    && (!text || [one.model, one.tenant, one.code, one.id, one.path].join(" ").toLowerCase().includes(text))), [items, text, shown]);
  const longest = useMemo(() => Math.max(quantile(rows.slice(0, 200).map((row) => row.total_seconds), 0.9) ?? 0, 0.001), [rows]);
  if (!items.length) return html`<${Empty} title="No requests yet" action=${html`<a class="button" href=${href("/playground")}>Send one from the playground</a>`} />`;
  if (!rows.length) return html`<${Empty} title="Nothing matches" action=${html`<button class="button" onClick=${() => setQuery({ q: null, show: null })}>Show all</button>`} />`;
  return html`<${VirtualTable} name="requests" label="Requests" rows=${rows} keyOf=${(row) => row.id} onOpen=${(row) => go(`/requests/${row.id}`)} columns=${columns(longest)} least="900px" />`;
}

const columns = (longest) => [
  { key: "at", label: "Time", width: "74px", cell: (row) => html`<a href=${href(`/requests/${row.id}`)} title=${dateTime(row.at)}>${clock(row.at)}</a>` },
  { key: "model", label: "Model", width: "minmax(110px, 1.2fr)", cell: (row) => html`${row.model && html`<${Swatch} of=${row.adapter ?? row.model} />`}<b title=${row.version ? `version ${row.version}` : row.model}>${row.model || row.path}</b>` },
  { key: "tenant", label: "Tenant", width: "minmax(56px, 0.6fr)", cell: (row) => row.tenant ?? html`<span class="muted">${row.status === 401 ? "unknown" : "admin"}</span>` },
  { key: "status", label: "Outcome", width: "minmax(70px, 1.2fr)", cell: (row) => html`<${Outcome} of=${row} />` },
  { key: "prompt", label: "Prompt", width: "58px", number: true, cell: (row) => count(row.prompt_tokens) },
  { key: "cached", label: "Cached", width: "58px", number: true, cell: (row) => count(row.cached_tokens) },
  { key: "answer", label: "Answer", width: "58px", number: true, cell: (row) => count(row.completion_tokens) },
  { key: "ttft", label: "First token", width: "76px", number: true, cell: (row) => seconds(row.ttft) },
  { key: "total", label: "Total", width: "62px", number: true, cell: (row) => seconds(row.total_seconds) },
  { key: "phases", label: "Where the time went", width: "minmax(120px, 1.6fr)", cell: (row) => html`<${Phases} of=${row} longest=${longest} />` },
];
