/** What a tenant used and may use, for itself. */
import { html } from "../lib/html.js";
import { get, getAll } from "../lib/api.js";
import { count, seconds } from "../lib/format.js";
import { t } from "../lib/language.js";
import { useResource } from "../lib/resource.js";
import { session } from "../lib/session.js";
import { amount } from "../lib/tables.js";
import { Card, PageHeader } from "../components/bits.js";
import { Empty, Loaded } from "../components/states.js";
import { Table } from "../components/table.js";
import { UsageDays } from "../components/usage-days.js";
import { Budgets } from "./tenants/budgets.js";
import { LimitBars } from "./tenants/limit-bars.js";

const counted = (key, label) => ({ key, label, number: true, cell: (row) => count(row[key]) });
const columns = () => [
  { key: "adapter", label: t("Adapter"), value: (row) => row.adapter ?? t("base model") },
  counted("requests", t("Requests")), counted("prompt_tokens", t("Prompt tokens")), counted("cached_tokens", t("Cached")),
  counted("cache_write_tokens", t("Added to cache")), counted("uncached_tokens", t("Neither")), counted("completion_tokens", t("Generated")),
  { key: "device_seconds", label: t("Device time"), number: true, value: (row) => row.device_ms / 1000, cell: (row) => seconds(row.device_ms / 1000) },
];
const moneyColumns = () => [amount("device", t("Cost of device time")), amount("cached", t("Cost of cached tokens")), amount("stored", t("Cost of held tokens")), amount("saved", t("Saved by the cache"))];

export default function Usage() {
  const budgets = useResource((signal) => get("/api/v1/budgets", { signal }), [], { every: 15 });
  const rows = useResource((signal) => getAll("/api/v1/usage?group_by=adapter", { signal }), []);
  return html`<${PageHeader} title=${t("Usage and limits")} about=${t("Of all your keys together")} />
    <${LimitBars} tenant=${session.value.tenant} />
    ${budgets.data?.items.length > 0 && html`<${Card} title=${t("Budgets")}><${Budgets} of=${budgets.data.items} /><//>`}
    <${UsageDays} title=${t("Last 30 days")} filter=${{}} />
    <${Card} title=${t("By adapter, since the beginning")} flush><${Loaded} resource=${rows}>${(items) => (items.length ? html`<${Table} name="usage by adapter" label=${t("By adapter")} columns=${items[0].money ? [...columns(), ...moneyColumns()] : columns()} rows=${items} keyOf=${(row) => row.adapter} />`
      : html`<${Empty} title=${t("Not used yet")} />`)}<//><//>`;
}
