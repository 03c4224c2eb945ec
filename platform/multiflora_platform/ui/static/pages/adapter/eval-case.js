/** One prompt of an eval in its form: what is asked, and what has to be true of the answer. */
import { html } from "../../lib/html.js";
import { checkTypes, newCheck, problemAt } from "../../lib/eval-cases.js";
import { t } from "../../lib/language.js";
import { Segmented } from "../../components/bits.js";
import { ChatMessages, Remove } from "../../components/chat-messages.js";
import { Check, Select, TextArea, TextField } from "../../components/fields.js";
import { Icon } from "../../components/icon.js";

const kinds = () => [["chat", t("Chat messages")], ["plain", t("Plain prompt")]];
const types = () => Object.entries(checkTypes()).map(([type, { label }]) => [type, label]);

/** place: the case's in the body, such as /cases/0; problem: what the server said last, and where. */
export function CaseFields({ value, onChange, place, problem }) {
  const set = (changes) => onChange({ ...value, ...changes });
  const replaced = (field, i, one) => set({ [field]: value[field].with(i, one) });
  const without = (field, i) => () => set({ [field]: value[field].toSpliced(i, 1) });
  const alone = problem?.pointer === place ? problem.message : "";
  return html`<div class="stack">
    <${Segmented} label=${t("How it is asked")} of=${kinds()} value=${value.kind} onChange=${(kind) => set({ kind })} />
    ${value.kind === "plain"
      ? html`<${TextArea} label=${t("Prompt")} hint=${t("As it stands, without the chat template")} rows="3" value=${value.prompt} onInput=${(prompt) => set({ prompt })} problem=${alone || problemAt(problem, `${place}/prompt`)} />`
      : html`<${ChatMessages} value=${value.messages} onChange=${(messages) => set({ messages })}
          problemOf=${(i) => (i === 0 && (alone || (problem?.pointer === `${place}/messages` && problem.message))) || problemAt(problem, `${place}/messages/${i}`)} />`}
    <div class="form-grid">
      <${TextField} label=${t("Name of the prompt")} hint=${t("Optional")} value=${value.name} onInput=${(name) => set({ name })} problem=${problemAt(problem, `${place}/name`)} />
      <${TextField} label=${t("Max tokens")} type="number" min="1" value=${value.max_tokens} onInput=${(max_tokens) => set({ max_tokens })} problem=${problemAt(problem, `${place}/max_tokens`)} />
    </div>
    ${value.checks.map((check, i) => html`<${CheckFields} key=${check.key} value=${check} number=${i + 1} place=${`${place}/checks/${i}`} problem=${problem}
      onChange=${(changed) => replaced("checks", i, changed)} onRemove=${value.checks.length > 1 && without("checks", i)} />`)}
    ${problem?.pointer === `${place}/checks` && html`<p class="problem" role="alert">${problem.message}</p>`}
    <div><button type="button" class="button small" onClick=${() => set({ checks: [...value.checks, newCheck()] })}><${Icon} name="plus" size=${14} />${t("Add a check")}</button></div>
  </div>`;
}

function CheckFields({ value, number, place, problem, onChange, onRemove }) {
  const set = (field) => (changed) => onChange({ ...value, [field]: changed });
  const { main } = checkTypes()[value.type];
  // What is told of the check as a whole stands where it says what is wanted.
  const at = (field) => problemAt(problem, `${place}/${field}`) || (field === main && problem?.pointer === place ? problem.message : "");
  const text = (field, label, more) => html`<${TextField} label=${label} spellcheck="false" autocomplete="off" value=${value[field]} onInput=${set(field)} problem=${at(field)} ...${more} />`;
  const area = (field, label, more) => html`<${TextArea} label=${label} rows="2" value=${value[field]} onInput=${set(field)} problem=${at(field)} ...${more} />`;
  const numeric = { type: "number", step: "any" };
  const fields = {
    contains: () => html`${area("text", t("Text"))}<${Check} label=${t("Upper and lower case are the same")} checked=${value.ignore_case} onChange=${set("ignore_case")} />`,
    exact: () => html`${area("text", t("Text"), { hint: t("Blanks around it do not count") })}<${Check} label=${t("Upper and lower case are the same")} checked=${value.ignore_case} onChange=${set("ignore_case")} />`,
    regex: () => text("pattern", t("Pattern"), { class: "mono", hint: t("A regular expression that is found in the answer") }),
    json_schema: () => area("schema", t("Schema"), { class: "mono", rows: "5", spellcheck: "false", placeholder: '{"type": "object", "required": ["name"]}' }),
    number: () => html`<div class="form-grid">${text("value", t("Number"), { ...numeric, hint: t("The answer’s last one") })}${text("tolerance", t("Give or take"), { ...numeric, min: "0" })}</div>
      <${Check} label=${t("The tolerance is a part of the number")} hint=${t("0.1 is a tenth of it")} checked=${value.relative} onChange=${set("relative")} />`,
    judge: () => html`${area("rubric", t("Rubric"), { hint: t("What a good answer does; the judge gives 0 to 10") })}
      <div class="form-grid">${text("model", t("Judge"), { hint: t("A model, as requests name it") })}${text("min_grade", t("Lowest grade"), { ...numeric, min: "1", max: "10", step: "1" })}</div>`,
  };
  return html`<fieldset class="eval"><legend>${t`Check ${number}`}</legend>
    <div class="row between"><${Select} label=${t("The answer")} value=${value.type} onChange=${set("type")} of=${types()} />${onRemove && html`<${Remove} label=${t`Remove check ${number}`} onClick=${onRemove} />`}</div>
    ${fields[value.type]()}
  </fieldset>`;
}
