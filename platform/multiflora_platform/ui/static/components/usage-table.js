/** What was used since the beginning, summed by tenant, adapter or key, the most first, and what it cost where the server has prices. */
import { html } from "../lib/html.js";
import { getAll } from "../lib/api.js";
import { count, money, seconds } from "../lib/format.js";
import { t } from "../lib/language.js";
import { useResource } from "../lib/resource.js";
import { href } from "../lib/router.js";
import { amount, spent } from "../lib/tables.js";
import { Card } from "./bits.js";
import { Empty, Loaded } from "./states.js";
import { Table } from "./table.js";

const counted = (key, label, unseen = false) => ({ key, label, unseen, number: true, cell: (row) => count(row[key]) });
const link = (to, name) => html`<a href=${href(`${to}/${name}`)}><b>${name}</b></a>`;
const keyed = (row) => row.key_name ?? row.key ?? t("no key");
const owners = () => ({
  tenant: { key: "tenant", label: t("Tenant"), value: (row) => row.tenant ?? t("administrators"), cell: (row) => (row.tenant ? link("/tenants", row.tenant) : t("administrators")) },
  adapter: { key: "adapter", label: t("Adapter"), value: (row) => row.adapter ?? t("base model"), cell: (row) => (row.adapter ? link("/adapters", row.adapter) : t("base model")) },
  key: { key: "key", label: t("Key"), value: keyed, cell: (row) => html`<b>${keyed(row)}</b>${row.key_name && html` <span class="muted mono">${row.key}</span>`}` },
});
const costs = () => [
  { key: "cost", label: t("Cost"), number: true, value: (row) => spent(row.money), cell: (row) => money(spent(row.money), row.money?.currency) },
  ...[amount("saved", t("Saved by the cache")), amount("device", t("Cost of device time")), amount("cached", t("Cost of cached tokens")), amount("stored", t("Cost of held tokens"))].map((one, i) => ({ ...one, unseen: i > 0 })),
];
const columns = (by, hasMoney) => [
  owners()[by], counted("requests", t("Requests")), counted("prompt_tokens", t("Prompt tokens")), counted("cached_tokens", t("Cached")),
  counted("cache_write_tokens", t("Added to cache"), true), counted("uncached_tokens", t("Neither"), true), counted("completion_tokens", t("Generated")),
  { key: "device_seconds", label: t("Device time"), number: true, value: (row) => row.device_ms / 1000, cell: (row) => seconds(row.device_ms / 1000) },
  ...(hasMoney ? costs() : []),
];

/** @param {{title: string, by: "tenant"|"adapter"|"key", filter?: {tenant?: string}}} props */
export function UsageTable({ title, by, filter = {} }) {
  const search = new URLSearchParams({ ...filter, group_by: by });
  const usage = useResource((signal) => getAll(`/api/v1/usage?${search}`, { signal }), [search.toString()], { watch: ["records"], pause: 5 });
  return html`<${Card} title=${title} flush><${Loaded} resource=${usage} lines=${4}>${(rows) => (rows.length
    ? html`<${Table} name=${`usage by ${by}`} label=${title} columns=${columns(by, rows.some((row) => row.money))} rows=${rows} sort=${`${by}s`} first="-device_seconds" keyOf=${(row) => row[by] ?? ""} />`
    : html`<${Empty} title=${t("Not used yet")} />`)}<//><//>`;
}
