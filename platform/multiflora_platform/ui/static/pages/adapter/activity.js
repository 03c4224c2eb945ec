/** How much an adapter is used, and what happened to it. */
import { html } from "../../lib/html.js";
import { get } from "../../lib/api.js";
import { detailWords, eventWords } from "../../lib/events.js";
import { t } from "../../lib/language.js";
import { useResource } from "../../lib/resource.js";
import { isAdmin, may } from "../../lib/session.js";
import { Card } from "../../components/bits.js";
import { Empty, Loaded } from "../../components/states.js";
import { Table } from "../../components/table.js";
import { UsageDays } from "../../components/usage-days.js";

const MOST = 100;

export default function Activity({ adapter }) {
  return html`<div class="stack">
    ${may("usage:read") && html`<${UsageDays} title=${t("Usage, last 30 days")} filter=${{ adapter: adapter.name }} />`}
    ${isAdmin.value && html`<${Events} name=${adapter.name} />`}
  </div>`;
}

const columns = () => [
  { key: "at", label: t("When"), time: true, class: "muted" },
  { key: "action", label: t("What"), value: (row) => eventWords(row.action) },
  { key: "detail", label: t("Details"), value: (row) => detailWords(row.detail), class: "break sentence" },
  { key: "actor", label: t("By"), class: "muted break" },
];

function Events({ name }) {
  const audit = useResource((signal) => get(`/api/v1/audit?limit=${MOST}&adapter=${encodeURIComponent(name)}`, { signal }), [name], { watch: ["records"], pause: 3 });
  return html`<${Card} title=${t("Events")} about=${t`The last ${MOST} at most`} flush><${Loaded} resource=${audit}>${({ items }) => (items.length
    ? html`<${Table} kind="events" name=${`events of ${name}`} label=${t("Events")} columns=${columns()} rows=${items} keyOf=${(row) => row.id} />`
    : html`<${Empty} title=${t("Nothing has happened yet")} />`)}<//><//>`;
}
