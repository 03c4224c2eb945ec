/** A new key: for whom, for what, until when. It is shown once. */
import { html, useState } from "../../lib/html.js";
import { post } from "../../lib/api.js";
import { t } from "../../lib/language.js";
import { Dialog } from "../../components/dialog.js";
import { Check, Select, TextField } from "../../components/fields.js";
import { ShownOnce } from "../../components/shown-once.js";

const allScopes = () => [
  ["inference", t("Send requests to models")], ["registry:read", t("See adapters")], ["registry:write", t("Register and change adapters")],
  ["usage:read", t("See usage")], ["metrics", t("Read metrics")], ["admin", t("Everything else")],
];
const lifetimes = () => [["", t("Never")], ["1", t("In a day")], ["30", t("In 30 days")], ["90", t("In 90 days")], ["365", t("In a year")]];

export function NewKey({ tenants, tenant: fixed, onClose, onChange }) {
  const [name, setName] = useState("");
  const [tenant, setTenant] = useState(fixed ?? tenants[0] ?? "");
  const [narrow, setNarrow] = useState(false);
  const [scopes, setScopes] = useState(["inference"]);
  const [days, setDays] = useState("");
  const [problem, setProblem] = useState("");
  const [made, setMade] = useState(null);
  const make = async (event) => {
    event.preventDefault();
    const body = { name, role: tenant ? "tenant" : "admin", tenant: tenant || null, scopes: narrow ? scopes : null };
    if (days) body.expires_at = new Date(Date.now() + Number(days) * 86_400_000).toISOString();
    try {
      setMade(await post("/api/v1/keys", body));
      onChange();
    } catch (error) {
      setProblem(error.message);
    }
  };
  if (made) return html`<${ShowKey} made=${made} onClose=${onClose} />`;
  const flip = (scope) => setScopes(scopes.includes(scope) ? scopes.filter((one) => one !== scope) : [...scopes, scope]);
  const offered = tenant ? allScopes().filter(([scope]) => scope !== "admin") : allScopes();
  return html`<${Dialog} title=${t("New key")} onClose=${onClose}><form class="stack" onSubmit=${make}>
    <${TextField} label=${t("Name")} hint=${t("What it is for, such as CI of the shop")} autocomplete="off" spellcheck="false" required value=${name} onInput=${setName} problem=${problem} />
    <div class="form-grid">
      <${Select} label=${t("Belongs to")} disabled=${Boolean(fixed)} value=${tenant} onChange=${setTenant} of=${[...tenants.map((one) => [one, t`Tenant ${one}`]), ["", t("Administrators")]]} />
      <${Select} label=${t("Expires")} value=${days} onChange=${setDays} of=${lifetimes()} />
    </div>
    <fieldset><legend>${t("Permissions")}</legend>
      <${Check} label=${t("Only some of what its role may")} checked=${narrow} onChange=${setNarrow} />
      ${narrow && offered.map(([scope, label]) => html`<${Check} key=${scope} label=${label} hint=${scope} checked=${scopes.includes(scope)} onChange=${() => flip(scope)} />`)}
    </fieldset>
    <footer><button type="button" class="button" onClick=${onClose}>${t("Cancel")}</button><button class="button primary" disabled=${narrow && !scopes.length}>${t("Create key")}</button></footer>
  </form><//>`;
}

export const ShowKey = ({ made, onClose }) => html`<${ShownOnce} title=${t`The key ${made.name}`} label=${t("Key")} text=${made.key} onClose=${onClose}>
  ${t("Copy it and keep it safe; the server stores only a fingerprint of it.")}<//>`;
