/** Prompts that a version must answer as its maker expects; one that does not is rejected. */
import { html } from "../../lib/html.js";
import { t } from "../../lib/language.js";
import { Fold, Segmented } from "../../components/bits.js";
import { TextArea, TextField } from "../../components/fields.js";
import { Icon } from "../../components/icon.js";

const EMPTY = { kind: "chat", prompt: "", contains: "", matches: "" };
const kinds = () => [["chat", t("Chat message")], ["plain", t("Plain prompt")]];

/** @param {{value: object[], problems: Map<number, string>}} props problems: by the eval's place */
export function Evals({ value, onChange, problems }) {
  const change = (i, name) => (text) => onChange(value.with(i, { ...value[i], [name]: text }));
  return html`<${Fold} title=${t("Evals")} about=${t("Optional: prompts that it has to answer as you expect, or it is rejected")} open=${problems.size > 0}><div class="stack">
    ${value.map((one, i) => html`<fieldset class="eval" key=${i}>
      <legend>${t`Eval ${i + 1}`}</legend>
      <${Segmented} label=${t("How it is asked")} of=${kinds()} value=${one.kind} onChange=${change(i, "kind")} />
      <${TextArea} label=${t("Prompt")} rows="2" value=${one.prompt} onInput=${change(i, "prompt")} problem=${problems.get(i)} />
      <div class="form-grid">
        <${TextField} label=${t("Its answer contains")} hint=${t("Exactly these characters")} spellcheck="false" autocomplete="off" value=${one.contains} onInput=${change(i, "contains")} />
        <${TextField} label=${t("Its answer matches")} hint=${t("A regular expression")} class="mono" spellcheck="false" autocomplete="off" value=${one.matches} onInput=${change(i, "matches")} />
      </div>
      <button type="button" class="button small quiet" aria-label=${t`Remove eval ${i + 1}`} onClick=${() => onChange(value.toSpliced(i, 1))}><${Icon} name="close" size=${14} />${t("Remove")}</button>
    </fieldset>`)}
    <div><button type="button" class="button small" onClick=${() => onChange([...value, EMPTY])}><${Icon} name="plus" size=${14} />${t("Add an eval")}</button></div>
  </div><//>`;
}

/** What is missing in each, by its place. */
export function problemsOf(evals) {
  const found = new Map();
  for (const [i, { prompt, contains, matches }] of evals.entries()) {
    if (!prompt.trim()) found.set(i, t("Say what to ask, or remove this eval."));
    else if (!contains && !matches) found.set(i, t("Say what its answer contains or matches."));
  }
  return found;
}

/** The one that the server's answer points at. */
export function pointedAt(error) {
  const [, place] = /^\/evals\/(\d+)/.exec(error?.pointer ?? "") ?? [];
  return new Map(place === undefined ? [] : [[Number(place), error.message]]);
}

/** As the API takes them. */
export const evalsOf = (evals) => evals.map(({ kind, prompt, contains, matches }) => ({
  ...(kind === "chat" ? { messages: [{ role: "user", content: prompt }] } : { prompt }), ...(contains && { contains: [contains] }), ...(matches && { matches: [matches] }),
}));
