/** Settings and health: what the server is doing, what it was told, and where each setting came from. */
import { html, useState } from "../lib/html.js";
import { get } from "../lib/api.js";
import { bytes, count } from "../lib/format.js";
import { useResource } from "../lib/resource.js";
import { session } from "../lib/session.js";
import { Badge, Card, Facts, PageHeader, Search, State } from "../components/bits.js";
import { Empty, Loaded } from "../components/states.js";

const SOURCES = { cli: ["accent", "command line"], env: ["info", "environment"], file: ["warn", "file"], default: ["", "default"] };

export default function Settings() {
  const doctor = useResource((signal) => get("/api/v1/doctor", { signal }), []);
  return html`<${PageHeader} title="Settings and health" about="Settings are changed where the server is started; this shows what holds and why" />
    <div class="grid">
      <${Card} title="Server"><${Server} /><//>
      <${Card} title="Checks" actions=${html`<button class="button small" onClick=${doctor.reload}>Check again</button>`}><${Loaded} resource=${doctor}>${({ items }) => html`<${Checks} items=${items} />`}<//><//>
      <${Replicas} />
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

function Replicas() {
  const replicas = useResource((signal) => get("/api/v1/replicas", { signal }), [], { every: 5 });
  const held = (replica, where) => replica.adapters.filter((one) => one.residency === where);
  return html`<${Card} title="Engine processes" wide flush><${Loaded} resource=${replicas} lines=${2}>${({ items }) => html`<table>
    <thead><tr><th>Engine</th><th>Process</th><th>State</th><th class="number">Running</th><th class="number">Waiting</th><th class="number">On device</th><th class="number">In host memory</th><th class="number">On disk</th><th class="number">Adapters' memory</th></tr></thead>
    <tbody>${items.map((one, i) => html`<tr key=${i}><td class="mono">${one.id}</td><td class="mono">${one.pid ?? "none"}</td><td><${State} of=${one.state} /></td>
      <td class="number">${count(one.running)}</td><td class="number">${count(one.waiting)}</td>
      ${["slot", "cpu", "disk"].map((where) => html`<td class="number" key=${where}>${count(held(one, where).length)}</td>`)}
      <td class="number">${bytes(held(one, "slot").reduce((sum, adapter) => sum + (adapter.bytes ?? 0), 0))}</td></tr>`)}</tbody></table>`}<//><//>`;
}

function Configuration() {
  const [text, setText] = useState("");
  const [changedOnly, setChangedOnly] = useState(false);
  const settings = useResource((signal) => get("/api/v1/settings", { signal }), []);
  const wanted = (item) => (!changedOnly || item.source !== "default") && `${item.name} ${item.description}`.toLowerCase().includes(text.toLowerCase());
  return html`<${Card} title="Settings" wide flush actions=${html`<${Search} label="Search the settings" value=${text} onInput=${setText} />
      <label class="check small"><input type="checkbox" checked=${changedOnly} onChange=${(event) => setChangedOnly(event.target.checked)} />Only what was set</label>`}>
    <${Loaded} resource=${settings}>${({ items }) => (items.some(wanted) ? html`<table class="stacked"><thead><tr><th>Setting</th><th>Value</th><th>From</th><th>Meaning</th></tr></thead>
      <tbody>${items.filter(wanted).map((item) => html`<tr key=${item.name}><td class="mono">${item.name}</td><td class="mono break">${item.value === "" || item.value === null ? html`<span class="muted">not set</span>` : String(item.value)}</td>
        <td><${Badge} kind=${SOURCES[item.source]?.[0]}>${SOURCES[item.source]?.[1] ?? item.source}<//></td><td class="muted">${item.description}</td></tr>`)}</tbody></table>`
      : html`<${Empty} title="Nothing matches" />`)}<//><//>`;
}
