/** An answer as text, compared with another one, or as tokens coloured by how likely they were, alone or beside the base model;
 * and its calls of tools. */
import { html, useMemo } from "../../lib/html.js";
import { t } from "../../lib/language.js";
import { wordDiff } from "../../lib/words.js";
import { Differing } from "../../components/word-diff.js";

const LARGEST = 38;

/** other: {text, side} that the words are compared with, or null */
export function Tokens({ answer, colour, other }) {
  return html`${colour === "words" && other && !answer.busy ? html`<${Compared} text=${answer.text} other=${other} />` : html`<${Coloured} answer=${answer} colour=${colour} />`}
    ${answer.calls.map((call, i) => html`<pre class="text call" key=${i}><b>${call.function.name}</b>(${call.function.arguments})</pre>`)}`;
}

function Compared({ text, other }) {
  const isRight = other.side === "right";
  const runs = useMemo(() => (isRight ? wordDiff(other.text, text) : wordDiff(text, other.text)), [text, other.text, isRight]);
  return html`<pre class="text"><${Differing} runs=${runs} side=${other.side} /></pre>`;
}

function Coloured({ answer, colour }) {
  if (!["probability", "difference"].includes(colour) || !answer.tokens.length) return html`<pre class="text">${answer.text}</pre>`;
  const isDifference = colour === "difference";
  const isEnd = answer.reason === "stop" && !answer.text.endsWith(answer.tokens.at(-1).text);
  const tokens = isEnd ? answer.tokens.slice(0, -1) : answer.tokens;
  return html`<pre class="text">${tokens.map((token, i) => html`<span key=${i} style=${{ background: background(token, answer.base?.[i], isDifference) }} title=${told(token, answer.base?.[i], isDifference)}>${token.text}</span>`)}</pre>
    <p class="small muted">${legend(answer, isDifference)}</p>`;
}

function background(token, base, isDifference) {
  if (isDifference && typeof base !== "number") return undefined;
  const strength = isDifference ? Math.min(1, Math.max(0, (token.logprob - base) / 6)) : 1 - Math.exp(token.logprob);
  const tone = isDifference ? "--series-5" : "--series-1";
  return strength < 0.02 ? undefined : `color-mix(in srgb, var(${tone}) ${Math.round(strength * LARGEST)}%, transparent)`;
}

const share = (logprob) => `${(100 * Math.exp(logprob)).toPrecision(3)}%`;

function told(token, base, isDifference) {
  if (isDifference && typeof base === "number") return t`${share(token.logprob)} here, ${share(base)} by the base model`;
  const others = token.others.filter(([text]) => text !== token.text).map(([text, logprob]) => `${JSON.stringify(text)} ${share(logprob)}`);
  return `${share(token.logprob)}${others.length ? t`; otherwise ${others.join(", ")}` : ""}`;
}

function legend(answer, isDifference) {
  if (!isDifference) return t("Colour: how unlikely the token was. Point at one for the alternatives.");
  if (!answer.base) return answer.busy ? t("The base model is asked when the answer is complete.") : t("The base model's probabilities are not known.");
  const changed = answer.tokens.filter((token, i) => typeof answer.base[i] === "number" && token.logprob - answer.base[i] > Math.LN2).length;
  return t`Colour: how much likelier than for the base model; ${changed} of ${answer.tokens.length} tokens at least twice as likely.`;
}
