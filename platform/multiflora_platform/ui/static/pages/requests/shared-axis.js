/** Several requests on one axis of time: who waited while whose prompt was computed. */
import { html, useMemo } from "../../lib/html.js";
import { clock, count, seconds } from "../../lib/format.js";
import { href, setQuery } from "../../lib/router.js";
import { Card, Segmented } from "../../components/bits.js";
import { Ruler, StageBar } from "../../components/waterfall.js";
import { wanted } from "./filters.js";
import { lanesOf } from "./lanes.js";

const SPANS = [["", "Off"], ["10", "10 s"], ["60", "1 min"], ["300", "5 min"]];
const spanOf = (asked) => SPANS.find(([value]) => value === asked.get("axis"))?.[0] ?? "";

export const AxisSwitch = ({ asked }) => html`<${Segmented} label="On one axis" of=${SPANS} value=${spanOf(asked)} onChange=${(value) => setQuery({ axis: value })} />`;

/** Nothing where the address does not ask for it. */
export function SharedAxis({ items, asked }) {
  const span = Number(spanOf(asked));
  return useMemo(() => span > 0 && html`<${Lanes} of=${lanesOf(wanted(items, asked), span)} />`, [items, asked]);
}

function Lanes({ of: { lanes, from, until, left } }) {
  if (!lanes.length) return null;
  const about = `From ${clock(from)} to ${clock(until)}, in the order they came${left ? `; ${count(left)} more are not drawn` : ""}`;
  return html`<${Card} title="Who waited for whom" about=${about}><div class="lanes shared" role="list" aria-label="Requests on one axis of time">
    ${lanes.map((one) => html`<${Lane} key=${one.id} one=${one} from=${from} until=${until} />`)}
    <${Ruler} total=${until - from} /></div><//>`;
}

function Lane({ one, from, until }) {
  const stages = one.timeline.filter((stage) => stage.end > Math.max(stage.start, from));
  const told = `${clock(one.at)}: ${one.timeline.map((stage) => `${stage.stage} ${seconds(Math.max(0, stage.end - stage.start))}`).join(", ")}`;
  return html`<div class="lane" role="listitem"><a class="cut small" href=${href(`/requests/${one.id}`)}>${one.model}</a>
    <span class="track" role="img" aria-label=${told} title=${told}>${stages.map((stage) => html`<${StageBar} key=${stage.stage} of=${stage} from=${from} until=${until} />`)}</span>
    <span class="number small muted">${one.status === null ? "running" : seconds(one.total_seconds)}</span></div>`;
}
