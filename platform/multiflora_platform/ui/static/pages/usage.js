/** What a tenant used, for itself. */
import { html } from "../lib/html.js";
import { getAll } from "../lib/api.js";
import { count, seconds } from "../lib/format.js";
import { useResource } from "../lib/resource.js";
import { Card, PageHeader } from "../components/bits.js";
import { Empty, Loaded } from "../components/states.js";
import { UsageDays } from "../components/usage-days.js";

export default function Usage() {
  const rows = useResource((signal) => getAll("/api/v1/usage?group_by=adapter", { signal }), []);
  return html`<${PageHeader} title="Usage" about="Of all your keys together" />
    <${UsageDays} title="Last 30 days" filter=${{}} />
    <${Card} title="By adapter, since the beginning" flush><${Loaded} resource=${rows}>${(items) => (items.length ? html`<table>
      <thead><tr><th>Adapter</th><th class="number">Requests</th><th class="number">Prompt tokens</th><th class="number">Cached</th><th class="number">Added to cache</th><th class="number">Neither</th><th class="number">Generated</th><th class="number">Device time</th></tr></thead>
      <tbody>${items.map((row) => html`<tr key=${row.adapter}><td>${row.adapter ?? "base model"}</td><td class="number">${count(row.requests)}</td><td class="number">${count(row.prompt_tokens)}</td><td class="number">${count(row.cached_tokens)}</td><td class="number">${count(row.cache_write_tokens)}</td><td class="number">${count(row.uncached_tokens)}</td><td class="number">${count(row.completion_tokens)}</td><td class="number">${seconds(row.device_ms / 1000)}</td></tr>`)}</tbody></table>`
      : html`<${Empty} title="Not used yet" />`)}<//><//>`;
}
