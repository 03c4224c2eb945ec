/** The runs of blocks of GET /api/v1/cache, as the tree that they are. Several engines may have the same run: each its own. */

/** Tells a run from all others. */
export const keyOf = (node) => `${node.replica}:${node.hash}`;
const parentOf = (node) => `${node.replica}:${node.parent}`;

/** Runs by the key of the one that they continue; under null those whose parent is not listed. */
export function childrenOf(nodes) {
  const known = new Set(nodes.map((node) => keyOf(node)));
  return Map.groupBy(nodes, (node) => (known.has(parentOf(node)) ? parentOf(node) : null));
}
