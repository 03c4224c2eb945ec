/** Settings and health: what the server is doing, what it was told, and where each setting came from. */
import { html } from "../lib/html.js";
import { get } from "../lib/api.js";
import { count } from "../lib/format.js";
import { useResource } from "../lib/resource.js";
import { query, setQuery } from "../lib/router.js";
import { session } from "../lib/session.js";
import { Badge, Card, Facts, PageHeader, Search } from "../components/bits.js";
import { Empty, Loaded } from "../components/states.js";
import { Table } from "../components/table.js";

const SOURCES = { cli: ["accent", "command line"], env: ["info", "environment"], file: ["warn", "file"], default: ["", "default"] };

export default function Settings() {
  const doctor = useResource((signal) => get("/api/v1/doctor", { signal }), []);
  return html`<${PageHeader} title="Settings and health" about="Settings are changed where the server is started; this shows what holds and why" />
    <div class="grid">
      <${Card} title="Server"><${Server} /><//>
      <${Card} title="Checks" actions=${html`<button class="button small" onClick=${doctor.reload}>Check again</button>`}><${Loaded} resource=${doctor}>${({ items }) => html`<${Checks} items=${items} />`}<//><//>
      <${Configuration} />
    </div>`;
}

function Server() {
  const health = useResource((signal) => fetch("/health", { signal }).then((response) => response.json()), [], { every: 5 });
  const { version, base_model: model, max_model_len: length, key_id: key } = session.value;
  return html`<${Facts} of=${[
    ["State", health.data ? html`<${Badge} kind=${health.data.status === "ready" ? "ok" : "warn"}>${health.data.status}<//>` : "–"],
    ["Base model", model], ["Longest request", `${count(length)} tokens`], ["Version", version], ["Signed in with", html`<code>${key}</code>`],
    ["API", html`<a href="/docs">every call</a>`],
  ]} />`;
}

const Checks = ({ items }) => html`<ul class="report">${items.map((one) => html`<li key=${one.check}><${Badge} kind=${one.ok ? "ok" : "bad"}>${one.ok ? "good" : "problem"}<//>
  <div class="break"><b>${one.check}</b> <span>${one.detail}</span>${!one.ok && one.next_step && html`<div class="small"><b>Next:</b> ${one.next_step}</div>`}</div></li>`)}</ul>`;

const shownValue = (item) => (item.value === "" || item.value === null ? null : String(item.value));
const SETTINGS = [
  { key: "name", label: "Setting", class: "mono" },
  { key: "value", label: "Value", class: "mono break", value: shownValue, cell: (item) => shownValue(item) ?? html`<span class="muted">not set</span>` },
  { key: "source", label: "From", cell: (item) => html`<${Badge} kind=${SOURCES[item.source]?.[0]}>${SOURCES[item.source]?.[1] ?? item.source}<//>` },
  { key: "description", label: "Meaning", class: "muted" },
];

function Configuration() {
  const text = query.value.get("q") ?? "";
  const changedOnly = query.value.has("set");
  const settings = useResource((signal) => get("/api/v1/settings", { signal }), []);
  const wanted = (item) => (!changedOnly || item.source !== "default") && `${item.name} ${item.description}`.toLowerCase().includes(text.toLowerCase());
  return html`<${Card} title="Settings" wide flush actions=${html`<${Search} label="Search the settings" value=${text} onInput=${(value) => setQuery({ q: value })} />
      <label class="check small"><input type="checkbox" checked=${changedOnly} onChange=${(event) => setQuery({ set: event.target.checked ? "1" : null })} />Only what was set</label>`}>
    <${Loaded} resource=${settings}>${({ items }) => (items.some(wanted) ? html`<${Table} name="settings" label="Settings" columns=${SETTINGS} rows=${items.filter(wanted)} keyOf=${(item) => item.name} />`
      : html`<${Empty} title="Nothing matches" />`)}<//><//>`;
}
