/** How far a registration is, what the checks say, and where to go next. */
import { html } from "../../lib/html.js";
import { bytes } from "../../lib/format.js";
import { t } from "../../lib/language.js";
import { href } from "../../lib/router.js";
import { Card, Meter, Time } from "../../components/bits.js";
import { Icon } from "../../components/icon.js";
import { Report } from "../../components/report.js";
import { Notice } from "../../components/states.js";

const steps = () => [["content", t("Upload")], ["validate", t("Validate")], ["finish", t("Alias and loading")], ["done", t("Ready")]];

export function Progress({ state }) {
  if (!state) {
    return html`<${Card} title=${t("What is checked")}><ul class="plain">
      <li>${t("The configuration describes a LoRA that this server can run.")}</li>
      <li>${t("Every tensor lands on a module of the base model, with the right shape.")}</li>
      <li>${t("No value is missing, infinite or not a number.")}</li>
      <li>${t("The adapter changes what the model says.")}</li>
    </ul><//>`;
  }
  const at = steps().findIndex(([step]) => step === state.step);
  const done = state.step === "done";
  return html`<div class="stack" aria-live="polite">
    <${Card} title=${t`Registering ${state.name}`}><div class="stack">
      <ol class="steps">${steps().map(([step, label], i) => html`<li key=${step} class=${i < at || done ? "done" : i === at ? (state.error ? "failed" : "now") : ""} aria-current=${i === at ? "step" : undefined}>
        <${Icon} name=${i < at || done ? "check" : i === at && state.error ? "close" : "right"} size=${14} />${i || state.isUpload ? label : t("Fetch")}</li>`)}</ol>
      ${state.step === "content" && state.busy && html`<${Content} state=${state} />`}
      ${state.rows.length > 0 && html`<${Report} rows=${state.rows} />`}
    </div><//>
    ${state.error && html`<${Notice} kind="bad" title=${t("Not registered")}>${state.error.message}<//>`}
    ${done && html`<${Notice} kind="ok" title=${t`${state.name}@${state.version} is ready`}>
      <div class="row"><a href=${href(`/playground?model=${state.name}@${state.version}`)}>${t("Try it in the playground")}</a><a href=${href(`/adapters/${state.name}`)}>${t("Look at the adapter")}</a><a href=${href(`/adapters/${state.name}?tab=aliases`)}>${t("Roll it out")}</a></div><//>`}
  </div>`;
}

/** How much of it is on the server; screen readers are not told of each step. */
function Content({ state: { isUpload, bytes: { done, total }, job } }) {
  const verb = isUpload ? t("Uploaded") : t("Fetched");
  return html`<div class="stack tight" aria-live="off">
    ${total > 0 && html`<${Meter} label=${verb} value=${done / total} />`}
    <p class="small">${total ? t`${verb} ${bytes(done)} of ${bytes(total)}` : done ? `${verb} ${bytes(done)}` : t("Waiting for the source")}</p>
    ${job?.error && html`<p class="small problem">${job.error}${job.next_attempt_at && html` ${t`Tried again ${html`<${Time} at=${job.next_attempt_at} />`}`}.`}</p>`}
  </div>`;
}
