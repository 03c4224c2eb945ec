/** Contexts: beginnings of prompts that the cache holds on purpose, and requests name instead of sending them. */
import { html, useState } from "../lib/html.js";
import { getAll, patch, remove } from "../lib/api.js";
import { bytes, count } from "../lib/format.js";
import { useResource } from "../lib/resource.js";
import { isAdmin } from "../lib/session.js";
import { attempt, toast } from "../lib/toasts.js";
import { Badge, PageHeader, Swatch, Time } from "../components/bits.js";
import { ConfirmByName } from "../components/dialog.js";
import { Icon } from "../components/icon.js";
import { Empty, Loaded } from "../components/states.js";
import { NewContext } from "./contexts/new-context.js";

const KINDS = { warm: "ok", computing: "info", partial: "warn", cold: "bad" };
const pathOf = (context) => `/api/v1/contexts/${context.name}${context.tenant ? `?tenant=${encodeURIComponent(context.tenant)}` : ""}`;

export default function Contexts() {
  const contexts = useResource((signal) => getAll("/api/v1/contexts", { signal }), [], { every: 3 });
  const [isNew, setNew] = useState(false);
  const make = html`<button class="button primary" onClick=${() => setNew(true)}><${Icon} name="plus" size=${16} />New context</button>`;
  return html`<${PageHeader} title="Contexts" about=${html`Beginnings of prompts that stay computed. A request names one with <code>"context": "name"</code> and sends only what comes after it`} actions=${make} />
    <div class="card"><${Loaded} resource=${contexts}>${(items) => (items.length ? html`<${Table} items=${items} onChange=${contexts.reload} />`
      : html`<${Empty} title="No contexts yet" icon="cache" action=${make}>Give the documents or the system prompt that many requests begin with a name: they are computed once, kept, and computed again if they are lost.<//>`)}<//></div>
    ${isNew && html`<${NewContext} onClose=${() => setNew(false)} onChange=${contexts.reload} />`}`;
}

function Table({ items, onChange }) {
  const [dropped, setDropped] = useState(null);
  return html`<div class="scroll" tabindex="0" role="group" aria-label="Contexts"><table>
    <thead><tr><th>Context</th>${isAdmin.value && html`<th>Owner</th>`}<th>Status</th><th>Models</th><th class="number">Tokens cached</th><th class="number">Memory</th><th class="number">Hits</th><th>Expires</th><th><span class="visually-hidden">Actions</span></th></tr></thead>
    <tbody>${items.map((one) => html`<${Row} key=${`${one.tenant} ${one.name}`} one=${one} onChange=${onChange} onDrop=${() => setDropped(one)} />`)}</tbody></table>
    ${dropped && html`<${ConfirmByName} title="Delete this context?" name=${dropped.name} action="Delete" onClose=${() => setDropped(null)}
      onConfirm=${async () => { await remove(pathOf(dropped)); toast(`${dropped.name} is deleted.`); onChange(); }}>
      Requests that name it are refused from now on. What is cached of it may be found until it is evicted.<//>`}</div>`;
}

function Row({ one, onChange, onDrop }) {
  const hold = () => attempt(() => patch(pathOf(one), { pin: !one.pin }, { headers: { "If-Match": one.etag } }), one.pin ? `${one.name} may be evicted; it is computed again when the server is idle.` : `${one.name} is held.`).then(onChange);
  return html`<tr><td><b>${one.name}</b> ${one.pin && html`<${Badge} kind="accent">held<//>`}</td>
    ${isAdmin.value && html`<td>${one.tenant ?? html`<span class="muted">admin</span>`}</td>`}
    <td><${Badge} kind=${KINDS[one.status]}>${one.status}<//></td>
    <td>${Object.entries(one.adapters).map(([name, state]) => html`<div class="nowrap" key=${name} title=${state.error ?? `${state.status}, ${count(state.cached_tokens)} tokens cached`}><${Swatch} of=${name} />${name}${state.error && html` <span class="problem small">${state.error}</span>`}</div>`)}</td>
    <td class="number" title="Whole blocks are cached">${count(one.cached_tokens)} of ${count(one.tokens)}</td>
    <td class="number">${bytes(one.bytes)}</td><td class="number">${count(one.hits)}</td>
    <td>${one.expires_at ? html`<${Time} at=${one.expires_at} />` : html`<span class="muted">never</span>`}</td>
    <td class="number nowrap"><button class="button small quiet" onClick=${hold}>${one.pin ? "Release" : "Hold"}</button>
      <button class="button small quiet" onClick=${onDrop}>Delete…</button></td></tr>`;
}
