/** Tables whose rows are all drawn: sorted by their heads, exported below, cards on a phone. */
import { html } from "../lib/html.js";
import { useSorting } from "../lib/sorting.js";
import { drawn, valueOf } from "../lib/tables.js";
import { Scroll, Time } from "./bits.js";
import { Export } from "./export.js";

/**
 * @param {object} props
 * name: of the exported file; columns: [{key, label, value(row)? (text or number; row[key] without it), cell(row)? (how it is
 * shown), number, time, control (buttons: neither sorted by nor exported), picture (of other columns: likewise),
 * unseen (only exported), class}]; sort: of the address, see useSorting
 */
export function Table({ name, label = name, columns, rows, keyOf, sort: param, first }) {
  const { rows: shown, sort, onSort } = useSorting(columns, rows, param, first);
  return html`<${Scroll} label=${label}><table class="cards" role="table"><thead role="rowgroup"><tr role="row">${drawn(columns).map((column) => html`<${Head} key=${column.key} column=${column} sort=${sort} onSort=${onSort} />`)}</tr></thead>
    <tbody role="rowgroup">${shown.map((row, i) => html`<tr role="row" key=${keyOf ? keyOf(row) : i}>${drawn(columns).map((column) => html`<td role="cell" key=${column.key} data-label=${column.control ? undefined : column.label}
      class=${`${column.number || column.control ? "number " : ""}${column.class ?? ""}`}>${cellOf(column, row)}</td>`)}</tr>`)}</tbody></table><//>
    <${Export} name=${name} columns=${columns} rows=${shown} />`;
}

export function cellOf(column, row) {
  if (column.cell) return column.cell(row);
  return column.time ? html`<${Time} at=${valueOf(column, row)} />` : valueOf(column, row);
}

function Head({ column, sort, onSort }) {
  if (column.control) return html`<th role="columnheader"><span class="visually-hidden">${column.label}</span></th>`;
  return html`<th role="columnheader" class=${column.number ? "number" : ""} aria-sort=${orderOf(column, sort)}>${column.picture ? column.label : html`<${SortButton} column=${column} sort=${sort} onSort=${onSort} />`}</th>`;
}

export const orderOf = (column, sort) => (sort?.key === column.key ? (sort.down ? "descending" : "ascending") : undefined);

export function SortButton({ column, sort, onSort }) {
  const mark = { ascending: " ↑", descending: " ↓" }[orderOf(column, sort)] ?? "";
  return html`<button type="button" class="sort" onClick=${() => onSort(column.key)}>${column.label}<span aria-hidden="true">${mark}</span></button>`;
}
