/** The cached prefixes as a tree: a row for each run of blocks, those that continue it below it. */
import { html, useMemo, useState } from "../../lib/html.js";
import { get, post } from "../../lib/api.js";
import { ofBase } from "../../lib/bases.js";
import { bytes, count, seconds } from "../../lib/format.js";
import { useResource } from "../../lib/resource.js";
import { attempt, toast } from "../../lib/toasts.js";
import { Badge, Card, Names, Scroll } from "../../components/bits.js";
import { ConfirmByName, Dialog } from "../../components/dialog.js";
import { Export } from "../../components/export.js";
import { Icon } from "../../components/icon.js";
import { Empty, Loaded } from "../../components/states.js";
import { childrenOf, keyOf } from "./runs.js";

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

/** Of the exported file; the tree has an order of its own. */
const COLUMNS = [
  ...["replica", "hash", "parent"].map((key) => ({ key })),
  { key: "versions", value: (node) => node.versions.join(" ") },
  ...["digest", "owner", "tokens", "bytes", "hits", "age_seconds", "idle_seconds", "pinned", "referenced"].map((key) => ({ key })),
];

export function Tree({ cache, onChange }) {
  const [closed, setClosed] = useState(new Set());
  const [open, setOpen] = useState(null);
  const rows = useMemo(() => rowsOf(cache.nodes, closed), [cache.nodes, closed]);
  const several = new Set(cache.nodes.map((node) => node.replica)).size > 1;
  const flip = (hash) => setClosed((old) => (old.has(hash) ? new Set([...old].filter((one) => one !== hash)) : new Set([...old, hash])));
  const pin = (node) => attempt(() => post(about(node, node.pinned ? ":unpin" : ":pin")), node.pinned ? "It may be evicted again." : "Pinned: it stays cached.").then(onChange);
  if (!rows.length) return html`<div class="card"><${Empty} title="Nothing is cached yet" icon="cache">Every prompt leaves its full blocks of ${cache.block_size} tokens here.<//></div>`;
  return html`<${Card} title="Prefixes" about=${`${count(cache.nodes.length)} runs of blocks; what is indented continues the line above it`} flush>
    <${Scroll} label="Prefixes"><table class="tree"><thead><tr><th>Prefix</th><th>Adapter</th><th>Owner</th><th class="number">Tokens</th><th class="number">Size</th><th class="number">Hits</th><th class="number">Idle</th><th><span class="visually-hidden">Actions</span></th></tr></thead>
    <tbody>${rows.map(({ node, depth, below }) => html`<tr key=${keyOf(node)}>
      <td class="nowrap"><span style=${{ paddingLeft: `${Math.min(depth, 8) * 18}px` }}></span>
        ${below ? html`<button class="button quiet fold" aria-expanded=${!closed.has(keyOf(node))} aria-label=${`Prefixes that continue ${node.hash.slice(0, 10)}`} onClick=${() => flip(keyOf(node))}><${Icon} name=${closed.has(keyOf(node)) ? "right" : "down"} size=${14} /></button>` : html`<span class="fold"></span>`}
        <code>${node.hash.slice(0, 10)}</code> ${several && html`<${Badge} kind="info">engine ${node.replica}<//>`} ${node.pinned && html`<${Badge} kind="accent">pinned<//>`} ${node.referenced > 0 && html`<${Badge} kind="info">in use<//>`}</td>
      <td><${Names} of=${node.versions} digest=${node.digest} /></td><td>${node.owner ?? html`<span class="muted">admin</span>`}</td>
      <td class="number">${count(node.tokens)}</td><td class="number">${bytes(node.bytes)}</td><td class="number">${count(node.hits)}</td><td class="number">${seconds(node.idle_seconds)}</td>
      <td class="number nowrap"><button class="button small quiet" onClick=${() => setOpen({ node, what: "text" })}>Text</button>
        <button class="button small quiet" onClick=${() => pin(node)}>${node.pinned ? "Unpin" : "Pin"}</button>
        <button class="button small quiet" onClick=${() => setOpen({ node, what: "drop" })}>Drop…</button></td></tr>`)}</tbody></table><//>
    <${Export} name="prefixes" columns=${COLUMNS} rows=${rows.map((row) => row.node)} />
    ${open?.what === "text" && html`<${Text} node=${open.node} onClose=${() => setOpen(null)} />`}
    ${open?.what === "drop" && html`<${ConfirmByName} title="Drop this prefix?" name=${open.node.hash.slice(0, 10)} action="Drop" onClose=${() => setOpen(null)}
      onConfirm=${async () => { await post(about(open.node, ":drop")); toast("Dropped, with everything that continues it."); onChange(); }}>
      It and all that continues it leave the cache; the next prompt that begins so is computed anew. Running requests keep what they use.<//>`}
  <//>`;
}

function Text({ node, onClose }) {
  const text = useResource((signal) => get(about(node, "/text"), { signal }), [keyOf(node)]);
  return html`<${Dialog} wide title=${`Prefix ${node.hash.slice(0, 10)}`} onClose=${onClose}>
    <${Loaded} resource=${text}>${(data) => html`<div class="code wrap"><pre tabindex="0" role="group" aria-label="Text">${data.text}</pre></div><p class="muted small">${count(data.token_ids.length)} tokens</p>`}<//>
    <footer><button class="button" onClick=${onClose}>Close</button></footer><//>`;
}
