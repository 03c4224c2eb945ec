/** Below a table: the menu of its columns, which says which of them are drawn, and what it shows as a file. */
import { choosable } from "../lib/columns.js";
import { html, useId } from "../lib/html.js";
import { t } from "../lib/language.js";
import { Export } from "./export.js";

/**
 * name: of the file; label: of the table; chosen: of useColumns. The file has the columns that were chosen; where none was, all
 */
export const Foot = ({ name, label, columns, rows, chosen }) => html`<${Export} name=${name} label=${label} columns=${chosen.isChosen ? chosen.shown : columns} rows=${rows}>
  <${Menu} label=${label} columns=${columns} chosen=${chosen} /><//>`;

function Menu({ label, columns, chosen: { shown, isChosen, toggle, reset } }) {
  const id = useId();
  const isLast = choosable(shown).length < 2;
  return html`<button type="button" class="button quiet small" popovertarget=${id}>${t("Columns")}</button>
    <div class="menu" id=${id} popover="auto" role="group" aria-label=${t`Columns of ${label}`}>
      ${choosable(columns).map((column) => {
        const isShown = shown.includes(column);
        return html`<label class="check" key=${column.key}><input type="checkbox" checked=${isShown} disabled=${isShown && isLast} onChange=${() => toggle(column.key)} /><span>${column.label}</span></label>`;
      })}
      <button type="button" class="button small" disabled=${!isChosen} onClick=${reset}>${t("Usual columns")}</button>
    </div>`;
}
