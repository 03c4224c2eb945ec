/** Slots and memory: which adapters are on the device, what came and went, and what would fit. */
import { html } from "../lib/html.js";
import { get, post } from "../lib/api.js";
import { chosenOf, ofBase, useBases } from "../lib/bases.js";
import { bytes, count } from "../lib/format.js";
import { t } from "../lib/language.js";
import { useResource } from "../lib/resource.js";
import { attempt } from "../lib/toasts.js";
import { BaseChoice, OfBase } from "../components/base.js";
import { Badge, Card, Names, PageHeader, Time } from "../components/bits.js";
import { Empty, Loaded } from "../components/states.js";
import { Table } from "../components/table.js";
import { Capacity } from "./slots/capacity.js";
import { RowMap } from "./slots/row-map.js";
import { Timeline } from "./slots/timeline.js";

export default function Slots() {
  const bases = useBases();
  const longest = chosenOf(bases)?.max_model_len;
  return html`<${PageHeader} title=${t("Slots and memory")} about=${t("An adapter takes memory in proportion to its rank; idle ones make room for others")} actions=${html`<${BaseChoice} of=${bases} />`} />
    <${OfBase} of=${bases}><${Replicas} />${longest && html`<${Capacity} longest=${longest} />`}<//>`;
}

/** With the moment of each adapter's last use, which stays true while nothing happens. */
async function loadSlots(signal) {
  const { replicas } = await get(ofBase("/api/v1/slots"), { signal });
  const now = Date.now() / 1000;
  return { replicas: replicas.map((one) => ({ ...one, residents: one.residents.map((held) => ({ ...held, used_at: now - held.idle_seconds })) })) };
}

function Replicas() {
  const slots = useResource(loadSlots, [], { watch: ["engines"], pause: 3 });
  return html`<${Loaded} resource=${slots} lines=${8}>${({ replicas }) => replicas.map((replica) => html`<${Replica} key=${replica.replica} replica=${replica} of=${replicas.length} onChange=${slots.reload} />`)}<//>`;
}

function Replica({ replica, of, onChange }) {
  const file = (name) => (of > 1 ? `${name} ${replica.replica}` : name);
  const engine = of > 1 ? t` of engine ${replica.replica}` : "";
  const { residents, rows, slots } = replica;
  const used = residents.reduce((sum, one) => sum + one.rank, 0);
  return html`<${Card} title=${t`On the device${engine}`} about=${t`${count(residents.length)} of at most ${count(slots)} adapters, ${count(used)} of ${count(rows)} rank rows, ${bytes(replica.bytes)}`} flush>
      <div class="body-row"><${RowMap} replica=${replica} label=${t("Rank rows")} /></div>
      ${residents.length === 0 ? html`<${Empty} title=${t("No adapter is on the device")}>${t("The first request for one brings it there.")}<//>` : html`<${Table} kind="on the device" name=${file("on the device")} label=${t`On the device${engine}`} columns=${columnsOf(replica.replica, onChange)} rows=${residents} keyOf=${(one) => one.digest} />`}
    <//>
    <${Card} title=${t`Loads and evictions${engine}`} about=${t`The last ${count(replica.timeline.length)}`}><${Timeline} events=${replica.timeline} name=${file("loads and evictions")} label=${t`Loads and evictions${engine}`} /><//>`;
}

const columnsOf = (replica, onChange) => [
  { key: "slot", label: t("Slot"), number: true },
  { key: "versions", label: t("Adapter"), value: (one) => one.versions.join(", ") || one.digest, cell: (one) => html`<${Names} of=${one.versions} digest=${one.digest} link /> ${one.pinned && html`<${Badge} kind="accent">${t("pinned")}<//>`}` },
  { key: "rank", label: t("Rank"), number: true },
  { key: "bytes", label: t("Size"), number: true, cell: (one) => bytes(one.bytes) },
  { key: "users", label: t("Requests now"), number: true, cell: (one) => count(one.users) },
  { key: "idle_seconds", label: t("Last used"), number: true, cell: (one) => html`<${Time} at=${one.used_at} />` },
  { key: "actions", label: t("Actions"), control: true, class: "nowrap", cell: (one) => html`<${Actions} one=${one} replica=${replica} onChange=${onChange} />` },
];

function Actions({ one, replica, onChange }) {
  if (!one.names.length) return null;
  // Any of the names does: what is pinned or unloaded is the content, for all that have it.
  const [name, version] = one.versions[0].split("@");
  const command = (verb, done) => attempt(() => post(`/api/v1/adapters/${name}:${verb}?version=${version}&replica=${encodeURIComponent(replica)}`), done).then(onChange);
  return html`<button class="button small quiet" onClick=${() => command(one.pinned ? "unpin" : "pin", one.pinned ? t("It may leave again.") : t("Pinned: it stays."))}>${one.pinned ? t("Unpin") : t("Pin")}</button>
    <button class="button small quiet" disabled=${one.users > 0} onClick=${() => command("unload", t`${one.versions.join(", ")} has left the device.`)}>${t("Unload")}</button>`;
}
