/** The cached prefixes as a tree: a row for each run of blocks, those that continue it below it. */
import { html, useMemo, useState } from "../../lib/html.js";
import { get, post } from "../../lib/api.js";
import { ofBase } from "../../lib/bases.js";
import { bytes, count } from "../../lib/format.js";
import { t } from "../../lib/language.js";
import { useResource } from "../../lib/resource.js";
import { attempt, toast } from "../../lib/toasts.js";
import { Badge, Card, Names, Segmented } from "../../components/bits.js";
import { ConfirmByName, Dialog } from "../../components/dialog.js";
import { Icon } from "../../components/icon.js";
import { Empty, Loaded } from "../../components/states.js";
import { Table } from "../../components/table.js";
import { childrenOf, keyOf, savingsOf } from "./runs.js";

/** Of a hash, as much as tells it from others. */
const SHORT = 10;
const about = (node, what = "") => ofBase(`/api/v1/cache/${node.hash}${what}?replica=${encodeURIComponent(node.replica)}`);

const orders = () => [["savings", t("Savings")], ["size", t("Size")]];
/** More rows than that are folded to those that were of use. */
const MOST_UNFOLDED = 30;
const isOfUse = (node) => node.hits > 0 || node.pinned || node.referenced;

/** Depth first, the first in `order` first; a child whose parent is not listed stands at the top. isFolded: without leaves that are of no use */
function rowsOf(nodes, closed, order, isFolded) {
  const children = childrenOf(nodes);
  const savings = savingsOf(nodes, children);
  const rank = (node) => (order === "size" ? node.bytes : savings.get(keyOf(node)));
  const below = (key) => (children.get(key) ?? []).filter((node) => !isFolded || isOfUse(node) || children.has(keyOf(node))).sort((a, b) => rank(a) - rank(b) || a.bytes - b.bytes);
  const rows = [];
  const stack = below(null).map((node) => [node, 0]);
  while (stack.length) {
    const [node, depth] = stack.pop();
    const continued = below(keyOf(node));
    rows.push({ node, depth, below: continued.length, saved: savings.get(keyOf(node)) });
    if (!closed.has(keyOf(node))) stack.push(...continued.map((child) => [child, depth + 1]));
  }
  return rows;
}

export function Tree({ cache, onChange }) {
  const [closed, setClosed] = useState(new Set());
  const [open, setOpen] = useState(null);
  const [order, setOrder] = useState("savings");
  const [isWhole, setWhole] = useState(false);
  const isFolded = !isWhole && cache.nodes.length > MOST_UNFOLDED && cache.nodes.some(isOfUse);
  const rows = useMemo(() => rowsOf(cache.nodes, closed, order, isFolded), [cache.nodes, closed, order, isFolded]);
  const places = useMemo(() => new Map(rows.map((row) => [row.node, row])), [rows]);
  const several = new Set(cache.nodes.map((node) => node.replica)).size > 1;
  const flip = (hash) => setClosed((old) => (old.has(hash) ? new Set([...old].filter((one) => one !== hash)) : new Set([...old, hash])));
  const pin = (node) => attempt(() => post(about(node, node.pinned ? ":unpin" : ":pin")), node.pinned ? t("It may be evicted again.") : t("Pinned: it stays cached.")).then(onChange);
  if (!rows.length) return html`<div class="card"><${Empty} title=${t("Nothing is cached yet")} icon="cache">${t`Every prompt leaves its full blocks of ${cache.block_size} tokens here.`}<//></div>`;
  return html`<${Card} title=${t("Prefixes")} about=${t`${count(cache.nodes.length)} runs of blocks; what is indented continues the line above it`} flush
      actions=${html`${cache.nodes.length > MOST_UNFOLDED && html`<button class="button small" aria-pressed=${!isFolded} onClick=${() => setWhole(!isWhole)}>${isFolded ? t("Show those without a hit") : t("Fold those without a hit")}</button>`}
        <${Segmented} label=${t("First")} of=${orders()} value=${order} onChange=${setOrder} />`}>
    <${Table} name="prefixes" label=${t("Prefixes")} class="tree" ordered rows=${rows.map((row) => row.node)} keyOf=${keyOf}
      columns=${columnsOf({ places, closed, several, flip, pin, setOpen })} />
    ${open?.what === "text" && html`<${Text} node=${open.node} onClose=${() => setOpen(null)} />`}
    ${open?.what === "drop" && html`<${ConfirmByName} title=${t("Drop this prefix?")} name=${open.node.hash.slice(0, SHORT)} action=${t("Drop")} onClose=${() => setOpen(null)}
      onConfirm=${async () => { await post(about(open.node, ":drop")); toast(t("Dropped, with everything that continues it.")); onChange(); }}>
      ${t("It and all that continues it leave the cache; the next prompt that begins so is computed anew. Running requests keep what they use.")}<//>`}
  <//>`;
}

/** places: of each node, how deep it stands and how many continue it. The tree has an order of its own. */
function columnsOf({ places, closed, several, flip, pin, setOpen }) {
  const number = (key, label, words) => ({ key, label, number: true, cell: (node) => words(node[key]) });
  return [
    { key: "replica", label: t("Engine"), unseen: true },
    { key: "hash", label: t("Prefix"), class: "nowrap", cell: (node) => html`<${Prefix} node=${node} place=${places.get(node)} isClosed=${closed.has(keyOf(node))} several=${several} flip=${flip} />` },
    { key: "parent", label: t("Continues"), class: "mono", unseen: true, cell: (node) => node.parent?.slice(0, SHORT) },
    { key: "versions", label: t("Adapter"), value: (node) => node.versions.join(" "), cell: (node) => html`<${Names} of=${node.versions} digest=${node.digest} />` },
    { key: "digest", label: t("Digest"), class: "mono", unseen: true, cell: (node) => node.digest?.slice(0, SHORT) },
    { key: "owner", label: t("Owner"), cell: (node) => node.owner ?? html`<span class="muted">${t("admin")}</span>` },
    number("tokens", t("Tokens"), count), number("bytes", t("Size"), bytes), number("hits", t("Hits"), count),
    { key: "saved", label: t("Tokens saved"), number: true, value: (node) => places.get(node).saved, cell: (node) => count(places.get(node).saved) },
    { key: "cached_at", label: t("Created"), time: true, unseen: true }, { key: "used_at", label: t("Last used"), time: true },
    { key: "pinned", label: t("Pinned"), unseen: true, cell: (node) => (node.pinned ? t("yes") : t("no")) },
    { ...number("referenced", t("Used by"), count), unseen: true },
    { key: "actions", label: t("Actions"), control: true, class: "nowrap", cell: (node) => html`<button class="button small quiet" onClick=${() => setOpen({ node, what: "text" })}>${t("Text")}</button>
      <button class="button small quiet" onClick=${() => pin(node)}>${node.pinned ? t("Unpin") : t("Pin")}</button>
      <button class="button small quiet" onClick=${() => setOpen({ node, what: "drop" })}>${t("Drop…")}</button>` },
  ];
}

function Prefix({ node, place: { depth, below }, isClosed, several, flip }) {
  return html`<span style=${{ paddingLeft: `${Math.min(depth, 8) * 18}px` }}></span>
    ${below ? html`<button class="button quiet fold" aria-expanded=${!isClosed} aria-label=${t`Prefixes that continue ${node.hash.slice(0, SHORT)}`} onClick=${() => flip(keyOf(node))}><${Icon} name=${isClosed ? "right" : "down"} size=${14} /></button>` : html`<span class="fold"></span>`}
    <code>${node.hash.slice(0, SHORT)}</code> ${several && html`<${Badge} kind="info">${t`engine ${node.replica}`}<//>`} ${node.pinned && html`<${Badge} kind="accent">${t("pinned")}<//>`} ${node.referenced > 0 && html`<${Badge} kind="info">${t("in use")}<//>`}`;
}

function Text({ node, onClose }) {
  const text = useResource((signal) => get(about(node, "/text"), { signal }), [keyOf(node)]);
  return html`<${Dialog} wide title=${t`Prefix ${node.hash.slice(0, SHORT)}`} onClose=${onClose}>
    <${Loaded} resource=${text}>${(data) => html`<div class="code wrap"><pre tabindex="0" role="group" aria-label=${t("Text")}>${data.text}</pre></div><p class="muted small">${t`${count(data.token_ids.length)} tokens`}</p>`}<//>
    <footer><button class="button" onClick=${onClose}>${t("Close")}</button></footer><//>`;
}
