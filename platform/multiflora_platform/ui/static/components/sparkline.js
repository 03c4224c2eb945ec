/** The course of a number, as small as a word. */
import { html } from "../lib/html.js";
import { highest } from "../lib/measured.js";

const WIDTH = 100;
const HEIGHT = 20;
const MOST_POINTS = 60;

/** @param {{values: Array<number|null>}} props nulls are gaps */
export function Sparkline({ values }) {
  const size = Math.max(1, Math.ceil(values.length / MOST_POINTS));
  const steps = Array.from({ length: Math.ceil(values.length / size) }, (_, i) => highest(values.slice(i * size, (i + 1) * size)));
  const most = Math.max(...steps, 0) || 1;
  const at = (value, i) => `${((i * WIDTH) / Math.max(steps.length - 1, 1)).toFixed(1)} ${(HEIGHT - 1 - ((HEIGHT - 2) * value) / most).toFixed(1)}`;
  const path = steps.map((value, i) => (value === null ? "" : `${(steps[i - 1] ?? null) === null ? "M" : "L"}${at(value, i)}`)).join("");
  return html`<svg class="sparkline" viewBox=${`0 0 ${WIDTH} ${HEIGHT}`} preserveAspectRatio="none" aria-hidden="true"><path d=${path} /></svg>`;
}
