/** The choice of the language: each is called as its readers call it. */
import { html } from "../lib/html.js";
import { language, LANGUAGES, setLanguage, t } from "../lib/language.js";
import { attempt } from "../lib/toasts.js";

export const LanguageChoice = () => html`<label class="who">${t("Language")}
  <select aria-label=${t("Language")} class="theme" value=${language.value} onChange=${(event) => attempt(() => setLanguage(event.target.value))}>
    ${Object.entries(LANGUAGES).map(([code, { name }]) => html`<option key=${code} value=${code} lang=${code}>${name}</option>`)}
  </select></label>`;
