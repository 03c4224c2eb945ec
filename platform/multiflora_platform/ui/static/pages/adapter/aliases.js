/** Where an adapter's aliases point: moving, splitting, rolling back; and rollouts, watched while they run. */
import { html, useState } from "../../lib/html.js";
import { post, put, remove } from "../../lib/api.js";
import { target } from "../../lib/format.js";
import { isAdmin } from "../../lib/session.js";
import { attempt, toast } from "../../lib/toasts.js";
import { Badge, Card, Share } from "../../components/bits.js";
import { ConfirmByName, Dialog } from "../../components/dialog.js";
import { TextField } from "../../components/fields.js";
import { Icon } from "../../components/icon.js";
import { Empty } from "../../components/states.js";
import { History } from "./history.js";
import { Rollout } from "./rollout.js";
import { SplitEditor } from "./split-editor.js";

export function Aliases({ adapter, aliases, api, mine, onChange }) {
  const [adding, setAdding] = useState(false);
  const ready = adapter.ready_versions;
  return html`<div class="stack">
    <div class="row between"><p class="muted">A request for <code>${adapter.name}</code> follows <b>default</b>; <code>${adapter.name}@canary</code> follows an alias named canary.</p>
      ${mine && ready.length > 0 && html`<button class="button" onClick=${() => setAdding(true)}><${Icon} name="plus" size=${16} />Add an alias</button>`}</div>
    ${aliases.length === 0 && html`<div class="card"><${Empty} title="No alias points anywhere">Requests for this adapter by name are answered with 404 until one does.<//></div>`}
    ${aliases.map((alias) => html`<${Alias} key=${alias.alias} adapter=${adapter} alias=${alias} api=${api} mine=${mine} onChange=${onChange} />`)}
    ${adding && html`<${AddAlias} versions=${ready} api=${api} onClose=${() => setAdding(false)} onChange=${onChange} />`}
  </div>`;
}

/** Where an alias points, as the API wants it back. */
const pointsTo = ({ version, split }) => (version ? { version } : { split });

function Alias({ adapter, alias, api, mine, onChange }) {
  const [open, setOpen] = useState(null);
  const path = `${api}/aliases/${alias.alias}`;
  const moved = (changed, words) => {
    setOpen(null);
    onChange();
    const undo = () => attempt(() => put(path, pointsTo(alias), { headers: { "If-Match": changed.etag } }), "Moved back.").then(onChange);
    toast(words, { undo });
  };
  const save = async (to) => moved(await put(path, to, { headers: { "If-Match": alias.etag } }), `${alias.alias} now means ${target(to)}.`);
  const to = alias.rollback_to;
  const canRollBack = to && target(to) !== target(alias);
  const rollBack = async () => {
    const back = await attempt(() => post(`${path}:rollback`, undefined, { headers: { "If-Match": alias.etag } }));
    if (back) moved(back, `${alias.alias} is back on ${target(back)}.`);
  };
  const protect = () => attempt(() => post(`${path}:${alias.protected ? "unprotect" : "protect"}`), alias.protected ? "Its owner may move it again." : "Only administrators move it now.").then(onChange);
  const parts = Object.entries(alias.split ?? { [alias.version]: 100 }).map(([version, value]) => ({ label: `v${version}`, value }));
  return html`<${Card} title=${alias.alias} about=${html`means ${target(alias)} ${alias.protected && html`<${Badge} kind="warn">protected<//>`}`}
    actions=${mine && html`<button class="button small" onClick=${() => setOpen("edit")}>Change…</button>
      ${canRollBack && html`<button class="button small" onClick=${rollBack}><${Icon} name="undo" size=${14} />Roll back to ${target(to)}</button>`}
      ${isAdmin.value && "protected" in alias && html`<button class="button small quiet" onClick=${protect}>${alias.protected ? "Unprotect" : "Protect"}</button>`}
      <button class="button small quiet" onClick=${() => setOpen("delete")}>Delete…</button>`}>
    <div class="stack">
      <${Share} label=${`Traffic of ${alias.alias}`} parts=${parts} />
      ${open === "edit" && html`<${SplitEditor} versions=${adapter.ready_versions} alias=${alias} onSave=${save} onCancel=${() => setOpen(null)} />`}
      <${Rollout} adapter=${adapter} alias=${alias} api=${api} path=${path} mine=${mine} onChange=${onChange} />
      <${History} path=${path} stamp=${alias.etag} />
    </div>
    ${open === "delete" && html`<${ConfirmByName} title=${`Delete the alias ${alias.alias}?`} name=${alias.alias} action="Delete" onClose=${() => setOpen(null)}
      onConfirm=${async () => {
        await remove(path, { headers: { "If-Match": alias.etag } });
        toast(`${alias.alias} is deleted.`, { undo: () => attempt(() => put(path, pointsTo(alias)), "It is back.").then(onChange) });
        onChange();
      }}>Requests for <code>${adapter.name}${alias.alias === "default" ? "" : `@${alias.alias}`}</code> are answered with 404 from then on.<//>`}
  <//>`;
}

function AddAlias({ versions, api, onClose, onChange }) {
  const [name, setName] = useState("");
  const [problem, setProblem] = useState("");
  const save = async (to) => {
    if (!name) {
      setProblem("Give the alias a name, such as canary.");
      return;
    }
    try {
      await put(`${api}/aliases/${encodeURIComponent(name)}`, to, { headers: { "If-None-Match": "*" } });
      toast(`${name} means ${target(to)}.`);
      onChange();
      onClose();
    } catch (error) {
      setProblem(error.message);
    }
  };
  return html`<${Dialog} title="Add an alias" onClose=${onClose}>
    <${TextField} label="Alias" hint="canary, staging, 2026-q1 …" autocomplete="off" value=${name} onInput=${setName} problem=${problem} />
    <${SplitEditor} versions=${versions} alias=${{ version: versions.at(-1) }} onSave=${save} onCancel=${onClose} />
  <//>`;
}
