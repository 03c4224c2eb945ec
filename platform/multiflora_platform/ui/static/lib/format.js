/** Numbers, times and sizes as people read them. */
import { signal } from "./html.js";
import { localised, plural, t } from "./language.js";

const whole = localised((locale) => new Intl.NumberFormat(locale, { maximumFractionDigits: 0 }));
const short = localised((locale) => new Intl.NumberFormat(locale, { notation: "compact", maximumFractionDigits: 1 }));
const withDigits = (style) => localised((locale) => [0, 1, 2].map((digits) => new Intl.NumberFormat(locale, { style, minimumFractionDigits: digits, maximumFractionDigits: digits })));
const decimals = withDigits("decimal");
const percents = withDigits("percent");
const fixed = (value, digits) => decimals()[digits].format(value);
const DASH = "–";

const missing = (value) => value === null || value === undefined || Number.isNaN(value);

export const count = (value) => (missing(value) ? DASH : Math.abs(value) >= 100_000 ? short().format(value) : whole().format(value));
export const rate = (value) => (missing(value) ? DASH : value >= 100 ? count(value) : fixed(value, value >= 10 || value === 0 ? 0 : 1));
export const percent = (value) => (missing(value) ? DASH : percents()[value > 0 && value < 0.1 ? 1 : 0].format(value));

/** @param {number|null} value seconds */
export function seconds(value) {
  if (missing(value)) return DASH;
  if (value === 0) return t`${0} s`;
  if (value < 0.001) return t`${Math.round(value * 1e6)} µs`;
  if (value < 1) return t`${fixed(value * 1000, value < 0.01 ? 1 : 0)} ms`;
  if (value < 60) return t`${fixed(value, value < 10 ? 2 : 1)} s`;
  if (value < 3600) return t`${Math.floor(value / 60)} min ${Math.floor(value % 60)} s`;
  if (value < 172_800) return t`${Math.floor(value / 3600)} h ${Math.floor((value % 3600) / 60)} min`;
  return days(Math.round(value / 86_400));
}

export function bytes(value) {
  if (missing(value)) return DASH;
  for (const [unit, size] of [["GiB", 2 ** 30], ["MiB", 2 ** 20], ["KiB", 2 ** 10]]) {
    if (value >= size) return `${fixed(value / size, value / size < 10 ? 1 : 0)} ${unit}`;
  }
  return `${value} B`;
}

/** Unix seconds of a number or of a text that the API gave; null for none. */
export const moment = (at) => (missing(at) ? null : typeof at === "number" ? at : Date.parse(at) / 1000);

/** Counts on while the window is seen: what says how long ago something was reads it, and so is drawn again. */
const ticks = signal(0);
const TICK_MS = 5000;
setInterval(() => { if (!document.hidden) ticks.value += 1; }, TICK_MS);

export function ago(at) {
  const then = moment(at);
  if (then === null) return t("never");
  void ticks.value;
  const past = Date.now() / 1000 - then;
  if (past < 0) return t`in ${coarse(-past)}`;
  return past < 5 ? t("just now") : t`${coarse(past)} ago`;
}

function coarse(span) {
  if (span < 60) return t`${Math.floor(span)} s`;
  if (span < 3600) return t`${Math.floor(span / 60)} min`;
  if (span < 86_400) return t`${Math.floor(span / 3600)} h`;
  return days(Math.floor(span / 86_400));
}

const days = (amount) => plural(amount, "{0} day", "{0} days", amount);

const full = localised((locale) => new Intl.DateTimeFormat(locale, { year: "numeric", month: "short", day: "numeric", hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23", timeZoneName: "short" }));
/** The moment in the reader's time zone, which it names. */
export const dateTime = (at) => (moment(at) === null ? DASH : full().format(moment(at) * 1000));
/** The moment in UTC, for programs; undefined for none. */
export const isoTime = (at) => (moment(at) === null ? undefined : new Date(moment(at) * 1000).toISOString());
const timeOfDay = (second) => localised((locale) => new Intl.DateTimeFormat(locale, { hour: "2-digit", minute: "2-digit", second, hourCycle: "h23" }));
const [times, minutes] = [timeOfDay("2-digit"), timeOfDay(undefined)];
export const clock = (at) => (moment(at) === null ? DASH : times().format(moment(at) * 1000));
const dates = localised((locale) => new Intl.DateTimeFormat(locale, { month: "short", day: "numeric" }));
export const day = (at) => dates().format(at * 1000);
export const minute = (at) => minutes().format(at * 1000);
export const digest = (text) => (text ? text.slice(0, 12) : DASH);

/** Of a list of numbers, the value below which this part of them lies; null for none. */
export function quantile(values, part) {
  const sorted = values.filter((value) => !missing(value)).sort((a, b) => a - b);
  return sorted.length ? sorted[Math.min(sorted.length - 1, Math.floor(part * sorted.length))] : null;
}

/** {"version": 3} or {"split": {...}} in words. */
export function target(alias) {
  if (!alias) return DASH;
  if (alias.version) return t`version ${alias.version}`;
  return splitWords(alias.split ?? {});
}

/** {"1": 90, "2": 10} as "v1 90% · v2 10%", and as the parts of a bar. */
export const splitWords = (split) => Object.entries(split).map(([version, share]) => `v${version} ${share}%`).join(" · ");
export const splitParts = (split) => Object.entries(split).map(([version, value]) => ({ label: `v${version}`, value }));

const currencies = localised((locale) => (options) => new Intl.NumberFormat(locale, { style: "currency", currencyDisplay: "code", ...options }));
/** An amount, as `money(0.0123, "EUR")`; small ones keep two digits that mean something. */
export const money = (value, currency) => (missing(value) ? DASH
  : currencies()({ currency, ...(Math.abs(value) >= 1 ? { maximumFractionDigits: 2 } : { maximumSignificantDigits: 2 }) }).format(value));
