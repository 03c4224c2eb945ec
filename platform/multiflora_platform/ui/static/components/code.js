/** Text to copy. */
import { html, useState } from "../lib/html.js";
import { t } from "../lib/language.js";
import { Segmented } from "./bits.js";
import { Icon } from "./icon.js";

/** text: or a function, of what there is when it is asked for */
export function Copy({ text, label = t("Copy"), size = "small" }) {
  const [done, setDone] = useState(false);
  const copy = async () => {
    const copied = typeof text === "function" ? text() : text;
    try {
      await navigator.clipboard.writeText(copied);
    } catch {
      copyBySelection(copied);
    }
    setDone(true);
    setTimeout(() => setDone(false), 1500);
  };
  return html`<button type="button" class=${`button ${size}`} onClick=${copy}><${Icon} name=${done ? "check" : "copy"} size=${14} />
    <span aria-live="polite">${done ? t("Copied") : label}</span></button>`;
}

/** Where the clipboard's own interface is not there: pages without TLS on another machine. */
function copyBySelection(text) {
  const area = document.createElement("textarea");
  area.value = text;
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
}

export const Code = ({ text, label, wrap }) => html`<div class=${`code${wrap ? " wrap" : ""}`}>
  <pre tabindex="0" role="group" aria-label=${label}>${text}</pre><${Copy} text=${text} /></div>`;

/** @param {{of: Array<[string, string]>}} props [language, code] */
export function Snippets({ of }) {
  const [shown, setShown] = useState(of[0][0]);
  const text = of.find(([name]) => name === shown)[1];
  return html`<div class="stack tight">
    <${Segmented} label=${t("Language")} of=${of.map(([name]) => [name, name])} value=${shown} onChange=${setShown} />
    <${Code} text=${text} label=${t`${shown} code`} />
  </div>`;
}
