/** The cached prefixes as cells of an icicle: each as wide as the memory of it and of all that continues it; what saved most first. */

import { childrenOf, keyOf, savingsOf, sumsOf } from "./runs.js";

/** Narrower than this share of the picture, cells beside each other are drawn as one. */
const NARROWEST = 0.006;

/**
 * @param {Array} nodes of GET /api/v1/cache
 * @param {string|null} zoomed the key of the node that takes the whole width; null: all of them
 * @returns {Array<{key, node?, group?, folded?, depth: number, from: number, width: number}>} from, width: shares of the
 * picture. A node with its run of blocks, a group of one adapter and owner, or `folded` of both that were too narrow
 */
export function cellsOf(nodes, zoomed) {
  const children = childrenOf(nodes);
  const memory = sumsOf(children, (node) => node.bytes);
  const own = savingsOf(nodes, children);
  const savings = sumsOf(children, (node) => own.get(keyOf(node)));
  const itemOf = (node) => ({ key: keyOf(node), node, bytes: memory.get(keyOf(node)), saved: savings.get(keyOf(node)) });
  const below = ({ node, group }) => (node ? (children.get(keyOf(node)) ?? []) : group.roots).map(itemOf);
  const start = nodes.find((node) => keyOf(node) === zoomed);
  const top = start ? [itemOf(start)] : groupsOf((children.get(null) ?? []).map(itemOf));
  const all = top.reduce((sum, one) => sum + one.bytes, 0) || 1;
  const cells = [];
  const rows = [{ items: top, from: 0, depth: 0 }];
  while (rows.length) {
    const { items, from, depth } = rows.pop();
    let at = from;
    let folded = 0;
    for (const item of items.toSorted((a, b) => b.saved - a.saved || b.bytes - a.bytes)) {
      const width = item.bytes / all;
      if (width < NARROWEST) {
        folded += 1;
        continue;
      }
      cells.push({ ...item, depth, from: at, width });
      rows.push({ items: below(item), from: at, depth: depth + 1 });
      at += width;
    }
    if (folded) cells.push({ key: `folded ${depth} ${from}`, folded, depth, from: at, width: from + items.reduce((sum, item) => sum + item.bytes / all, 0) - at });
  }
  return cells;
}

function groupsOf(roots) {
  const groups = Map.groupBy(roots, ({ node }) => `${node.digest} ${node.owner}`);
  const total = (members, field) => members.reduce((sum, one) => sum + one[field], 0);
  return [...groups].map(([key, members]) => ({
    key, group: { roots: members.map(({ node }) => node), first: members[0].node }, bytes: total(members, "bytes"), saved: total(members, "saved"),
  }));
}
