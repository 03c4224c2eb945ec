/** One model's answer: streamed, measured, coloured; and the request as code. */
import { html, useEffect, useRef, useState } from "../../lib/html.js";
import { count, rate, seconds } from "../../lib/format.js";
import { t } from "../../lib/language.js";
import { curl, langchain, openai } from "../../lib/snippets.js";
import { Snippets } from "../../components/code.js";
import { Dialog } from "../../components/dialog.js";
import { Icon } from "../../components/icon.js";
import { baseLogprobs, requestOf, stream } from "./request.js";
import { Tokens } from "./tokens.js";

/** Tokens that are closer together came in one piece: their distance says nothing about the server. */
const BURST_SECONDS = 0.0002;
const nothing = () => ({ text: "", tokens: [], base: null, usage: null, reason: null, error: null, first: null, last: null, busy: false });

export function Column({ model, task, run, canRemove, onModel, onRemove }) {
  const [answer, setAnswer] = useState(nothing);
  const [sharing, setSharing] = useState(false);
  const abort = useRef(null);
  useEffect(() => {
    if (!run) return undefined;
    abort.current = new AbortController();
    ask(model, task, setAnswer, abort.current.signal);
    return () => abort.current.abort();
  }, [run]);
  const request = requestOf(model, task);
  return html`<section class="card column" aria-label=${t`Answer of ${model}`}>
    <header>
      <input list="model-names" aria-label=${t("Model")} spellcheck="false" value=${model} onChange=${(event) => event.target.value.trim() && onModel(event.target.value.trim())} />
      ${answer.busy ? html`<button type="button" class="button small" onClick=${() => abort.current.abort()}>${t("Stop")}</button>`
        : html`<button type="button" class="button small quiet" onClick=${() => setSharing(true)}>${t("Code")}</button>`}
      ${canRemove && html`<button type="button" class="button small quiet" aria-label=${t`Remove ${model}`} onClick=${onRemove}><${Icon} name="close" size=${15} /></button>`}
    </header>
    <div class="answer" aria-busy=${answer.busy} aria-live="polite">
      ${answer.error ? html`<p class="problem" role="alert">${answer.error}</p>`
        : answer.text || answer.tokens.length ? html`<${Tokens} answer=${answer} colour=${task.settings.colour} />`
          : html`<p class="muted">${answer.busy ? t("Waiting for the first token…") : t("The answer appears here.")}</p>`}
    </div>
    <${Measured} answer=${answer} />
    ${sharing && html`<${Dialog} wide title=${t`The request to ${model}`} onClose=${() => setSharing(false)}>
      <${Snippets} of=${[["curl", curl(request)], ["openai", openai(request)], ["langchain", langchain(request)]]} />
      <footer><button class="button" onClick=${() => setSharing(false)}>${t("Close")}</button></footer><//>`}
  </section>`;
}

async function ask(model, task, setAnswer, signal) {
  const { colour } = task.settings;
  const start = performance.now();
  const answer = { ...nothing(), busy: true };
  const ids = [];
  let promptIds = null;
  let drawn = 0;
  const show = (force) => {
    if (!force && performance.now() - drawn < 32) return;
    drawn = performance.now();
    setAnswer({ ...answer, tokens: [...answer.tokens] });
  };
  show(true);
  try {
    for await (const part of stream(requestOf(model, task), colour, signal)) {
      const now = (performance.now() - start) / 1000;
      if (part.text) answer.first ??= now;
      if (part.text) answer.last = now;
      answer.text += part.text;
      answer.tokens.push(...part.tokens);
      ids.push(...part.ids);
      promptIds ??= part.promptIds;
      answer.usage = part.usage ?? answer.usage;
      answer.reason = part.reason ?? answer.reason;
      show(false);
    }
    if (colour === "difference" && promptIds && ids.length) answer.base = await baseLogprobs(promptIds, ids, signal);
  } catch (error) {
    if (error.name === "AbortError") answer.reason = "stopped";
    else answer.error = error.message;
  }
  answer.busy = false;
  show(true);
}

function Measured({ answer }) {
  const { usage, first, last } = answer;
  const made = usage?.completion_tokens;
  const spread = made > 1 ? (last - first) / (made - 1) : 0;
  const gap = spread > BURST_SECONDS ? spread : null;
  const cached = usage?.prompt_tokens_details?.cached_tokens;
  return html`<dl class="measured">
    <div><dt>${t("First token")}</dt><dd>${seconds(first)}</dd></div>
    <div><dt>${t("Between tokens")}</dt><dd>${seconds(gap)}</dd></div>
    <div><dt>${t("Tokens/s")}</dt><dd>${rate(made && last ? made / last : null)}</dd></div>
    <div><dt>${t("Prompt")}</dt><dd>${count(usage?.prompt_tokens)}</dd></div>
    <div><dt>${t("Cached")}</dt><dd>${count(cached)}</dd></div>
    <div><dt>${t("Answer")}</dt><dd>${count(made)}${answer.reason && answer.reason !== "stop" ? html` <small class="muted">${answer.reason}</small>` : ""}</dd></div>
  </dl>`;
}
