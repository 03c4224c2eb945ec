/** Base models of the server: what runs of each, one more loaded, one unloaded. */
import { html, useState } from "../../lib/html.js";
import { get, post, remove } from "../../lib/api.js";
import { bytes, count } from "../../lib/format.js";
import { useResource } from "../../lib/resource.js";
import { toast } from "../../lib/toasts.js";
import { Badge, Card, State } from "../../components/bits.js";
import { ConfirmByName, Dialog } from "../../components/dialog.js";
import { TextField } from "../../components/fields.js";
import { Icon } from "../../components/icon.js";
import { Loaded } from "../../components/states.js";
import { Table } from "../../components/table.js";

const readyOf = (model) => model.replicas.filter((one) => one.state === "ready").length;
const columnsOf = (onUnload) => [
  { key: "name", label: "Base model", cell: (one) => html`<b>${one.name}</b> ${one.is_default && html`<${Badge} kind="accent">default<//>`}` },
  { key: "state", label: "State", cell: (one) => html`<${State} of=${one.state} />${one.job?.error && html`<div class="problem small">${one.job.error}</div>`}` },
  { key: "source", label: "From", class: "mono break" },
  { key: "replicas", label: "Engines", number: true, value: readyOf, cell: (one) => html`<span title=${`${one.min_replicas} at least, ${one.max_replicas} while requests come`}>${count(readyOf(one))} of ${count(one.max_replicas)}</span>` },
  { key: "memory_bytes", label: "Weights and cache", number: true, cell: (one) => bytes(one.memory_bytes) },
  { key: "adapters", label: "Adapters", number: true, cell: (one) => count(one.adapters) },
  { key: "in_flight", label: "Running", number: true, cell: (one) => count(one.in_flight) },
  { key: "actions", label: "Actions", control: true, cell: (one) => (one.is_default ? "" : html`<button class="button small quiet" disabled=${one.state === "draining"} onClick=${() => onUnload(one)}>Unload…</button>`) },
];

export function BaseModels() {
  const models = useResource((signal) => get("/api/v1/models", { signal }), [], { every: 3 });
  const [isNew, setNew] = useState(false);
  const [leaving, setLeaving] = useState(null);
  const load = html`<button class="button small" onClick=${() => setNew(true)}><${Icon} name="plus" size=${16} />Load a model</button>`;
  return html`<${Card} title="Base models" wide flush actions=${load}><${Loaded} resource=${models} lines=${2}>${({ items }) => html`<${Table} name="base-models" label="Base models" columns=${columnsOf(setLeaving)} rows=${items} keyOf=${(one) => one.name} />`}<//><//>
    ${isNew && html`<${NewModel} onClose=${() => setNew(false)} onChange=${models.reload} />`}
    ${leaving && html`<${ConfirmByName} title="Unload this base model?" name=${leaving.name} action="Unload" onClose=${() => setLeaving(null)}
      onConfirm=${async () => { await remove(`/api/v1/models/${leaving.name}`); toast(`${leaving.name} is unloaded.`); models.reload(); }}>
      Running requests end first. Its adapters stay registered, and requests for them are refused until it is loaded again.<//>`}`;
}

function NewModel({ onClose, onChange }) {
  const [fields, setFields] = useState({ name: "", source: "", max: "1", idle: "" });
  const [problem, setProblem] = useState("");
  const [busy, setBusy] = useState(false);
  const typed = (key) => (value) => setFields((old) => ({ ...old, [key]: value }));
  const send = async (event) => {
    event.preventDefault();
    setBusy(true);
    const idle = fields.idle ? { min_replicas: 0, idle_seconds: Number(fields.idle) } : {};
    try {
      await post("/api/v1/models", { name: fields.name, source: fields.source, max_replicas: Number(fields.max), ...idle });
      toast(`${fields.name} is being loaded.`);
      onChange();
      onClose();
    } catch (error) {
      setProblem(error.message);
      setBusy(false);
    }
  };
  return html`<${Dialog} title="Load a base model" onClose=${onClose}>
    <form class="stack" onSubmit=${send}>
      <${TextField} label="Name" hint="What clients call it" value=${fields.name} onInput=${typed("name")} required />
      <${TextField} label="Source" hint="A hub id, or a folder of the server's machine" value=${fields.source} onInput=${typed("source")} required />
      <${TextField} label="Engines" hint="While requests come" type="number" min="1" max="64" value=${fields.max} onInput=${typed("max")} required />
      <${TextField} label="Idle seconds" hint="Without a request for so long its engines end; empty: they stay" type="number" min="1" value=${fields.idle} onInput=${typed("idle")} />
      ${problem && html`<span class="problem" role="alert">${problem}</span>`}
      <footer>
        <button type="button" class="button" onClick=${onClose}>Cancel</button>
        <button class="button primary" disabled=${busy}>Load</button>
      </footer>
    </form>
  <//>`;
}
