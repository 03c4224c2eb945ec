/** A secret that the server tells only now. */
import { html } from "../lib/html.js";
import { t } from "../lib/language.js";
import { Code } from "./code.js";
import { Dialog } from "./dialog.js";
import { Notice } from "./states.js";

/** label: of the secret; children: what to do with it */
export const ShownOnce = ({ title, label, text, children, onClose }) => html`<${Dialog} title=${title} onClose=${onClose}>
  <${Notice} kind="warn" title=${t("Shown only now")}>${children}<//>
  <${Code} wrap label=${label} text=${text} />
  <footer><button class="button primary" onClick=${onClose}>${t("Done")}</button></footer><//>`;
