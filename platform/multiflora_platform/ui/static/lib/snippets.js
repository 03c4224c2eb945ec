/** Code to copy: the same request as curl, the official OpenAI and Anthropic clients, and LangChain. No key is ever in it. */

const origin = () => location.origin;
const quoted = (text) => `'${text.replaceAll("'", `'\\''`)}'`;

/** A value of JSON as Python writes it. */
function python(value) {
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (Array.isArray(value)) return `[${value.map(python).join(", ")}]`;
  if (typeof value === "object") return `{${Object.entries(value).map(([name, one]) => `${JSON.stringify(name)}: ${python(one)}`).join(", ")}}`;
  return JSON.stringify(value);
}

/** Of a body, what a client's call has names for; the rest goes into its extra_body. */
function split(body, known) {
  const given = Object.entries(body).filter(([, value]) => value !== undefined);
  const extra = Object.fromEntries(given.filter(([name]) => !known.has(name)));
  return { ...Object.fromEntries(given.filter(([name]) => known.has(name))), ...(Object.keys(extra).length && { extra_body: extra }) };
}

/** An argument a line. */
const keywords = (values) => Object.entries(values).map(([name, value]) => `    ${name}=${python(value)},\n`).join("");
const KEY = 'os.environ["MULTIFLORA_API_KEY"]';

const OF_CHATS = new Set(["model", "messages", "temperature", "top_p", "max_tokens", "seed", "stop", "tools", "tool_choice", "response_format", "presence_penalty", "frequency_penalty"]);
const OF_COMPLETIONS = new Set(["model", "prompt", "temperature", "top_p", "max_tokens", "seed", "stop", "presence_penalty", "frequency_penalty"]);

/** @param {{path: string, body: object}} request */
export function curl({ path, body }) {
  return `curl ${origin()}${path} \\
  -H "Authorization: Bearer $MULTIFLORA_API_KEY" \\
  -H 'Content-Type: application/json' \\
  -d ${quoted(JSON.stringify(body, null, 2))}`;
}

export function openai({ path, body }) {
  const isChat = path.endsWith("/chat/completions");
  const result = !isChat ? "text" : body.tools ? "message" : "message.content";
  return `import os
from openai import OpenAI

client = OpenAI(base_url="${origin()}/v1", api_key=${KEY})
answer = client.${isChat ? "chat.completions" : "completions"}.create(
${keywords(split(body, isChat ? OF_CHATS : OF_COMPLETIONS))})
print(answer.choices[0].${result})`;
}

/** Without those of sampling, which newer clients have no names for. */
const OF_MESSAGES = new Set(["model", "max_tokens", "system", "messages", "stop_sequences", "tools", "tool_choice"]);
/** Of OpenAI's choices of a tool, what Anthropic's API calls otherwise. */
const CHOICES = { auto: { type: "auto" }, required: { type: "any" }, none: { type: "none" } };
const USUAL_TOKENS = 1024;

export function anthropic({ body: { messages, stop, tools, tool_choice: choice, max_tokens: tokens = USUAL_TOKENS, model, ...rest } }) {
  const system = messages.filter((one) => one.role === "system").map(({ content }) => content);
  const asked = {
    model, max_tokens: tokens, ...(system.length && { system: system.every((one) => typeof one === "string") ? system.join("\n\n") : system.flat() }),
    messages: turnsOf(messages.filter((one) => one.role !== "system")), ...rest, stop_sequences: stop && [stop].flat(),
    tools: tools?.map(({ function: { name, description, parameters = { type: "object" } } }) => ({ name, ...(description && { description }), input_schema: parameters })),
    tool_choice: CHOICES[choice] ?? (choice?.function && { type: "tool", name: choice.function.name }),
  };
  return `import os
from anthropic import Anthropic

client = Anthropic(base_url="${origin()}", api_key=${KEY})
answer = client.messages.create(
${keywords(split(asked, OF_MESSAGES))})
print(answer.content)`;
}

/** Messages as blocks: calls of tools stand in the assistant's, their results in the user's that follows, all in one. */
function turnsOf(messages) {
  const turns = [];
  for (const { role, content, tool_calls: calls = [], tool_call_id: id } of messages) {
    const said = typeof content === "string" ? (content ? [{ type: "text", text: content }] : []) : (content ?? []);
    const blocks = role === "tool" ? [{ type: "tool_result", tool_use_id: id, content: content ?? "" }]
      : [...said, ...calls.map((call) => ({ type: "tool_use", id: call.id, name: call.function.name, input: inputOf(call) }))];
    const speaker = role === "assistant" ? role : "user";
    if (turns.at(-1)?.role === speaker) turns.at(-1).content.push(...blocks);
    else turns.push({ role: speaker, content: blocks });
  }
  const isText = (blocks) => blocks.length === 1 && blocks[0].type === "text";
  return turns.map(({ role, content }) => ({ role, content: isText(content) ? content[0].text : content }));
}

function inputOf(call) {
  try {
    return JSON.parse(call.function.arguments || "{}");
  } catch {
    return {};
  }
}

/** Without response_format, whose answers it would parse, and fail where they are cut off. */
const OF_LANGCHAIN = new Set(["model", "temperature", "top_p", "max_tokens", "seed", "presence_penalty", "frequency_penalty"]);

export function langchain({ path, body: { messages, prompt, tools, tool_choice: choice, ...rest } }) {
  const isChat = path.endsWith("/chat/completions");
  const bound = tools ? `model = model.bind(\n${keywords({ tools, ...(choice !== undefined && { tool_choice: choice }) })})\n` : "";
  const name = isChat ? "ChatOpenAI" : "OpenAI";
  return `import os
from langchain_openai import ${name}

model = ${name}(
    base_url="${origin()}/v1",
    api_key=${KEY},
${keywords(split(rest, OF_LANGCHAIN))})
${bound}answer = model.invoke(${python(isChat ? messages : prompt)})
print(${!isChat ? "answer" : tools ? "answer.tool_calls or answer.content" : "answer.content"})`;
}

/** [language, code] of all that can ask so. A text to complete has no call of Anthropic's API, token ids none of LangChain's. */
export function exported(request) {
  const { messages, prompt } = request.body;
  return [
    ["curl", curl(request)], ["openai", openai(request)],
    ...(messages ? [["anthropic", anthropic(request)]] : []),
    ...(messages || typeof prompt === "string" ? [["langchain", langchain(request)]] : []),
  ];
}

/** A new server's first steps on the command line. @param {object|undefined} adapter the first there is */
export function firstCommands(adapter) {
  const name = adapter?.name ?? "my-adapter";
  const messages = [{ role: "user", content: adapter?.demo_prompt ?? "Hello" }];
  return {
    register: `export MULTIFLORA_URL=${origin()} MULTIFLORA_API_KEY=…\nmultiflora adapters add my-adapter ./my-adapter`,
    ask: curl({ path: "/v1/chat/completions", body: { model: name, messages, max_tokens: 32 } }),
    alias: `multiflora adapters alias ${name} canary ${adapter?.ready_versions.at(-1) ?? 1}`,
  };
}
