/** Where an adapter's aliases point: moving, splitting, rolling back; and rollouts, watched while they run. */
import { html, useState } from "../../lib/html.js";
import { post, put, remove } from "../../lib/api.js";
import { splitParts, target } from "../../lib/format.js";
import { t } from "../../lib/language.js";
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

export default function Aliases({ adapter, aliases, api, mine, onChange }) {
  const [adding, setAdding] = useState(false);
  const ready = adapter.ready_versions;
  return html`<div class="stack">
    <div class="row between"><p class="muted">${t`A request for ${html`<code>${adapter.name}</code>`} follows ${html`<code>default</code>`}; ${html`<code>${adapter.name}@canary</code>`} follows an alias named canary.`}</p>
      ${mine && ready.length > 0 && html`<button class="button" onClick=${() => setAdding(true)}><${Icon} name="plus" size=${16} />${t("Add an alias")}</button>`}</div>
    ${aliases.length === 0 && html`<div class="card"><${Empty} title=${t("No alias points anywhere")}>${t("Requests for this adapter by name are answered with 404 until one does.")}<//></div>`}
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
    const undo = () => attempt(() => put(path, pointsTo(alias), { headers: { "If-Match": changed.etag } }), t("Moved back.")).then(onChange);
    toast(words, { undo });
  };
  const save = async (to) => moved(await put(path, to, { headers: { "If-Match": alias.etag } }), t`${alias.alias} now means ${target(to)}.`);
  const to = alias.rollback_to;
  const canRollBack = to && target(to) !== target(alias);
  const rollBack = async () => {
    const back = await attempt(() => post(`${path}:rollback`, undefined, { headers: { "If-Match": alias.etag } }));
    if (back) moved(back, t`${alias.alias} is back on ${target(back)}.`);
  };
  const protect = () => attempt(() => post(`${path}:${alias.protected ? "unprotect" : "protect"}`), alias.protected ? t("Its owner may move it again.") : t("Only administrators move it now.")).then(onChange);
  return html`<${Card} title=${alias.alias} about=${html`${t`means ${target(alias)}`} ${alias.protected && html`<${Badge} kind="warn">${t("protected")}<//>`}`}
    actions=${mine && html`<button class="button small" onClick=${() => setOpen("edit")}>${t("Change…")}</button>
      ${canRollBack && html`<button class="button small" onClick=${rollBack}><${Icon} name="undo" size=${14} />${t`Roll back to ${target(to)}`}</button>`}
      ${isAdmin.value && "protected" in alias && html`<button class="button small quiet" onClick=${protect}>${alias.protected ? t("Unprotect") : t("Protect")}</button>`}
      <button class="button small quiet" onClick=${() => setOpen("delete")}>${t("Delete…")}</button>`}>
    <div class="stack">
      <${Share} label=${t`Traffic of ${alias.alias}`} parts=${splitParts(alias.split ?? { [alias.version]: 100 })} />
      ${open === "edit" && html`<${SplitEditor} versions=${adapter.ready_versions} alias=${alias} onSave=${save} onCancel=${() => setOpen(null)} />`}
      <${Rollout} adapter=${adapter} alias=${alias} api=${api} path=${path} mine=${mine} onChange=${onChange} />
      <${History} path=${path} stamp=${alias.etag} />
    </div>
    ${open === "delete" && html`<${ConfirmByName} title=${t`Delete the alias ${alias.alias}?`} name=${alias.alias} action=${t("Delete")} onClose=${() => setOpen(null)}
      onConfirm=${async () => {
        await remove(path, { headers: { "If-Match": alias.etag } });
        toast(t`${alias.alias} is deleted.`, { undo: () => attempt(() => put(path, pointsTo(alias)), t("It is back.")).then(onChange) });
        onChange();
      }}>${t`Requests for ${html`<code>${adapter.name}${alias.alias === "default" ? "" : `@${alias.alias}`}</code>`} are answered with 404 from then on.`}<//>`}
  <//>`;
}

function AddAlias({ versions, api, onClose, onChange }) {
  const [name, setName] = useState("");
  const [problem, setProblem] = useState("");
  const save = async (to) => {
    if (!name) {
      setProblem(t("Give the alias a name, such as canary."));
      return;
    }
    try {
      await put(`${api}/aliases/${encodeURIComponent(name)}`, to, { headers: { "If-None-Match": "*" } });
      toast(t`${name} means ${target(to)}.`);
      onChange();
      onClose();
    } catch (error) {
      setProblem(error.message);
    }
  };
  return html`<${Dialog} title=${t("Add an alias")} onClose=${onClose}>
    <${TextField} label=${t("Alias")} hint=${t("canary, staging, 2026-q1 …")} autocomplete="off" value=${name} onInput=${setName} problem=${problem} />
    <${SplitEditor} versions=${versions} alias=${{ version: versions.at(-1) }} onSave=${save} onCancel=${onClose} />
  <//>`;
}
