/** The cached prefixes as cells of an icicle: each as wide as the memory of it and of all that continues it. */

import { childrenOf, keyOf } from "./runs.js";

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
  const memory = memoryOf(children);
  const itemOf = (node) => ({ key: keyOf(node), node, bytes: memory.get(keyOf(node)) });
  const below = ({ node, group }) => (node ? (children.get(keyOf(node)) ?? []) : group.roots).map(itemOf);
  const start = nodes.find((node) => keyOf(node) === zoomed);
  const top = start ? [itemOf(start)] : groupsOf(children.get(null) ?? [], memory);
  const all = top.reduce((sum, one) => sum + one.bytes, 0) || 1;
  const cells = [];
  const rows = [{ items: top, from: 0, depth: 0 }];
  while (rows.length) {
    const { items, from, depth } = rows.pop();
    let at = from;
    let folded = 0;
    for (const item of items.toSorted((a, b) => b.bytes - a.bytes)) {
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

/** Of each node, the bytes of it and of all that continues it. Prefixes may be thousands of runs deep: no recursion. */
function memoryOf(children) {
  const below = (node) => children.get(keyOf(node)) ?? [];
  const order = [...(children.get(null) ?? [])];
  for (let i = 0; i < order.length; i += 1) order.push(...below(order[i]));
  const memory = new Map();
  for (const node of order.reverse()) memory.set(keyOf(node), below(node).reduce((sum, child) => sum + memory.get(keyOf(child)), node.bytes));
  return memory;
}

function groupsOf(roots, memory) {
  const groups = Map.groupBy(roots, (node) => `${node.digest} ${node.owner}`);
  return [...groups].map(([key, members]) => ({
    key, group: { roots: members, first: members[0] }, bytes: members.reduce((sum, node) => sum + memory.get(keyOf(node)), 0),
  }));
}
