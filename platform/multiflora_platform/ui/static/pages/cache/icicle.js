/** The cache's memory as a picture: who holds how much of it, and which beginnings are shared below which. */
import { html, useMemo, useState } from "../../lib/html.js";
import { get } from "../../lib/api.js";
import { ofBase } from "../../lib/bases.js";
import { ago, bytes, count } from "../../lib/format.js";
import { t } from "../../lib/language.js";
import { useResource } from "../../lib/resource.js";
import { colourOf } from "../../lib/theme.js";
import { Card, Segmented } from "../../components/bits.js";
import { cellsOf } from "./cells.js";

const ROW = 26;
const MOST_ROWS = 12;
const shades = () => [["hits", t("Hits")], ["idle_seconds", t("Last use")], ["age_seconds", t("Age")]];
/** Shares of an adapter's colour in a cell's: text stands on it. */
const [PALEST, DEEPEST] = [10, 38];
/** Cells so wide, and no more than so many, say their first words. */
const [SPEAKING_WIDTH, SPEAKING] = [0.08, 12];
/** Seconds: so long unused, or so old, is as pale as never hit. */
const LONG = 3600;
const FIRST_TOKENS = 24;
const words = new Map();

export function Icicle({ nodes }) {
  const [zoomed, setZoomed] = useState(null);
  const [shade, setShade] = useState("hits");
  const cells = useMemo(() => cellsOf(nodes, zoomed).filter((cell) => cell.depth < MOST_ROWS), [nodes, zoomed]);
  const speaking = cells.filter((cell) => cell.node && cell.width > SPEAKING_WIDTH).slice(0, SPEAKING).map((cell) => cell.node.hash);
  useResource(() => Promise.all(speaking.map(learn)), [speaking.join()]);
  if (!nodes.length) return null;
  const mostHits = Math.max(...nodes.map((node) => node.hits), 1);
  const strength = (node) => (shade === "hits" ? Math.log1p(node.hits) / Math.log1p(mostHits) : Math.max(0, 1 - Math.log1p(node[shade]) / Math.log1p(LONG)));
  const rows = Math.max(...cells.map((cell) => cell.depth)) + 1;
  return html`<${Card} title=${t("Memory by prefix")} about=${t("As wide as its memory, what saved most first; what is below continues what is above. Choose a part to see it alone")}
      actions=${html`${zoomed && html`<button class="button small" onClick=${() => setZoomed(null)}>${t("Show all")}</button>`}
        <${Segmented} label=${t("Colour by")} of=${shades()} value=${shade} onChange=${setShade} />`}>
    <div class="icicle" role="group" aria-label=${t("Memory by prefix")} style=${{ height: `${rows * ROW}px` }}>
      ${cells.map((cell) => html`<${Cell} key=${cell.key} cell=${cell} strength=${strength} onZoom=${setZoomed} />`)}</div><//>`;
}

function Cell({ cell, strength, onZoom }) {
  const place = { left: `${100 * cell.from}%`, width: `${100 * cell.width}%`, top: `${cell.depth * ROW}px` };
  if (cell.folded) return html`<span class="more" style=${place} title=${t`${count(cell.folded)} smaller ones`}></span>`;
  const of = cell.node ?? cell.group.first;
  const share = cell.node ? PALEST + (DEEPEST - PALEST) * strength(cell.node) : DEEPEST;
  const background = `color-mix(in oklab, ${colourOf(of.adapters[0] ?? "base")} ${Math.round(share)}%, var(--surface))`;
  const name = `${of.versions.join(", ") || (of.digest ? of.digest.slice(0, 12) : t("base model"))} · ${of.owner ?? t("admin")}`;
  if (!cell.node) return html`<b class="cut" style=${{ ...place, background }} title=${t`${name}: ${bytes(cell.bytes)}, ${count(cell.saved)} tokens saved`}>${name}</b>`;
  const facts = t`${count(of.tokens)} tokens, ${bytes(cell.bytes)} with what continues it, ${count(of.hits)} hits, ${count(cell.saved)} tokens saved, last used ${ago(of.used_at)}`;
  return html`<button class="cut" style=${{ ...place, background }} title=${`${name}: ${facts}`} onClick=${() => onZoom(cell.key)}>${words.get(of.hash) ?? count(of.tokens)}</button>`;
}

/** The first words of a run, once. */
async function learn(hash) {
  if (words.has(hash)) return;
  const { text } = await get(ofBase(`/api/v1/cache/${hash}/text?limit=${FIRST_TOKENS}`));
  words.set(hash, text.trim());
}
