/** An earlier request as a task of the playground: what its form shows is there to be changed, the rest is sent as it was. */

const FORM = ["model", "messages", "prompt", "temperature", "max_tokens", "max_completion_tokens", "top_p", "top_k", "seed", "stop"];
/** The playground streams one answer, and asks for probabilities where it shows them. */
const OWN = ["stream", "stream_options", "n", "best_of", "logprobs", "top_logprobs"];
const text = (value) => (value === null || value === undefined ? "" : String(value));

/**
 * @param {{path: string, body: {request: object}}} request of GET /api/v1/requests/{id}, with its body
 * @returns {{mode, system, prompt, settings, replay: {rest: object, format: object|null, before: Array, last: any}}} replay.last: the prompt
 * or the last message where it is no text that the form could show; before: messages between the system's and the last; format: the
 * response_format whose schema the form shows
 */
export function taskOf({ path, body: { request } }, defaults) {
  const body = Object.fromEntries(Object.entries(request).filter(([, value]) => value !== null));
  const stops = [body.stop ?? []].flat();
  // The form has a schema for chats only; a completion's is sent with the rest.
  const format = path !== "/v1/completions" && body.response_format?.json_schema?.schema ? body.response_format : null;
  const settings = {
    ...defaults, temperature: text(body.temperature), maxTokens: text(body.max_completion_tokens ?? body.max_tokens), topP: text(body.top_p),
    topK: text(body.top_k), seed: text(body.seed), stop: stops.length === 1 ? stops[0] : "", schema: format ? JSON.stringify(format.json_schema.schema, null, 2) : "",
  };
  const left = new Set([...FORM, ...OWN, ...(format ? ["response_format"] : [])]);
  const rest = Object.fromEntries(Object.entries(body).filter(([name]) => !left.has(name)));
  if (stops.length > 1) rest.stop = stops;
  if (path === "/v1/completions") {
    const shown = typeof body.prompt === "string";
    return { mode: "completion", system: "", prompt: shown ? body.prompt : "", settings, replay: { rest, format, before: [], last: shown ? null : body.prompt } };
  }
  return { mode: "chat", settings, ...conversation(body.messages, { rest, format }) };
}

function conversation(messages, kept) {
  const [first, last] = [messages[0], messages.at(-1)];
  const system = first.role === "system" && typeof first.content === "string" && messages.length > 1;
  const shown = last.role === "user" && typeof last.content === "string";
  return { system: system ? first.content : "", prompt: shown ? last.content : "", replay: { ...kept, before: messages.slice(system ? 1 : 0, -1), last: shown ? null : last } };
}
