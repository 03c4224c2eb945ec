/** A request's time as one bar: queue, loading its adapter, prefill, decode. */
import { html } from "../lib/html.js";
import { seconds } from "../lib/format.js";
import { t } from "../lib/language.js";
import { named } from "../lib/values.js";

const PHASES = [["queue", "--series-8"], ["load", "--series-4"], ["prefill", "--series-2"], ["decode", "--series-1"]];
/** By a stage's name: of the palette. */
export const COLOURS = Object.fromEntries(PHASES);

export function Phases({ of, longest }) {
  const parts = PHASES.map(([name, colour]) => ({ name, colour, value: of[`${name}_seconds`] ?? 0 }));
  const total = parts.reduce((sum, part) => sum + part.value, 0);
  const text = parts.filter((part) => part.value > 0).map((part) => `${named(part.name)} ${seconds(part.value)}`).join(", ") || t("nothing measured");
  // Shares, not seconds: flex factors that sum to less than 1 leave the rest of the bar empty.
  const share = (part) => (100 * part.value) / (total || 1);
  return html`<span class="phases" role="img" aria-label=${text} title=${text}><span style=${{ width: `${Math.min(100, Math.max(1, (100 * total) / longest))}%` }}>
    ${parts.map((part) => html`<i key=${part.name} style=${{ flex: `${share(part)} 0 0`, background: `var(${part.colour})` }}></i>`)}</span></span>`;
}

export const PhaseLegend = () => html`<ul class="legend">${PHASES.map(([name, colour]) => html`<li key=${name}><i style=${{ background: `var(${colour})` }}></i>${named(name)}</li>`)}</ul>`;
