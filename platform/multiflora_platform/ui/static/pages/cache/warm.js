/** Compute a prompt's beginning before a request needs it. */
import { html, useState } from "../../lib/html.js";
import { post } from "../../lib/api.js";
import { count } from "../../lib/format.js";
import { t } from "../../lib/language.js";
import { query } from "../../lib/router.js";
import { session } from "../../lib/session.js";
import { toast } from "../../lib/toasts.js";
import { Dialog } from "../../components/dialog.js";
import { TextArea, TextField } from "../../components/fields.js";

export function Warm() {
  const [open, setOpen] = useState(false);
  return html`<button class="button" onClick=${() => setOpen(true)}>${t("Warm a prefix…")}</button>
    ${open && html`<${Form} onClose=${() => setOpen(false)} />`}`;
}

function Form({ onClose }) {
  const [model, setModel] = useState(query.value.get("model") ?? session.value.base_model);
  const [prompt, setPrompt] = useState("");
  const [problem, setProblem] = useState("");
  const [busy, setBusy] = useState(false);
  const warm = async (event) => {
    event.preventDefault();
    setBusy(true);
    try {
      const { cached_tokens: cached, computed_tokens: computed } = await post("/api/v1/cache:warm", { model: model.trim(), prompt });
      toast(t`${count(computed)} tokens computed, ${count(cached)} were there already.`);
      onClose();
    } catch (error) {
      setProblem(error.message);
      setBusy(false);
    }
  };
  return html`<${Dialog} title=${t("Warm a prefix")} onClose=${onClose}><form class="stack" onSubmit=${warm}>
    <p>${t`Computes a completion's beginning once and keeps its whole blocks. Admins' requests find them. For a tenant's, and for a chat, which goes through the template, send ${html`<code>tenant</code>`} and ${html`<code>messages</code>`} to ${html`<code>POST /api/v1/cache:warm</code>`}.`}</p>
    <${TextField} label=${t("Model")} hint=${t("A prefix serves the model it was computed for")} spellcheck="false" value=${model} onInput=${setModel} />
    <${TextArea} label=${t("Text")} rows="8" value=${prompt} onInput=${setPrompt} problem=${problem} />
    <footer><button type="button" class="button" onClick=${onClose}>${t("Cancel")}</button><button class="button primary" disabled=${busy || !prompt}>${busy ? t("Computing…") : t("Warm")}</button></footer>
  </form><//>`;
}
