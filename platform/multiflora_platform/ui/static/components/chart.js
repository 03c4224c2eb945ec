/** A chart over time: uPlot drawn on a canvas, its legend as text with the newest values. */
import { html, useEffect, useRef } from "../lib/html.js";
import { colour, isDark } from "../lib/theme.js";

let library = null;
const load = () => (library ??= import("uplot").then((module) => module.default));
const LEAST_SECONDS = 60;
const TOKENS = ["--muted", "--line", ...Array.from({ length: 8 }, (_, i) => `--series-${i + 1}`)];

/**
 * @param {object} props
 * times: Unix seconds; lines: [{label, values, slot? (of the palette)}]; format(value); stacked: areas on top of each
 * other; range: [least, most] of the axis
 */
export function Chart({ label, times, lines, format, stacked = false, range, height = 170, span }) {
  const box = useRef(null);
  const plot = useRef(null);
  const shape = `${stacked}|${lines.map((line) => line.label).join("|")}|${isDark.value}`;
  const latest = useRef(null);
  latest.current = { times, lines, span };
  useEffect(() => {
    let stopped = false;
    load().then((uPlot) => {
      if (stopped) return;
      plot.current = new uPlot(options(box.current, { lines, format, stacked, range, height, latest }), data(latest.current, stacked), box.current);
    });
    const observer = new ResizeObserver(([entry]) => plot.current?.setSize({ width: Math.floor(entry.contentRect.width), height }));
    observer.observe(box.current);
    return () => {
      stopped = true;
      observer.disconnect();
      plot.current?.destroy();
      plot.current = null;
    };
  }, [shape]);
  useEffect(() => plot.current?.setData(data({ times, lines }, stacked)), [times, lines]);
  const newest = lines.map((line) => line.values.at(-1));
  return html`<figure class="chart">
    <div class="plot" ref=${box} style=${{ minHeight: `${height}px` }} role="img" aria-label=${`${label}. Newest: ${lines.map((line, i) => `${line.label} ${format(newest[i])}`).join(", ")}`}></div>
    <ul class="legend">${lines.map((line, i) => html`<li key=${line.label}><i style=${{ background: `var(--series-${((line.slot ?? i) % 8) + 1})` }}></i>${line.label} <b>${format(newest[i])}</b></li>`)}</ul>
  </figure>`;
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

/** Hours and minutes; seconds, too, where the marks are closer than a minute. */
function clockOf(_, moments) {
  const second = moments[1] - moments[0] < 60 ? "2-digit" : undefined;
  return moments.map((at) => new Date(at * 1000).toLocaleTimeString(undefined, { hour: "2-digit", minute: "2-digit", second, hourCycle: "h23" }));
}

function options(box, { lines, format, stacked, range, height, latest }) {
  const colours = Object.fromEntries(TOKENS.map((token) => [token, colour(token)]));
  const axis = { stroke: colours["--muted"], grid: { stroke: colours["--line"], width: 1 }, ticks: { show: false }, font: "11px system-ui" };
  const drawn = stacked ? lines.map((line, i) => ({ ...line, slot: line.slot ?? i })).reverse() : lines;
  return {
    width: Math.max(120, box.clientWidth),
    height,
    padding: [8, 8, 0, 0],
    legend: { show: false },
    cursor: { points: { size: 6 }, drag: { x: false, y: false } },
    scales: {
      x: { range: (_, least, most) => [Math.min(most - LEAST_SECONDS, Math.max(least, most - (latest.current.span ?? Infinity))), most] },
      y: { range: (_, least, most) => range ?? [0, (most || 1) * 1.1] },
    },
    axes: [{ ...axis, space: 70, values: clockOf }, { ...axis, size: 58, values: (_, values) => values.map(format) }],
    series: [
      {},
      ...drawn.map((line, i) => {
        const stroke = colours[`--series-${((line.slot ?? i) % 8) + 1}`];
        return { label: line.label, stroke, width: stacked ? 1 : 1.5, fill: stacked ? stroke : undefined, points: { show: false }, spanGaps: true };
      }),
    ],
  };
}
