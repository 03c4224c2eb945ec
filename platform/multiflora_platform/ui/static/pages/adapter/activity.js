/** How much an adapter is used, and what happened to it. */
import { html } from "../../lib/html.js";
import { get } from "../../lib/api.js";
import { useResource } from "../../lib/resource.js";
import { isAdmin, may } from "../../lib/session.js";
import { Card, Time } from "../../components/bits.js";
import { Empty, Loaded } from "../../components/states.js";
import { UsageDays } from "../../components/usage-days.js";

export const Activity = ({ adapter }) => html`<div class="stack">
  ${may("usage:read") && html`<${UsageDays} title="Usage, last 30 days" filter=${{ adapter: adapter.name }} />`}
  ${isAdmin.value && html`<${Events} name=${adapter.name} />`}
</div>`;

const WORDS = (payload) => Object.entries(payload ?? {}).filter(([key]) => key !== "digest")
  .map(([key, value]) => `${key} ${typeof value === "object" ? JSON.stringify(value) : value}`).join(", ");

function Events({ name }) {
  const audit = useResource((signal) => get("/api/v1/audit?limit=1000", { signal }), [name], { every: 10 });
  const own = ({ target = "" }) => target === name || target.startsWith(`${name}@`);
  return html`<${Card} title="Events" flush><${Loaded} resource=${audit}>${({ items }) => (items.some(own)
    ? html`<table><thead><tr><th>When</th><th>What</th><th>Details</th><th>By</th></tr></thead><tbody>${items.filter(own).slice(0, 100).map((row) => html`<tr key=${row.id}>
        <td class="muted"><${Time} at=${row.at} /></td><td>${row.action.replace(".", " ").replaceAll("_", " ")}</td><td class="break">${WORDS(row.detail)}</td><td class="muted break">${row.actor}</td></tr>`)}</tbody></table>`
    : html`<${Empty} title="Nothing has happened yet" />`)}<//><//>`;
}
