/** Versions by prompts: the newest completed run of each version, and one prompt's answers on demand. */
import { html, useState } from "../../lib/html.js";
import { get } from "../../lib/api.js";
import { percent } from "../../lib/format.js";
import { checkTypes } from "../../lib/eval-cases.js";
import { t } from "../../lib/language.js";
import { useResource } from "../../lib/resource.js";
import { named } from "../../lib/values.js";
import { Badge, Card, Scroll } from "../../components/bits.js";
import { Dialog } from "../../components/dialog.js";
import { Export } from "../../components/export.js";
import { Empty, Loaded } from "../../components/states.js";

const MARKS = { passed: ["ok", "✓"], failed: ["bad", "✗"], error: ["warn", "!"] };

/** newest: id of the newest completed run; with another one the matrix is read anew. */
export function Matrix({ path, api, version, newest }) {
  const matrix = useResource((signal) => get(`${path}/matrix`, { signal }), [path], { stamp: `${version} ${newest}` });
  return html`<${Card} title=${t("Versions by prompts")} about=${t("The newest completed run of each; choose a mark to read the answer")} flush>
    <${Loaded} resource=${matrix} lines=${4}>${(data) => (data.runs.length ? html`<${Cells} matrix=${data} api=${api} />` : html`<${Empty} title=${t("No completed run yet")}>${t("Choose a version above and run it.")}<//>`)}<//><//>`;
}

const titleOf = (run) => (run.version ? `v${run.version}` : run.mix.adapters ? t("mix") : run.model);
const labelOf = (row) => row.name ?? row.question;

function Cells({ matrix, api }) {
  const [shown, setShown] = useState(null);
  const { runs, rows, min_score: bound } = matrix;
  const enough = (run) => (bound === null ? "" : run.score >= bound ? "ok" : "bad");
  const columns = [{ key: "prompt", value: labelOf }, ...runs.map((run, i) => ({ key: titleOf(run), value: (row) => row.outcomes[i] }))];
  return html`<${Scroll} label=${t("Versions by prompts")}><table class="matrix"><thead><tr><th scope="col">${t("Prompt")}</th>${runs.map((run) => html`<th key=${run.id} scope="col" title=${run.model}>${titleOf(run)}</th>`)}</tr>
      <tr class="scores"><th scope="row">${t("Score")}</th>${runs.map((run) => html`<td key=${run.id}><${Badge} kind=${enough(run)}>${percent(run.score)}<//></td>`)}</tr></thead>
    <tbody>${rows.map((row) => html`<tr key=${row.position}><th scope="row" title=${row.question}><span>${labelOf(row)}</span></th>
      ${row.outcomes.map((outcome, i) => html`<td key=${runs[i].id}><${Mark} outcome=${outcome} label=${`${titleOf(runs[i])}, ${labelOf(row)}`} onOpen=${() => setShown({ run: runs[i], position: row.position })} /></td>`)}</tr>`)}</tbody></table><//>
    <${Export} name=${`matrix of ${matrix.eval}`} label=${t("Versions by prompts")} columns=${columns} rows=${rows} />
    ${shown && html`<${Answer} ...${shown} api=${api} onClose=${() => setShown(null)} />`}`;
}

function Mark({ outcome, label, onOpen }) {
  if (!outcome) return html`<span class="muted" aria-label=${t("not asked")}>–</span>`;
  const [kind, sign] = MARKS[outcome];
  return html`<button class="mark" aria-label=${`${named(outcome)}: ${label}`} title=${named(outcome)} onClick=${onOpen}><${Badge} kind=${kind}>${sign}<//></button>`;
}

function Answer({ run, position, api, onClose }) {
  const results = useResource((signal) => get(`${api}/eval-runs/${run.id}`, { signal }), [api, run.id]);
  return html`<${Dialog} title=${t`What ${run.model} answered`} onClose=${onClose} wide><${Loaded} resource=${results} lines=${4}>
    ${({ items }) => { const one = items.find((item) => item.position === position); return html`<div class="stack"><p class="muted text">${one.question}</p><p class="text">${one.answer ?? t("(no answer)")}</p><${Checks} of=${one.checks} /></div>`; }}<//>
    <footer><button class="button" onClick=${onClose}>${t("Close")}</button></footer><//>`;
}

export const Checks = ({ of }) => html`<ul class="report">${of.map((check, i) => html`<li key=${i}><${Badge} kind=${check.passed ? "ok" : "bad"}>${checkTypes()[check.type]?.label ?? check.type}<//>
  <span class="break">${check.detail || t("passed")}</span></li>`)}</ul>`;
