/** An earlier request as a task of the playground: what its form shows is there to be changed, the rest is sent as it was. */
import { messageDraft } from "../../lib/chat-messages.js";
import { mixOf } from "../../lib/models.js";
import { DEFAULTS, EMPTY } from "./task.js";

const FORM = ["model", "adapters", "context", "messages", "prompt", "temperature", "max_tokens", "max_completion_tokens", "top_p", "top_k", "seed", "stop"];
/** The playground streams one answer, and asks for probabilities where it shows them. */
const OWN = ["stream", "stream_options", "n", "best_of", "logprobs", "top_logprobs"];
const text = (value) => (value === null || value === undefined ? "" : String(value));
const json = (value) => (value ? JSON.stringify(value, null, 2) : "");

/**
 * @param {{path: string, body: {request: object}}} request of GET /api/v1/requests/{id}, with its body
 * @returns {object} a task; its replay is {rest: object, format: object|null, prompt: any}: prompt: of a completion, where it is no text
 * that the form could show; format: the response_format whose schema the form shows
 */
export function taskOf({ path, body: { request } }) {
  const body = Object.fromEntries(Object.entries(request).filter(([, value]) => value !== null));
  const isChat = path !== "/v1/completions";
  const stops = [body.stop ?? []].flat();
  // The form has a schema and tools for chats only; a completion's are sent with the rest.
  const format = isChat && body.response_format?.json_schema?.schema ? body.response_format : null;
  const tools = isChat && body.tools?.length ? body.tools : null;
  const settings = {
    ...DEFAULTS, temperature: text(body.temperature), maxTokens: text(body.max_completion_tokens ?? body.max_tokens), topP: text(body.top_p),
    topK: text(body.top_k), seed: text(body.seed), stop: stops.length === 1 ? stops[0] : "", schema: json(format?.json_schema.schema), tools: json(tools),
  };
  const left = new Set([...FORM, ...OWN, ...(format ? ["response_format"] : []), ...(tools ? ["tools"] : [])]);
  const rest = Object.fromEntries(Object.entries(body).filter(([name]) => !left.has(name)));
  if (stops.length > 1) rest.stop = stops;
  const isShown = typeof body.prompt === "string";
  const replay = { rest, format, prompt: isChat || isShown ? null : body.prompt };
  const asked = isChat ? conversation(body.messages) : { mode: "completion", prompt: isShown ? body.prompt : "" };
  return { ...EMPTY, ...asked, settings, replay };
}

function conversation(messages) {
  const [first, last] = [messages[0], messages.at(-1)];
  const hasSystem = first.role === "system" && isPlain(first) && messages.length > 1;
  const hasPrompt = last.role === "user" && isPlain(last);
  return {
    system: hasSystem ? first.content : "", prompt: hasPrompt ? last.content : "",
    turns: messages.slice(hasSystem ? 1 : 0, hasPrompt ? -1 : undefined).map(messageDraft),
  };
}

/** The form's own fields have a text and nothing else. */
const isPlain = ({ role, content, ...rest }) => typeof content === "string" && Object.values(rest).every((one) => one === null);

/** What the playground's address says of a request that has its body. */
export function placeOf(one) {
  const { adapters, context } = one.body.request;
  const model = adapters?.length ? mixOf(adapters) : one.adapter && one.version ? `${one.adapter}@${one.version}` : one.model;
  return String(new URLSearchParams({ request: one.id, model, ...(context && { context }) }));
}
