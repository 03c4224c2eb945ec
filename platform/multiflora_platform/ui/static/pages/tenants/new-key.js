/** A new key: for whom, for what, until when. It is shown once. */
import { html, useState } from "../../lib/html.js";
import { post } from "../../lib/api.js";
import { Dialog } from "../../components/dialog.js";
import { Check, Select, TextField } from "../../components/fields.js";
import { ShownOnce } from "../../components/shown-once.js";

const SCOPES = [
  ["inference", "Send requests to models"], ["registry:read", "See adapters"], ["registry:write", "Register and change adapters"],
  ["usage:read", "See usage"], ["metrics", "Read metrics"], ["admin", "Everything else"],
];
const LIVES = [["", "Never"], ["1", "In a day"], ["30", "In 30 days"], ["90", "In 90 days"], ["365", "In a year"]];

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
  const offered = tenant ? SCOPES.filter(([scope]) => scope !== "admin") : SCOPES;
  return html`<${Dialog} title="New key" onClose=${onClose}><form class="stack" onSubmit=${make}>
    <${TextField} label="Name" hint="What it is for, such as CI of the shop" autocomplete="off" spellcheck="false" required value=${name} onInput=${setName} problem=${problem} />
    <div class="form-grid">
      <${Select} label="Belongs to" disabled=${Boolean(fixed)} value=${tenant} onChange=${setTenant} of=${[...tenants.map((one) => [one, `Tenant ${one}`]), ["", "Administrators"]]} />
      <${Select} label="Ends" value=${days} onChange=${setDays} of=${LIVES} />
    </div>
    <fieldset><legend>What it may do</legend>
      <${Check} label="Only some of what its role may" checked=${narrow} onChange=${setNarrow} />
      ${narrow && offered.map(([scope, label]) => html`<${Check} key=${scope} label=${label} hint=${scope} checked=${scopes.includes(scope)} onChange=${() => flip(scope)} />`)}
    </fieldset>
    <footer><button type="button" class="button" onClick=${onClose}>Cancel</button><button class="button primary" disabled=${narrow && !scopes.length}>Make key</button></footer>
  </form><//>`;
}

export const ShowKey = ({ made, onClose }) => html`<${ShownOnce} title=${`The key ${made.name}`} label="Key" text=${made.key} onClose=${onClose}>
  Copy it and keep it safe; the server stores only a fingerprint of it.<//>`;
