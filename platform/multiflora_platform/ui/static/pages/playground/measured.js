/** What an answer took: times, tokens, and how much of the prompt was cached and why no more. */
import { html } from "../../lib/html.js";
import { count, rate, seconds } from "../../lib/format.js";
import { t } from "../../lib/language.js";
import { reasons } from "../../lib/misses.js";
import { href } from "../../lib/router.js";
import { may } from "../../lib/session.js";
import { Badge } from "../../components/bits.js";

/** Tokens that are closer together came in one piece: their distance says nothing about the server. */
const BURST_SECONDS = 0.0002;

export function Measured({ answer }) {
  const { usage, first, last, reason } = answer;
  const made = usage?.completion_tokens;
  const spread = made > 1 ? (last - first) / (made - 1) : 0;
  const gap = spread > BURST_SECONDS ? spread : null;
  return html`<dl class="measured">
    <div><dt>${t("First token")}</dt><dd>${seconds(first)}</dd></div>
    <div><dt>${t("Between tokens")}</dt><dd>${seconds(gap)}</dd></div>
    <div><dt>${t("Tokens/s")}</dt><dd>${rate(made && last ? made / last : null)}</dd></div>
    <div><dt>${t("Prompt")}</dt><dd>${count(usage?.prompt_tokens)}</dd></div>
    <div><dt>${t("Cached")}</dt><dd><${Cached} answer=${answer} /></dd></div>
    <div><dt>${t("Answer")}</dt><dd>${count(made)}${reason && reason !== "stop" ? html` <small class="muted">${reason}</small>` : ""}</dd></div>
  </dl>`;
}

/** The request's own page explains it. */
function Cached({ answer: { usage, cause, id } }) {
  const cached = usage?.prompt_tokens_details?.cached_tokens;
  if (cached === undefined) return count(cached);
  const why = cause && html` <${Badge} kind=${cause === "none" ? "ok" : ""}>${reasons()[cause] ?? cause}<//>`;
  return html`${count(cached)}${why && (may("usage:read") && id ? html`<a href=${href(`/requests/${encodeURIComponent(id)}`)} title=${t("Why not more")}>${why}</a>` : why)}`;
}
