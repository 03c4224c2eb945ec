/** Replicas: the engines of all base models, whether they serve, what they do, and which adapters they have. */
import { html } from "../lib/html.js";
import { get } from "../lib/api.js";
import { bytes, count } from "../lib/format.js";
import { t } from "../lib/language.js";
import { useResource } from "../lib/resource.js";
import { href } from "../lib/router.js";
import { PageHeader, State } from "../components/bits.js";
import { Loaded } from "../components/states.js";
import { Table } from "../components/table.js";

const places = () => [["slot", t("on the device")], ["cpu", t("in host memory")], ["disk", t("on disk")]];
const heldBy = (replica, place) => (place === "disk" ? replica.adapters_on_disk : replica.adapters.filter((one) => one.residency === place).length);
const deviceBytes = (replica) => replica.adapters.reduce((sum, adapter) => sum + (adapter.residency === "slot" ? adapter.bytes : 0), 0);
const number = (key, label, cell) => ({ key, label, number: true, cell: cell ?? ((one) => count(one[key])) });
const columns = () => [
  { key: "id", label: t("Replica"), cell: (one) => html`<b class="nowrap">${one.id}</b><div class="muted small nowrap">${one.host}${one.pid && t`, process ${one.pid}`}</div>` },
  { key: "host", label: t("Host"), unseen: true },
  { key: "pid", label: t("Process"), unseen: true },
  { key: "group", label: t("Base model"), cell: (one) => html`<a href=${href("/models")}>${one.group}</a>` },
  { key: "state", label: t("State"), cell: (one) => html`<${State} of=${one.state} />${one.epoch > 0 && html`<div class="muted small nowrap" title=${t("What it had cached before is lost")}>${t`started ${count(one.epoch + 1)} times`}</div>`}` },
  { key: "epoch", label: t("Starts before"), number: true, unseen: true },
  number("running", t("Running")),
  number("waiting", t("Waiting"), (one) => html`<span title=${t`${count(one.pending_prefill_tokens)} prompt tokens are to be computed`}>${count(one.waiting)}</span>`),
  { key: "pending_prefill_tokens", label: t("Tokens to compute"), number: true, unseen: true },
  number("free_blocks", t("Free KV blocks")),
  ...places().map(([place, words]) => ({ key: place, label: t`Adapters ${words}`, unseen: true, number: true, value: (one) => heldBy(one, place) })),
  { key: "adapters", label: t("Adapters"), value: (one) => heldBy(one, "slot"), cell: (one) => html`${placesOf(one) || html`<span class="muted">${t("none")}</span>`}` },
  { key: "bytes", label: t("Adapters' memory"), number: true, value: deviceBytes, cell: (one) => bytes(deviceBytes(one)) },
];

function placesOf(replica) {
  return places().map(([place, words]) => [heldBy(replica, place), words]).filter(([held]) => held).map(([held, words]) => `${count(held)} ${words}`).join(", ");
}

export default function Replicas() {
  const replicas = useResource((signal) => get("/api/v1/replicas?on_disk=false", { signal }), [], { watch: ["engines"], pause: 2 });
  return html`<${PageHeader} title=${t("Replicas")} about=${t("Engines, each a process with a base model's weights and a cache of its own. One that ends is started again")} />
    <div class="card"><${Loaded} resource=${replicas} lines=${2}>${({ items }) => html`<${Table} name="replicas" label=${t("Replicas")} columns=${columns()} rows=${items} keyOf=${(one) => one.id} />`}<//></div>`;
}
