/** Where an adapter's folder or archive is dropped, or chosen with the keyboard. */
import { html, useRef, useState } from "../../lib/html.js";
import { t } from "../../lib/language.js";
import { Icon } from "../../components/icon.js";
import { chosen, dropped } from "./files.js";

export function DropZone({ onFiles }) {
  const [over, setOver] = useState(false);
  const files = useRef(null);
  const folder = useRef(null);
  const onDrop = async (event) => {
    event.preventDefault();
    setOver(false);
    onFiles(chosen(await dropped(event.dataTransfer)));
  };
  const onChange = (event) => onFiles(chosen([...event.target.files]));
  return html`<div class=${`drop${over ? " over" : ""}`} onDragOver=${(event) => { event.preventDefault(); setOver(true); }} onDragLeave=${() => setOver(false)} onDrop=${onDrop}>
    <${Icon} name="register" size=${26} />
    <p>${t("Drop the adapter's folder here, or a .zip or .tar.gz of it")}</p>
    <div class="row">
      <button type="button" class="button small" onClick=${() => folder.current.click()}>${t("Choose a folder")}</button>
      <button type="button" class="button small" onClick=${() => files.current.click()}>${t("Choose files")}</button>
    </div>
    <input class="visually-hidden" type="file" multiple tabindex="-1" aria-label=${t("Adapter files")} ref=${files} onChange=${onChange} />
    <input class="visually-hidden" type="file" webkitdirectory tabindex="-1" aria-label=${t("Adapter folder")} ref=${folder} onChange=${onChange} />
  </div>`;
}
