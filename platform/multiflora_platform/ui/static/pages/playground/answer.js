/** One answer as it comes: its text, tokens, calls of tools and numbers. Knows no markup. */
import { baseLogprobs, calledOn, stream } from "./request.js";

const DRAWN_MS = 32;

/** request: that it answers; cause: why no more of the prompt was cached; id: of the answer. first, last: seconds until its
 * first text and its last one; base: what the base model finds of each token, once it was asked. */
export const nothing = () => ({ request: null, text: "", tokens: [], calls: [], base: null, usage: null, cause: null, id: null, reason: null, error: null, first: null, last: null, busy: false });

/** @param {object} request of `requestOf`  @param {string} base the base model, which "difference" asks as well
 * @returns {Promise<object>} the whole answer; `setAnswer` has what there is of it meanwhile */
export async function ask(request, base, colour, setAnswer, signal) {
  const start = performance.now();
  const answer = { ...nothing(), request, busy: true };
  const ids = [];
  let promptIds = null;
  let drawn = 0;
  const show = (force) => {
    if (!force && performance.now() - drawn < DRAWN_MS) return;
    drawn = performance.now();
    setAnswer({ ...answer, tokens: [...answer.tokens] });
  };
  show(true);
  try {
    for await (const part of stream(request, colour, signal)) {
      const now = (performance.now() - start) / 1000;
      if (part.text || part.calls.length) {
        answer.first ??= now;
        answer.last = now;
      }
      answer.text += part.text;
      answer.tokens.push(...part.tokens);
      answer.calls = calledOn(answer.calls, part.calls);
      ids.push(...part.ids);
      promptIds ??= part.promptIds;
      for (const field of ["usage", "reason", "cause", "id"]) answer[field] = part[field] ?? answer[field];
      show(false);
    }
    if (colour === "difference" && promptIds && ids.length) answer.base = await baseLogprobs(base, promptIds, ids, signal);
  } catch (error) {
    if (error.name === "AbortError") answer.reason = "stopped";
    else answer.error = error.message;
  }
  answer.busy = false;
  show(true);
  return answer;
}
