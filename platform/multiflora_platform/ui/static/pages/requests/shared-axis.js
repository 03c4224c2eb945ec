/** Several requests on one axis of time: who waited while whose prompt was computed. */
import { html, useMemo } from "../../lib/html.js";
import { clock, count, seconds } from "../../lib/format.js";
import { t } from "../../lib/language.js";
import { href, setQuery } from "../../lib/router.js";
import { named } from "../../lib/values.js";
import { Card, Segmented } from "../../components/bits.js";
import { Ruler, StageBar } from "../../components/waterfall.js";
import { wanted } from "./filters.js";
import { lanesOf } from "./lanes.js";

const spans = () => [["", t("Off")], ["10", t`${10} s`], ["60", t`${1} min`], ["300", t`${5} min`]];
const spanOf = (asked) => spans().find(([value]) => value === asked.get("axis"))?.[0] ?? "";

export const AxisSwitch = ({ asked }) => html`<${Segmented} label=${t("On one axis")} of=${spans()} value=${spanOf(asked)} onChange=${(value) => setQuery({ axis: value })} />`;

/** Nothing where the address does not ask for it. */
export function SharedAxis({ items, asked }) {
  const span = Number(spanOf(asked));
  return useMemo(() => span > 0 && html`<${Lanes} of=${lanesOf(wanted(items, asked), span)} />`, [items, asked]);
}

function Lanes({ of: { lanes, from, until, left } }) {
  if (!lanes.length) return null;
  const about = t`From ${clock(from)} to ${clock(until)}, in the order they came${left ? t`; ${count(left)} more are not drawn` : ""}`;
  return html`<${Card} title=${t("Who waited for whom")} about=${about}><div class="lanes shared" role="list" aria-label=${t("Requests on one axis of time")}>
    ${lanes.map((one) => html`<${Lane} key=${one.id} one=${one} from=${from} until=${until} />`)}
    <${Ruler} total=${until - from} /></div><//>`;
}

function Lane({ one, from, until }) {
  const stages = one.timeline.filter((stage) => stage.end > Math.max(stage.start, from));
  const told = t`${clock(one.at)}: ${one.timeline.map((stage) => `${named(stage.stage)} ${seconds(Math.max(0, stage.end - stage.start))}`).join(", ")}`;
  return html`<div class="lane" role="listitem"><a class="cut small" href=${href(`/requests/${one.id}`)}>${one.model}</a>
    <span class="track" role="img" aria-label=${told} title=${told}>${stages.map((stage) => html`<${StageBar} key=${stage.stage} of=${stage} from=${from} until=${until} />`)}</span>
    <span class="number small muted">${one.status === null ? t("running") : seconds(one.total_seconds)}</span></div>`;
}
