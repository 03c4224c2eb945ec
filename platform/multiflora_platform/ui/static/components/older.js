/** Below a list of useNewest: how many are loaded, and those before them. */
import { html } from "../lib/html.js";
import { count } from "../lib/format.js";
import { t } from "../lib/language.js";

/** of: the list's data */
export function Older({ of: { items, hasOlder, loadOlder } }) {
  if (!hasOlder) return null;
  return html`<div class="row body-row">${loadOlder && html`<button class="button small" onClick=${loadOlder}>${t("Load older ones")}</button>`}
    <span class="muted small">${t`The newest ${count(items.length)} are loaded.`}</span></div>`;
}
