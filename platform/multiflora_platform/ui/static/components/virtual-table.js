/** A table of any length that draws only the rows one can see; with sorting and the keyboard. */
import { useColumns } from "../lib/columns.js";
import { html, useEffect, useLayoutEffect, useRef, useState } from "../lib/html.js";
import { useSorting } from "../lib/sorting.js";
import { drawn } from "../lib/tables.js";
import { Foot } from "./columns.js";
import { cellOf, orderOf, SortButton } from "./table.js";

const ROW = 44;
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
  const viewport = useRef(null);
  const [range, setRange] = useState([0, 30]);
  const [active, setActive] = useState(-1);
  const look = () => {
    if (!viewport.current) return;
    const { scrollTop, clientHeight } = viewport.current;
    const first = Math.max(0, Math.floor(scrollTop / ROW) - BEYOND);
    const last = Math.ceil((scrollTop + clientHeight) / ROW) + BEYOND;
    setRange((old) => (old[0] === first && old[1] === last ? old : [first, last]));
  };
  useLayoutEffect(look, [rows.length]);
  useEffect(() => {
    const observer = new ResizeObserver(look);
    observer.observe(viewport.current);
    return () => observer.disconnect();
  }, []);
  const move = (to) => {
    const index = Math.max(0, Math.min(rows.length - 1, to));
    setActive(index);
    const { scrollTop, clientHeight } = viewport.current;
    if (index * ROW < scrollTop) viewport.current.scrollTop = index * ROW;
    else if ((index + 1) * ROW > scrollTop + clientHeight - 38) viewport.current.scrollTop = (index + 1) * ROW - clientHeight + 38;
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
  const shown = rows.slice(range[0], range[1]);
  return html`<div class="vtable" style=${{ "--columns": chosen.shown.map((column) => column.width ?? "1fr").join(" "), "--least": `${least * share}px` }}>
    <div class="viewport" ref=${viewport} tabindex="0" role="table" aria-label=${label} aria-rowcount=${rows.length + 1}
      onScroll=${look} onKeyDown=${onKeyDown}>
      <div role="rowgroup"><div class="vrow vhead" role="row" aria-rowindex="1">
        ${chosen.shown.map((column) => html`<${Head} key=${column.key} column=${column} sort=${sort} onSort=${onSort} />`)}
      </div></div>
      <div class="vbody" role="rowgroup" style=${{ height: `${rows.length * ROW}px` }}>
        ${shown.map((row, i) => html`<div class=${`vrow${range[0] + i === active ? " active" : ""}`} role="row" key=${keyOf(row)}
          aria-rowindex=${range[0] + i + 2} style=${{ top: `${(range[0] + i) * ROW}px` }} onClick=${() => setActive(range[0] + i)}>
          ${chosen.shown.map((column) => html`<div role="cell" class=${`cut${column.number ? " number" : ""}`} key=${column.key}>${cellOf(column, row)}</div>`)}
        </div>`)}
      </div>
    </div>
    <${Foot} name=${name} label=${label} columns=${columns} rows=${rows} chosen=${chosen} />
  </div>`;
}

const Head = ({ column, sort, onSort }) => html`<div role="columnheader" class=${`cut${column.number ? " number" : ""}`} aria-sort=${orderOf(column, sort)}>
  ${column.control ? html`<span class="visually-hidden">${column.label}</span>` : column.picture ? column.label : html`<${SortButton} column=${column} sort=${sort} onSort=${onSort} />`}
</div>`;
