/** A task of the playground as a request of the API, and its stream as tokens. Knows no markup. */
import { post, send } from "../../lib/api.js";
import { named } from "../../lib/models.js";
import { events } from "../../lib/sse.js";
import { messagesOf } from "./task.js";

const ALTERNATIVES = 5;
const FORMAT = { type: "json_schema", json_schema: { name: "answer", strict: true } };
/** Of the form: the body's field. */
const NUMBERS = { temperature: "temperature", maxTokens: "max_tokens", topP: "top_p", topK: "top_k", seed: "seed" };

/** {path, body} as any client would send it; what only the page needs is added by `stream`. context: a name, or "".
 * models: of `loadModels`. Throws where a text of the form is no JSON. */
export function requestOf(model, context, task, models) {
  const { mode, prompt, settings, replay } = task;
  const body = { ...replay?.rest, ...named(model, models), ...(context && { context }) };
  for (const [from, to] of Object.entries(NUMBERS)) if (settings[from] !== "") body[to] = Number(settings[from]);
  if (settings.stop) body.stop = [settings.stop];
  if (mode === "completion") return { path: "/v1/completions", body: { ...body, prompt: replay?.prompt ?? prompt ?? "" } };
  if (settings.tools.trim()) body.tools = JSON.parse(settings.tools);
  if (settings.schema.trim()) {
    const format = replay?.format ?? FORMAT;
    body.response_format = { ...format, json_schema: { ...format.json_schema, schema: JSON.parse(settings.schema) } };
  }
  return { path: "/v1/chat/completions", body: { ...body, messages: messagesOf(task) } };
}

/** @yields {{text?: string, tokens?: Array, calls?: Array, ids?: number[], promptIds?: number[], usage?: object, reason?: string, cause?: string, id?: string}}
 * cause: why no more of the prompt was cached, id: of the answer; both come first */
export async function* stream({ path, body }, colour, signal) {
  const chat = path.endsWith("/chat/completions");
  const more = { stream: true, stream_options: { include_usage: true } };
  if (["probability", "difference"].includes(colour)) Object.assign(more, chat ? { logprobs: true, top_logprobs: ALTERNATIVES } : { logprobs: ALTERNATIVES });
  if (colour === "difference") more.return_token_ids = true;
  const response = await send("POST", path, { body: { ...body, ...more }, signal });
  yield { text: "", tokens: [], calls: [], ids: [], cause: response.headers.get("x-cache-reason") };
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
    id: event.id,
    text: (chat ? choice.delta?.content : choice.text) ?? "",
    calls: choice.delta?.tool_calls ?? [],
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

/** Calls of tools with one more piece of a stream. */
export function calledOn(calls, pieces) {
  return pieces.reduce((all, { index = all.length, id, function: { name, arguments: more = "" } = {} }) => {
    const old = all[index] ?? { id, type: "function", function: { name: "", arguments: "" } };
    return [...all.slice(0, index), { ...old, id: id ?? old.id, function: { name: name ?? old.function.name, arguments: old.function.arguments + more } }, ...all.slice(index + 1)];
  }, calls);
}

/** How likely the base model finds each token of the answer: one request that generates nothing. */
export async function baseLogprobs(base, promptIds, ids, signal) {
  const body = { model: base, prompt: [...promptIds, ...ids], echo: true, logprobs: 0, max_tokens: 0 };
  const answer = await post("/v1/completions", body, { signal });
  return answer.choices[0].logprobs.token_logprobs.slice(promptIds.length);
}
