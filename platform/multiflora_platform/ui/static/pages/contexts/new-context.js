/** A new context: its name, its conversation or text, the models it is computed for, and how long it stays. */
import { html, useState } from "../../lib/html.js";
import { put } from "../../lib/api.js";
import { messageDraft, messageOf, newMessage, parsed } from "../../lib/chat-messages.js";
import { t } from "../../lib/language.js";
import { isAdmin } from "../../lib/session.js";
import { toast } from "../../lib/toasts.js";
import { Segmented } from "../../components/bits.js";
import { ChatMessages } from "../../components/chat-messages.js";
import { Dialog } from "../../components/dialog.js";
import { Check, Select, TextArea, TextField } from "../../components/fields.js";

const kinds = () => [["messages", t("A conversation's beginning")], ["prompt", t("A completion's beginning")]];
const lifetimes = () => [["", t("For ever")], ["5m", t("5 minutes")], ["1h", t("1 hour")], ["1d", t("1 day")], ["7d", t("7 days")]];
/** Of the request's fields, those that have one of the form. */
const FIELDS = new Set(["messages", "prompt", "tools", "adapters", "ttl", "tenant"]);

/** initial: {messages | prompt, tools?, adapters} to begin with, as the API has them */
export function NewContext({ initial = {}, onClose, onChange }) {
  const [values, setValues] = useState(() => ({
    name: "", kind: initial.prompt === undefined ? "messages" : "prompt", messages: initial.messages?.map(messageDraft) ?? [newMessage("system")], prompt: initial.prompt ?? "",
    tools: initial.tools ? JSON.stringify(initial.tools, null, 2) : "", adapters: initial.adapters?.join(", ") ?? "", ttl: "", pin: true, tenant: "",
  }));
  const [problem, setProblem] = useState(null);
  const set = (field) => (value) => setValues({ ...values, [field]: value });
  const problemOf = (field) => (problem?.field === field ? problem.message : "");
  const isEmpty = values.kind === "prompt" ? !values.prompt : values.messages.every((one) => !one.content);
  const save = async (event) => {
    event.preventDefault();
    try {
      await put(`/api/v1/contexts/${encodeURIComponent(values.name)}`, bodyOf(values), { headers: { "If-None-Match": "*" } });
      toast(t`${values.name} is being computed.`);
      onChange();
      onClose();
    } catch (error) {
      const [, field, index] = (error.pointer ?? "").split("/");
      setProblem({ field: FIELDS.has(field) ? field : "name", index: Number(index ?? 0), message: error.message });
    }
  };
  return html`<${Dialog} wide title=${t("New context")} onClose=${onClose}><form class="stack" onSubmit=${save}>
    <div class="form-grid">
      <${TextField} label=${t("Name")} autocomplete="off" spellcheck="false" required pattern="[A-Za-z0-9][A-Za-z0-9._\\-]{0,63}" title=${t("Letters, digits, dots, dashes and underscores; at most 64")} value=${values.name} onInput=${set("name")} problem=${problemOf("name")} />
      ${isAdmin.value && html`<${TextField} label=${t("Tenant")} hint=${t("Whose requests find it; empty: admins'")} spellcheck="false" value=${values.tenant} onInput=${set("tenant")} problem=${problemOf("tenant")} />`}
    </div>
    <${Segmented} label=${t("What it is")} of=${kinds()} value=${values.kind} onChange=${set("kind")} />
    ${values.kind === "prompt" ? html`<${TextArea} label=${t("Text")} rows="10" required value=${values.prompt} onInput=${set("prompt")} problem=${problemOf("prompt")} />`
      : html`<${ChatMessages} value=${values.messages} onChange=${set("messages")} problemOf=${(i) => (problem?.index === i ? problemOf("messages") : "")} />
        <details open=${values.tools !== ""}><summary class="small">${t("Tools")}</summary><${TextArea} label=${t("Tools")} hint=${t("They stand in the prompt, too: requests of the context come with the same")} rows="4" class="mono" spellcheck="false" value=${values.tools} onInput=${set("tools")} problem=${problemOf("tools")} /></details>`}
    <div class="form-grid">
      <${TextField} label=${t("Models")} hint=${t("Names separated by commas, base models among them; empty: the default base model")} spellcheck="false" value=${values.adapters} onInput=${set("adapters")} problem=${problemOf("adapters")} />
      <${Select} label=${t("Stays")} value=${values.ttl} onChange=${set("ttl")} of=${lifetimes()} />
    </div>
    <${Check} label=${t("Hold it in the cache")} hint=${t("Otherwise it may be evicted, and is computed again while the server is idle")} checked=${values.pin} onChange=${set("pin")} />
    <footer><button type="button" class="button" onClick=${onClose}>${t("Cancel")}</button><button class="button primary" disabled=${isEmpty}>${t("Create context")}</button></footer>
  </form><//>`;
}

/** As the API takes it. Throws Misplaced. */
function bodyOf({ kind, messages, prompt, tools, adapters, ttl, pin, tenant }) {
  const chat = () => ({ messages: messages.map((one, i) => messageOf(one, `/messages/${i}`)), ...(tools.trim() && { tools: parsed(tools, "/tools") }) });
  return {
    ...(kind === "prompt" ? { prompt } : chat()), pin, ttl: ttl || null,
    adapters: adapters.split(",").map((one) => one.trim()).filter(Boolean), ...(tenant && { tenant }),
  };
}
