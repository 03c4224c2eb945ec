/** Keys: listed, rotated, revoked. Never the key itself. */
import { html, useState } from "../../lib/html.js";
import { post, remove } from "../../lib/api.js";
import { moment } from "../../lib/format.js";
import { t } from "../../lib/language.js";
import { attempt, toast } from "../../lib/toasts.js";
import { Badge, Time } from "../../components/bits.js";
import { ConfirmByName } from "../../components/dialog.js";
import { Empty } from "../../components/states.js";
import { Table } from "../../components/table.js";
import { ShowKey } from "./new-key.js";

const OVERLAP_SECONDS = 3600;

export function Keys({ items, onChange }) {
  if (!items.length) return html`<${Empty} title=${t("No keys in the database")}>${t("The keys of the server's configuration are not listed.")}<//>`;
  return html`<${Table} name="keys" label=${t("Keys")} columns=${columnsOf(onChange)} rows=${items.toReversed()} keyOf=${(key) => key.id} />`;
}

const endOf = (key) => (key.revoked_at ? t("revoked") : key.expires_at && moment(key.expires_at) < Date.now() / 1000 ? t("expired") : null);

const columnsOf = (onChange) => [
  { key: "name", label: t("Key"), cell: (key) => html`<b>${key.name}</b> <span class="muted mono">${key.prefix}…</span>` },
  { key: "tenant", label: t("Belongs to"), cell: (key) => key.tenant ?? html`<${Badge} kind="accent">${t("administrators")}<//>` },
  { key: "scopes", label: t("Permissions"), class: "break", value: (key) => (key.scopes ? key.scopes.join(", ") : t("all of its role")) },
  { key: "created_at", label: t("Created"), time: true, class: "muted" },
  { key: "last_used_at", label: t("Last used"), time: true, class: "muted" },
  { key: "ends", label: t("Expires"), time: true, value: (key) => key.revoked_at ?? key.expires_at,
    cell: (key) => (endOf(key) ? html`<${Badge} kind="bad"><${Time} at=${key.revoked_at ?? key.expires_at} words=${endOf(key)} /><//>` : key.expires_at ? html`<${Time} at=${key.expires_at} />` : html`<span class="muted">${t("never")}</span>`) },
  { key: "actions", label: t("Actions"), control: true, class: "nowrap", cell: (key) => html`<${Actions} one=${key} onChange=${onChange} />` },
];

function Actions({ one, onChange }) {
  const [open, setOpen] = useState(null);
  const rotate = async () => {
    const made = await attempt(() => post(`/api/v1/keys/${one.id}:rotate`, { overlap_seconds: OVERLAP_SECONDS }));
    if (made) setOpen({ made });
    onChange();
  };
  return html`${!endOf(one) && html`<button class="button small quiet" title=${t("A new key like it; this one works for another hour")} onClick=${rotate}>${t("Rotate")}</button>
      <button class="button small quiet" onClick=${() => setOpen("revoke")}>${t("Revoke…")}</button>`}
    ${open?.made && html`<${ShowKey} made=${open.made} onClose=${() => setOpen(null)} />`}
    ${open === "revoke" && html`<${ConfirmByName} title=${t`Revoke the key ${one.name}?`} name=${one.name} action=${t("Revoke")} onClose=${() => setOpen(null)}
      onConfirm=${async () => { await remove(`/api/v1/keys/${one.id}`); toast(t`${one.name} is revoked.`); onChange(); }}>
      ${t("Whoever uses it is refused from the next request on. This cannot be undone; make a new key instead.")}<//>`}`;
}
