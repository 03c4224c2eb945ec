/** An answer kept for later: as a case of an eval, or what led to it as a context. */
import { html, useState } from "../../lib/html.js";
import { checkTypes } from "../../lib/eval-cases.js";
import { t } from "../../lib/language.js";
import { adapterOf, partsOf } from "../../lib/models.js";
import { Dialog } from "../../components/dialog.js";
import { Select, TextArea } from "../../components/fields.js";
import { EvalTarget, useEvalTarget } from "../adapter/eval-target.js";
import { NewContext } from "../contexts/new-context.js";

const MOST_TOKENS = 4096;
const TYPES = ["exact", "contains"];

/** request, answer: what was asked, and came */
export function SaveAsEval({ model, request: { body }, answer, onClose }) {
  const name = adapterOf(model);
  const target = useEvalTarget(`/api/v1/adapters/${encodeURIComponent(name)}`, true, "playground");
  const [type, setType] = useState(TYPES[0]);
  const [text, setText] = useState(answer.text);
  const beyond = beyondEvals(body);
  const save = async (event) => {
    event.preventDefault();
    const { messages, prompt, max_tokens: tokens } = body;
    const one = { ...(messages ? { messages } : { prompt }), max_tokens: Math.min(tokens ?? MOST_TOKENS, MOST_TOKENS), checks: [{ type, text }] };
    if (await target.add(one)) onClose();
  };
  return html`<${Dialog} wide title=${t`Save as a prompt of an eval of ${name}`} onClose=${onClose}><form class="stack" onSubmit=${save}>
    <${EvalTarget} of=${target} />
    <${Select} label=${t("The answer")} value=${type} onChange=${setType} of=${TYPES.map((one) => [one, checkTypes()[one].label])} />
    <${TextArea} label=${t("Text")} rows="6" required value=${text} onInput=${setText} />
    ${beyond.length > 0 && html`<p class="small muted">${t`An eval asks without ${beyond.join(", ")}.`}</p>`}
    <footer><button type="button" class="button" onClick=${onClose}>${t("Cancel")}</button><button class="button primary" disabled=${!text.trim()}>${t("Save")}</button></footer>
  </form><//>`;
}

/** What evals do not ask with: they are greedy, and have no tools, schemas and contexts. */
const beyondEvals = (body) => ["context", "tools", "response_format", "stop", "top_k", "seed"].filter((name) => body[name] !== undefined);

export function SaveAsContext({ model, request: { body }, answer, onClose }) {
  const { messages, prompt, tools } = body;
  const content = messages ? { messages: [...messages, ...(answer.text ? [{ role: "assistant", content: answer.text }] : [])], tools } : { prompt };
  return html`<${NewContext} initial=${{ ...content, adapters: partsOf(model) ? [] : [model] }} onClose=${onClose} onChange=${() => {}} />`;
}
