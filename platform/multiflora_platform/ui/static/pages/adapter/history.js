/** Where an alias pointed before. */
import { html, useState } from "../../lib/html.js";
import { get } from "../../lib/api.js";
import { target } from "../../lib/format.js";
import { t } from "../../lib/language.js";
import { useResource } from "../../lib/resource.js";
import { Time } from "../../components/bits.js";
import { Loaded } from "../../components/states.js";

export function History({ path, stamp }) {
  const [open, setOpen] = useState(false);
  return html`<details onToggle=${(event) => setOpen(event.target.open)}><summary class="small muted">${t("History")}</summary>
    ${open && html`<${Moves} path=${path} stamp=${stamp} />`}</details>`;
}

function Moves({ path, stamp }) {
  const moves = useResource((signal) => get(`${path}/history?limit=20`, { signal }), [path], { stamp });
  return html`<${Loaded} resource=${moves} lines=${2}>${(data) => html`<ul class="timeline">
    ${data.items.map((move) => html`<li key=${move.id}><${Time} at=${move.at} /> <span>${move.target ? target(move.target) : t("deleted")}</span> <span class="muted">${move.actor}</span></li>`)}
  </ul>`}<//>`;
}
