/** Adapters: all of them, to search, sort, load, pin and archive. */
import { html, useMemo, useState } from "../lib/html.js";
import { joined, loadActivity, loadAdapters } from "../lib/adapters.js";
import { post, remove } from "../lib/api.js";
import { bytes, count, rate, seconds, target } from "../lib/format.js";
import { useResource } from "../lib/resource.js";
import { go, href, query, setQuery } from "../lib/router.js";
import { isAdmin, may, session } from "../lib/session.js";
import { attempt, toast } from "../lib/toasts.js";
import { LastUsed, PageHeader, Search, State, Swatch, Tags } from "../components/bits.js";
import { ConfirmByName } from "../components/dialog.js";
import { Icon } from "../components/icon.js";
import { Empty, Loaded } from "../components/states.js";
import { VirtualTable } from "../components/virtual-table.js";

export default function Adapters() {
  const adapters = useResource(loadAdapters, [], { every: 15 });
  const activity = useResource(loadActivity, [], { every: 3 });
  const register = may("registry:write") && html`<a class="button primary" href=${href("/register")}><${Icon} name="plus" size=${16} />Register an adapter</a>`;
  return html`<${PageHeader} title="Adapters" about=${adapters.data && `${count(adapters.data.length)} on ${session.value.base_model}`} actions=${register} />
    <${Loaded} resource=${adapters} lines=${10}>${(items) => (items.length
      ? html`<${Table} items=${items} activity=${activity.data} onChange=${() => { adapters.reload(); activity.reload(); }} />`
      : html`<div class="card"><${Empty} title="No adapters yet" icon="adapters" action=${register}>A PEFT folder with adapter_config.json and adapter_model.safetensors is all it takes.<//></div>`)}<//>`;
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
      <${Search} label="Search name, description, tag" value=${query.value.get("q") ?? ""} onInput=${(value) => setQuery({ q: value })} />
      <div class="row" role="group" aria-label="Tags">${tags.map((one) => html`<button class="tag" key=${one} aria-pressed=${one === tag} onClick=${() => setQuery({ tag: one === tag ? null : one })}>${one}</button>`)}</div>
    </div>
    ${chosen.size > 0 && html`<${Bulk} names=${[...chosen]} onDone=${() => { setChosen(new Set()); onChange(); }} />`}
    <div class="card">${found.length ? html`<${VirtualTable} name="adapters" label="Adapters" columns=${columns(chosen, toggle)} rows=${found} keyOf=${(row) => row.name}
      first="name" onOpen=${(row) => go(`/adapters/${row.name}`)} onToggle=${toggle} least=${isAdmin.value ? 1010 : 560} />`
      : html`<${Empty} title="Nothing matches" action=${html`<button class="button" onClick=${() => setQuery({ q: null, tag: null })}>Show all</button>`}>${text ? `No adapter mentions “${text}”` : "No adapter"}${tag ? ` with the tag ${tag}` : ""}.<//>`}</div>
    ${isAdmin.value && html`<p class="muted small">Requests are counted by day (UTC). The p95 is of each adapter's last 100 answers since this server's start, from request to end; tokens/s are of the last 10 seconds.</p>`}
    <p class="muted small"><kbd>↑</kbd> <kbd>↓</kbd> move, <kbd>Enter</kbd> opens, <kbd>Space</kbd> selects.</p>
  </div>`;
}

function topTags(items) {
  const counts = new Map();
  for (const tag of items.flatMap((item) => item.tags)) counts.set(tag, (counts.get(tag) ?? 0) + 1);
  return [...counts].sort((a, b) => b[1] - a[1]).slice(0, 10).map(([tag]) => tag);
}

function columns(chosen, toggle) {
  const all = [
    { key: "chosen", label: "Select", control: true, width: "20px", cell: (row) => html`<input type="checkbox" aria-label=${`Select ${row.name}`} checked=${chosen.has(row.name)} onChange=${() => toggle(row)} />` },
    { key: "name", label: "Name", width: "minmax(110px, 1.4fr)", cell: (row) => html`<a href=${href(`/adapters/${row.name}`)} title=${row.description || row.name}><${Swatch} of=${row.name} /><b>${row.name}</b></a>` },
    { key: "version", label: "Default", width: "60px", cell: (row) => (row.version ? `v${row.version}` : html`<span class="muted">none</span>`) },
    { key: "aliases", label: "Aliases", value: (row) => Object.entries(row.aliases).map(([alias, to]) => `${alias}: ${target(to)}`).join(", "), width: "minmax(60px, 0.7fr)", cell: (row) => aliases(row) },
    { key: "tags", label: "Tags", value: (row) => row.tags.join(" "), width: "minmax(80px, 1.4fr)", cell: (row) => html`<${Tags} of=${row.tags} />` },
  ];
  if (!isAdmin.value) return all;
  return [
    ...all,
    { key: "residency", label: "Where", width: "106px", cell: (row) => html`${row.residency && html`<${State} of=${row.residency} />`}${row.pinned && html` <span title="pinned" aria-label="pinned"><${Icon} name="pin" size=${14} /></span>`}` },
    { key: "rank", label: "Rank", width: "46px", number: true, cell: (row) => row.rank ?? "–" },
    { key: "bytes", label: "Size", width: "64px", number: true, cell: (row) => bytes(row.bytes) },
    { key: "requests", label: "Requests, 7 days", width: "108px", number: true, cell: (row) => count(row.requests) },
    { key: "speed", label: "Tokens/s", width: "66px", number: true, cell: (row) => rate(row.speed) },
    { key: "p95", label: "p95 time", width: "66px", number: true, cell: (row) => html`<span title=${row.p95 && `Of the last ${row.use.timed_answers} answers`}>${seconds(row.p95)}</span>` },
    { key: "used", label: "Last used", time: true, width: "86px", cell: (row) => html`<span class="muted"><${LastUsed} of=${row.use} /></span>` },
  ];
}

function aliases(row) {
  const others = Object.entries(row.aliases).filter(([alias]) => alias !== "default");
  const isSplit = Boolean(row.aliases.default?.split);
  return html`${isSplit && html`<span class="badge accent" title=${target(row.aliases.default)}>split</span> `}${others.map(([alias, to]) => html`<span class="tag" key=${alias} title=${target(to)}>${alias}</span> `)}`;
}

function Bulk({ names, onDone }) {
  const [archiving, setArchiving] = useState(false);
  const all = async (verb, done) => {
    await attempt(async () => {
      for (const name of names) await post(`/api/v1/adapters/${name}:${verb}`);
    }, `${names.length} ${done}.`, verb === "pin" ? { undo: () => names.forEach((name) => post(`/api/v1/adapters/${name}:unpin`)) } : undefined);
    onDone();
  };
  const phrase = names.length === 1 ? names[0] : `${names.length} adapters`;
  return html`<div class="row card body-row" role="group" aria-label="Selected adapters">
    <b>${names.length} selected</b>
    ${isAdmin.value && html`<button class="button small" onClick=${() => all("load", "loaded")}>Load</button>
      <button class="button small" onClick=${() => all("pin", "pinned")}>Pin</button>
      <button class="button small" onClick=${() => all("unpin", "unpinned")}>Unpin</button>
      <button class="button small" onClick=${() => all("unload", "unloaded")}>Unload</button>`}
    ${may("registry:write") && html`<button class="button small danger" onClick=${() => setArchiving(true)}>Archive…</button>`}
    ${archiving && html`<${ConfirmByName} title=${`Archive ${phrase}?`} name=${phrase} action="Archive" onClose=${() => setArchiving(false)}
      onConfirm=${async () => { for (const name of names) await remove(`/api/v1/adapters/${name}`); toast(`${phrase} archived.`); onDone(); }}>
      Requests for ${names.length === 1 ? "it" : "them"} are answered with 404 from then on; running ones finish.<//>`}
  </div>`;
}
