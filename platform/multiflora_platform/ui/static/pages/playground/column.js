/** One model's answer: streamed, measured, coloured; gone on from, saved, and asked again by code. */
import { html, useEffect, useRef, useState } from "../../lib/html.js";
import { t } from "../../lib/language.js";
import { adapterOf, baseOf, mixOf, partsOf } from "../../lib/models.js";
import { may } from "../../lib/session.js";
import { exported } from "../../lib/snippets.js";
import { Snippets } from "../../components/code.js";
import { Dialog } from "../../components/dialog.js";
import { Icon } from "../../components/icon.js";
import { ModelChoice } from "../../components/model-choice.js";
import { ask, nothing } from "./answer.js";
import { Measured } from "./measured.js";
import { Mix } from "./mix.js";
import { SaveAsContext, SaveAsEval } from "./save.js";
import { Tokens } from "./tokens.js";

/** request: of the task, or null where it cannot be asked; other: {text, side} that the answer is compared with, or null */
export function Column({ model, models, task, request, run, other, canRemove, onModel, onRemove, onAnswer, onGoOn }) {
  const [answer, setAnswer] = useState(nothing);
  const [open, setOpen] = useState(null);
  const abort = useRef(null);
  useEffect(() => {
    if (!run) return undefined;
    abort.current = new AbortController();
    ask(request, baseOf(model, models), task.settings.colour, setAnswer, abort.current.signal).then((done) => done.text && onAnswer(done.text));
    return () => abort.current.abort();
  }, [run]);
  const close = () => setOpen(null);
  const parts = partsOf(model);
  const has = !answer.busy && !answer.error && (answer.text || answer.calls.length > 0);
  const button = (what, label) => html`<button type="button" class="button small quiet" onClick=${() => setOpen(what)}>${label}</button>`;
  return html`<section class="card column" aria-label=${t`Answer of ${model}`}>
    <header>
      <${ModelChoice} label=${t("Model")} value=${model} options=${models?.options ?? []} onChange=${onModel} last=${{ label: t("A mix of adapters…"), onChoose: () => setOpen("mix") }} />
      ${parts && button("mix", t("Mix…"))}
      ${answer.busy ? html`<button type="button" class="button small" onClick=${() => abort.current.abort()}>${t("Stop")}</button>` : request && button("code", t("Code"))}
      ${canRemove && html`<button type="button" class="button small quiet" aria-label=${t`Remove ${model}`} onClick=${onRemove}><${Icon} name="close" size=${15} /></button>`}
    </header>
    <div class="answer" aria-busy=${answer.busy} aria-live="polite">
      ${answer.error ? html`<p class="problem" role="alert">${answer.error}</p>`
        : answer.text || answer.tokens.length || answer.calls.length ? html`<${Tokens} answer=${answer} colour=${task.settings.colour} other=${other} />`
          : html`<p class="muted">${answer.busy ? t("Waiting for the first token…") : t("The answer appears here.")}</p>`}
    </div>
    ${has && html`<div class="row actions">
      ${task.mode === "chat" && html`<button type="button" class="button small" onClick=${() => onGoOn(answer)}>${t("Go on from here")}</button>`}
      ${models?.adapters.has(adapterOf(model)) && !parts && answer.text && button("eval", t("Save as eval…"))}
      ${may("inference") && button("context", t("Save as context…"))}</div>`}
    <${Measured} answer=${answer} />
    ${open === "mix" && html`<${Mix} parts=${parts} models=${models} model=${model} onClose=${close} onChange=${(chosen) => onModel(mixOf(chosen))} />`}
    ${open === "eval" && html`<${SaveAsEval} model=${model} request=${answer.request} answer=${answer} onClose=${close} />`}
    ${open === "context" && html`<${SaveAsContext} model=${model} request=${answer.request} answer=${answer} onClose=${close} />`}
    ${open === "code" && html`<${Dialog} wide title=${t`The request to ${model}`} onClose=${close}>
      <${Snippets} of=${exported(request)} />
      <footer><button type="button" class="button" onClick=${close}>${t("Close")}</button></footer><//>`}
  </section>`;
}
