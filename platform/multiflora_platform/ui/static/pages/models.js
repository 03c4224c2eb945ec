/** Models: the base models of the server, what runs of each; one more loaded, one unloaded. */
import { html, useState } from "../lib/html.js";
import { get, post, remove } from "../lib/api.js";
import { bytes, count, seconds } from "../lib/format.js";
import { t } from "../lib/language.js";
import { useResource } from "../lib/resource.js";
import { href } from "../lib/router.js";
import { toast } from "../lib/toasts.js";
import { Badge, Meter, PageHeader, State } from "../components/bits.js";
import { ConfirmByName, Dialog } from "../components/dialog.js";
import { TextField } from "../components/fields.js";
import { Icon } from "../components/icon.js";
import { Loaded } from "../components/states.js";
import { Table } from "../components/table.js";

const readyOf = (model) => model.replicas.filter((one) => one.state === "ready").length;
const columnsOf = (onUnload) => [
  { key: "name", label: t("Base model"), cell: (one) => html`<b>${one.name}</b> ${one.is_default && html`<${Badge} kind="accent">${t("default")}<//>`}` },
  { key: "state", label: t("State"), cell: (one) => html`<${State} of=${one.state} />${one.job?.error && html`<div class="problem small">${one.job.error}</div>`}` },
  { key: "error", label: t("Error"), unseen: true, value: (one) => one.job?.error },
  { key: "source", label: t("From"), class: "mono break" },
  { key: "replicas", label: t("Replicas"), number: true, value: readyOf, cell: (one) => html`<${Engines} of=${one} />` },
  { key: "memory_bytes", label: t("Weights and cache"), number: true, cell: (one) => bytes(one.memory_bytes) },
  { key: "adapters", label: t("Adapters"), number: true, cell: (one) => count(one.adapters) },
  { key: "in_flight", label: t("Running"), number: true, cell: (one) => count(one.in_flight) },
  { key: "actions", label: t("Actions"), control: true, cell: (one) => (one.is_default ? "" : html`<button class="button small quiet" disabled=${one.state === "draining"} onClick=${() => onUnload(one)}>${t("Unload…")}</button>`) },
];

/** How many serve; while it is loaded as a meter, too. */
function Engines({ of: model }) {
  const ready = readyOf(model);
  const needed = Math.max(1, model.min_replicas);
  return html`${model.state === "loading" && html`<${Meter} value=${Math.min(1, ready / needed)} label=${t`Replicas of ${model.name} that serve`} /> `}
    <a href=${href("/replicas")}>${t`${count(ready)} of ${count(model.max_replicas)}`}</a>
    ${comeAndGo(model) && html`<div class="muted small">${t`${count(model.min_replicas)} at least`}${model.idle_seconds && t`; idle after ${seconds(model.idle_seconds)}`}</div>`}`;
}

/** Whether their number is not always the same. */
const comeAndGo = (model) => model.min_replicas < model.max_replicas;

export default function Models() {
  const models = useResource((signal) => get("/api/v1/models", { signal }), [], { watch: ["engines", "records"], pause: 2 });
  const [isNew, setNew] = useState(false);
  const [leaving, setLeaving] = useState(null);
  const load = html`<button class="button primary" onClick=${() => setNew(true)}><${Icon} name="plus" size=${16} />${t("Load a model")}</button>`;
  return html`<${PageHeader} title=${t("Models")} about=${t("Base models that are served, each with engines of its own. Adapters belong to the one that they were trained on")} actions=${load} />
    <div class="card"><${Loaded} resource=${models} lines=${2}>${({ items }) => html`<${Table} name="base-models" label=${t("Base models")} columns=${columnsOf(setLeaving)} rows=${items} keyOf=${(one) => one.name} />`}<//></div>
    ${isNew && html`<${NewModel} onClose=${() => setNew(false)} onChange=${models.reload} />`}
    ${leaving && html`<${ConfirmByName} title=${t("Unload this base model?")} name=${leaving.name} action=${t("Unload")} onClose=${() => setLeaving(null)}
      onConfirm=${async () => { await remove(`/api/v1/models/${leaving.name}`); toast(t`${leaving.name} is unloaded.`); models.reload(); }}>
      ${t("Running requests end first. Its adapters stay registered, and requests for them are refused until it is loaded again.")}<//>`}`;
}

function NewModel({ onClose, onChange }) {
  const [fields, setFields] = useState({ name: "", source: "", least: "1", most: "1", idle: "" });
  const [problem, setProblem] = useState("");
  const [busy, setBusy] = useState(false);
  const typed = (key) => (value) => setFields((old) => ({ ...old, [key]: value }));
  const send = async (event) => {
    event.preventDefault();
    setBusy(true);
    const idle = fields.idle ? { idle_seconds: Number(fields.idle) } : {};
    try {
      await post("/api/v1/models", { name: fields.name, source: fields.source, min_replicas: Number(fields.least), max_replicas: Number(fields.most), ...idle });
      toast(t`${fields.name} is being loaded.`);
      onChange();
      onClose();
    } catch (error) {
      setProblem(error.message);
      setBusy(false);
    }
  };
  return html`<${Dialog} title=${t("Load a base model")} onClose=${onClose}>
    <form class="stack" onSubmit=${send}>
      <${TextField} label=${t("Name")} hint=${t("What clients call it")} value=${fields.name} onInput=${typed("name")} required />
      <${TextField} label=${t("Source")} hint=${t("A hub id, or a folder of the server's machine")} value=${fields.source} onInput=${typed("source")} required />
      <${TextField} label=${t("Replicas at least")} hint=${t("While no request comes; 0: the first request starts one and waits for it")} type="number" min="0" max=${fields.most} value=${fields.least} onInput=${typed("least")} required />
      <${TextField} label=${t("Replicas at most")} hint=${t("While requests come")} type="number" min="1" max="64" value=${fields.most} onInput=${typed("most")} required />
      <${TextField} label=${t("Idle seconds")} hint=${t("Without a request for so long those beyond the least end; empty: they stay")} type="number" min="1" value=${fields.idle} onInput=${typed("idle")} />
      ${problem && html`<span class="problem" role="alert">${problem}</span>`}
      <footer>
        <button type="button" class="button" onClick=${onClose}>${t("Cancel")}</button>
        <button class="button primary" disabled=${busy}>${t("Load")}</button>
      </footer>
    </form>
  <//>`;
}
