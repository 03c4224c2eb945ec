/** Several adapters at once, each with a weight. */
import { html, useState } from "../../lib/html.js";
import { t } from "../../lib/language.js";
import { adapterOf, baseOf } from "../../lib/models.js";
import { Remove } from "../../components/chat-messages.js";
import { Dialog } from "../../components/dialog.js";
import { TextField } from "../../components/fields.js";
import { Icon } from "../../components/icon.js";
import { ModelChoice } from "../../components/model-choice.js";

/** parts: of the mix so far, or null; model: what was asked before it */
export function Mix({ parts: present, models, model, onChange, onClose }) {
  const adapters = models?.options.filter(({ value }) => !models.bases.includes(value)) ?? [];
  const [parts, setParts] = useState(() => present ?? startOf(adapters, models, model));
  const set = (i, changes) => setParts(parts.with(i, { ...parts[i], ...changes }));
  const wrong = new Set(parts.map((one) => baseOf(one.name, models))).size > 1 ? t("Adapters of one base model can be mixed.") : "";
  const isDone = !wrong && parts.every(({ weight }) => weight !== "" && Number.isFinite(Number(weight)));
  const save = (event) => {
    event.preventDefault();
    if (!isDone) return;
    onChange(parts.map(({ name, weight }) => ({ name, weight: Number(weight) })));
    onClose();
  };
  return html`<${Dialog} title=${t("A mix of adapters")} onClose=${onClose}><form class="stack" onSubmit=${save}>
    <p>${t("Their weighted sum, on top of their base model.")}</p>
    ${parts.map((one, i) => html`<fieldset class="mix" key=${i}><legend class="visually-hidden">${t`Part ${i + 1}`}</legend>
      <div class="field"><span class="label" aria-hidden="true">${t("Adapter")}</span><${ModelChoice} label=${t`Adapter ${i + 1}`} value=${one.name} options=${adapters} onChange=${(name) => set(i, { name })} /></div>
      <${TextField} label=${t("Weight")} type="number" step="any" value=${one.weight} onInput=${(weight) => set(i, { weight })} />
      ${parts.length > 1 && html`<${Remove} label=${t`Remove ${one.name}`} onClick=${() => setParts(parts.toSpliced(i, 1))} />`}</fieldset>`)}
    ${wrong && html`<p class="problem" role="alert">${wrong}</p>`}
    <div><button type="button" class="button small" onClick=${() => setParts([...parts, { name: adapters[0]?.value ?? "", weight: 0.5 }])}><${Icon} name="plus" size=${14} />${t("Add an adapter")}</button></div>
    <footer><button type="button" class="button" onClick=${onClose}>${t("Cancel")}</button><button class="button primary" disabled=${!isDone}>${t("Ask this mix")}</button></footer>
  </form><//>`;
}

/** The adapter that was asked, and another one of its base model. */
function startOf(adapters, models, model) {
  const first = models?.adapters.has(adapterOf(model)) ? model : adapters[0]?.value;
  const second = adapters.find(({ value }) => adapterOf(value) !== adapterOf(first ?? "") && baseOf(value, models) === baseOf(first, models))?.value;
  return [first, second].filter(Boolean).map((name) => ({ name, weight: 0.5 }));
}
