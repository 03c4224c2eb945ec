/** A new context: its name, its text, the models it is computed for, and how long it stays. */
import { html, useState } from "../../lib/html.js";
import { put } from "../../lib/api.js";
import { t } from "../../lib/language.js";
import { isAdmin } from "../../lib/session.js";
import { toast } from "../../lib/toasts.js";
import { Dialog } from "../../components/dialog.js";
import { Check, Select, TextArea, TextField } from "../../components/fields.js";

const kinds = () => [["messages", t("A chat's system message")], ["prompt", t("A completion's beginning")]];
const lifetimes = () => [["", t("For ever")], ["5m", t("5 minutes")], ["1h", t("1 hour")], ["1d", t("1 day")], ["7d", t("7 days")]];
/** Which field of the form says what is wrong with which field of the request. */
const FIELDS = { messages: "text", prompt: "text", adapters: "adapters", ttl: "ttl", tenant: "tenant" };

export function NewContext({ onClose, onChange }) {
  const [values, setValues] = useState({ name: "", kind: "messages", text: "", adapters: "", ttl: "", pin: true, tenant: "" });
  const [problem, setProblem] = useState({});
  const set = (field) => (value) => setValues({ ...values, [field]: value });
  const save = async (event) => {
    event.preventDefault();
    const { kind, text, ttl, pin, tenant } = values;
    const content = kind === "prompt" ? { prompt: text } : { messages: [{ role: "system", content: text }] };
    const adapters = values.adapters.split(",").map((one) => one.trim()).filter(Boolean);
    try {
      await put(`/api/v1/contexts/${encodeURIComponent(values.name)}`, { ...content, adapters, pin, ttl: ttl || null, ...(tenant ? { tenant } : {}) }, { headers: { "If-None-Match": "*" } });
      toast(t`${values.name} is being computed.`);
      onChange();
      onClose();
    } catch (error) {
      setProblem({ [FIELDS[(error.pointer ?? "").split("/")[1]] ?? "name"]: error.message });
    }
  };
  return html`<${Dialog} wide title=${t("New context")} onClose=${onClose}><form class="stack" onSubmit=${save}>
    <div class="form-grid">
      <${TextField} label=${t("Name")} autocomplete="off" spellcheck="false" required pattern="[A-Za-z0-9][A-Za-z0-9._\\-]{0,63}" title=${t("Letters, digits, dots, dashes and underscores; at most 64")} value=${values.name} onInput=${set("name")} problem=${problem.name} />
      <${Select} label=${t("What it is")} value=${values.kind} onChange=${set("kind")} of=${kinds()} />
      ${isAdmin.value && html`<${TextField} label=${t("Tenant")} hint=${t("Whose requests find it; empty: admins'")} spellcheck="false" value=${values.tenant} onInput=${set("tenant")} problem=${problem.tenant} />`}
    </div>
    <${TextArea} label=${t("Text")} rows="10" required value=${values.text} onInput=${set("text")} problem=${problem.text} />
    <div class="form-grid">
      <${TextField} label=${t("Models")} hint=${t("Names separated by commas, base models among them; empty: the default base model")} spellcheck="false" value=${values.adapters} onInput=${set("adapters")} problem=${problem.adapters} />
      <${Select} label=${t("Stays")} value=${values.ttl} onChange=${set("ttl")} of=${lifetimes()} />
    </div>
    <${Check} label=${t("Hold it in the cache")} hint=${t("Otherwise it may be evicted, and is computed again while the server is idle")} checked=${values.pin} onChange=${set("pin")} />
    <footer><button type="button" class="button" onClick=${onClose}>${t("Cancel")}</button><button class="button primary" disabled=${!values.text}>${t("Make context")}</button></footer>
  </form><//>`;
}
