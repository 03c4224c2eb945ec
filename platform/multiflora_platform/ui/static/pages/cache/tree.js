/** The cached prefixes as a tree: a row for each run of blocks, those that continue it below it. */
import { html, useMemo, useState } from "../../lib/html.js";
import { get, post } from "../../lib/api.js";
import { ofBase } from "../../lib/bases.js";
import { bytes, count, seconds } from "../../lib/format.js";
import { useResource } from "../../lib/resource.js";
import { attempt, toast } from "../../lib/toasts.js";
import { Badge, Card, Names } from "../../components/bits.js";
import { ConfirmByName, Dialog } from "../../components/dialog.js";
import { Icon } from "../../components/icon.js";
import { Empty, Loaded } from "../../components/states.js";
import { Table } from "../../components/table.js";
import { childrenOf, keyOf } from "./runs.js";

/** Of a hash, as much as tells it from others. */
const SHORT = 10;
const about = (node, what = "") => ofBase(`/api/v1/cache/${node.hash}${what}?replica=${encodeURIComponent(node.replica)}`);

/** Depth first, largest first; a child whose parent is not listed stands at the top. */
function rowsOf(nodes, closed) {
  const children = childrenOf(nodes);
  const rows = [];
  const stack = (children.get(null) ?? []).toSorted((a, b) => a.bytes - b.bytes).map((node) => [node, 0]);
  while (stack.length) {
    const [node, depth] = stack.pop();
    const below = children.get(keyOf(node)) ?? [];
    rows.push({ node, depth, below: below.length });
    if (!closed.has(keyOf(node))) stack.push(...below.toSorted((a, b) => a.bytes - b.bytes).map((child) => [child, depth + 1]));
  }
  return rows;
}

export function Tree({ cache, onChange }) {
  const [closed, setClosed] = useState(new Set());
  const [open, setOpen] = useState(null);
  const rows = useMemo(() => rowsOf(cache.nodes, closed), [cache.nodes, closed]);
  const places = useMemo(() => new Map(rows.map((row) => [row.node, row])), [rows]);
  const several = new Set(cache.nodes.map((node) => node.replica)).size > 1;
  const flip = (hash) => setClosed((old) => (old.has(hash) ? new Set([...old].filter((one) => one !== hash)) : new Set([...old, hash])));
  const pin = (node) => attempt(() => post(about(node, node.pinned ? ":unpin" : ":pin")), node.pinned ? "It may be evicted again." : "Pinned: it stays cached.").then(onChange);
  if (!rows.length) return html`<div class="card"><${Empty} title="Nothing is cached yet" icon="cache">Every prompt leaves its full blocks of ${cache.block_size} tokens here.<//></div>`;
  return html`<${Card} title="Prefixes" about=${`${count(cache.nodes.length)} runs of blocks; what is indented continues the line above it`} flush>
    <${Table} name="prefixes" label="Prefixes" class="tree" ordered rows=${rows.map((row) => row.node)} keyOf=${keyOf}
      columns=${columnsOf({ places, closed, several, flip, pin, setOpen })} />
    ${open?.what === "text" && html`<${Text} node=${open.node} onClose=${() => setOpen(null)} />`}
    ${open?.what === "drop" && html`<${ConfirmByName} title="Drop this prefix?" name=${open.node.hash.slice(0, SHORT)} action="Drop" onClose=${() => setOpen(null)}
      onConfirm=${async () => { await post(about(open.node, ":drop")); toast("Dropped, with everything that continues it."); onChange(); }}>
      It and all that continues it leave the cache; the next prompt that begins so is computed anew. Running requests keep what they use.<//>`}
  <//>`;
}

/** places: of each node, how deep it stands and how many continue it. The tree has an order of its own. */
function columnsOf({ places, closed, several, flip, pin, setOpen }) {
  const number = (key, label, words) => ({ key, label, number: true, cell: (node) => words(node[key]) });
  return [
    { key: "replica", label: "Engine", unseen: true },
    { key: "hash", label: "Prefix", class: "nowrap", cell: (node) => html`<${Prefix} node=${node} place=${places.get(node)} isClosed=${closed.has(keyOf(node))} several=${several} flip=${flip} />` },
    { key: "parent", label: "Continues", class: "mono", unseen: true, cell: (node) => node.parent?.slice(0, SHORT) },
    { key: "versions", label: "Adapter", value: (node) => node.versions.join(" "), cell: (node) => html`<${Names} of=${node.versions} digest=${node.digest} />` },
    { key: "digest", label: "Digest", class: "mono", unseen: true, cell: (node) => node.digest?.slice(0, SHORT) },
    { key: "owner", label: "Owner", cell: (node) => node.owner ?? html`<span class="muted">admin</span>` },
    number("tokens", "Tokens", count), number("bytes", "Size", bytes), number("hits", "Hits", count),
    { ...number("age_seconds", "Age", seconds), unseen: true }, number("idle_seconds", "Idle", seconds),
    { key: "pinned", label: "Pinned", unseen: true, cell: (node) => (node.pinned ? "yes" : "no") },
    { ...number("referenced", "Used by", count), unseen: true },
    { key: "actions", label: "Actions", control: true, class: "nowrap", cell: (node) => html`<button class="button small quiet" onClick=${() => setOpen({ node, what: "text" })}>Text</button>
      <button class="button small quiet" onClick=${() => pin(node)}>${node.pinned ? "Unpin" : "Pin"}</button>
      <button class="button small quiet" onClick=${() => setOpen({ node, what: "drop" })}>Drop…</button>` },
  ];
}

function Prefix({ node, place: { depth, below }, isClosed, several, flip }) {
  return html`<span style=${{ paddingLeft: `${Math.min(depth, 8) * 18}px` }}></span>
    ${below ? html`<button class="button quiet fold" aria-expanded=${!isClosed} aria-label=${`Prefixes that continue ${node.hash.slice(0, SHORT)}`} onClick=${() => flip(keyOf(node))}><${Icon} name=${isClosed ? "right" : "down"} size=${14} /></button>` : html`<span class="fold"></span>`}
    <code>${node.hash.slice(0, SHORT)}</code> ${several && html`<${Badge} kind="info">engine ${node.replica}<//>`} ${node.pinned && html`<${Badge} kind="accent">pinned<//>`} ${node.referenced > 0 && html`<${Badge} kind="info">in use<//>`}`;
}

function Text({ node, onClose }) {
  const text = useResource((signal) => get(about(node, "/text"), { signal }), [keyOf(node)]);
  return html`<${Dialog} wide title=${`Prefix ${node.hash.slice(0, SHORT)}`} onClose=${onClose}>
    <${Loaded} resource=${text}>${(data) => html`<div class="code wrap"><pre tabindex="0" role="group" aria-label="Text">${data.text}</pre></div><p class="muted small">${count(data.token_ids.length)} tokens</p>`}<//>
    <footer><button class="button" onClick=${onClose}>Close</button></footer><//>`;
}
