/** Tables whose rows are all drawn: sorted by their heads, exported below, cards on a phone. */
import { html } from "../lib/html.js";
import { useColumns } from "../lib/columns.js";
import { useSorting } from "../lib/sorting.js";
import { valueOf } from "../lib/tables.js";
import { Scroll, Time } from "./bits.js";
import { Foot } from "./columns.js";

/**
 * @param {object} props
 * name: of the exported file; kind: see useColumns, where the name is not the same everywhere; columns: [{key, label,
 * value(row)? (text or number; row[key] without it), cell(row)? (how it is shown), number, time, control (buttons: neither sorted
 * by nor exported), picture (of other columns: likewise), unseen (until it is chosen), class}]; sort, first: see useSorting;
 * ordered: the rows stay as they come
 */
export function Table({ name, kind = name, label, columns, rows: all, keyOf, sort: param, first, ordered, class: more = "" }) {
  const chosen = useColumns(kind, columns);
  const sorting = useSorting(columns, all, param, first);
  const { rows, sort, onSort } = ordered ? { rows: all } : sorting;
  return html`<${Scroll} label=${label}><table class=${`cards ${more}`} role="table"><thead role="rowgroup"><tr role="row">${chosen.shown.map((column) => html`<${Head} key=${column.key} column=${column} sort=${sort} onSort=${onSort} />`)}</tr></thead>
    <tbody role="rowgroup">${rows.map((row, i) => html`<tr role="row" key=${keyOf ? keyOf(row) : i}>${chosen.shown.map((column) => html`<td role="cell" key=${column.key} data-label=${column.control ? undefined : column.label}
      class=${`${column.number || column.control ? "number " : ""}${column.class ?? ""}`}>${cellOf(column, row)}</td>`)}</tr>`)}</tbody></table><//>
    <${Foot} name=${name} label=${label} columns=${columns} rows=${rows} chosen=${chosen} />`;
}

export function cellOf(column, row) {
  if (column.cell) return column.cell(row);
  return column.time ? html`<${Time} at=${valueOf(column, row)} />` : valueOf(column, row);
}

function Head({ column, sort, onSort }) {
  if (column.control) return html`<th role="columnheader"><span class="visually-hidden">${column.label}</span></th>`;
  return html`<th role="columnheader" class=${column.number ? "number" : ""} aria-sort=${orderOf(column, sort)}>${column.picture || !onSort ? column.label : html`<${SortButton} column=${column} sort=${sort} onSort=${onSort} />`}</th>`;
}

export const orderOf = (column, sort) => (sort?.key === column.key ? (sort.down ? "descending" : "ascending") : undefined);

export function SortButton({ column, sort, onSort }) {
  const mark = { ascending: " ↑", descending: " ↓" }[orderOf(column, sort)] ?? "";
  return html`<button type="button" class="sort" onClick=${() => onSort(column.key)}>${column.label}<span aria-hidden="true">${mark}</span></button>`;
}
