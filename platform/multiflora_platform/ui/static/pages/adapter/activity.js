/** How much an adapter is used, and what happened to it. */
import { html } from "../../lib/html.js";
import { get } from "../../lib/api.js";
import { NOT_USED } from "../../lib/adapters.js";
import { actionWords, count, rate, seconds } from "../../lib/format.js";
import { t } from "../../lib/language.js";
import { useResource } from "../../lib/resource.js";
import { isAdmin, may } from "../../lib/session.js";
import { Card, LastUsed, Stats } from "../../components/bits.js";
import { Empty, Loaded } from "../../components/states.js";
import { Table } from "../../components/table.js";
import { UsageDays } from "../../components/usage-days.js";

const MOST = 100;

export const Activity = ({ adapter }) => html`<div class="stack">
  ${isAdmin.value && html`<${Now} name=${adapter.name} />`}
  ${may("usage:read") && html`<${UsageDays} title=${t("Usage, last 30 days")} filter=${{ adapter: adapter.name }} />`}
  ${isAdmin.value && html`<${Events} name=${adapter.name} />`}
</div>`;

function Now({ name }) {
  const activity = useResource((signal) => get("/api/v1/activity", { signal }), [name], { every: 3 });
  if (!activity.data) return null;
  const { items, since, speed_seconds: span } = activity.data;
  const use = items.find((one) => one.adapter === name) ?? NOT_USED;
  return html`<${Stats} label=${t("Now")} of=${[
    [t("Requests, 7 days"), count(use.requests), t`since ${since}, UTC`],
    [t("Tokens per second"), rate(use.tokens_per_second), t`last ${span} s`],
    [t("p95 of an answer's time"), seconds(use.p95_seconds), use.timed_answers ? t`last ${use.timed_answers} answers` : t("none since the start")],
    [t("Last used"), html`<${LastUsed} of=${use} />`, use.requests ? "" : t("not in 7 days")],
  ]} />`;
}

const WORDS = (payload) => Object.entries(payload ?? {}).filter(([key]) => key !== "digest")
  .map(([key, value]) => `${key} ${typeof value === "object" ? JSON.stringify(value) : value}`).join(", ");

const columns = () => [
  { key: "at", label: t("When"), time: true, class: "muted" },
  { key: "action", label: t("What"), value: (row) => actionWords(row.action) },
  { key: "detail", label: t("Details"), value: (row) => WORDS(row.detail), class: "break sentence" },
  { key: "actor", label: t("By"), class: "muted break" },
];

function Events({ name }) {
  const audit = useResource((signal) => get(`/api/v1/audit?limit=${MOST}&adapter=${encodeURIComponent(name)}`, { signal }), [name], { every: 10 });
  return html`<${Card} title=${t("Events")} about=${t`The last ${MOST} at most`} flush><${Loaded} resource=${audit}>${({ items }) => (items.length
    ? html`<${Table} kind="events" name=${`events of ${name}`} label=${t("Events")} columns=${columns()} rows=${items} keyOf=${(row) => row.id} />`
    : html`<${Empty} title=${t("Nothing has happened yet")} />`)}<//><//>`;
}
