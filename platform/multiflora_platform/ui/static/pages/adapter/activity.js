/** How much an adapter is used, and what happened to it. */
import { html } from "../../lib/html.js";
import { get } from "../../lib/api.js";
import { NOT_USED } from "../../lib/adapters.js";
import { actionWords, count, rate, seconds } from "../../lib/format.js";
import { useResource } from "../../lib/resource.js";
import { isAdmin, may } from "../../lib/session.js";
import { Card, LastUsed, Stats } from "../../components/bits.js";
import { Empty, Loaded } from "../../components/states.js";
import { Table } from "../../components/table.js";
import { UsageDays } from "../../components/usage-days.js";

const MOST = 100;

export const Activity = ({ adapter }) => html`<div class="stack">
  ${isAdmin.value && html`<${Now} name=${adapter.name} />`}
  ${may("usage:read") && html`<${UsageDays} title="Usage, last 30 days" filter=${{ adapter: adapter.name }} />`}
  ${isAdmin.value && html`<${Events} name=${adapter.name} />`}
</div>`;

function Now({ name }) {
  const activity = useResource((signal) => get("/api/v1/activity", { signal }), [name], { every: 3 });
  if (!activity.data) return null;
  const { items, since, speed_seconds: span } = activity.data;
  const use = items.find((one) => one.adapter === name) ?? NOT_USED;
  return html`<${Stats} label="Now" of=${[
    ["Requests, 7 days", count(use.requests), `since ${since}, UTC`],
    ["Tokens per second", rate(use.tokens_per_second), `last ${span} s`],
    ["p95 of an answer's time", seconds(use.p95_seconds), use.timed_answers ? `last ${use.timed_answers} answers` : "none since the start"],
    ["Last used", html`<${LastUsed} of=${use} />`, use.requests ? "" : "not in 7 days"],
  ]} />`;
}

const WORDS = (payload) => Object.entries(payload ?? {}).filter(([key]) => key !== "digest")
  .map(([key, value]) => `${key} ${typeof value === "object" ? JSON.stringify(value) : value}`).join(", ");

const COLUMNS = [
  { key: "at", label: "When", time: true, class: "muted" },
  { key: "action", label: "What", value: (row) => actionWords(row.action) },
  { key: "detail", label: "Details", value: (row) => WORDS(row.detail), class: "break sentence" },
  { key: "actor", label: "By", class: "muted break" },
];

function Events({ name }) {
  const audit = useResource((signal) => get(`/api/v1/audit?limit=${MOST}&adapter=${encodeURIComponent(name)}`, { signal }), [name], { every: 10 });
  return html`<${Card} title="Events" about=${`The last ${MOST} at most`} flush><${Loaded} resource=${audit}>${({ items }) => (items.length
    ? html`<${Table} kind="events" name=${`events of ${name}`} label="Events" columns=${COLUMNS} rows=${items} keyOf=${(row) => row.id} />`
    : html`<${Empty} title="Nothing has happened yet" />`)}<//><//>`;
}
