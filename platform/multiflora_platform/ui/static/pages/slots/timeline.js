/** When which adapter lay in which slot, and how long loading it took; drawn as bars over time. */
import { html, useMemo } from "../../lib/html.js";
import { bytes, clock, seconds } from "../../lib/format.js";
import { t } from "../../lib/language.js";
import { colourOf } from "../../lib/theme.js";
import { named } from "../../lib/values.js";
import { Names } from "../../components/bits.js";
import { Empty } from "../../components/states.js";
import { Table } from "../../components/table.js";

const LISTED = 30;

/** From events to stays: {slot, name, from, until|null, seconds, bytes}. */
function staysOf(events) {
  const open = new Map();
  const stays = [];
  for (const event of events.toSorted((a, b) => a.at - b.at)) {
    const key = `${event.slot} ${event.digest}`;
    if (event.event === "evict") {
      const stay = open.get(key);
      if (stay) stay.until = event.at;
      open.delete(key);
    } else {
      const stay = open.get(key) ?? { slot: event.slot, name: event.versions.join(", ") || event.digest.slice(0, 12), from: event.at, until: null, seconds: null, bytes: event.bytes };
      if (!open.has(key)) stays.push(stay);
      stay.seconds = event.seconds ?? stay.seconds;
      open.set(key, stay);
    }
  }
  return stays;
}

const columns = () => [
  { key: "at", label: t("When"), time: true, class: "muted" },
  { key: "event", label: t("What"), cell: (event) => named(event.event) },
  { key: "versions", label: t("Adapter"), value: (event) => event.versions.join(", ") || event.digest, cell: (event) => html`<${Names} of=${event.versions} digest=${event.digest} />` },
  { key: "slot", label: t("Slot"), number: true },
  { key: "seconds", label: t("Took"), number: true, cell: (event) => seconds(event.seconds) },
  { key: "bytes", label: t("Size"), number: true, cell: (event) => bytes(event.bytes) },
];

/** @param {{events: Array, name: string}} props name: of the table of them */
export function Timeline({ events, name, label }) {
  const stays = useMemo(() => staysOf(events), [events]);
  if (!stays.length) return html`<${Empty} title=${t("Nothing was loaded yet")} />`;
  const start = Math.min(...stays.map((stay) => stay.from));
  const end = Date.now() / 1000;
  const at = (moment) => `${(100 * (moment - start)) / Math.max(end - start, 1)}%`;
  const slots = [...new Set(stays.map((stay) => stay.slot))].sort((a, b) => a - b);
  return html`<div class="stack">
    <div class="lanes" role="img" aria-label=${t`${stays.length} stays in ${slots.length} slots since ${clock(start)}; the table below has them all`}>
      ${slots.map((slot) => html`<div class="lane" key=${slot}><span class="muted small">${t`slot ${slot}`}</span><span class="track">
        ${stays.filter((stay) => stay.slot === slot).map((stay) => html`<i key=${stay.from} title=${t`${stay.name}: ${clock(stay.from)} to ${stay.until ? clock(stay.until) : t("now")}`}
          style=${{ left: at(stay.from), right: `calc(100% - ${at(stay.until ?? end)})`, background: colourOf(stay.name.split("@")[0]) }}></i>`)}</span></div>`)}
      <div class="lane"><span></span><span class="row between muted small"><span>${clock(start)}</span><span>${t("now")}</span></span></div>
    </div>
    <details><summary class="small muted">${t("As a table")}</summary><${Table} kind="loads" name=${name} label=${label} sort="loads" columns=${columns()} rows=${events.toSorted((a, b) => b.at - a.at).slice(0, LISTED)} /></details>
  </div>`;
}
