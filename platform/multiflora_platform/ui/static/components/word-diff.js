/** One of two texts, with the words that the other one lacks marked. */
import { html } from "../lib/html.js";

/** runs: of `wordDiff`. side: "left" or "right", which of the two is shown. */
export function Differing({ runs, side }) {
  const shown = runs.filter(([kind]) => kind === "same" || kind === side);
  return html`<span class="words">${shown.map(([kind, text], i) => (kind === "same" ? text : html`<mark key=${i} class=${side}>${text}</mark>`))}</span>`;
}
