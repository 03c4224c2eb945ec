/** Prefix cache: what is in it, why the last prompts missed it, what it saves. */
import { html } from "../lib/html.js";
import { get, getAll } from "../lib/api.js";
import { ofBase, useBases } from "../lib/bases.js";
import { bytes, count, percent, seconds } from "../lib/format.js";
import { useSeries } from "../lib/live.js";
import { DRIFTS, REASONS } from "../lib/misses.js";
import { useResource } from "../lib/resource.js";
import { href, query } from "../lib/router.js";
import { amount } from "../lib/tables.js";
import { BaseChoice, OfBase } from "../components/base.js";
import { Badge, Card, PageHeader, Stats, Tabs, Time } from "../components/bits.js";
import { Chart } from "../components/chart.js";
import { Empty, Loaded } from "../components/states.js";
import { Table } from "../components/table.js";
import { Icicle } from "./cache/icicle.js";
import { Tree } from "./cache/tree.js";
import { Warm } from "./cache/warm.js";

const TABS = [["tree", "What is cached"], ["misses", "Why prompts missed"], ["savings", "Savings"]];

export default function Cache() {
  const bases = useBases();
  return html`<${PageHeader} title="Prefix cache" about="Prompts that begin alike share the work that was done for the first of them"
      actions=${html`<${BaseChoice} of=${bases} /><${Warm} />`} />
    <${OfBase} of=${bases}><${Parts} /><//>`;
}

function Parts() {
  const cache = useResource((signal) => get(ofBase("/api/v1/cache"), { signal }), [], { every: 4 });
  const tab = TABS.some(([name]) => name === query.value.get("tab")) ? query.value.get("tab") : "tree";
  return html`<${Loaded} resource=${cache} lines=${8}>${(data) => html`
    <${Numbers} cache=${data} />
    <${Tabs} label="Parts of this page" of=${TABS} current=${tab} path=${ofBase("/cache")} />
    ${tab === "tree" && html`<${Icicle} nodes=${data.nodes} /><${Tree} cache=${data} onChange=${cache.reload} />`}
    ${tab === "misses" && html`<${Drift} /><${Misses} />`}
    ${tab === "savings" && html`<${Savings} of=${data.savings ?? []} /><${HitRate} />`}`}<//>`;
}

function Numbers({ cache }) {
  const { blocks, free, cached, block_size: size, bytes_per_block: each } = cache;
  return html`<${Stats} label="Now" of=${[
    ["Hit rate since the start", percent(cache.queries_tokens ? cache.hits_tokens / cache.queries_tokens : null), `${count(cache.hits_tokens)} of ${count(cache.queries_tokens)} tokens`],
    ["Cached", bytes(cached * each), `${count(cached * size)} tokens`],
    ["In use by requests", count(Math.max(0, blocks - free - cached)), "blocks"],
    ["Free", count(free), `of ${count(blocks)} blocks`],
    ["Evicted", count(cache.evictions), "blocks, since the start"],
  ]} />`;
}

const DRIFT = [
  { key: "tenant", label: "Tenant", value: (item) => (item.prompts ? item.tenant ?? "admins" : "all chats") },
  { key: "model", label: "Model" },
  { key: "kind", label: "What", cell: (item) => html`<${Badge}>${DRIFTS[item.kind] ?? item.kind}<//>` },
  { key: "prompts", label: "Prompts", number: true, cell: (item) => (item.prompts ? `${count(item.prompts)} (${percent(item.share)})` : "") },
  { key: "lost_tokens", label: "Tokens lost", number: true, cell: (item) => (item.prompts ? count(item.lost_tokens) : "") },
  { key: "example", label: "Example", class: "break sentence" },
  { key: "advice", label: "What to do", class: "break sentence" },
];

function Drift() {
  const drift = useResource((signal) => get("/api/v1/cache/drift", { signal }), [], { every: 8 });
  return html`<${Card} title="Drift" help="prefix-cache#drift-prompts-that-miss-at-one-place" about="Prompts of the last hour that miss over and over at one place" flush><${Loaded} resource=${drift}>${({ items }) => (items.length
    ? html`<${Table} name="drift" label="Drift" sort="drift" columns=${DRIFT} rows=${items} keyOf=${(item) => [item.tenant, item.model, item.message, item.kind].join()} />`
    : html`<${Empty} title="No drift" icon="check">No date, id or order of things makes prompts miss over and over.<//>`)}<//><//>`;
}

const MISSES = [
  { key: "at", label: "When", time: true, cell: (miss) => html`<a href=${href(`/requests/${miss.request_id}`)}><${Time} at=${miss.at} /></a>` },
  { key: "model", label: "Model" },
  { key: "cached_tokens", label: "Cached", number: true, cell: (miss) => count(miss.cached_tokens) },
  { key: "prompt_tokens", label: "Prompt", number: true, cell: (miss) => count(miss.prompt_tokens) },
  { key: "reason", label: "Why", cell: (miss) => html`<${Badge}>${REASONS[miss.reason] ?? miss.reason}<//>` },
  { key: "detail", label: "What that means", class: "break sentence" },
];

function Misses() {
  const misses = useResource((signal) => get("/api/v1/cache/misses", { signal }), [], { every: 4 });
  return html`<${Card} title="Last misses" help="insight#why-a-prompt-missed" about="The last 200 at most, the newest first" flush><${Loaded} resource=${misses}>${({ items }) => (items.length
    ? html`<${Table} name="misses" label="Last misses" columns=${MISSES} rows=${items} keyOf=${(miss) => miss.request_id} />`
    : html`<${Empty} title="No misses" icon="check">Every prompt since the start was found, or none has come yet.<//>`)}<//><//>`;
}

const SAVINGS = [
  { key: "adapter", label: "Adapter", value: (row) => row.adapter ?? "base model", cell: (row) => (row.adapter ? html`<b>${row.adapter}</b>` : "base model") },
  { key: "tokens", label: "Tokens", number: true, cell: (row) => count(row.tokens) },
  { key: "device_seconds", label: "Device time", number: true, cell: (row) => seconds(row.device_seconds) },
  { key: "tokens_again", label: "Evicted, computed again", number: true, cell: (row) => count(row.tokens_again) },
  { key: "seconds_again", label: "Device time of that", number: true, cell: (row) => seconds(row.seconds_again) },
];
const MONEY = [amount("saved", "Saved"), amount("computed_again", "Cost of computing again")];
const TENANTS = [{ key: "tenant", label: "Tenant", value: (row) => row.tenant ?? "admins" }, amount("device", "Device time"), amount("cached", "Cached tokens"), amount("stored", "Held tokens"), ...MONEY];

function Savings({ of }) {
  const hasPrices = of.some((row) => row.money);
  return html`<${Card} title="Saved by the cache" help="prefix-cache#what-it-saves-in-money" about="Prompt tokens that were found instead of computed, since the server's start" flush>${of.length
    ? html`<${Table} name="savings" label="Saved by the cache" first="-tokens" columns=${hasPrices ? [...SAVINGS, ...MONEY] : SAVINGS} rows=${of} keyOf=${(row) => row.adapter} />`
    : html`<${Empty} title="Nothing yet">The second prompt that begins like an earlier one saves its beginning.<//>`}<//>
    ${hasPrices && html`<${TenantSavings} />`}`;
}

function TenantSavings() {
  const usage = useResource((signal) => getAll("/api/v1/usage?group_by=tenant", { signal }), [], { every: 15 });
  return html`<${Card} title="By tenant, since the beginning" flush><${Loaded} resource=${usage}>${(rows) => html`
    <${Table} name="savings by tenant" label="Savings by tenant" sort="tenants" first="-saved" columns=${TENANTS} rows=${rows} keyOf=${(row) => row.tenant} />`}<//><//>`;
}

function HitRate() {
  const series = useSeries(3600);
  if (!series.points?.length) return null;
  return html`<${Card} title="Hit rate, last hour"><${Chart} label="Hit rate" times=${series.points.map((point) => point.at)} unit="percent" range=${[0, 1]}
    lines=${[{ label: "hit rate", values: series.points.map((point) => point.cache_hit_rate), slot: 2 }]} /><//>`;
}
