/** One of two texts, with the words that the other one lacks marked. */
import { html } from "../lib/html.js";
import { wordDiff } from "../lib/words.js";

/** side: "left" or "right", which of the two is shown. */
export function Differing({ left, right, side }) {
  const runs = wordDiff(left ?? "", right ?? "").filter(([kind]) => kind === "same" || kind === side);
  return html`<span class="words">${runs.map(([kind, text], i) => (kind === "same" ? text : html`<mark key=${i} class=${side}>${text}</mark>`))}</span>`;
}
