/** How answers are drawn, what is shown of them, the tools they may call and the schema they have to follow. */
import { html } from "../../lib/html.js";
import { t } from "../../lib/language.js";
import { Card } from "../../components/bits.js";
import { Check, TextArea, TextField } from "../../components/fields.js";

/** longest: tokens of a prompt and its answer, at most; undefined while it is not known. */
export function Settings({ value, onChange, mode, longest }) {
  const set = (name) => (entry) => onChange({ ...value, [name]: entry });
  const number = { type: "number", inputmode: "decimal" };
  return html`<${Card} title=${t("Settings")}><div class="stack">
    <div class="form-grid two">
      <${TextField} label=${t("Temperature")} ...${number} min="0" max="2" step="0.1" value=${value.temperature} onInput=${set("temperature")} />
      <${TextField} label=${t("Most tokens")} ...${number} min="1" max=${longest} value=${value.maxTokens} onInput=${set("maxTokens")} />
      <${TextField} label=${t("Top p")} ...${number} min="0" max="1" step="0.05" value=${value.topP} onInput=${set("topP")} />
      <${TextField} label=${t("Top k")} ...${number} min="0" placeholder=${t("all")} value=${value.topK} onInput=${set("topK")} />
      <${TextField} label=${t("Seed")} ...${number} placeholder=${t("none")} value=${value.seed} onInput=${set("seed")} />
      <${TextField} label=${t("Stop at")} placeholder=${t("text")} value=${value.stop} onInput=${set("stop")} />
    </div>
    ${views().map(([colour, label, hint]) => html`<${Check} key=${colour} label=${label} hint=${hint} checked=${value.colour === colour} onChange=${(on) => set("colour")(on ? colour : "none")} />`)}
    ${mode === "chat" && html`<${JsonArea} label=${t("Tools")} hint=${t("What the model may call, as OpenAI's API has them")} placeholder='[{"type": "function", …}]' value=${value.tools} onInput=${set("tools")} />
      <${JsonArea} label=${t("JSON schema")} hint=${t("The answer follows it")} placeholder='{"type": "object", …}' value=${value.schema} onInput=${set("schema")} />`}
  </div><//>`;
}

const JsonArea = ({ value, ...rest }) => html`<${TextArea} rows="4" class="mono" spellcheck="false" value=${value} problem=${jsonProblem(value)} ...${rest} />`;

/** [what is coloured, label, hint] */
const views = () => [
  ["probability", t("Show probabilities"), t("The less likely a token, the stronger its colour")],
  ["difference", t("Show the difference to the base"), t("Colours tokens that the base model would not have chosen")],
  ["words", t("Mark words that differ"), t("From the first answer")],
];

export function jsonProblem(text) {
  if (!text.trim()) return "";
  try {
    JSON.parse(text);
    return "";
  } catch (error) {
    return t`Not JSON: ${error.message}.`;
  }
}
