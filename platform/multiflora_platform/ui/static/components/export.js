/** What a table shows, as a file: what is filtered and how it is sorted there, it is here. */
import { html } from "../lib/html.js";
import { count } from "../lib/format.js";
import { plural, t } from "../lib/language.js";
import { csv, json } from "../lib/tables.js";

/** @param {{name: string, label: string, columns: Array, rows: Array, children: any}} props name: of the file, without the ending, in every
 * language; label: of the table; children: what else stands at a table's foot */
export const Export = ({ name, label, columns, rows, children }) => html`<div class="export" role="group" aria-label=${t`Export ${label}`}>
  <span>${plural(rows.length, "{0} row", "{0} rows", count(rows.length))}</span>
  ${children}
  <button type="button" class="button quiet small" onClick=${() => save(`${name}.csv`, "text/csv", csv(columns, rows))}>CSV</button>
  <button type="button" class="button quiet small" onClick=${() => save(`${name}.json`, "application/json", json(rows))}>JSON</button>
</div>`;

function save(name, type, text) {
  const address = URL.createObjectURL(new Blob([text], { type: `${type};charset=utf-8` }));
  const link = document.createElement("a");
  link.href = address;
  link.download = `multiflora-${name}`;
  link.click();
  // The download has its own hold of the bytes from the click on.
  setTimeout(() => URL.revokeObjectURL(address), 0);
}
