/** One adapter: its versions, where its aliases point, how it is used, its card, and code to call it. */
import { html, useState } from "../lib/html.js";
import { get, getAll, patch, post, remove } from "../lib/api.js";
import { t } from "../lib/language.js";
import { useResource } from "../lib/resource.js";
import { go, href, query } from "../lib/router.js";
import { isAdmin, may, session } from "../lib/session.js";
import { attempt, toast } from "../lib/toasts.js";
import { PageHeader, Tabs, Tags } from "../components/bits.js";
import { ConfirmByName, Dialog } from "../components/dialog.js";
import { TextArea, TextField } from "../components/fields.js";
import { Lazy } from "../components/lazy.js";
import { Loaded, Skeleton } from "../components/states.js";
import { FactStrip } from "./adapter/facts.js";

const tabs = () => [["versions", t("Versions")], ["aliases", t("Aliases and rollout")], ["evals", t("Evals")], ["activity", t("Usage and events")], ["card", t("Model card")], ["use", t("Use it")]];

export default function Adapter({ name }) {
  const api = `/api/v1/adapters/${encodeURIComponent(name)}`;
  const loaded = useResource(async (signal) => {
    const [adapter, versions, aliases] = await Promise.all([
      get(api, { signal }), getAll(`${api}/versions?deleted=true`, { signal }), get(`${api}/aliases`, { signal }),
    ]);
    return { adapter, versions, aliases: aliases.items, api };
  }, [api], { watch: ["records"], pause: 3 });
  const tab = tabs().find(([name]) => name === query.value.get("tab"))?.[0] ?? "versions";
  const adapter = loaded.data?.adapter;
  return html`
    <${PageHeader} title=${name} about=${adapter?.description} back=${{ to: "/adapters", label: t("Adapters") }}
      actions=${adapter && html`<${Actions} adapter=${adapter} api=${api} onChange=${loaded.reload} />`} />
    ${adapter?.tags.length > 0 && html`<div class="row"><${Tags} of=${adapter.tags} /></div>`}
    ${loaded.data && html`<${FactStrip} adapter=${adapter} versions=${loaded.data.versions} />`}
    <${Tabs} label=${t("Parts of this page")} of=${tabs()} current=${tab} path=${`/adapters/${name}`} />
    <${Loaded} resource=${loaded} lines=${8}>${(data) => html`<${Lazy} module=${`adapter/${tab}`} parts=${{ ...data, mine: mayChange(data.adapter), onChange: loaded.reload }} waiting=${html`<${Skeleton} lines=${8} />`} />`}<//>`;
}

const mayChange = (adapter) => may("registry:write") && (isAdmin.value || adapter.owner === session.value.tenant);

function Actions({ adapter, api, onChange }) {
  const [open, setOpen] = useState(null);
  const close = () => setOpen(null);
  const command = (verb, done, back) => attempt(() => post(`${api}:${verb}`), done, back && { undo: () => command(back, t`${adapter.name} unpinned.`) }).then(onChange);
  const mine = mayChange(adapter);
  return html`
    <a class="button primary" href=${href(`/playground?model=${adapter.name}`)}>${t("Try it")}</a>
    ${mine && html`<a class="button" href=${href(`/register?name=${adapter.name}`)}>${t("Add a version")}</a>`}
    ${isAdmin.value && html`<button class="button" onClick=${() => command("load", t`${adapter.name} is on the device.`)}>${t("Load")}</button>
      <button class="button" onClick=${() => command("pin", t`${adapter.name} is pinned: it stays on the device.`, "unpin")}>${t("Pin")}</button>`}
    ${mine && html`<button class="button" onClick=${() => setOpen("edit")}>${t("Edit…")}</button>
      <button class="button danger" onClick=${() => setOpen("archive")}>${t("Archive…")}</button>`}
    ${open === "edit" && html`<${Edit} adapter=${adapter} api=${api} onClose=${close} onChange=${onChange} />`}
    ${open === "archive" && html`<${ConfirmByName} title=${t`Archive ${adapter.name}?`} name=${adapter.name} action=${t("Archive")} onClose=${close}
      onConfirm=${async () => { await remove(api); toast(t`${adapter.name} is archived.`); go("/adapters"); }}>
      ${t("Requests for it are answered with 404 from then on and its name is free again; running requests finish.")}<//>`}`;
}

function Edit({ adapter, api, onClose, onChange }) {
  const [description, setDescription] = useState(adapter.description);
  const [tags, setTags] = useState(adapter.tags.join(", "));
  const [prompt, setPrompt] = useState(adapter.demo_prompt ?? "");
  const [problem, setProblem] = useState("");
  const save = async (event) => {
    event.preventDefault();
    const changes = { description, tags: tags.split(",").map((tag) => tag.trim()).filter(Boolean), demo_prompt: prompt || null };
    try {
      await patch(api, changes);
      onChange();
      onClose();
      const { description: before, tags: old, demo_prompt: was } = adapter;
      toast(t`${adapter.name} is changed.`, { undo: () => attempt(() => patch(api, { description: before, tags: old, demo_prompt: was })).then(onChange) });
    } catch (error) {
      setProblem(error.message);
    }
  };
  return html`<${Dialog} title=${t`Edit ${adapter.name}`} onClose=${onClose}><form class="stack" onSubmit=${save}>
    <${TextArea} label=${t("Description")} rows="3" value=${description} onInput=${setDescription} problem=${problem} />
    <${TextField} label=${t("Tags")} hint=${t("Separated by commas")} value=${tags} onInput=${setTags} />
    <${TextArea} label=${t("Example prompt")} hint=${t("What the playground starts with")} rows="2" value=${prompt} onInput=${setPrompt} />
    <footer><button type="button" class="button" onClick=${onClose}>${t("Cancel")}</button><button class="button primary">${t("Save")}</button></footer>
  </form><//>`;
}
