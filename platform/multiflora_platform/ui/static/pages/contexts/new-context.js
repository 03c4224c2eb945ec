/** A new context: its name, its text, the models it is computed for, and how long it stays. */
import { html, useState } from "../../lib/html.js";
import { put } from "../../lib/api.js";
import { isAdmin } from "../../lib/session.js";
import { toast } from "../../lib/toasts.js";
import { Dialog } from "../../components/dialog.js";
import { Check, Select, TextArea, TextField } from "../../components/fields.js";

const KINDS = [["messages", "A chat's system message"], ["prompt", "A completion's beginning"]];
const TIMES = [["", "For ever"], ["5m", "5 minutes"], ["1h", "1 hour"], ["1d", "1 day"], ["7d", "7 days"]];
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
      toast(`${values.name} is being computed.`);
      onChange();
      onClose();
    } catch (error) {
      setProblem({ [FIELDS[(error.pointer ?? "").split("/")[1]] ?? "name"]: error.message });
    }
  };
  return html`<${Dialog} wide title="New context" onClose=${onClose}><form class="stack" onSubmit=${save}>
    <div class="form-grid">
      <${TextField} label="Name" autocomplete="off" spellcheck="false" required pattern="[A-Za-z0-9][A-Za-z0-9._\\-]{0,63}" title="Letters, digits, dots, dashes and underscores; at most 64" value=${values.name} onInput=${set("name")} problem=${problem.name} />
      <${Select} label="What it is" value=${values.kind} onChange=${set("kind")} of=${KINDS} />
      ${isAdmin.value && html`<${TextField} label="Tenant" hint="Whose requests find it; empty: admins'" spellcheck="false" value=${values.tenant} onInput=${set("tenant")} problem=${problem.tenant} />`}
    </div>
    <${TextArea} label="Text" rows="10" required value=${values.text} onInput=${set("text")} problem=${problem.text} />
    <div class="form-grid">
      <${TextField} label="Models" hint="Names separated by commas, base models among them; empty: the default base model" spellcheck="false" value=${values.adapters} onInput=${set("adapters")} problem=${problem.adapters} />
      <${Select} label="Stays" value=${values.ttl} onChange=${set("ttl")} of=${TIMES} />
    </div>
    <${Check} label="Hold it in the cache" hint="Otherwise it may be evicted, and is computed again while the server is idle" checked=${values.pin} onChange=${set("pin")} />
    <footer><button type="button" class="button" onClick=${onClose}>Cancel</button><button class="button primary" disabled=${!values.text}>Make context</button></footer>
  </form><//>`;
}
