/** A run of an eval begun: on a version of the adapter, on all, on another model or a mix; or again on what a run was on. */
import { html, useState } from "../../lib/html.js";
import { post } from "../../lib/api.js";
import { t } from "../../lib/language.js";
import { loadModels, mixOf, partsOf } from "../../lib/models.js";
import { useResource } from "../../lib/resource.js";
import { attempt } from "../../lib/toasts.js";
import { Select } from "../../components/fields.js";
import { ModelChoice } from "../../components/model-choice.js";
import { Mix } from "../playground/mix.js";

const [ALL, OTHER] = ["all", "other"];

export function StartRuns({ adapter, path, onStarted }) {
  const versions = adapter.ready_versions.toReversed();
  const [target, setTarget] = useState(String(versions[0] ?? OTHER));
  const [model, setModel] = useState("");
  const bodies = target === ALL ? versions.map((version) => ({ version })) : [target === OTHER ? bodyOf(model) : { version: Number(target) }];
  const start = async () => {
    await attempt(() => Promise.all(bodies.map((body) => post(`${path}/runs`, body))), bodies.length > 1 ? t`${bodies.length} runs are queued.` : t("The run is queued."));
    onStarted();
  };
  const names = [...versions.map((version) => [String(version), t`Version ${version}`]), ...(versions.length > 1 ? [[ALL, t("All versions")]] : []), [OTHER, t("Another model or a mix")]];
  return html`<div class="row end"><${Select} label=${t("Ask")} value=${target} onChange=${setTarget} of=${names} />
    ${target === OTHER && html`<${OtherModel} value=${model} onChange=${setModel} />`}
    <button class="button primary" disabled=${target === OTHER && !model} onClick=${start}>${t("Run")}</button></div>`;
}

const bodyOf = (model) => {
  const adapters = partsOf(model);
  return adapters ? { adapters } : { model };
};

function OtherModel({ value, onChange }) {
  const models = useResource(loadModels, []).data;
  const [mixing, setMixing] = useState(false);
  return html`<div class="field"><span class="label" aria-hidden="true">${t("Model")}</span>
    <${ModelChoice} label=${t("Model")} value=${value} options=${models?.options ?? []} onChange=${onChange} last=${{ label: t("A mix of adapters…"), onChoose: () => setMixing(true) }} />
    ${mixing && models && html`<${Mix} parts=${partsOf(value)} models=${models} model=${value} onClose=${() => setMixing(false)} onChange=${(parts) => onChange(mixOf(parts))} />`}</div>`;
}

/** On the same version, mix or model as the run was. */
export function RunAgain({ run, path, onStarted }) {
  const { mix, model, version } = run;
  const again = () => attempt(() => post(`${path}/runs`, mix.adapters ? mix : version ? { version } : { model }), t("The run is queued.")).then(onStarted);
  return html`<button class="button small quiet" onClick=${again}>${t("Run again")}</button>`;
}
