/** Settings and health: what the server is doing, what it was told, and where each setting came from. */
import { html } from "../lib/html.js";
import { get } from "../lib/api.js";
import { useBases } from "../lib/bases.js";
import { count } from "../lib/format.js";
import { t } from "../lib/language.js";
import { useResource } from "../lib/resource.js";
import { query, setQuery } from "../lib/router.js";
import { session } from "../lib/session.js";
import { named } from "../lib/values.js";
import { Badge, Card, Facts, PageHeader, Search } from "../components/bits.js";
import { Empty, Loaded } from "../components/states.js";
import { Table } from "../components/table.js";

const sources = () => ({ cli: ["accent", t("command line")], env: ["info", t("environment")], file: ["warn", t("file")], default: ["", t("default")], device: ["", t("chosen for the device")] });

export default function Settings() {
  const doctor = useResource((signal) => get("/api/v1/doctor", { signal }), []);
  return html`<${PageHeader} title=${t("Settings and health")} about=${t("Settings are changed where the server is started; this shows what holds and why")} />
    <div class="grid">
      <${Card} title=${t("Server")}><${Server} /><//>
      <${Card} title=${t("Checks")} actions=${html`<button class="button small" onClick=${doctor.reload}>${t("Check again")}</button>`}><${Loaded} resource=${doctor}>${({ items }) => html`<${Checks} items=${items} />`}<//><//>
      <${Configuration} />
    </div>`;
}

function Server() {
  const health = useResource((signal) => fetch("/health", { signal }).then((response) => response.json()), [], { watch: ["engines", "records"], pause: 3 });
  const bases = useBases();
  const { version, key_id: key } = session.value;
  return html`<${Facts} of=${[
    [t("State"), health.data ? html`<${Badge} kind=${health.data.status === "ready" ? "ok" : "warn"}>${named(health.data.status)}<//>` : "–"],
    [bases.length > 1 ? t("Base models") : t("Base model"), bases.map(({ name, max_model_len: length }) => html`<div key=${name}>${length ? t`${name}, up to ${count(length)} tokens` : name}</div>`)], [t("Version"), version], [t("Signed in with"), html`<code>${key}</code>`],
    ["API", html`<a href="/docs">${t("every call")}</a>`],
  ]} />`;
}

const Checks = ({ items }) => html`<ul class="report">${items.map((one) => html`<li key=${one.check + one.detail}><${Badge} kind=${one.ok ? "ok" : "bad"}>${one.ok ? t("good") : t("problem")}<//>
  <div class="break"><b>${one.check}</b> <span>${one.detail}</span>${!one.ok && one.next_step && html`<div class="small"><b>${t("Next:")}</b> ${one.next_step}</div>`}</div></li>`)}</ul>`;

const shownValue = (item) => (item.value === "" || item.value === null ? null : String(item.value));
const settingColumns = () => [
  { key: "name", label: t("Setting"), class: "mono" },
  { key: "value", label: t("Value"), class: "mono break", value: shownValue, cell: (item) => shownValue(item) ?? html`<span class="muted">${t("not set")}</span>` },
  { key: "source", label: t("From"), cell: (item) => html`<${Badge} kind=${sources()[item.source]?.[0]}>${sources()[item.source]?.[1] ?? item.source}<//>` },
  { key: "description", label: t("Meaning"), class: "muted" },
];

/** What was set stands first, then what the device decided, then the defaults. */
const rank = (item) => ["device", "default"].indexOf(item.source);

function Configuration() {
  const text = query.value.get("q") ?? "";
  const changedOnly = query.value.has("set");
  const settings = useResource((signal) => get("/api/v1/settings", { signal }), []);
  const wanted = (item) => (!changedOnly || !["default", "device"].includes(item.source)) && `${item.name} ${item.description}`.toLowerCase().includes(text.toLowerCase());
  return html`<${Card} title=${t("Settings")} wide flush actions=${html`<${Search} label=${t("Search the settings")} value=${text} onInput=${(value) => setQuery({ q: value })} />
      <label class="check small"><input type="checkbox" checked=${changedOnly} onChange=${(event) => setQuery({ set: event.target.checked ? "1" : null })} />${t("Only what was set")}</label>`}>
    <${Loaded} resource=${settings}>${({ items }) => (items.some(wanted) ? html`<${Table} name="settings" label=${t("Settings")} columns=${settingColumns()} rows=${items.filter(wanted).toSorted((a, b) => rank(a) - rank(b))} keyOf=${(item) => item.name} />`
      : html`<${Empty} title=${t("Nothing matches")} />`)}<//><//>`;
}
