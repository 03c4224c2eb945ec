/** Numbers, times and sizes as people read them. */
const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const short = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });
const DASH = "–";

const missing = (value) => value === null || value === undefined || Number.isNaN(value);

export const count = (value) => (missing(value) ? DASH : Math.abs(value) >= 100_000 ? short.format(value) : whole.format(value));
export const rate = (value) => (missing(value) ? DASH : value >= 100 ? count(value) : value.toFixed(value >= 10 || value === 0 ? 0 : 1));
export const percent = (value) => (missing(value) ? DASH : `${(value * 100).toFixed(value > 0 && value < 0.1 ? 1 : 0)}%`);

/** @param {number|null} value seconds */
export function seconds(value) {
  if (missing(value)) return DASH;
  if (value === 0) return "0 s";
  if (value < 0.001) return `${Math.round(value * 1e6)} µs`;
  if (value < 1) return `${(value * 1000).toFixed(value < 0.01 ? 1 : 0)} ms`;
  if (value < 60) return `${value.toFixed(value < 10 ? 2 : 1)} s`;
  if (value < 3600) return `${Math.floor(value / 60)} min ${Math.floor(value % 60)} s`;
  if (value < 172_800) return `${Math.floor(value / 3600)} h ${Math.floor((value % 3600) / 60)} min`;
  return `${Math.round(value / 86_400)} days`;
}

export function bytes(value) {
  if (missing(value)) return DASH;
  for (const [unit, size] of [["GiB", 2 ** 30], ["MiB", 2 ** 20], ["KiB", 2 ** 10]]) {
    if (value >= size) return `${(value / size).toFixed(value / size < 10 ? 1 : 0)} ${unit}`;
  }
  return `${value} B`;
}

/** Unix seconds of a number or of a text that the API gave; null for none. */
export const moment = (at) => (missing(at) ? null : typeof at === "number" ? at : Date.parse(at) / 1000);

export function ago(at) {
  const then = moment(at);
  if (then === null) return "never";
  const past = Date.now() / 1000 - then;
  if (past < 0) return `in ${coarse(-past)}`;
  return past < 5 ? "just now" : `${coarse(past)} ago`;
}

function coarse(span) {
  for (const [unit, size] of [["day", 86_400], ["h", 3600], ["min", 60]]) {
    const amount = Math.floor(span / size);
    if (amount) return `${amount} ${unit}${unit === "day" && amount > 1 ? "s" : ""}`;
  }
  return `${Math.floor(span)} s`;
}

const full = new Intl.DateTimeFormat(undefined, { year: "numeric", month: "short", day: "numeric", hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23", timeZoneName: "short" });
/** The moment in the reader's time zone, which it names. */
export const dateTime = (at) => (moment(at) === null ? DASH : full.format(moment(at) * 1000));
/** The moment in UTC, for programs; undefined for none. */
export const isoTime = (at) => (moment(at) === null ? undefined : new Date(moment(at) * 1000).toISOString());
export const clock = (at) => (moment(at) === null ? DASH : new Date(moment(at) * 1000).toLocaleTimeString(undefined, { hourCycle: "h23" }));
export const digest = (text) => (text ? text.slice(0, 12) : DASH);

/** Of a list of numbers, the value below which this part of them lies; null for none. */
export function quantile(values, part) {
  const sorted = values.filter((value) => !missing(value)).sort((a, b) => a - b);
  return sorted.length ? sorted[Math.min(sorted.length - 1, Math.floor(part * sorted.length))] : null;
}

/** Of an event, as "alias moved". */
export const actionWords = (action) => action.replace(".", " ").replaceAll("_", " ");

/** {"version": 3} or {"split": {...}} in words. */
export function target(alias) {
  if (!alias) return DASH;
  if (alias.version) return `version ${alias.version}`;
  return Object.entries(alias.split ?? {}).map(([version, share]) => `v${version} ${share}%`).join(" · ");
}

/** An amount, as `money(0.0123, "EUR")`; small ones keep two digits that mean something. */
export const money = (value, currency) => (missing(value) ? DASH
  : new Intl.NumberFormat("en", { style: "currency", currency, currencyDisplay: "code", ...(Math.abs(value) >= 1 ? { maximumFractionDigits: 2 } : { maximumSignificantDigits: 2 }) }).format(value));
