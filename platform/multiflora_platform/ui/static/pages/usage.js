/** What a tenant used, for itself. */
import { html } from "../lib/html.js";
import { getAll } from "../lib/api.js";
import { count, seconds } from "../lib/format.js";
import { useResource } from "../lib/resource.js";
import { amount } from "../lib/tables.js";
import { Card, PageHeader } from "../components/bits.js";
import { Empty, Loaded } from "../components/states.js";
import { Table } from "../components/table.js";
import { UsageDays } from "../components/usage-days.js";

const counted = (key, label) => ({ key, label, number: true, cell: (row) => count(row[key]) });
const COLUMNS = [
  { key: "adapter", label: "Adapter", value: (row) => row.adapter ?? "base model" },
  counted("requests", "Requests"), counted("prompt_tokens", "Prompt tokens"), counted("cached_tokens", "Cached"),
  counted("cache_write_tokens", "Added to cache"), counted("uncached_tokens", "Neither"), counted("completion_tokens", "Generated"),
  { key: "device_seconds", label: "Device time", number: true, value: (row) => row.device_ms / 1000, cell: (row) => seconds(row.device_ms / 1000) },
];
const MONEY = [amount("device", "Cost of device time"), amount("cached", "Cost of cached tokens"), amount("stored", "Cost of held tokens"), amount("saved", "Saved by the cache")];

export default function Usage() {
  const rows = useResource((signal) => getAll("/api/v1/usage?group_by=adapter", { signal }), []);
  return html`<${PageHeader} title="Usage" about="Of all your keys together" />
    <${UsageDays} title="Last 30 days" filter=${{}} />
    <${Card} title="By adapter, since the beginning" flush><${Loaded} resource=${rows}>${(items) => (items.length ? html`<${Table} name="usage by adapter" label="By adapter" columns=${items[0].money ? [...COLUMNS, ...MONEY] : COLUMNS} rows=${items} keyOf=${(row) => row.adapter} />`
      : html`<${Empty} title="Not used yet" />`)}<//><//>`;
}
