/** A webhook's address and events: to make one, or to change one. Its secret is shown once. */
import { html, useState } from "../../lib/html.js";
import { patch, post } from "../../lib/api.js";
import { t } from "../../lib/language.js";
import { attempt, toast } from "../../lib/toasts.js";
import { hostOf, pathOf, unchanged } from "../../lib/webhooks.js";
import { Dialog } from "../../components/dialog.js";
import { TextField } from "../../components/fields.js";
import { ShownOnce } from "../../components/shown-once.js";

const NEW = { url: "", events: ["*"], description: "" };

/** @param {{webhook?: object}} props webhook: the one to change */
export function WebhookForm({ webhook, onClose, onChange }) {
  // As it was when the form was opened: what is changed elsewhere meanwhile is not overwritten.
  const [before] = useState(webhook ?? NEW);
  const [values, setValues] = useState({ url: before.url, events: before.events.join(", "), description: before.description });
  const [problem, setProblem] = useState({});
  const [made, setMade] = useState(null);
  const set = (field) => (value) => setValues({ ...values, [field]: value });
  const save = async (event) => {
    event.preventDefault();
    const body = { ...values, events: values.events.split(",").map((one) => one.trim()).filter(Boolean) };
    try {
      if (webhook) await change(before, body, onChange).then(onClose);
      else setMade(await post("/api/v1/webhooks", body));
      onChange();
    } catch (error) {
      setProblem({ [(error.pointer ?? "").split("/")[1] || "url"]: error.message });
    }
  };
  if (made) return html`<${ShowSecret} made=${made} onClose=${onClose} />`;
  return html`<${Dialog} title=${webhook ? t`Change ${hostOf(webhook)}` : t("New webhook")} onClose=${onClose}><form class="stack" onSubmit=${save}>
    <${TextField} label="URL" type="url" hint=${t("It gets a POST for each event, and answers 2xx within 10 seconds")} autocomplete="off" spellcheck="false" required value=${values.url} onInput=${set("url")} problem=${problem.url} />
    <${TextField} label=${t("Events")} hint=${t("Patterns separated by commas, such as alias.*, rollout.*, alert.*; * is every event")} autocomplete="off" spellcheck="false" required value=${values.events} onInput=${set("events")} problem=${problem.events} />
    <${TextField} label=${t("Description")} hint=${t("Who is told there, and why")} maxlength="1000" value=${values.description} onInput=${set("description")} problem=${problem.description} />
    <footer><button type="button" class="button" onClick=${onClose}>${t("Cancel")}</button><button class="button primary">${webhook ? t("Save") : t("Create webhook")}</button></footer>
  </form><//>`;
}

async function change(webhook, body, onChange) {
  const changed = await patch(pathOf(webhook), body, unchanged(webhook));
  const { url, events, description } = webhook;
  const undo = () => attempt(() => patch(pathOf(webhook), { url, events, description }, unchanged(changed)), t("Changed back.")).then(onChange);
  toast(t`${hostOf(changed)} is changed; it holds from the next message on.`, { undo });
}

export const ShowSecret = ({ made, onClose }) => html`<${ShownOnce} title=${t`The secret of ${hostOf(made)}`} label=${t("Secret")} text=${made.secret} onClose=${onClose}>
  ${t("Give it to the receiver: libraries of Standard Webhooks verify with it that a message is from this server.")}<//>`;
