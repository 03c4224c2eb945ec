/** A request's stages on one axis of time: when each began, and how long it took. */
import { html } from "../lib/html.js";
import { seconds } from "../lib/format.js";
import { t } from "../lib/language.js";
import { named } from "../lib/values.js";
import { COLOURS } from "./phases.js";

/** @param {{timeline: Array<{stage: string, start: number, end: number}>}} props Unix seconds, in order */
export function Waterfall({ timeline }) {
  const [start, end] = [timeline[0].start, timeline.at(-1).end];
  return html`<div class="lanes waterfall" role="list" aria-label=${t("Stages")}>
    ${timeline.map((one) => html`<div class="lane" role="listitem" key=${one.stage}><span>${named(one.stage)}</span>
      <span class="track"><${StageBar} of=${one} from=${start} until=${end} /></span>
      <span class="number"><b>${seconds(Math.max(0, one.end - one.start))}</b> <span class="muted small">${t`from ${seconds(Math.max(0, one.start - start))}`}</span></span></div>`)}
    <${Ruler} total=${end - start} />
  </div>`;
}

/** A stage on a track that goes from a moment until another; what began before is cut. */
export function StageBar({ of, from, until }) {
  // A track of nothing would leave no scale; the bars have a least width of their own.
  const part = (span) => `${(100 * Math.max(0, span)) / (until - from || 1)}%`;
  const start = Math.max(of.start, from);
  return html`<i style=${{ left: part(start - from), width: part(of.end - start), background: `var(${COLOURS[of.stage]})` }}></i>`;
}

/** Below tracks: seconds since their beginning. */
export const Ruler = ({ total }) => html`<div class="lane muted small" aria-hidden="true"><span></span><span class="row between"><span>0</span><span>${seconds(total / 2)}</span><span>${seconds(total)}</span></span><span></span></div>`;
