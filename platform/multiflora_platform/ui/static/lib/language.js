/** The language of the UI's texts. The English sentences stand in the sources and are the keys of the other languages'
 * catalogues, of which one is loaded when it is chosen. Data and what the server says are never translated. */
import { signal } from "./html.js";
import { keep, kept } from "./kept.js";

/** By code: what it calls itself, its locale where the browser names none of it, and its catalogue. */
export const LANGUAGES = {
  en: { name: "English", locale: "en", load: async () => ({}) },
  zh: { name: "中文", locale: "zh-CN", load: () => import("../words/zh.js").then(({ words }) => words) },
};
const codeOf = (locale) => locale.split("-")[0].toLowerCase();

export const language = signal("en");
let words = {};
/** Of numbers and dates: the reader's own of the language, such as en-GB. */
let locale = "en";

/** The text in the chosen language: `t("Slots")`, or with values t`${a} of ${b}`, whose sentence is "{0} of {1}".
 * @returns {string|Array} an array of texts and nodes where a value is a node */
export const t = (sentence, ...values) => (typeof sentence === "string" ? words[sentence] ?? sentence : filled(translated(keyOf(sentence)), values));

/** As `t`, of an amount: `plural(n, "{0} row", "{0} rows", count(n))`. The sentence of many is the key. */
export const plural = (amount, one, many, ...values) => filled(words[many] ?? (isOne(amount) ? one : many), values);

const translated = (key) => words[key] ?? key;
const keyOf = (strings) => strings.reduce((key, part, i) => `${key}{${i - 1}}${part}`);
const englishRules = new Intl.PluralRules("en");
const isOne = (amount) => englishRules.select(amount) === "one";

function filled(sentence, values) {
  const parts = sentence.split(/\{(\d+)\}/).map((part, i) => (i % 2 ? values[part] : part));
  return parts.some((part) => part && typeof part === "object") ? parts : parts.map(shown).join("");
}

/** As a template shows it: nothing of null, undefined and booleans. */
const shown = (value) => (value === null || value === undefined || typeof value === "boolean" ? "" : String(value));

/** What `make(locale)` gives for the chosen language, made once for each: formatters are dear. */
export function localised(make) {
  const made = new Map();
  return () => made.get(locale) ?? made.set(locale, make(locale)).get(locale);
}

const known = (code) => (code in LANGUAGES ? code : undefined);

/** The one chosen before, or the browser's first that there is. Never fails: without its catalogue it is English. */
export function startLanguage() {
  const code = known(kept("language")) ?? navigator.languages.map(codeOf).find(known) ?? "en";
  return chosen(code).catch(() => {});
}

/** Throws where its catalogue cannot be loaded; the language stays. */
export async function setLanguage(code) {
  await chosen(code);
  keep("language", code);
}

async function chosen(code) {
  words = await LANGUAGES[code].load();
  locale = navigator.languages.find((one) => codeOf(one) === code) ?? LANGUAGES[code].locale;
  document.documentElement.lang = locale;
  language.value = code;
}
