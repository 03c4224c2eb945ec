/** An eval made or changed: its prompts with their checks, and what it gates. The server's complaints stand at their fields. */
import { html, useEffect, useRef, useState } from "../../lib/html.js";
import { get, put } from "../../lib/api.js";
import { Misplaced } from "../../lib/chat-messages.js";
import { caseOf, draftOf, newCase, problemAt, titleOf } from "../../lib/eval-cases.js";
import { plural, t } from "../../lib/language.js";
import { toast } from "../../lib/toasts.js";
import { Segmented } from "../../components/bits.js";
import { Remove } from "../../components/chat-messages.js";
import { Dialog } from "../../components/dialog.js";
import { TextArea, TextField } from "../../components/fields.js";
import { Icon } from "../../components/icon.js";
import { CaseFields } from "./eval-case.js";

const editors = () => [["form", t("Form")], ["json", "JSON"]];
const SHOWN_ELSEWHERE = ["/cases", "/name", "/description", "/min_score", "/aliases", "alias"];

/** name: of an eval that there is. */
export function EvalEditor({ api, name: present, onClose, onSaved }) {
  const [name, setName] = useState(present ?? "");
  const [description, setDescription] = useState("");
  const [score, setScore] = useState("");
  const [aliases, setAliases] = useState("default");
  const [cases, setCases] = useState(() => (present ? [] : [newCase()]));
  const [text, setText] = useState(null);
  const [etag, setEtag] = useState(null);
  const [problem, setProblem] = useState(null);
  const form = useRef(null);
  useEffect(() => {
    if (!present) return;
    get(`${api}/evals/${encodeURIComponent(present)}`).then((found) => {
      setEtag(found.etag);
      setDescription(found.description);
      setScore(found.min_score === null ? "" : String(Number((100 * found.min_score).toFixed(6))));
      setAliases(found.aliases.join(", "));
      setCases(found.cases.map(draftOf));
    }, setProblem);
  }, [api, present]);
  useEffect(() => form.current.querySelector('[aria-invalid="true"]')?.focus(), [problem]);
  const written = () => (text === null ? cases.map((one, i) => caseOf(one, `/cases/${i}`)) : read(text));
  const edit = (editor) => {
    try {
      if (editor === "json") setText(JSON.stringify(written(), null, 2));
      else setCases(written().map(draftOf));
      if (editor === "form") setText(null);
      setProblem(null);
    } catch (error) {
      setProblem(error instanceof Misplaced ? error : new Misplaced(t("The form cannot show this; save it, and the server says what is wrong."), null));
    }
  };
  const save = async (event) => {
    event.preventDefault();
    try {
      const body = { cases: written(), description, min_score: score === "" ? null : Number(score) / 100, aliases: aliases.split(",").map((one) => one.trim()).filter(Boolean) };
      await put(`${api}/evals/${encodeURIComponent(name)}`, body, { headers: etag ? { "If-Match": etag } : { "If-None-Match": "*" } });
      toast(t`${name} is saved.`);
      onSaved(name);
      onClose();
    } catch (error) {
      setProblem(error);
    }
  };
  const shown = problem && !(text === null ? SHOWN_ELSEWHERE : SHOWN_ELSEWHERE.slice(1)).some((place) => problemAt(problem, place));
  return html`<${Dialog} title=${present ? t`Edit ${present}` : t("New eval")} onClose=${onClose} wide><form class="stack" ref=${form} onSubmit=${save}>
    ${!present && html`<${TextField} label=${t("Name")} required value=${name} onInput=${setName} problem=${problemAt(problem, "/name")} />`}
    <${TextField} label=${t("Description")} value=${description} onInput=${setDescription} problem=${problemAt(problem, "/description")} />
    <div class="form-grid">
      <${TextField} label=${t("Score to be promoted, %")} hint=${t("Empty: it gates nothing")} type="number" min="0" max="100" step="any" value=${score} onInput=${setScore} problem=${problemAt(problem, "/min_score")} />
      <${TextField} label=${t("Aliases that it gates")} hint=${t("Separated by commas")} value=${aliases} onInput=${setAliases} problem=${problemAt(problem, "/aliases", "alias")} />
    </div>
    <div class="row between"><h3>${t("Prompts")}</h3><${Segmented} label=${t("How they are edited")} of=${editors()} value=${text === null ? "form" : "json"} onChange=${edit} /></div>
    ${text === null ? html`<${Cases} value=${cases} onChange=${(changed) => { setCases(changed); if (changed.length !== cases.length) setProblem(null); }} problem=${problem} />`
      : html`<${TextArea} label=${t("Prompts and checks, as JSON")} rows="14" class="mono" spellcheck="false" value=${text} onInput=${setText} />`}
    <p class="small muted">${t("Other prompts or checks make another version of the eval; its runs are compared apart.")}</p>
    ${shown && html`<p class="problem break" role="alert">${[problem.message, problem.pointer].filter(Boolean).join(" At ")}</p>`}
    <footer><button type="button" class="button" onClick=${onClose}>${t("Cancel")}</button><button class="button primary">${t("Save")}</button></footer>
  </form><//>`;
}

function read(text) {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new Misplaced(t`The prompts are no JSON: ${error.message}.`, null);
  }
}

/** Folded but for those that are new or have a problem: a set may have hundreds. */
function Cases({ value, onChange, problem }) {
  const [opened, setOpened] = useState(new Set(value.length === 1 ? [value[0].key] : []));
  const wrong = Number(/^\/cases\/(\d+)/.exec(problem?.pointer ?? "")?.[1] ?? -1);
  const isOpen = (one, i) => i === wrong || opened.has(one.key);
  const toggle = (key, open) => setOpened((old) => { const next = new Set(old); if (open) next.add(key); else next.delete(key); return next; });
  const add = () => {
    const one = newCase();
    setOpened((old) => new Set(old).add(one.key));
    onChange([...value, one]);
  };
  return html`<div class="stack tight">
    ${value.map((one, i) => html`<details class="case" key=${one.key} open=${isOpen(one, i)} onToggle=${(event) => toggle(one.key, event.target.open)}>
      <summary><b>${i + 1}.</b> ${titleOf(one)} <span class="muted small">${plural(one.checks.length, "{0} check", "{0} checks", one.checks.length)}</span></summary>
      ${isOpen(one, i) && html`<${CaseFields} value=${one} place=${`/cases/${i}`} problem=${problem} onChange=${(changed) => onChange(value.with(i, changed))} />
        <${Remove} label=${t`Remove prompt ${i + 1}`} text=${t`Remove prompt ${i + 1}`} onClick=${() => onChange(value.toSpliced(i, 1))} />`}
    </details>`)}
    ${problem?.pointer === "/cases" && html`<p class="problem" role="alert">${problem.message}</p>`}
    <div><button type="button" class="button small" onClick=${add}><${Icon} name="plus" size=${14} />${t("Add a prompt")}</button></div>
  </div>`;
}
