/** A request's stages on one axis of time: when each began, and how long it took. */
import { html } from "../lib/html.js";
import { seconds } from "../lib/format.js";
import { COLOURS } from "./phases.js";

/** @param {{timeline: Array<{stage: string, start: number, end: number}>}} props Unix seconds, in order */
export function Waterfall({ timeline }) {
  const start = timeline[0].start;
  // A total of nothing would leave no scale; the bars have a least width of their own.
  const total = timeline.at(-1).end - start || 1;
  const part = (span) => `${(100 * Math.max(0, span)) / total}%`;
  return html`<div class="lanes waterfall" role="list" aria-label="Stages">
    ${timeline.map((one) => html`<div class="lane" role="listitem" key=${one.stage}><span>${one.stage}</span>
      <span class="track"><i style=${{ left: part(one.start - start), width: part(one.end - one.start), background: `var(${COLOURS[one.stage]})` }}></i></span>
      <span class="number"><b>${seconds(Math.max(0, one.end - one.start))}</b> <span class="muted small">from ${seconds(Math.max(0, one.start - start))}</span></span></div>`)}
    <div class="lane muted small" aria-hidden="true"><span></span><span class="row between"><span>0</span><span>${seconds(total / 2)}</span><span>${seconds(total)}</span></span><span></span></div>
  </div>`;
}
