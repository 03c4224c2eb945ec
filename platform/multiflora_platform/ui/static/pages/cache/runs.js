/** The runs of blocks of GET /api/v1/cache, as the tree that they are. Several engines may have the same run: each its own. */

/** Tells a run from all others. */
export const keyOf = (node) => `${node.replica}:${node.hash}`;
const parentOf = (node) => `${node.replica}:${node.parent}`;

/** Runs by the key of the one that they continue; under null those whose parent is not listed. */
export function childrenOf(nodes) {
  const known = new Set(nodes.map((node) => keyOf(node)));
  return Map.groupBy(nodes, (node) => (known.has(parentOf(node)) ? parentOf(node) : null));
}

/** Of each node, by its key: the sum of `of` over it and all that continues it. Prefixes may be thousands of runs deep: no recursion. */
export function sumsOf(children, of) {
  const below = (node) => children.get(keyOf(node)) ?? [];
  const order = [...(children.get(null) ?? [])];
  for (let i = 0; i < order.length; i += 1) order.push(...below(order[i]));
  const sums = new Map();
  for (const node of order.reverse()) sums.set(keyOf(node), below(node).reduce((sum, child) => sum + sums.get(keyOf(child)), of(node)));
  return sums;
}

/** Of each node, by its key: its tokens that prompts found. A prompt that started behind a later run found those before it, too. */
export function savingsOf(nodes, children) {
  const hits = sumsOf(children, (node) => node.hits);
  return new Map(nodes.map((node) => [keyOf(node), node.tokens * hits.get(keyOf(node))]));
}
