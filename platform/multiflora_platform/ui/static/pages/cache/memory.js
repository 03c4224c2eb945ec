/** The KV cache's memory as one bar: what requests use, what is pinned, whose prefixes it keeps, what is free. */
import { html } from "../../lib/html.js";
import { bytes } from "../../lib/format.js";
import { sum } from "../../lib/measured.js";
import { t } from "../../lib/language.js";
import { colourOf } from "../../lib/theme.js";
import { Card, Share } from "../../components/bits.js";

/** Owners that have a part of their own. */
const MOST_OWNERS = 6;

export function Memory({ cache }) {
  const parts = partsOf(cache);
  return html`<${Card} title=${t("Memory")} about=${t`${bytes(cache.blocks * cache.bytes_per_block)} of KV cache on the device`}><div class="stack tight">
    <${Share} label=${t("Memory")} parts=${parts} />
    <ul class="legend">${parts.map((part) => html`<li key=${part.label}><i style=${{ background: part.colour }}></i>${part.label} <b>${bytes(part.value)}</b></li>`)}</ul>
    ${cache.tiers.map((tier) => html`<p class="small muted" key=${tier.name}>${t`${bytes(tier.bytes)} of ${bytes(tier.capacity_bytes)} copied to ${tier.name === "host" ? t("host memory") : t("disk")}`}</p>`)}
  </div><//>`;
}

/**
 * @param {object} cache of GET /api/v1/cache, whose free blocks are also those that are cached and may be evicted
 * @returns {Array<{label, value, colour}>} parts with something in them, of bytes; together the whole. Runs that are too short to be
 *   listed are the rest of what is cached
 */
export function partsOf({ blocks, free, cached, bytes_per_block: each, nodes }) {
  const bytesOf = (of) => sum(of.map((node) => node.blocks)) * each;
  const { pinned = [], used = [], kept = [] } = Object.groupBy(nodes, (node) => (node.pinned ? "pinned" : node.referenced ? "used" : "kept"));
  const owners = [...Map.groupBy(kept, (node) => node.owner)].map(([owner, of]) => ({ owner, value: bytesOf(of) })).sort((a, b) => b.value - a.value).slice(0, MOST_OWNERS);
  const parts = [
    { label: t("requests"), value: Math.max(bytesOf(used), (blocks - free) * each - bytesOf(pinned)), colour: "var(--series-2)" },
    { label: t("pinned"), value: bytesOf(pinned), colour: "var(--accent)" },
    ...owners.map(({ owner, value }) => ({ label: t`kept for ${owner ?? t("admin")}`, value, colour: colourOf(`owner ${owner}`) })),
    { label: t("kept, too little to list"), value: Math.max(0, cached * each - bytesOf([...pinned, ...used]) - sum(owners.map((one) => one.value))), colour: "var(--series-8)" },
  ];
  return [...parts, { label: t("free"), value: Math.max(0, blocks * each - sum(parts.map((part) => part.value))), colour: "var(--hover)" }].filter((part) => part.value > 0);
}
