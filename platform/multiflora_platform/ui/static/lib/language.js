/** The language of the UI's texts. The English sentences stand in the sources and are the keys of the other languages'
 * catalogues, of which one is loaded when it is chosen. Data and what the server says are never translated. */
import { batch, language, signal } from "./html.js";
import { keep, kept } from "./kept.js";

/** By code: what it calls itself, its locale where the browser names none of it, and its catalogue. */
export const LANGUAGES = {
  en: { name: "English", locale: "en", load: async () => ({}) },
  zh: { name: "中文", locale: "zh-CN", load: () => import("../words/zh.js").then(({ words }) => words) },
};
const codeOf = (locale) => locale.split("-")[0].toLowerCase();

export { language };
/** Signals: a component that asks for a text, or a number's form, is drawn again when the language changes. */
const words = signal({});
/** Of numbers and dates: the reader's own of the language, such as en-GB. */
const locale = signal("en");

/** The text in the chosen language: `t("Slots")`, or with values t`${a} of ${b}`, whose sentence is "{0} of {1}".
 * @returns {string|Array} an array of texts and nodes where a value is a node */
export const t = (sentence, ...values) => (typeof sentence === "string" ? translated(sentence) : filled(translated(keyOf(sentence)), values));

/** As `t`, of an amount: `plural(n, "{0} row", "{0} rows", count(n))`. The sentence of many is the key. */
export const plural = (amount, one, many, ...values) => filled(translated(many, isOne(amount) ? one : many), values);

const translated = (key, english = key) => words.value[key] ?? english;
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
  return () => made.get(locale.value) ?? made.set(locale.value, make(locale.value)).get(locale.value);
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
  const loaded = await LANGUAGES[code].load();
  batch(() => {
    words.value = loaded;
    locale.value = navigator.languages.find((one) => codeOf(one) === code) ?? LANGUAGES[code].locale;
    language.value = code;
  });
  document.documentElement.lang = locale.value;
}
