/** Adapters: all of them, to search, sort, load, pin and archive. */
import { html, useMemo, useState } from "../lib/html.js";
import { joined, loadActivity, loadAdapters } from "../lib/adapters.js";
import { post, remove } from "../lib/api.js";
import { bytes, count, percent, rate, seconds, splitParts, splitWords, target } from "../lib/format.js";
import { plural, t } from "../lib/language.js";
import { useResource } from "../lib/resource.js";
import { go, href, query, setQuery } from "../lib/router.js";
import { isAdmin, may, session } from "../lib/session.js";
import { attempt, toast } from "../lib/toasts.js";
import { Badge, LastUsed, PageHeader, Search, Share, State, Swatch, Tags } from "../components/bits.js";
import { ConfirmByName } from "../components/dialog.js";
import { Icon } from "../components/icon.js";
import { Sparkline } from "../components/sparkline.js";
import { Empty, Loaded } from "../components/states.js";
import { VirtualTable } from "../components/virtual-table.js";

export default function Adapters() {
  const adapters = useResource(loadAdapters, [], { watch: ["adapters"], pause: 3 });
  const activity = useResource(loadActivity, [], { watch: ["requests", "engines"], pause: 3 });
  const register = may("registry:write") && html`<a class="button primary" href=${href("/register")}><${Icon} name="plus" size=${16} />${t("Register an adapter")}</a>`;
  return html`<${PageHeader} title=${t("Adapters")} about=${adapters.data && t`${count(adapters.data.length)} on ${session.value.base_model}`} actions=${register} />
    <${Loaded} resource=${adapters} lines=${10}>${(items) => (items.length
      ? html`<${Table} items=${items} activity=${activity.data} onChange=${() => { adapters.reload(); activity.reload(); }} />`
      : html`<div class="card"><${Empty} title=${t("No adapters yet")} icon="adapters" action=${register}>${t("A PEFT folder with adapter_config.json and adapter_model.safetensors is all it takes.")}<//></div>`)}<//>`;
}

/** What can be asked of the rows: text in name, description and tags; one tag. */
function useView(items, activity) {
  const text = (query.value.get("q") ?? "").toLowerCase();
  const tag = query.value.get("tag");
  const rows = useMemo(() => joined(items, activity), [items, activity]);
  const found = useMemo(() => rows.filter((row) => (!tag || row.tags.includes(tag))
    && (!text || `${row.name} ${row.description} ${row.tags.join(" ")}`.toLowerCase().includes(text))), [rows, text, tag]);
  return { found, text, tag };
}

function Table({ items, activity, onChange }) {
  const { found, text, tag } = useView(items, activity);
  const [chosen, setChosen] = useState(new Set());
  const toggle = (row) => setChosen((old) => (old.has(row.name) ? new Set([...old].filter((name) => name !== row.name)) : new Set([...old, row.name])));
  const tags = useMemo(() => topTags(items), [items]);
  return html`<div class="stack">
    <div class="row">
      <${Search} label=${t("Search name, description, tag")} value=${query.value.get("q") ?? ""} onInput=${(value) => setQuery({ q: value })} />
      <div class="row" role="group" aria-label=${t("Tags")}>${tags.map((one) => html`<button class="tag" key=${one} aria-pressed=${one === tag} onClick=${() => setQuery({ tag: one === tag ? null : one })}>${one}</button>`)}</div>
    </div>
    ${chosen.size > 0 && html`<${Bulk} names=${[...chosen]} onDone=${() => { setChosen(new Set()); onChange(); }} />`}
    <div class="card">${found.length ? html`<${VirtualTable} name="adapters" label=${t("Adapters")} columns=${columns(chosen, toggle)} rows=${found} keyOf=${(row) => row.name}
      first="name" onOpen=${(row) => go(`/adapters/${row.name}`)} onToggle=${toggle} least=${isAdmin.value ? 900 : 560} />`
      : html`<${Empty} title=${t("Nothing matches")} action=${html`<button class="button" onClick=${() => setQuery({ q: null, tag: null })}>${t("Show all")}</button>`}>${nothingWith(text, tag)}<//>`}</div>
    ${isAdmin.value && html`<p class="muted small">${t("Requests are counted by day (UTC). The p95 is of each adapter's last 100 answers since this server's start, from request to end; tokens/s are of the last 10 seconds.")}</p>`}
    <p class="muted small">${t`${html`<kbd>↑</kbd>`} ${html`<kbd>↓</kbd>`} move, ${html`<kbd>Enter</kbd>`} opens, ${html`<kbd>${t("Space")}</kbd>`} selects.`}</p>
  </div>`;
}

function topTags(items) {
  const counts = new Map();
  for (const tag of items.flatMap((item) => item.tags)) counts.set(tag, (counts.get(tag) ?? 0) + 1);
  return [...counts].sort((a, b) => b[1] - a[1]).slice(0, 10).map(([tag]) => tag);
}

function columns(chosen, toggle) {
  const all = [
    { key: "chosen", label: t("Select"), control: true, width: "20px", cell: (row) => html`<input type="checkbox" aria-label=${t`Select ${row.name}`} checked=${chosen.has(row.name)} onChange=${() => toggle(row)} />` },
    { key: "name", label: t("Name"), width: "minmax(110px, 1.4fr)", cell: (row) => html`<a href=${href(`/adapters/${row.name}`)} title=${row.description || row.name}><${Swatch} of=${row.name} /><b>${row.name}</b></a>` },
    { key: "description", label: t("Description"), width: "minmax(120px, 1.6fr)", cell: (row) => html`<span class="muted" title=${row.description}>${row.description}</span>` },
    { key: "version", label: t("Default"), width: "112px", cell: (row) => html`<${Default} of=${row} />` },
    { key: "aliases", label: t("Aliases"), value: (row) => Object.entries(row.aliases).map(([alias, to]) => `${alias}: ${target(to)}`).join(", "), width: "minmax(56px, 0.7fr)", cell: (row) => aliases(row) },
    { key: "tags", label: t("Tags"), unseen: isAdmin.value, value: (row) => row.tags.join(" "), width: "minmax(80px, 1.4fr)", cell: (row) => html`<${Tags} of=${row.tags} />` },
  ];
  if (!isAdmin.value) return all;
  return [
    ...all,
    { key: "residency", label: t("Where"), width: "106px", cell: (row) => html`${row.residency && html`<${State} of=${row.residency} />`}${row.pinned && html` <span title=${t("pinned")} aria-label=${t("pinned")}><${Icon} name="pin" size=${14} /></span>`}` },
    { key: "rank", label: t("Rank"), width: "46px", number: true, cell: (row) => row.rank ?? "–" },
    { key: "bytes", label: t("Size"), unseen: true, width: "64px", number: true, cell: (row) => bytes(row.bytes) },
    { key: "requests", label: t("7 days"), width: "96px", number: true, cell: (row) => html`<${Trend} of=${row} />` },
    { key: "speed", label: t("Tokens/s"), unseen: true, width: "66px", number: true, cell: (row) => rate(row.speed) },
    { key: "errors", label: t("Errors"), width: "52px", number: true, cell: (row) => html`<span class=${row.errors ? "problem" : ""} title=${row.errors !== null ? t`Of the last ${row.use.ended_requests} requests` : undefined}>${percent(row.errors)}</span>` },
    { key: "p95", label: t("p95 time"), width: "66px", number: true, cell: (row) => html`<span title=${row.p95 && t`Of the last ${row.use.timed_answers} answers`}>${seconds(row.p95)}</span>` },
    { key: "used", label: t("Last used"), time: true, width: "86px", cell: (row) => html`<span class="muted"><${LastUsed} of=${row.use} /></span>` },
  ];
}

const nothingWith = (text, tag) => (!tag ? t`No adapter mentions “${text}”.` : text ? t`No adapter mentions “${text}” with the tag ${tag}.` : t`No adapter with the tag ${tag}.`);

/** What model=name means: a version, or the parts of a split as a bar. */
function Default({ of: row }) {
  const to = row.aliases.default;
  if (!to) return html`<${Badge} kind=${row.ready_versions.length ? "" : "warn"}>${row.ready_versions.length ? t("none") : t("no version")}<//>`;
  if (!to.split) return `v${to.version}`;
  return html`<span class="split" title=${target(to)}><small>${splitWords(to.split)}</small><${Share} label=${t`Traffic of ${row.name}`} parts=${splitParts(to.split)} /></span>`;
}

/** Requests of the last days, and their course. */
const Trend = ({ of: row }) => html`<span class="trend" title=${row.use && t`By day, today last: ${row.use.by_day.map(count).join(", ")}`}>${row.requests > 0 && html`<${Sparkline} values=${row.use.by_day} />`}${count(row.requests)}</span>`;

function aliases(row) {
  const others = Object.entries(row.aliases).filter(([alias]) => alias !== "default");
  return html`${others.map(([alias, to]) => html`<span class="tag" key=${alias} title=${target(to)}>${alias}</span> `)}`;
}

function Bulk({ names, onDone }) {
  const [archiving, setArchiving] = useState(false);
  const all = async (verb, done) => {
    await attempt(async () => {
      for (const name of names) await post(`/api/v1/adapters/${name}:${verb}`);
    }, done, verb === "pin" ? { undo: () => names.forEach((name) => post(`/api/v1/adapters/${name}:unpin`)) } : undefined);
    onDone();
  };
  const phrase = names.length === 1 ? names[0] : t`${names.length} adapters`;
  return html`<div class="row card body-row" role="group" aria-label=${t("Selected adapters")}>
    <b>${t`${names.length} selected`}</b>
    ${isAdmin.value && html`<button class="button small" onClick=${() => all("load", t`${names.length} loaded.`)}>${t("Load")}</button>
      <button class="button small" onClick=${() => all("pin", t`${names.length} pinned.`)}>${t("Pin")}</button>
      <button class="button small" onClick=${() => all("unpin", t`${names.length} unpinned.`)}>${t("Unpin")}</button>
      <button class="button small" onClick=${() => all("unload", t`${names.length} unloaded.`)}>${t("Unload")}</button>`}
    ${may("registry:write") && html`<button class="button small danger" onClick=${() => setArchiving(true)}>${t("Archive…")}</button>`}
    ${archiving && html`<${ConfirmByName} title=${t`Archive ${phrase}?`} name=${phrase} action=${t("Archive")} onClose=${() => setArchiving(false)}
      onConfirm=${async () => { for (const name of names) await remove(`/api/v1/adapters/${name}`); toast(t`${phrase} archived.`); onDone(); }}>
      ${plural(names.length, "Requests for it are answered with 404 from then on; running ones finish.", "Requests for them are answered with 404 from then on; running ones finish.")}<//>`}
  </div>`;
}
