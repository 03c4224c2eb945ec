/** Prefix cache: what is in it, why the last prompts missed it, what it saves. */
import { html } from "../lib/html.js";
import { get, getAll } from "../lib/api.js";
import { ofBase, useBases } from "../lib/bases.js";
import { bytes, count, percent, seconds } from "../lib/format.js";
import { t } from "../lib/language.js";
import { useSeries } from "../lib/live.js";
import { drifts, reasons } from "../lib/misses.js";
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

const tabs = () => [["tree", t("What is cached")], ["misses", t("Why prompts missed")], ["savings", t("Savings")]];

export default function Cache() {
  const bases = useBases();
  return html`<${PageHeader} title=${t("Prefix cache")} about=${t("Prompts that begin alike share the work that was done for the first of them")}
      actions=${html`<${BaseChoice} of=${bases} /><${Warm} />`} />
    <${OfBase} of=${bases}><${Parts} /><//>`;
}

function Parts() {
  const cache = useResource((signal) => get(ofBase("/api/v1/cache"), { signal }), [], { every: 4 });
  const tab = tabs().some(([name]) => name === query.value.get("tab")) ? query.value.get("tab") : "tree";
  return html`<${Loaded} resource=${cache} lines=${8}>${(data) => html`
    <${Numbers} cache=${data} />
    <${Tabs} label=${t("Parts of this page")} of=${tabs()} current=${tab} path=${ofBase("/cache")} />
    ${tab === "tree" && html`<${Icicle} nodes=${data.nodes} /><${Tree} cache=${data} onChange=${cache.reload} />`}
    ${tab === "misses" && html`<${Drift} /><${Misses} />`}
    ${tab === "savings" && html`<${Savings} of=${data.savings ?? []} /><${HitRate} />`}`}<//>`;
}

function Numbers({ cache }) {
  const { blocks, free, cached, block_size: size, bytes_per_block: each } = cache;
  return html`<${Stats} label=${t("Now")} of=${[
    [t("Hit rate since the start"), percent(cache.queries_tokens ? cache.hits_tokens / cache.queries_tokens : null), t`${count(cache.hits_tokens)} of ${count(cache.queries_tokens)} tokens`],
    [t("Cached"), bytes(cached * each), t`${count(cached * size)} tokens`],
    [t("In use by requests"), count(Math.max(0, blocks - free - cached)), t("blocks")],
    [t("Free"), count(free), t`of ${count(blocks)} blocks`],
    [t("Evicted"), count(cache.evictions), t("blocks, since the start")],
  ]} />`;
}

const driftColumns = () => [
  { key: "tenant", label: t("Tenant"), value: (item) => (item.prompts ? item.tenant ?? t("admins") : t("all chats")) },
  { key: "model", label: t("Model") },
  { key: "kind", label: t("What"), cell: (item) => html`<${Badge}>${drifts()[item.kind] ?? item.kind}<//>` },
  { key: "prompts", label: t("Prompts"), number: true, cell: (item) => (item.prompts ? `${count(item.prompts)} (${percent(item.share)})` : "") },
  { key: "lost_tokens", label: t("Tokens lost"), number: true, cell: (item) => (item.prompts ? count(item.lost_tokens) : "") },
  { key: "example", label: t("Example"), class: "break sentence" },
  { key: "advice", label: t("What to do"), class: "break sentence" },
];

function Drift() {
  const drift = useResource((signal) => get("/api/v1/cache/drift", { signal }), [], { every: 8 });
  return html`<${Card} title=${t("Drift")} help="prefix-cache#drift-prompts-that-miss-at-one-place" about=${t("Prompts of the last hour that miss over and over at one place")} flush><${Loaded} resource=${drift}>${({ items }) => (items.length
    ? html`<${Table} name="drift" label=${t("Drift")} sort="drift" columns=${driftColumns()} rows=${items} keyOf=${(item) => [item.tenant, item.model, item.message, item.kind].join()} />`
    : html`<${Empty} title=${t("No drift")} icon="check">${t("No date, id or order of things makes prompts miss over and over.")}<//>`)}<//><//>`;
}

const missColumns = () => [
  { key: "at", label: t("When"), time: true, cell: (miss) => html`<a href=${href(`/requests/${miss.request_id}`)}><${Time} at=${miss.at} /></a>` },
  { key: "model", label: t("Model") },
  { key: "cached_tokens", label: t("Cached"), number: true, cell: (miss) => count(miss.cached_tokens) },
  { key: "prompt_tokens", label: t("Prompt"), number: true, cell: (miss) => count(miss.prompt_tokens) },
  { key: "reason", label: t("Why"), cell: (miss) => html`<${Badge}>${reasons()[miss.reason] ?? miss.reason}<//>` },
  { key: "detail", label: t("What that means"), class: "break sentence" },
];

function Misses() {
  const misses = useResource((signal) => get("/api/v1/cache/misses", { signal }), [], { every: 4 });
  return html`<${Card} title=${t("Last misses")} help="insight#why-a-prompt-missed" about=${t("The last 200 at most, the newest first")} flush><${Loaded} resource=${misses}>${({ items }) => (items.length
    ? html`<${Table} name="misses" label=${t("Last misses")} columns=${missColumns()} rows=${items} keyOf=${(miss) => miss.request_id} />`
    : html`<${Empty} title=${t("No misses")} icon="check">${t("Every prompt since the start was found, or none has come yet.")}<//>`)}<//><//>`;
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
  const usage = useResource((signal) => getAll("/api/v1/usage?group_by=tenant", { signal }), [], { every: 15 });
  return html`<${Card} title=${t("By tenant, since the beginning")} flush><${Loaded} resource=${usage}>${(rows) => html`
    <${Table} name="savings by tenant" label=${t("Savings by tenant")} sort="tenants" first="-saved" columns=${tenantColumns()} rows=${rows} keyOf=${(row) => row.tenant} />`}<//><//>`;
}

function HitRate() {
  const series = useSeries(3600);
  if (!series.points?.length) return null;
  return html`<${Card} title=${t("Hit rate, last hour")}><${Chart} label=${t("Hit rate")} times=${series.points.map((point) => point.at)} unit="percent" range=${[0, 1]}
    lines=${[{ label: t("hit rate"), values: series.points.map((point) => point.cache_hit_rate), slot: 2 }]} /><//>`;
}
