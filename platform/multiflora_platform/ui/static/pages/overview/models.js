/** Tokens by model over time: as lines of the largest, and as rows of a heat map. */
import { basesOf } from "../../lib/bases.js";
import { t } from "../../lib/language.js";
import { intervalOf } from "../../lib/measured.js";

const MOST_LINES = 7;
const OTHERS = "var(--series-8)";

/** Over these points, each model's sum of tokens per second, largest first: [name, sum]. */
export function sumsByModel(points) {
  const sums = new Map();
  for (const point of points) {
    for (const [model, value] of Object.entries(point.by_model ?? {})) sums.set(model, (sums.get(model) ?? 0) + value);
  }
  return [...sums].sort((a, b) => b[1] - a[1]);
}

/** A line for each of the largest; what is beyond them is one line. @param {(name: string) => string} colourOf */
export function linesByModel(points, colourOf) {
  const names = sumsByModel(points).map(([name]) => name);
  const lines = names.slice(0, MOST_LINES).map((name) => ({ label: name, colour: colourOf(name), values: points.map((point) => point.by_model?.[name] ?? 0) }));
  if (names.length > MOST_LINES) {
    const rest = new Set(names.slice(MOST_LINES));
    const other = (point) => Object.entries(point.by_model ?? {}).reduce((sum, [name, value]) => sum + (rest.has(name) ? value : 0), 0);
    lines.push({ label: t`${rest.size} others`, colour: OTHERS, values: points.map(other) });
  }
  return lines.length ? lines : [{ label: t("no traffic"), colour: OTHERS, values: points.map(() => 0) }];
}

/**
 * A line for each base model whose engines ran; of a single one it is the given line.
 * @param {{label: string, slot: number}} line
 * @param {(gauges) => number|null} of gauges: a point's, of one base model; undefined while its engines did not run
 */
export function linesByBase(points, colourOf, line, of) {
  const names = basesOf(points);
  const own = (name) => (names.length > 1 ? { label: `${line.label} ${name}`, colour: colourOf(name) } : line);
  return names.map((name) => ({ ...own(name), values: points.map((point) => of(point.by_base?.[name])) }));
}

const added = (cell, value) => cell + value;
/** What is told of models over time: of a point, by model; and how values of one stretch of time make one. */
export const MEASURES = {
  tokens: { of: (point, interval) => Object.entries(point.by_model).map(([name, value]) => [name, value * interval]), join: added },
  requests: { of: (point) => Object.entries(point.ended_by_model).map(([name, { requests }]) => [name, requests]), join: added },
  p95: { of: (point) => Object.entries(point.ended_by_model).map(([name, { p95_seconds: p95 }]) => [name, p95 ?? 0]), join: Math.max },
  errors: { of: (point) => Object.entries(point.ended_by_model).map(([name, { errors }]) => [name, errors]), join: added },
};

/**
 * A measure of each model in equal stretches of time, of the models that have most of it.
 * @param {number} stretch seconds; each stretch begins at a whole multiple of it, so that only the newest one changes
 * @param {keyof MEASURES} measure
 * @returns {{starts: number[], rows: Array<{name: string, cells: number[]}>}}
 */
export function heat(points, span, stretch, mostRows, measure) {
  const { of, join } = MEASURES[measure];
  const last = Math.floor((points.at(-1)?.at ?? 0) / stretch);
  const columns = Math.ceil(span / stretch);
  const first = last - columns + 1;
  const interval = intervalOf(points);
  const rows = new Map();
  for (const point of points) {
    const column = Math.floor(point.at / stretch) - first;
    if (column < 0) continue;
    for (const [name, value] of of(point, interval)) {
      if (!rows.has(name)) rows.set(name, new Array(columns).fill(0));
      rows.get(name)[column] = join(rows.get(name)[column], value);
    }
  }
  const most = [...rows].map(([name, cells]) => ({ name, cells })).filter((row) => row.cells.some(Boolean)).sort((a, b) => joined(b, join) - joined(a, join));
  return { starts: Array.from({ length: columns }, (_, i) => (first + i) * stretch), rows: most.slice(0, mostRows) };
}

/** A row's cells as one value. */
export const joined = (row, join) => row.cells.reduce((all, value) => join(all, value));
