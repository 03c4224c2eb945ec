/** The eval that cases are added to, from outside of its form. */
import { html, useState } from "../../lib/html.js";
import { get, post } from "../../lib/api.js";
import { t } from "../../lib/language.js";
import { useResource } from "../../lib/resource.js";
import { attempt } from "../../lib/toasts.js";
import { Select, TextField } from "../../components/fields.js";

const NEW = "";

/** One that there is, or a new one under the name that is written. api: the adapter's path; usual: a new one's name */
export function useEvalTarget(api, canAdd, usual) {
  const sets = useResource(async (signal) => (canAdd ? get(`${api}/evals`, { signal }) : { items: [] }), [api, canAdd]);
  const [chosen, setChosen] = useState(null);
  const [written, setWritten] = useState(usual);
  const present = sets.data?.items ?? [];
  const picked = chosen ?? present[0]?.name ?? NEW;
  const name = picked === NEW ? written : picked;
  const add = async (one) => {
    const added = await attempt(() => post(`${api}/evals/${encodeURIComponent(name)}/cases`, one), t`Added to ${name}.`);
    if (added && picked === NEW) setChosen(name);
    if (added) sets.reload();
    return added && name;
  };
  return { present, picked, setChosen, written, setWritten, add, gates: present.find((one) => one.name === name)?.min_score != null };
}

/** of: useEvalTarget(); hint: of the choice, where the eval gates nothing */
export const EvalTarget = ({ of, hint }) => html`<div class="form-grid">
  <${Select} label=${t("Add to the eval")} hint=${of.gates ? t("It gates promotion: with another prompt it has to be run again") : hint} value=${of.picked} onChange=${of.setChosen}
    of=${[...of.present.map(({ name }) => [name, name]), [NEW, t("A new one")]]} />
  ${of.picked === NEW && html`<${TextField} label=${t("Name of the new eval")} value=${of.written} onInput=${of.setWritten} />`}</div>`;
