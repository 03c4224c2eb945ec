/** A chart over time: uPlot drawn on a canvas. Its legend is text: the newest values, or those under the pointer. */
import { html, useEffect, useRef, useState } from "../lib/html.js";
import { clock, dateTime, day, minute } from "../lib/format.js";
import { language, t } from "../lib/language.js";
import { known } from "../lib/measured.js";
import { colour, isDark } from "../lib/theme.js";
import { UNITS } from "../lib/units.js";
import { series } from "./bits.js";

let library = null;
const load = () => (library ??= import("uplot").then((module) => module.default));
const LEAST_SECONDS = 60;
/** The charts of a page share one crosshair. */
const CROSSHAIR = "time";
const MARK_DASH = [3, 3];

/** How a line is drawn in CSS: its own colour, or one of the palette. */
const cssOf = (line, i) => line.colour ?? series(line.slot ?? i);

/**
 * @param {object} props
 * times: Unix seconds; lines: [{label, values, slot? (of the palette), colour? (CSS), dash? (drawn so)}]; unit: a name of UNITS;
 * stacked: areas on top of each other; joined: a line goes on over moments without a value; range: [least, most] of the axis; marks: [{at, label}] what happened then
 */
export function Chart({ label, times, lines, unit, stacked = false, joined = false, range, height = 170, span, marks = [] }) {
  const box = useRef(null);
  const plot = useRef(null);
  const [index, setIndex] = useState(null);
  const shape = `${stacked}|${lines.map((line) => line.label).join("|")}|${isDark.value}|${language.value}`;
  const latest = useRef(null);
  latest.current = { times, lines, span, marks };
  useEffect(() => {
    let stopped = false;
    const place = box.current; // when a page is left the reference goes before this effect ends
    load().then((uPlot) => {
      if (stopped) return;
      plot.current = new uPlot(options(place, { lines, unit: UNITS[unit], stacked, joined, range, height, latest, setIndex }), data(latest.current, stacked), place);
    });
    const observer = new ResizeObserver(([entry]) => plot.current?.setSize({ width: Math.floor(entry.contentRect.width), height }));
    observer.observe(place);
    return () => {
      stopped = true;
      observer.disconnect();
      plot.current?.destroy();
      plot.current = null;
    };
  }, [shape]);
  useEffect(() => plot.current?.setData(data({ times, lines }, stacked)), [times, lines]);
  const { format } = UNITS[unit];
  const last = ({ values }) => (joined ? known(values) : values).at(-1);
  const described = lines.map((line) => `${line.label} ${format(last(line))}`).join(", ");
  return html`<figure class="chart">
    <div class="plot" ref=${box} style=${{ minHeight: `${height}px` }} role="img" aria-label=${t`${label}. Newest: ${described}`}></div>
    <ul class="legend">${lines.map((line, i) => html`<li key=${line.label}><i style=${{ background: cssOf(line, i) }}></i>${line.label} <b>${format(index === null ? last(line) : line.values[index])}</b></li>`)}
      ${index !== null && html`<li class="at">${pointedAt(times, index)}${near(marks, times, index).map((mark) => ` · ${mark.label}`)}</li>`}</ul>
  </figure>`;
}

/** The marks that stand closer to this moment than to the ones beside it. */
function near(marks, times, index) {
  const half = Math.max((times.at(-1) - times[0]) / 100, 1);
  return marks.filter((mark) => Math.abs(mark.at - times[index]) <= half);
}

/** Stacked areas are drawn from the highest sum down, so that each covers what lies below it. */
function data({ times, lines }, stacked) {
  if (!stacked) return [times, ...lines.map((line) => line.values)];
  const sums = [];
  let below = times.map(() => 0);
  for (const line of lines) {
    below = below.map((sum, i) => sum + (line.values[i] ?? 0));
    sums.unshift(below);
  }
  return [times, ...sums];
}

const HALF_A_DAY = 43_200;
/** Hours and minutes; seconds, too, where the marks are closer than a minute, and days where they are far apart. */
function clockOf(_, moments) {
  const step = moments[1] - moments[0];
  return moments.map(step < 60 ? clock : step < HALF_A_DAY ? minute : day);
}
/** The moment under the pointer; with its day where a chart has several. */
const pointedAt = (times, index) => (times.at(-1) - times[0] < 2 * HALF_A_DAY ? clock : dateTime)(times[index]);

/** A value with none on either side is no line: it is drawn as a point. */
const alone = (plot, series) => plot.data[series].flatMap((value, i, all) => (value !== null && (all[i - 1] ?? null) === null && (all[i + 1] ?? null) === null ? [i] : []));

function drawMarks(plot, marks, stroke) {
  const { ctx, bbox } = plot;
  ctx.save();
  ctx.strokeStyle = stroke;
  ctx.setLineDash(MARK_DASH.map((length) => length * devicePixelRatio));
  for (const { at } of marks) {
    const x = Math.round(plot.valToPos(at, "x", true));
    if (x < bbox.left || x > bbox.left + bbox.width) continue;
    ctx.beginPath();
    ctx.moveTo(x, bbox.top);
    ctx.lineTo(x, bbox.top + bbox.height);
    ctx.stroke();
  }
  ctx.restore();
}

function options(box, { lines, unit, stacked, joined, range, height, latest, setIndex }) {
  const muted = colour("var(--muted)");
  const axis = { stroke: muted, grid: { stroke: colour("var(--line)"), width: 1 }, ticks: { show: false }, font: "11px system-ui" };
  const strokes = lines.map((line, i) => colour(cssOf(line, i)));
  const drawn = lines.map((line, i) => ({
    label: line.label, stroke: strokes[i], width: stacked ? 1 : 1.5, dash: line.dash && MARK_DASH, spanGaps: joined, fill: stacked ? strokes[i] : undefined,
    points: stacked ? { show: false } : { show: true, size: 4, fill: strokes[i], filter: joined ? undefined : alone },
  }));
  return {
    width: Math.max(120, box.clientWidth),
    height,
    padding: [8, 22, 0, 0],
    legend: { show: false },
    cursor: { points: { size: 6 }, drag: { x: false, y: false }, sync: { key: CROSSHAIR, setSeries: false } },
    hooks: { draw: [(plot) => drawMarks(plot, latest.current.marks, muted)], setCursor: [(plot) => setIndex(plot.cursor.idx ?? null)] },
    scales: {
      x: { range: (_, least, most) => [Math.min(most - LEAST_SECONDS, Math.max(least, most - (latest.current.span ?? Infinity))), most] },
      y: { range: (_, least, most) => range ?? [0, (most || 1) * 1.1] },
    },
    axes: [{ ...axis, space: 70, size: 26, values: clockOf }, { ...axis, size: 58, incrs: unit.steps, values: (_, values) => values.map(unit.format) }],
    series: [{}, ...(stacked ? drawn.toReversed() : drawn)],
  };
}
