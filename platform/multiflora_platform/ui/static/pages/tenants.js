/** Tenants and keys: who may use the server, how much of it, and with which keys. */
import { html, useState } from "../lib/html.js";
import { get, getAll } from "../lib/api.js";
import { count, money, percent } from "../lib/format.js";
import { t } from "../lib/language.js";
import { useResource } from "../lib/resource.js";
import { href, query } from "../lib/router.js";
import { spent } from "../lib/tables.js";
import { named } from "../lib/values.js";
import { Badge, PageHeader, Tabs } from "../components/bits.js";
import { Icon } from "../components/icon.js";
import { Empty, Loaded } from "../components/states.js";
import { Table } from "../components/table.js";
import { UsageDays } from "../components/usage-days.js";
import { UsageTable } from "../components/usage-table.js";
import { budgetColumn } from "./tenants/budgets.js";
import { Keys } from "./tenants/keys.js";
import { refusedColumn } from "./tenants/limit-bars.js";
import { NewKey } from "./tenants/new-key.js";
import { TenantForm } from "./tenants/tenant-form.js";

const tabs = () => [["tenants", t("Tenants")], ["keys", t("Keys")], ["usage", t("Usage")]];

export default function Tenants() {
  const [open, setOpen] = useState(null);
  const tenants = useResource((signal) => get("/api/v1/tenants", { signal }), [], { watch: ["records"], pause: 3 });
  const keys = useResource((signal) => get("/api/v1/keys", { signal }), [], { watch: ["records"], pause: 3 });
  const budgets = useResource((signal) => get("/api/v1/budgets", { signal }), [], { watch: ["records"], pause: 5 });
  const refusals = useResource((signal) => get("/api/v1/refusals", { signal }), [], { watch: ["records"], pause: 5 });
  const month = `${new Date().toISOString().slice(0, 7)}-01`;
  const usage = useResource((signal) => getAll(`/api/v1/usage?group_by=tenant&since=${month}`, { signal }), [month], { watch: ["records"], pause: 5 });
  const tab = tabs().some(([name]) => name === query.value.get("tab")) ? query.value.get("tab") : "tenants";
  const names = tenants.data?.items.map((tenant) => tenant.name) ?? [];
  return html`<${PageHeader} title=${t("Tenants and keys")} about=${t("A tenant's keys share its limits, its cache and its usage")} actions=${html`
      <button class="button" onClick=${() => setOpen("tenant")}><${Icon} name="plus" size=${16} />${t("New tenant")}</button>
      <button class="button primary" onClick=${() => setOpen("key")}><${Icon} name="plus" size=${16} />${t("New key")}</button>`} />
    <${Tabs} label=${t("Parts of this page")} of=${tabs()} current=${tab} path="/tenants" />
    ${tab === "tenants" && html`<div class="card"><${Loaded} resource=${tenants}>${({ items }) => html`<${Listed} items=${items} keys=${keys.data?.items ?? []} budgets=${budgets.data?.items ?? []} refusals=${refusals.data?.items ?? []} usage=${usage.data ?? []} onNew=${() => setOpen("tenant")} />`}<//></div>`}
    ${tab === "keys" && html`<div class="card"><${Loaded} resource=${keys}>${({ items }) => html`<${Keys} items=${items} onChange=${keys.reload} />`}<//></div>`}
    ${tab === "usage" && html`<${UsageTable} title=${t("By tenant, since the beginning")} by="tenant" />
      <${UsageDays} title=${t("All tenants, last 30 days")} filter=${{}} />
      <${UsageTable} title=${t("By adapter, since the beginning")} by="adapter" />
      <${UsageTable} title=${t("By key, since the beginning")} by="key" />`}
    ${open === "tenant" && html`<${TenantForm} onClose=${() => setOpen(null)} onChange=${tenants.reload} />`}
    ${open === "key" && html`<${NewKey} tenants=${names} onClose=${() => setOpen(null)} onChange=${keys.reload} />`}`;
}

const limited = (key, label) => ({ key, label, number: true, cell: (tenant) => (tenant[key] === null ? html`<span class="muted">${t("no limit")}</span>` : count(tenant[key])) });

function Listed({ items, keys, budgets, refusals, usage, onNew }) {
  if (!items.length) return html`<${Empty} title=${t("No tenants yet")} icon="tenants" action=${html`<button class="button" onClick=${onNew}>${t("New tenant")}</button>`}>${t("A tenant has its own limits, its own part of the cache and its own adapters.")}<//>`;
  const live = (tenant) => keys.filter((key) => key.tenant === tenant.name && !key.revoked_at).length;
  return html`<${Table} name="tenants" label=${t("Tenants")} columns=${[...columns(usage), budgetColumn(budgets), refusedColumn(refusals), { key: "keys", label: t("Keys"), number: true, value: live }]} rows=${items} keyOf=${(tenant) => tenant.name} />`;
}

/** A tenant's of this month (UTC): in money where the server has prices, and in tokens. */
function usedColumns(usage) {
  const of = new Map(usage.map((row) => [row.tenant, row]));
  const tokens = (tenant) => (of.get(tenant.name)?.prompt_tokens ?? 0) + (of.get(tenant.name)?.completion_tokens ?? 0);
  const currency = usage.find((row) => row.money)?.money.currency;
  const cost = (tenant) => spent(of.get(tenant.name)?.money) ?? 0;
  return [
    ...(currency ? [{ key: "spent", label: t("Spent this month"), number: true, value: cost, cell: (tenant) => html`<b>${money(cost(tenant), currency)}</b>` }] : []),
    { key: "tokens", label: t("Tokens this month"), unseen: Boolean(currency), number: true, value: tokens, cell: (tenant) => count(tokens(tenant)) },
  ];
}

const columns = (usage) => [
  { key: "name", label: t("Tenant"), cell: (tenant) => html`<a href=${href(`/tenants/${tenant.name}`)}><b>${tenant.name}</b></a> ${tenant.disabled && html`<${Badge} kind="bad">${t("disabled")}<//>`}` },
  ...usedColumns(usage),
  { key: "allowed_adapters", label: t("Adapters"), class: "break mono", value: (tenant) => tenant.allowed_adapters.join(", ") },
  limited("requests_per_minute", t("Requests/min")), limited("tokens_per_minute", t("Tokens/min")), limited("max_concurrent_requests", t("Concurrent requests")),
  { key: "kv_share", label: t("Cache share"), number: true, cell: (tenant) => percent(tenant.kv_share) },
  { key: "priority", unseen: true, label: t("Priority"), cell: (tenant) => named(tenant.priority) },
];
