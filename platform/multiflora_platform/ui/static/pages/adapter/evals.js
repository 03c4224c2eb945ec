/** Evals: sets of prompts with checks, run against versions; versions by prompts, two runs side by side, scores over time. */
import { html, useState } from "../../lib/html.js";
import { get, post, remove } from "../../lib/api.js";
import { count, percent } from "../../lib/format.js";
import { t } from "../../lib/language.js";
import { useResource } from "../../lib/resource.js";
import { query, setQuery } from "../../lib/router.js";
import { isAdmin, session } from "../../lib/session.js";
import { attempt, toast } from "../../lib/toasts.js";
import { Card, State } from "../../components/bits.js";
import { ConfirmByName } from "../../components/dialog.js";
import { Select } from "../../components/fields.js";
import { Empty, Loaded } from "../../components/states.js";
import { Table } from "../../components/table.js";
import { Comparison } from "./eval-comparison.js";
import { EvalEditor } from "./eval-editor.js";
import { Matrix } from "./eval-matrix.js";
import { Scores } from "./eval-scores.js";
import { RunAgain, StartRuns } from "./eval-start.js";

const UNFINISHED = ["queued", "running"];

/** Prompts and answers are for admins and the adapter's owner; other tenants' keys would be answered 404. */
export default function Evals({ adapter, ...rest }) {
  if (isAdmin.value || adapter.owner === session.value.tenant) return html`<${Sets} adapter=${adapter} ...${rest} />`;
  return html`<div class="card"><${Empty} title=${t("For its owner")}>${t`The evals of ${adapter.name} are seen by the tenant that owns it.`}<//></div>`;
}

function Sets({ adapter, api, mine }) {
  const [editing, setEditing] = useState(false);
  const sets = useResource((signal) => get(`${api}/evals`, { signal }), [api], { watch: ["records"], pause: 5 });
  const make = mine && html`<button class="button primary" onClick=${() => setEditing(true)}>${t("New eval…")}</button>`;
  const made = (name) => { sets.reload(); setQuery({ eval: name }); };
  return html`<div class="stack">
    <${Loaded} resource=${sets} lines=${6}>${({ items }) => items.length
      ? html`<${One} sets=${items} adapter=${adapter} api=${api} mine=${mine} make=${make} onChange=${sets.reload} />`
      : html`<div class="card"><${Empty} title=${t("No eval yet")} action=${make}>${t("Prompts with checks, asked of any version as often as you like: which one is better, and may it be promoted?")}<//></div>`}<//>
    ${editing && html`<${EvalEditor} api=${api} onClose=${() => setEditing(false)} onSaved=${made} />`}
  </div>`;
}

function One({ sets, adapter, api, mine, make, onChange }) {
  const name = sets.some((one) => one.name === query.value.get("eval")) ? query.value.get("eval") : sets[0].name;
  const one = sets.find((set) => set.name === name);
  const path = `${api}/evals/${encodeURIComponent(name)}`;
  const [open, setOpen] = useState(null);
  const close = () => setOpen(null);
  const runs = useResource((signal) => get(`${api}/eval-runs?limit=200&eval=${encodeURIComponent(name)}`, { signal }), [api, name], { watch: ["records"], pause: 2 });
  const items = runs.data?.items ?? [];
  const ended = items.filter((run) => run.state === "completed");
  const gate = one.min_score === null ? t("gates nothing") : t`asks for ${percent(one.min_score)} before ${one.aliases.join(", ")}`;
  return html`
    <${Card} title=${t("Eval")} help="evals" about=${t`${one.name}, version ${one.version}: ${count(one.cases)} prompts, ${gate}`}
      actions=${mine && html`${make}<button class="button" onClick=${() => setOpen("edit")}>${t("Edit…")}</button><button class="button danger" onClick=${() => setOpen("delete")}>${t("Delete…")}</button>`}>
      <div class="stack">${one.description && html`<p class="muted">${one.description}</p>`}
        ${sets.length > 1 && html`<div class="form-grid"><${Select} label=${t("Which")} value=${name} onChange=${(next) => setQuery({ eval: next, left: null, right: null })} of=${sets.map((set) => [set.name, set.name])} /></div>`}
        ${mine && html`<${StartRuns} adapter=${adapter} path=${path} onStarted=${runs.reload} />`}
        ${items.filter((run) => UNFINISHED.includes(run.state)).map((run) => html`<${Progress} key=${run.id} run=${run} api=${api} mine=${mine} onChange=${runs.reload} />`)}
      </div>
    <//>
    <${Matrix} path=${path} api=${api} version=${one.version} newest=${ended[0]?.id} />
    ${ended.length > 1 && html`<${Comparison} runs=${ended} api=${api} />`}
    ${items.length > 0 && html`<${Card} title=${t("Scores over time")} about=${t("Newest first; a version of the eval is compared with itself")} flush>
      <${Scores} runs=${ended.filter((run) => run.eval_version === one.version)} nameOf=${modelOf} bound=${one.min_score} />
      <${Table} kind="runs" name=${`runs of ${adapter.name} ${name}`} label=${t("Runs")} rows=${items} keyOf=${(run) => run.id} columns=${columns(mine && ((run) => html`<${RunAgain} run=${run} path=${path} onStarted=${runs.reload} />`))} /><//>`}
    ${open === "edit" && html`<${EvalEditor} api=${api} name=${name} onClose=${close} onSaved=${onChange} />`}
    ${open === "delete" && html`<${ConfirmByName} title=${t`Delete ${name}?`} name=${name} action=${t("Delete")} onClose=${close}
      onConfirm=${async () => { await remove(path); toast(t`${name} is deleted.`); setQuery({ eval: null }); onChange(); }}>${t("Its runs and their answers go with it.")}<//>`}`;
}

const modelOf = (run) => (run.mix.adapters ? run.mix.adapters.map((part) => `${part.weight ?? 1}·${part.name}`).join(" + ") : run.model);
const columns = (again) => [
  { key: "model", label: t("Asked"), value: modelOf, cell: (run) => html`<b>${modelOf(run)}</b>` },
  { key: "score", label: t("Score"), number: true, cell: (run) => percent(run.score) },
  { key: "passed", label: t("Passed"), number: true, cell: (run) => t`${count(run.passed)} of ${count(run.total)}` },
  { key: "errors", label: t("Errors"), number: true },
  { key: "eval_version", label: t("Eval's version"), number: true },
  { key: "state", label: t("State"), cell: (run) => html`<span title=${run.reason}><${State} of=${run.state} /></span>` },
  { key: "created_by", label: t("By"), class: "muted" },
  { key: "created_at", label: t("Started"), time: true, class: "muted" },
  ...(again ? [{ key: "actions", label: t("Actions"), control: true, cell: again }] : []),
];

function Progress({ run, api, mine, onChange }) {
  const done = run.passed + run.failed + run.errors;
  const cancel = () => attempt(() => post(`${api}/eval-runs/${run.id}:cancel`), t("The run is cancelled.")).then(onChange);
  return html`<div class="row between"><span class="row"><b>${modelOf(run)}</b> <${State} of=${run.state} /> <progress max=${run.total} value=${done} aria-label=${t("Prompts done")}></progress>
    <span class="muted small">${t`${done} of ${run.total}`}</span></span>${mine && html`<button class="button small" onClick=${cancel}>${t("Cancel")}</button>`}</div>`;
}
