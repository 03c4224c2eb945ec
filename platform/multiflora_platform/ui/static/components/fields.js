/** Form fields with their labels, hints and problems tied to them. */
import { html, useId } from "../lib/html.js";
import { query, setQuery } from "../lib/router.js";

/** children: (props for the control) => the control */
export function Field({ label, hint, problem, children }) {
  const id = useId();
  const described = [hint && `${id}-hint`, problem && `${id}-problem`].filter(Boolean).join(" ") || undefined;
  return html`<div class="field">
    <label for=${id}>${label}</label>
    ${children({ id, "aria-describedby": described, "aria-invalid": problem ? "true" : undefined })}
    ${hint && html`<span class="hint" id=${`${id}-hint`}>${hint}</span>`}
    ${problem && html`<span class="problem" id=${`${id}-problem`} role="alert">${problem}</span>`}
  </div>`;
}

export const TextField = ({ label, hint, problem, value, onInput, ...rest }) => html`<${Field} label=${label} hint=${hint} problem=${problem}>
  ${(props) => html`<input ...${props} ...${rest} value=${value} onInput=${(event) => onInput(event.target.value)} />`}<//>`;

export const TextArea = ({ label, hint, problem, value, onInput, ...rest }) => html`<${Field} label=${label} hint=${hint} problem=${problem}>
  ${(props) => html`<textarea ...${props} ...${rest} value=${value} onInput=${(event) => onInput(event.target.value)}></textarea>`}<//>`;

/** @param {{of: Array<[string, string]>}} props [value, label] */
export const Select = ({ label, hint, value, onChange, of, ...rest }) => html`<${Field} label=${label} hint=${hint}>
  ${(props) => html`<select ...${props} ...${rest} value=${value} onChange=${(event) => onChange(event.target.value)}>
    ${of.map(([one, name]) => html`<option key=${one} value=${one}>${name}</option>`)}</select>`}<//>`;

/** One of a few, which stands in the address. any: what no choice means; of: [[value, label]] */
export const Choice = ({ param, label, any, of }) => html`<label class="choice">${label}
  <select aria-label=${label} value=${query.value.get(param) ?? ""} onChange=${(event) => setQuery({ [param]: event.target.value })}>
    ${any && html`<option value="">${any}</option>`}${of.map(([value, name]) => html`<option key=${value} value=${value}>${name}</option>`)}</select></label>`;

export const Check = ({ label, hint, checked, onChange, ...rest }) => html`<label class="check">
  <input type="checkbox" checked=${checked} onChange=${(event) => onChange(event.target.checked)} ...${rest} />
  <span>${label}${hint && html`<span class="hint">${hint}</span>`}</span></label>`;
