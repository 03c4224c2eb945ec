/** What is said about a version: what changed, and where it comes from. */
import { html } from "../../lib/html.js";
import { t } from "../../lib/language.js";
import { Fold } from "../../components/bits.js";
import { Select, TextArea, TextField } from "../../components/fields.js";

export const NO_DETAILS = { about: "", parent: "", run: "", datasets: "" };

/** versions: the numbers that it may have been trained further from. */
export function Details({ value, onChange, versions }) {
  const set = (name) => (entry) => onChange({ ...value, [name]: entry });
  return html`<${Fold} title=${t("Where it comes from")} about=${t("Optional: what changed, its training run and data")}><div class="stack">
    <${TextArea} label=${t("About this version")} rows="2" placeholder=${t("Half the learning rate, twice the data")} value=${value.about} onInput=${set("about")} />
    <div class="form-grid">
      ${versions.length > 0 && html`<${Select} label=${t("Trained further from")} value=${value.parent} onChange=${set("parent")}
        of=${[["", t("the base model")], ...versions.toReversed().map((one) => [String(one), t`version ${one}`])]} />`}
      <${TextField} label=${t("Training run")} hint=${t("An id by which it is found again")} spellcheck="false" autocomplete="off" value=${value.run} onInput=${set("run")} />
      <${TextField} label=${t("Datasets")} hint=${t("Separated by commas")} spellcheck="false" autocomplete="off" value=${value.datasets} onInput=${set("datasets")} />
    </div>
  </div><//>`;
}

/** As the API takes it; what was left empty is left out. */
export function detailsOf({ about, parent, run, datasets }, evals) {
  const names = datasets.split(",").map((one) => one.trim()).filter(Boolean);
  const lineage = {
    ...(parent && { parent_version: Number(parent) }), ...(run.trim() && { training_run: run.trim() }), ...(names.length && { datasets: names }),
  };
  return {
    ...(about.trim() && { description: about.trim() }), ...(Object.keys(lineage).length && { lineage }), ...(evals.length && { evals }),
  };
}
