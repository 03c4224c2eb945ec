/** Prefix cache: what is in it, why the last prompts missed it, what it saves. */
import { html } from "../lib/html.js";
import { get, getAll } from "../lib/api.js";
import { ofBase, useBases } from "../lib/bases.js";
import { bytes, count, percent, seconds } from "../lib/format.js";
import { t } from "../lib/language.js";
import { useSeries } from "../lib/live.js";
import { useResource } from "../lib/resource.js";
import { query } from "../lib/router.js";
import { amount } from "../lib/tables.js";
import { BaseChoice, OfBase } from "../components/base.js";
import { Card, PageHeader, Stats, Tabs } from "../components/bits.js";
import { Chart } from "../components/chart.js";
import { Empty, Loaded } from "../components/states.js";
import { Table } from "../components/table.js";
import { Icicle } from "./cache/icicle.js";
import { Memory } from "./cache/memory.js";
import { Drift, Losses, Misses } from "./cache/misses.js";
import { Tree } from "./cache/tree.js";
import { Warm } from "./cache/warm.js";

const tabs = () => [["tree", t("What is cached")], ["misses", t("Why prompts missed")], ["savings", t("Savings")]];

export default function Cache() {
  const bases = useBases();
  return html`<${PageHeader} title=${t("Prefix cache")} about=${t("Prompts that begin alike share the work that was done for the first of them")}
      actions=${html`<${BaseChoice} of=${bases} /><${Warm} />`} />
    <${OfBase} of=${bases}><${Parts} /><//>`;
}

/** With the moments at which each run was cached and last used, which stay true while nothing happens. */
async function loadCache(signal) {
  const cache = await get(ofBase("/api/v1/cache"), { signal });
  const now = Date.now() / 1000;
  return { ...cache, nodes: cache.nodes.map((node) => ({ ...node, cached_at: now - node.age_seconds, used_at: now - node.idle_seconds })) };
}

function Parts() {
  const cache = useResource(loadCache, [], { watch: ["engines"], pause: 4 });
  const tab = tabs().some(([name]) => name === query.value.get("tab")) ? query.value.get("tab") : "tree";
  return html`<${Loaded} resource=${cache} lines=${8}>${(data) => html`
    <${Numbers} cache=${data} /><${Memory} cache=${data} />
    <${Tabs} label=${t("Parts of this page")} of=${tabs()} current=${tab} path=${ofBase("/cache")} />
    ${tab === "tree" && html`<${Icicle} nodes=${data.nodes} /><${Tree} cache=${data} onChange=${cache.reload} />`}
    ${tab === "misses" && html`<${Losses} /><${Drift} /><${Misses} />`}
    ${tab === "savings" && html`<${Savings} of=${data.savings ?? []} /><${HitRate} />`}`}<//>`;
}

function Numbers({ cache }) {
  const { blocks, free, cached, block_size: size, bytes_per_block: each } = cache;
  return html`<${Stats} label=${t("Now")} of=${[
    [t("Hit rate since the start"), percent(cache.queries_tokens ? cache.hits_tokens / cache.queries_tokens : null), t`${count(cache.hits_tokens)} of ${count(cache.queries_tokens)} tokens`],
    [t("Cached"), bytes(cached * each), t`${count(cached * size)} tokens`],
    [t("In use"), count(blocks - free), t("blocks, by requests and pins")],
    [t("Free"), count(free), t`of ${count(blocks)} blocks, cached ones that may be evicted among them`],
    [t("Evicted"), count(cache.evictions), t("blocks, since the start")],
  ]} />`;
}

const savingColumns = () => [
  { key: "adapter", label: t("Adapter"), value: (row) => row.adapter ?? t("base model"), cell: (row) => (row.adapter ? html`<b>${row.adapter}</b>` : t("base model")) },
  { key: "tokens", label: t("Tokens"), number: true, cell: (row) => count(row.tokens) },
  { key: "device_seconds", label: t("Device time"), number: true, cell: (row) => seconds(row.device_seconds) },
  { key: "tokens_again", label: t("Evicted, computed again"), number: true, cell: (row) => count(row.tokens_again) },
  { key: "seconds_again", label: t("Device time of that"), number: true, cell: (row) => seconds(row.seconds_again) },
];
const moneyColumns = () => [amount("saved", t("Saved")), amount("computed_again", t("Cost of computing again"))];
const tenantColumns = () => [{ key: "tenant", label: t("Tenant"), value: (row) => row.tenant ?? t("admins") }, amount("device", t("Device time")), amount("cached", t("Cached tokens")), amount("stored", t("Held tokens")), ...moneyColumns()];

function Savings({ of }) {
  const hasPrices = of.some((row) => row.money);
  return html`<${Card} title=${t("Saved by the cache")} help="prefix-cache#what-it-saves-in-money" about=${t("Prompt tokens that were found instead of computed, since the server's start")} flush>${of.length
    ? html`<${Table} name="savings" label=${t("Saved by the cache")} first="-tokens" columns=${hasPrices ? [...savingColumns(), ...moneyColumns()] : savingColumns()} rows=${of} keyOf=${(row) => row.adapter} />`
    : html`<${Empty} title=${t("Nothing yet")}>${t("The second prompt that begins like an earlier one saves its beginning.")}<//>`}<//>
    ${hasPrices && html`<${TenantSavings} />`}`;
}

function TenantSavings() {
  const usage = useResource((signal) => getAll("/api/v1/usage?group_by=tenant", { signal }), [], { watch: ["records"], pause: 5 });
  return html`<${Card} title=${t("By tenant, since the beginning")} flush><${Loaded} resource=${usage}>${(rows) => html`
    <${Table} name="savings by tenant" label=${t("Savings by tenant")} sort="tenants" first="-saved" columns=${tenantColumns()} rows=${rows} keyOf=${(row) => row.tenant} />`}<//><//>`;
}

function HitRate() {
  const series = useSeries(3600);
  if (!series.points?.length) return null;
  return html`<${Card} title=${t("Hit rate, last hour")}><${Chart} label=${t("Hit rate")} times=${series.points.map((point) => point.at)} unit="percent" range=${[0, 1]}
    lines=${[{ label: t("hit rate"), values: series.points.map((point) => point.cache_hit_rate), slot: 2 }]} /><//>`;
}
