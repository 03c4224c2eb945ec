/** A task of the playground as a request of the API, and its stream as tokens. Knows no markup. */
import { post, send } from "../../lib/api.js";
import { session } from "../../lib/session.js";
import { events } from "../../lib/sse.js";
import { schemaProblem } from "./settings.js";

const ALTERNATIVES = 5;
const FORMAT = { type: "json_schema", json_schema: { name: "answer", strict: true } };

/** {path, body} as any client would send it; what only the page needs is added by `stream`. replay: of replay.js, or null */
export function requestOf(model, { mode, system, prompt, settings, replay }) {
  const body = { ...replay?.rest, model };
  if (settings.temperature !== "") body.temperature = Number(settings.temperature);
  if (settings.maxTokens !== "") body.max_tokens = Number(settings.maxTokens);
  if (settings.topP !== "") body.top_p = Number(settings.topP);
  if (settings.topK !== "") body.top_k = Number(settings.topK);
  if (settings.seed !== "") body.seed = Number(settings.seed);
  if (settings.stop) body.stop = [settings.stop];
  if (mode === "completion") return { path: "/v1/completions", body: { ...body, prompt: replay?.last ?? prompt } };
  const messages = [...(system.trim() ? [{ role: "system", content: system }] : []), ...(replay?.before ?? []), replay?.last ?? { role: "user", content: prompt }];
  if (settings.schema.trim() && !schemaProblem(settings.schema)) {
    const format = replay?.format ?? FORMAT;
    body.response_format = { ...format, json_schema: { ...format.json_schema, schema: JSON.parse(settings.schema) } };
  }
  return { path: "/v1/chat/completions", body: { ...body, messages } };
}

/** @yields {{text?: string, tokens?: Array, ids?: number[], promptIds?: number[], usage?: object, reason?: string}} */
export async function* stream({ path, body }, colour, signal) {
  const chat = path.endsWith("/chat/completions");
  const more = { stream: true, stream_options: { include_usage: true } };
  if (colour !== "none") Object.assign(more, chat ? { logprobs: true, top_logprobs: ALTERNATIVES } : { logprobs: ALTERNATIVES });
  if (colour === "difference") more.return_token_ids = true;
  const response = await send("POST", path, { body: { ...body, ...more }, signal });
  for await (const data of events(response)) {
    if (data === "[DONE]") return;
    const event = JSON.parse(data);
    if (event.error) throw new Error(event.error.message);
    yield part(event, chat);
  }
}

function part(event, chat) {
  const choice = event.choices[0] ?? {};
  return {
    text: (chat ? choice.delta?.content : choice.text) ?? "",
    tokens: chat ? chatTokens(choice) : completionTokens(choice),
    ids: choice.token_ids ?? [],
    promptIds: event.prompt_token_ids ?? choice.prompt_token_ids ?? null,
    usage: event.usage ?? null,
    reason: choice.finish_reason ?? null,
  };
}

const chatTokens = (choice) => (choice.logprobs?.content ?? []).map((one) => ({
  text: one.token, logprob: one.logprob, others: one.top_logprobs.map((other) => [other.token, other.logprob]),
}));

const completionTokens = ({ logprobs }) => (logprobs?.tokens ?? []).map((text, i) => ({
  text, logprob: logprobs.token_logprobs[i], others: Object.entries(logprobs.top_logprobs?.[i] ?? {}),
}));

/** How likely the base model finds each token of the answer: one request that generates nothing. */
export async function baseLogprobs(promptIds, ids, signal) {
  const body = { model: session.value.base_model, prompt: [...promptIds, ...ids], echo: true, logprobs: 0, max_tokens: 0 };
  const answer = await post("/v1/completions", body, { signal });
  return answer.choices[0].logprobs.token_logprobs.slice(promptIds.length);
}
