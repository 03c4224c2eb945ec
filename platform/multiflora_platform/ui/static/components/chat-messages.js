/** Messages of a chat in a form: each with its role, added and removed. */
import { html } from "../lib/html.js";
import { newMessage } from "../lib/chat-messages.js";
import { t } from "../lib/language.js";
import { Select, TextArea } from "./fields.js";
import { Icon } from "./icon.js";

const ROLES = ["user", "system", "assistant", "tool"];

/** value: drafts of lib/chat-messages.js; least: how many stay; problemOf(i): what is wrong with one */
export function ChatMessages({ value, onChange, least = 1, problemOf = () => "" }) {
  const add = () => onChange([...value, newMessage(value.at(-1)?.role === "user" ? "assistant" : "user")]);
  return html`${value.map((one, i) => html`<${Message} key=${one.key} value=${one} problem=${problemOf(i)} onChange=${(changed) => onChange(value.with(i, changed))} onRemove=${value.length > least && (() => onChange(value.toSpliced(i, 1)))} />`)}
    <div><button type="button" class="button small" onClick=${add}><${Icon} name="plus" size=${14} />${t("Add a message")}</button></div>`;
}

function Message({ value, onChange, onRemove, problem }) {
  const roles = ROLES.includes(value.role) ? ROLES : [...ROLES, value.role];
  const calls = value.rest.tool_calls?.map((call) => `${call.function?.name}(${call.function?.arguments})`).join(", ");
  const hint = [calls && t`Calls ${calls}`, value.isJson && t("Its content as JSON")].filter(Boolean).join(" · ");
  return html`<div class="message">
    <${Select} label=${t("Role")} value=${value.role} onChange=${(role) => onChange({ ...value, role })} of=${roles.map((role) => [role, role])} />
    <${TextArea} label=${t("Message")} hint=${hint || undefined} rows="2" value=${value.content} onInput=${(content) => onChange({ ...value, content })} problem=${problem} />
    ${onRemove && html`<${Remove} label=${t("Remove this message")} onClick=${onRemove} />`}
  </div>`;
}

/** text: what is seen of it; label: which one it is */
export const Remove = ({ label, text = t("Remove"), onClick }) => html`<button type="button" class="button small quiet" aria-label=${label} onClick=${onClick}><${Icon} name="close" size=${14} />${text}</button>`;
