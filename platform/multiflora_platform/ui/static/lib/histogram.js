/** How often times occur: bins with round borders on a logarithmic axis, and ranges of seconds as addresses have them. */
import { quantile } from "./format.js";
import { t } from "./language.js";

/** The preferred numbers of ISO 3 (R′10): evenly spaced on a logarithmic axis, as far as round numbers are. */
const DECADE = [1, 1.25, 1.6, 2, 2.5, 3.2, 4, 5, 6.3, 8];
/** Seconds, from a microsecond, which a refusal does not take, to eleven days. */
const BORDERS = [-6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5].flatMap((power) => DECADE.map((digits) => Number(`${digits}e${power}`)));
/** Of an axis: a decade, so that one time alone does not fill it. */
const LEAST_BINS = DECADE.length;
const RANGE = /^(\d+(?:\.\d+)?)-(\d+(?:\.\d+)?)$/;

const isMeasured = (value) => value >= BORDERS[0] && value < BORDERS.at(-1);

function indexOf(value) {
  // The borders are rounded: the bin may be the one before or behind.
  let index = Math.max(0, Math.floor(DECADE.length * Math.log10(value / BORDERS[0])) - 1);
  while (BORDERS[index + 1] <= value) index += 1;
  return index;
}

/**
 * @param {Array<{value: number|null, failed: boolean}>} times seconds
 * @returns {{bins: Array<{from: number, to: number, succeeded: number, failed: number}>, median: number|null, p95: number|null,
 *   values: number[], unmeasured: number}} bins: from, and less than to; none without values, which are the times that have a bin
 */
export function histogramOf(times) {
  const measured = times.filter(({ value }) => isMeasured(value));
  const values = measured.map(({ value }) => value);
  const bins = values.length ? binsBetween(indexOf(Math.min(...values)), indexOf(Math.max(...values))) : [];
  const first = bins.length && indexOf(bins[0].from);
  for (const { value, failed } of measured) bins[indexOf(value) - first][failed ? "failed" : "succeeded"] += 1;
  return { bins, values, median: quantile(values, 0.5), p95: quantile(values, 0.95), unmeasured: times.length - values.length };
}

function binsBetween(first, last) {
  const lacking = Math.max(0, LEAST_BINS - (last - first + 1));
  const start = Math.max(0, first - Math.floor(lacking / 2));
  const borders = BORDERS.slice(start, Math.max(last + 1, start + LEAST_BINS) + 1);
  return borders.slice(1).map((to, i) => ({ from: borders[i], to, succeeded: 0, failed: 0 }));
}

const endsOf = (bins) => [Math.log(bins[0].from), Math.log(bins.at(-1).to)];

/** Where on the bins' axis a time stands: 0..1, those beyond at its ends. */
export function placeOf(value, bins) {
  const [least, most] = endsOf(bins);
  return Math.min(1, Math.max(0, (Math.log(value) - least) / (most - least)));
}

/** The bin at a place of the axis, or the nearest. */
export function binAt(place, bins) {
  const [least, most] = endsOf(bins);
  const value = Math.exp(least + place * (most - least));
  return bins.find((bin) => value < bin.to) ?? bins.at(-1);
}

/** The borders that are named; the first of a decade always, the others where there is room. */
export const ticksOf = (bins) => [bins[0].from, ...bins.map((bin) => bin.to)].filter((value) => /^[125]e/.test(value.toExponential()))
  .map((value) => ({ value, isMajor: value.toExponential().startsWith("1e") }));

/** A border without digits that it does not have: "1.25 ms", "200 ms", "2 s". */
export function borderText(value) {
  const digits = (size) => Number((value / size).toPrecision(3));
  if (value < 1e-3) return t`${digits(1e-6)} µs`;
  return value < 1 ? t`${digits(1e-3)} ms` : t`${digits(1)} s`;
}

export const rangeText = ([from, to]) => `${from}-${to}`;
export const rangeWords = ([from, to]) => t`${borderText(from)} to ${borderText(to)}`;
export const isWithin = (value, [from, to]) => isMeasured(value) && value >= from && value < to;

/** [from, to] of a text such as "0.1-0.5"; null for any other. */
export function rangeOf(text) {
  const [from, to] = (RANGE.exec(text ?? "") ?? []).slice(1).map(Number);
  return from < to ? [from, to] : null;
}
