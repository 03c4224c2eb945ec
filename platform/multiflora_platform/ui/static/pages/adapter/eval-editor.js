/** An eval made or changed: its prompts as JSON, what it gates. The server says what is wrong, and where. */
import { html, useEffect, useState } from "../../lib/html.js";
import { get, put } from "../../lib/api.js";
import { toast } from "../../lib/toasts.js";
import { Dialog } from "../../components/dialog.js";
import { TextArea, TextField } from "../../components/fields.js";

const EXAMPLE = [{ prompt: "How many orders are there?", max_tokens: 60, checks: [{ type: "contains", text: "COUNT(*)", ignore_case: true }] }];

/** name: of an eval that there is. */
export function EvalEditor({ api, name: present, onClose, onSaved }) {
  const [name, setName] = useState(present ?? "");
  const [description, setDescription] = useState("");
  const [score, setScore] = useState("");
  const [aliases, setAliases] = useState("default");
  const [text, setText] = useState(present ? "" : JSON.stringify(EXAMPLE, null, 2));
  const [etag, setEtag] = useState(null);
  const [problem, setProblem] = useState("");
  useEffect(() => {
    if (!present) return;
    get(`${api}/evals/${encodeURIComponent(present)}`).then((found) => {
      setEtag(found.etag);
      setDescription(found.description);
      setScore(found.min_score === null ? "" : String(100 * found.min_score));
      setAliases(found.aliases.join(", "));
      setText(JSON.stringify(found.cases, null, 2));
    }, (error) => setProblem(error.message));
  }, [api, present]);
  const save = async (event) => {
    event.preventDefault();
    try {
      const body = { cases: JSON.parse(text), description, min_score: score === "" ? null : Number(score) / 100, aliases: aliases.split(",").map((one) => one.trim()).filter(Boolean) };
      await put(`${api}/evals/${encodeURIComponent(name)}`, body, { headers: etag ? { "If-Match": etag } : { "If-None-Match": "*" } });
      toast(`${name} is saved.`);
      onSaved(name);
      onClose();
    } catch (error) {
      setProblem(error instanceof SyntaxError ? `The prompts are no JSON: ${error.message}.` : [error.message, error.pointer].filter(Boolean).join(" At "));
    }
  };
  return html`<${Dialog} title=${present ? `Edit ${present}` : "New eval"} onClose=${onClose} wide><form class="stack" onSubmit=${save}>
    ${!present && html`<${TextField} label="Name" required value=${name} onInput=${setName} />`}
    <${TextField} label="Description" value=${description} onInput=${setDescription} />
    <div class="form-grid">
      <${TextField} label="Score to be promoted, %" hint="Empty: it gates nothing" type="number" min="0" max="100" step="any" value=${score} onInput=${setScore} />
      <${TextField} label="Aliases that it gates" hint="Separated by commas" value=${aliases} onInput=${setAliases} />
    </div>
    <${TextArea} label="Prompts and checks, as JSON" hint="Checks: contains, exact, regex, json_schema, number, judge. Other prompts make another version of the eval." rows="14" class="mono" spellcheck="false" value=${text} onInput=${setText} />
    ${problem && html`<p class="problem break" role="alert">${problem}</p>`}
    <footer><button type="button" class="button" onClick=${onClose}>Cancel</button><button class="button primary">Save</button></footer>
  </form><//>`;
}
