/** Requests: the last ones, what they waited for, and which failed. */
import { html, useEffect, useMemo, useRef, useState } from "../lib/html.js";
import { clock, count, dateTime, money, quantile, seconds } from "../lib/format.js";
import { t } from "../lib/language.js";
import { reasons } from "../lib/misses.js";
import { hasOlder, loadRequests, lookPause, olderRequests } from "../lib/requests.js";
import { useResource } from "../lib/resource.js";
import { go, href, query, setQuery } from "../lib/router.js";
import { isAdmin } from "../lib/session.js";
import { attempt } from "../lib/toasts.js";
import { Badge, PageHeader, Search, Segmented, Swatch } from "../components/bits.js";
import { Older } from "../components/older.js";
import { Phases, PhaseLegend } from "../components/phases.js";
import { Empty, Loaded } from "../components/states.js";
import { VirtualTable } from "../components/virtual-table.js";
import { failed, Filters, showAll, tenantOf, tenantWords, versionOf, wanted } from "./requests/filters.js";
import { Histogram } from "./requests/histogram.js";
import { AxisSwitch, SharedAxis } from "./requests/shared-axis.js";

const shownChoices = () => [["all", t("All")], ["ok", t("Succeeded")], ["failed", t("Failed")]];

export default function Requests() {
  const [paused, setPaused] = useState(false);
  const requests = useResource(loadRequests, [], { watch: paused ? [] : ["requests"], pause: lookPause() });
  const loadOlder = useOlder(requests);
  const pause = html`<button class="button" aria-pressed=${paused} onClick=${() => setPaused(!paused)}>${paused ? t("Go on") : t("Pause")}</button>`;
  return html`<${PageHeader} title=${t("Requests")} about=${paused ? t("Paused: what comes is not shown until you go on") : requests.data && t`The newest ${count(requests.data.length)} of this server process, in numbers`} actions=${pause} />
    <div class="row"><${Search} label=${t("Model, tenant, error, id")} value=${query.value.get("q") ?? ""} onInput=${(value) => setQuery({ q: value })} />
      <${Segmented} label=${t("Which requests")} of=${shownChoices()} value=${query.value.get("show") ?? "all"} onChange=${(value) => setQuery({ show: value === "all" ? null : value })} />
      <span class="choice"><span aria-hidden="true">${t("On one axis")}</span><${AxisSwitch} asked=${query.value} /></span><${PhaseLegend} /></div>
    <${Filters} items=${requests.data ?? []} />
    ${requests.data?.length > 0 && html`<${Histogram} items=${requests.data} asked=${query.value} /><${SharedAxis} items=${requests.data} asked=${query.value} />`}
    <div class="card"><${Loaded} resource=${requests} lines=${10}>${(items) => html`<${Table} items=${items} asked=${query.value} /><${Older} of=${{ items, hasOlder: hasOlder(), loadOlder }} />`}<//></div>`;
}

/** @returns what loads all that came before those that are shown, until the page is left; undefined while it does */
function useOlder({ setData }) {
  const [isLoading, setLoading] = useState(false);
  const leaving = useRef(null);
  useEffect(() => () => leaving.current?.abort(), []);
  const load = async () => {
    leaving.current = new AbortController();
    setLoading(true);
    await attempt(async () => {
      for await (const items of olderRequests(leaving.current.signal)) setData(items);
    });
    setLoading(false);
  };
  return isLoading ? undefined : load;
}

export const Outcome = ({ of }) => html`<${Badge} kind=${failed(of) ? "bad" : "ok"}>${of.code ?? of.status ?? t("running")}${of.count > 1 ? ` × ${count(of.count)}` : ""}<//>`;

function Table({ items, asked }) {
  const rows = useMemo(() => wanted(items, asked), [items, asked]);
  const longest = useMemo(() => Math.max(quantile(rows.slice(0, 200).map((row) => row.total_seconds), 0.9) ?? 0, 0.001), [rows]);
  if (!items.length) return html`<${Empty} title=${t("No requests yet")} action=${html`<a class="button" href=${href("/playground")}>${t("Send one from the playground")}</a>`} />`;
  if (!rows.length) return html`<${Empty} title=${t("Nothing matches")} action=${html`<button class="button" onClick=${showAll}>${t("Show all")}</button>`} />`;
  return html`<${VirtualTable} name="requests" label=${t("Requests")} rows=${rows} keyOf=${(row) => row.id} onOpen=${(row) => go(`/requests/${row.id}`)} columns=${columns(longest, Boolean(items[0].cost)).filter(({ key }) => isAdmin.value || !OF_ADMINS.has(key))} least=${items[0].cost ? 1114 : 1010} />`;
}

/** Columns of what a tenant is not told, or knows. */
const OF_ADMINS = new Set(["replica", "tenant"]);

/** hasCosts: the server has prices. */
const columns = (longest, hasCosts) => [
  { key: "at", label: t("Time"), time: true, width: "70px", cell: (row) => html`<a href=${href(`/requests/${row.id}`)} title=${dateTime(row.at)}>${clock(row.at)}</a>` },
  { key: "id", label: "ID", unseen: true },
  { key: "model", label: t("Model"), width: "minmax(100px, 1.2fr)", value: (row) => row.model || row.path, cell: (row) => html`${row.model && html`<${Swatch} of=${row.adapter ?? row.model} />`}<b title=${row.model || row.path}>${row.model || row.path}</b>` },
  { key: "version", label: t("Version"), width: "52px", cell: (row) => html`<span title=${versionOf(row)}>${row.version ? `v${row.version}` : "–"}</span>` },
  { key: "replica", label: t("Replica"), width: "52px", value: (row) => row.placement?.replica, cell: (row) => row.placement?.replica ?? "–" },
  { key: "tenant", label: t("Tenant"), width: "minmax(56px, 0.6fr)", value: tenantOf, cell: (row) => row.tenant ?? html`<span class="muted" title=${tenantWords(tenantOf(row))}>${row.key_id ? t("admin") : t("unknown")}</span>` },
  { key: "key_id", label: t("Key"), unseen: true },
  { key: "status", label: t("Outcome"), width: "minmax(66px, 1fr)", value: (row) => row.code ?? row.status, cell: (row) => html`<${Outcome} of=${row} />` },
  { key: "prompt_tokens", label: t("Prompt"), width: "52px", number: true, cell: (row) => count(row.prompt_tokens) },
  { key: "cached_tokens", label: t("Cached"), width: "52px", number: true, cell: (row) => html`<span title=${row.miss_reason && t`Why not more: ${reasons()[row.miss_reason] ?? row.miss_reason}`}>${count(row.cached_tokens)}</span>` },
  { key: "miss_reason", label: t("Why not more"), unseen: true, width: "100px", cell: (row) => reasons()[row.miss_reason] ?? row.miss_reason },
  { key: "completion_tokens", label: t("Answer"), width: "52px", number: true, cell: (row) => count(row.completion_tokens) },
  { key: "device_seconds", label: t("Device time"), unseen: true, width: "76px", number: true, cell: (row) => seconds(row.device_seconds) },
  { key: "cost", label: t("Cost"), unseen: !hasCosts, width: "104px", number: true, value: (row) => row.cost?.amount, cell: (row) => money(row.cost?.amount, row.cost?.currency) },
  { key: "ttft", label: t("First token"), width: "76px", number: true, cell: (row) => seconds(row.ttft) },
  { key: "total_seconds", label: t("Total"), width: "60px", number: true, cell: (row) => seconds(row.total_seconds) },
  ...[["queue", t("Queue")], ["load", t("Load")], ["prefill", t("Prefill")], ["decode", t("Decode")]].map(([stage, label]) => ({ key: `${stage}_seconds`, label, unseen: true, width: "60px", number: true, cell: (row) => seconds(row[`${stage}_seconds`]) })),
  { key: "phases", label: t("Where the time went"), picture: true, width: "minmax(110px, 1.4fr)", cell: (row) => html`<${Phases} of=${row} longest=${longest} />` },
];
