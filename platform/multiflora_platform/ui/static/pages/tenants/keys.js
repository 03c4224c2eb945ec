/** Keys: listed, rotated, revoked. Never the key itself. */
import { html, useState } from "../../lib/html.js";
import { post, remove } from "../../lib/api.js";
import { moment } from "../../lib/format.js";
import { attempt, toast } from "../../lib/toasts.js";
import { Badge, Time } from "../../components/bits.js";
import { ConfirmByName } from "../../components/dialog.js";
import { Empty } from "../../components/states.js";
import { ShowKey } from "./new-key.js";

const OVERLAP_SECONDS = 3600;

export function Keys({ items, onChange }) {
  if (!items.length) return html`<${Empty} title="No keys in the database">The keys of the server's configuration are not listed.<//>`;
  return html`<div class="scroll" tabindex="0" role="group" aria-label="Keys"><table><thead><tr><th>Key</th><th>Belongs to</th><th>May</th><th>Made</th><th>Last used</th><th>Ends</th><th><span class="visually-hidden">Actions</span></th></tr></thead>
    <tbody>${items.toReversed().map((key) => html`<${Row} key=${key.id} one=${key} onChange=${onChange} />`)}</tbody></table></div>`;
}

function Row({ one, onChange }) {
  const [open, setOpen] = useState(null);
  const over = one.revoked_at ? "revoked" : one.expires_at && moment(one.expires_at) < Date.now() / 1000 ? "expired" : null;
  const rotate = async () => {
    const made = await attempt(() => post(`/api/v1/keys/${one.id}:rotate`, { overlap_seconds: OVERLAP_SECONDS }));
    if (made) setOpen({ made });
    onChange();
  };
  return html`<tr><td><b>${one.name}</b> <span class="muted mono">${one.prefix}…</span></td>
    <td>${one.tenant ?? html`<${Badge} kind="accent">administrators<//>`}</td>
    <td class="break">${one.scopes ? one.scopes.join(", ") : "all of its role"}</td><td class="muted"><${Time} at=${one.created_at} /></td><td class="muted"><${Time} at=${one.last_used_at} /></td>
    <td>${over ? html`<${Badge} kind="bad">${over}<//>` : one.expires_at ? html`<${Time} at=${one.expires_at} />` : html`<span class="muted">never</span>`}</td>
    <td class="number nowrap">${!over && html`<button class="button small quiet" title="A new key like it; this one works for another hour" onClick=${rotate}>Rotate</button>
      <button class="button small quiet" onClick=${() => setOpen("revoke")}>Revoke…</button>`}
      ${open?.made && html`<${ShowKey} made=${open.made} onClose=${() => setOpen(null)} />`}
      ${open === "revoke" && html`<${ConfirmByName} title=${`Revoke the key ${one.name}?`} name=${one.name} action="Revoke" onClose=${() => setOpen(null)}
        onConfirm=${async () => { await remove(`/api/v1/keys/${one.id}`); toast(`${one.name} is revoked.`); onChange(); }}>
        Whoever uses it is refused from the next request on. This cannot be undone; make a new key instead.<//>`}</td></tr>`;
}
