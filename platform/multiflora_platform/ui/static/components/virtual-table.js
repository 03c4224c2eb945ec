/** A table of any length that draws only the rows one can see, on a phone as cards; with sorting and the keyboard. */
import { useColumns } from "../lib/columns.js";
import { html, useEffect, useLayoutEffect, useMemo, useRef, useState } from "../lib/html.js";
import { isNarrow } from "../lib/screen.js";
import { useSorting } from "../lib/sorting.js";
import { drawn } from "../lib/tables.js";
import { Foot } from "./columns.js";
import { cellOf, orderOf, SortButton } from "./table.js";

/** Pixels: of a row; of a card's line, of one with buttons, and what is around them. */
const ROW = 44;
const [CARD_LINE, CARD_BUTTONS, CARD_PADDING] = [26, 44, 20];
const BEYOND = 8;

/**
 * @param {object} props
 * columns: as of a Table, and width (of a grid); keyOf(row); onOpen(row) on Enter; onToggle(row) on Space;
 * sort, first: see useSorting; least: the narrowest it gets with its usual columns before it scrolls sideways, in pixels
 */
export function VirtualTable({ name, label, columns, rows: all, keyOf, onOpen, onToggle, sort: param, first, least = 720 }) {
  const chosen = useColumns(name, columns);
  const share = chosen.shown.length / drawn(columns).length;
  const { rows, sort, onSort } = useSorting(columns, all, param, first);
  const height = isNarrow.value ? chosen.shown.reduce((sum, column) => sum + (column.control ? CARD_BUTTONS : CARD_LINE), CARD_PADDING) : ROW;
  const viewport = useRef(null);
  const [range, setRange] = useState([0, 30]);
  const [active, setActive] = useState(-1);
  const look = () => {
    if (!viewport.current) return;
    const { scrollTop, clientHeight } = viewport.current;
    const first = Math.max(0, Math.floor(scrollTop / height) - BEYOND);
    const last = Math.ceil((scrollTop + clientHeight) / height) + BEYOND;
    setRange((old) => (old[0] === first && old[1] === last ? old : [first, last]));
  };
  useLayoutEffect(look, [rows.length, height]);
  useEffect(() => {
    const observer = new ResizeObserver(look);
    observer.observe(viewport.current);
    return () => observer.disconnect();
  }, [height]);
  const move = (to) => {
    const index = Math.max(0, Math.min(rows.length - 1, to));
    setActive(index);
    const { scrollTop, clientHeight } = viewport.current;
    if (index * height < scrollTop) viewport.current.scrollTop = index * height;
    else if ((index + 1) * height > scrollTop + clientHeight - 38) viewport.current.scrollTop = (index + 1) * height - clientHeight + 38;
  };
  const onKeyDown = (event) => {
    if (event.target !== viewport.current) return;
    const step = { ArrowDown: 1, ArrowUp: -1, PageDown: 10, PageUp: -10, Home: -rows.length, End: rows.length }[event.key];
    if (step) move(active + step);
    else if (event.key === "Enter" && rows[active]) onOpen?.(rows[active]);
    else if (event.key === " " && rows[active]) onToggle?.(rows[active]);
    else return;
    event.preventDefault();
  };
  // Scrolling draws the rows that come, and leaves those that stay as they are.
  const drawnRows = useMemo(() => new Map(), [rows, columns, chosen.shown.map((column) => column.key).join(" "), active, height]);
  const rowAt = (index) => drawnRows.get(index) ?? drawnRows.set(index, html`<${Row} key=${keyOf(rows[index])} row=${rows[index]} index=${index} height=${height}
    columns=${chosen.shown} isActive=${index === active} onActive=${setActive} />`).get(index);
  for (const index of drawnRows.keys()) if (index < range[0] || index >= range[1]) drawnRows.delete(index);
  const indices = Array.from({ length: Math.max(0, Math.min(range[1], rows.length) - range[0]) }, (_, i) => range[0] + i);
  return html`<div class="vtable" style=${{ "--columns": chosen.shown.map((column) => column.width ?? "1fr").join(" "), "--least": `${least * share}px`, "--row": `${height}px` }}>
    <div class="viewport" ref=${viewport} tabindex="0" role="table" aria-label=${label} aria-rowcount=${rows.length + 1}
      onScroll=${look} onKeyDown=${onKeyDown}>
      <div role="rowgroup"><div class="vrow vhead" role="row" aria-rowindex="1">
        ${chosen.shown.map((column) => html`<${Head} key=${column.key} column=${column} sort=${sort} onSort=${onSort} />`)}
      </div></div>
      <div class="vbody" role="rowgroup" style=${{ height: `${rows.length * height}px` }}>
        ${indices.map(rowAt)}
      </div>
    </div>
    <${Foot} name=${name} label=${label} columns=${columns} rows=${rows} chosen=${chosen} />
  </div>`;
}

const Row = ({ row, index, height, columns, isActive, onActive }) => html`<div class=${`vrow${isActive ? " active" : ""}`} role="row" aria-rowindex=${index + 2}
  style=${{ top: `${index * height}px` }} onClick=${() => onActive(index)}>
  ${columns.map((column) => html`<div role="cell" class=${`cut${column.number ? " number" : ""}`} key=${column.key} data-label=${column.control ? undefined : column.label}>${cellOf(column, row)}</div>`)}
</div>`;

const Head = ({ column, sort, onSort }) => html`<div role="columnheader" class=${`cut${column.number ? " number" : ""}`} aria-sort=${orderOf(column, sort)}>
  ${column.control ? html`<span class="visually-hidden">${column.label}</span>` : column.picture ? column.label : html`<${SortButton} column=${column} sort=${sort} onSort=${onSort} />`}
</div>`;
