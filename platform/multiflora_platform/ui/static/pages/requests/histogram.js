/** How long the requests took that the other filters leave; a range of it, drawn over its bars, is a filter itself. */
import { html, useId, useMemo, useState } from "../../lib/html.js";
import { count, seconds } from "../../lib/format.js";
import { borderText, histogramOf, isWithin, placeOf, rangeOf, rangeText, rangeWords, ticksOf } from "../../lib/histogram.js";
import { plural, t } from "../../lib/language.js";
import { setQuery } from "../../lib/router.js";
import { Card, Segmented } from "../../components/bits.js";
import { Table } from "../../components/table.js";
import { useBrush } from "./brush.js";
import { failed, requestTimes, wanted } from "./filters.js";

/** Pixels from the top: the marks' names, the counts, the bars, the axis. */
const [NAME, COUNTS, BARS, AXIS] = [16, 16, 80, 20];
const NAMES = 2 * NAME;
const FLOOR = NAMES + COUNTS + BARS;
/** Pixels of what is not nothing. */
const LOWEST = 3;
/** Bars beyond are too narrow for their numbers. */
const MOST_COUNTED = 36;
/** Fewer leave room for the names of all borders, on a phone, too. */
const MOST_NAMED = 20;

/** The time that is drawn. */
function drawnTime(asked) {
  const named = asked.get("times") ?? (asked.has("total") ? "total" : "ttft");
  return requestTimes().find(({ param }) => param === named) ?? requestTimes()[0];
}

export function Histogram({ items, asked }) {
  const time = drawnTime(asked);
  const histogram = useMemo(() => histogramOf(wanted(items, asked, time).map((one) => ({ value: time.of(one), failed: failed(one) }))), [items, asked]);
  const { bins, values, unmeasured } = histogram;
  const about = `${requests(values.length)}${unmeasured ? t`; ${count(unmeasured)} have no such time: they run, or were refused` : ""}`;
  return html`<${Card} title=${time.title} about=${about}
      actions=${html`<${Segmented} label=${t("Which time")} of=${requestTimes().map(({ param, label }) => [param, label])} value=${time.param} onChange=${(value) => setQuery({ times: value })} />`}>
    ${bins.length > 0 && html`<div class="stack histogram">
      <${Picture} key=${time.param} title=${time.title} histogram=${histogram} range=${rangeOf(asked.get(time.param))}
        onRange=${(range) => setQuery({ [time.param]: range && rangeText(range) })} />
      <${AsTable} bins=${bins} /></div>`}<//>`;
}

const sizeOf = (bin) => bin.succeeded + bin.failed;
const requests = (amount) => plural(amount, "{0} request", "{0} requests", count(amount));
const wordsOf = (bin) => `${rangeWords([bin.from, bin.to])}: ${requests(sizeOf(bin))}${bin.failed ? t`, ${count(bin.failed)} failed` : ""}`;

function Picture({ title, histogram, range, onRange }) {
  const { bins, values, median, p95 } = histogram;
  const id = useId();
  const brush = useBrush(bins, range, onRange);
  const most = Math.max(...bins.map(sizeOf));
  const at = (value) => `${100 * placeOf(value, bins)}%`;
  const isChosen = (bin) => brush.range !== null && isWithin(bin.from, brush.range);
  const idOf = (bin) => `${id}-${bin.from}`;
  const marks = useMemo(() => html`<g aria-hidden="true"><${Axis} bins=${bins} /><${Mark} name=${t("median")} value=${median} bins=${bins} row=${0} /><${Mark} name="p95" value=${p95} bins=${bins} row=${1} /></g>`, [histogram]);
  const chosen = brush.range && values.filter((value) => isWithin(value, brush.range)).length;
  const told = [brush.looked && wordsOf(brush.looked), brush.range && t`chosen: ${rangeWords(brush.range)}, ${count(chosen)} of ${requests(values.length)}`].filter(Boolean);
  return html`<div class=${`brush${bins.length > MOST_COUNTED ? "" : " counted"}`} role="listbox" tabindex="0" aria-multiselectable="true"
      aria-label=${t`${title}: median ${seconds(median)}, p95 ${seconds(p95)}. Arrow keys go along, with Shift they choose a range, Escape clears it`}
      aria-activedescendant=${brush.head && idOf(brush.head)} ...${brush.handlers}>
    <svg width="100%" height=${FLOOR + AXIS} role="none" class=${brush.range ? "chosen" : ""}>
      ${brush.range && html`<rect class="range" x=${at(brush.range[0])} width=${`${100 * (placeOf(brush.range[1], bins) - placeOf(brush.range[0], bins))}%`} y=${NAMES} height=${FLOOR - NAMES} aria-hidden="true" />`}
      ${bins.map((bin) => html`<${Bar} key=${bin.from} id=${idOf(bin)} bin=${bin} left=${at(bin.from)} width=${`${100 * (placeOf(bin.to, bins) - placeOf(bin.from, bins))}%`} most=${most} isChosen=${isChosen(bin)} isHead=${bin === brush.head} />`)}
      ${marks}
    </svg></div>
    <ul class="legend"><li><i class="succeeded"></i>${t("succeeded")}</li><li><i class="failed"></i>${t("failed")}</li>
      <li class="at">${told.join(" · ") || t("Draw over bars to see those requests alone")}</li></ul>`;
}

/** Failures stand on the floor, where they can be compared. Made anew only when it changes: a pointer that draws moves often. */
function Bar({ id, bin, left, width, most, isChosen, isHead }) {
  const height = (value) => (value ? Math.max(LOWEST, (BARS * value) / most) : 0);
  const middle = `${(parseFloat(left) + parseFloat(width) / 2).toFixed(3)}%`;
  const [low, high] = [height(bin.failed), height(bin.failed) + height(bin.succeeded)];
  return useMemo(() => html`<g role="option" id=${id} class=${isHead ? "now" : ""} aria-selected=${isChosen} aria-label=${wordsOf(bin)}>
    <rect class="place" x=${left} width=${width} y=${NAMES} height=${FLOOR - NAMES} />
    ${bin.succeeded > 0 && html`<rect class="succeeded" x=${left} width=${width} y=${FLOOR - high} height=${high - low} />`}
    ${bin.failed > 0 && html`<rect class="failed" x=${left} width=${width} y=${FLOOR - low} height=${low} />`}
    ${high > 0 && html`<text x=${middle} y=${FLOOR - high - 4} text-anchor="middle" aria-hidden="true">${count(sizeOf(bin))}</text>`}</g>`, [id, bin.succeeded, bin.failed, left, width, most, isChosen, isHead]);
}

function Axis({ bins }) {
  return html`<line class="axis" x1="0" x2="100%" y1=${FLOOR} y2=${FLOOR} />${ticksOf(bins).map(({ value, isMajor }) => {
    const place = placeOf(value, bins);
    return html`<g key=${value} class=${isMajor || bins.length <= MOST_NAMED ? "" : "minor"}><line class="axis" x1=${`${100 * place}%`} x2=${`${100 * place}%`} y1=${FLOOR} y2=${FLOOR + 4} />
      <text x=${`${100 * place}%`} y=${FLOOR + 17} text-anchor=${place < 0.02 ? "start" : place > 0.98 ? "end" : "middle"}>${borderText(value)}</text></g>`;
  })}`;
}

/** Each mark's name has a row of its own, and goes to the side where there is room: they never overlap. */
function Mark({ name, value, bins, row }) {
  const place = placeOf(value, bins);
  const [anchor, aside] = place < 0.5 ? ["start", 5] : ["end", -5];
  return html`<g class="mark"><line x1=${`${100 * place}%`} x2=${`${100 * place}%`} y1=${row * NAME} y2=${FLOOR} />
    <text x=${`${100 * place}%`} dx=${aside} y=${row * NAME + 11} text-anchor=${anchor}>${name} <tspan>${seconds(value)}</tspan></text></g>`;
}

const columns = () => [
  { key: "from", label: t("From"), number: true, cell: (bin) => borderText(bin.from) },
  { key: "to", label: t("Less than"), number: true, cell: (bin) => borderText(bin.to) },
  { key: "succeeded", label: t("Succeeded"), number: true, cell: (bin) => count(bin.succeeded) },
  { key: "failed", label: t("Failed"), number: true, cell: (bin) => count(bin.failed) },
];

/** Made when it is opened. */
function AsTable({ bins }) {
  const [isOpen, setOpen] = useState(false);
  return html`<details onToggle=${(event) => setOpen(event.currentTarget.open)}><summary class="small muted">${t("As a table")}</summary>
    ${isOpen && html`<${Table} name="request times" label=${t("Request times")} sort="bins" columns=${columns()} rows=${bins.filter(sizeOf)} keyOf=${(bin) => bin.from} />`}</details>`;
}
