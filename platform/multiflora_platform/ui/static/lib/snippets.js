/** Code to copy: the same request as curl, the official OpenAI client, and LangChain. No key is ever in it. */

const origin = () => location.origin;
const quoted = (text) => `'${text.replaceAll("'", `'\\''`)}'`;
const python = (value, indent = "") => {
  if (value === null) return "None";
  if (value === true) return "True";
  if (value === false) return "False";
  if (Array.isArray(value)) return `[${value.map((one) => python(one, indent)).join(", ")}]`;
  if (typeof value === "object") {
    return `{${Object.entries(value).map(([name, one]) => `${JSON.stringify(name)}: ${python(one, indent)}`).join(", ")}}`;
  }
  return JSON.stringify(value);
};
/** What the client's signature has; the rest goes into extra_body. */
const KNOWN = new Set(["model", "messages", "prompt", "temperature", "top_p", "max_tokens", "seed", "stop", "stream", "logprobs",
  "top_logprobs", "response_format", "presence_penalty", "frequency_penalty", "n"]);

/** @param {{path: string, body: object}} request */
export function curl({ path, body }) {
  return `curl ${origin()}${path} \\
  -H "Authorization: Bearer $MULTIFLORA_API_KEY" \\
  -H 'Content-Type: application/json' \\
  -d ${quoted(JSON.stringify(body, null, 2))}`;
}

export function openai({ path, body }) {
  const known = Object.entries(body).filter(([name]) => KNOWN.has(name));
  const extra = Object.fromEntries(Object.entries(body).filter(([name]) => !KNOWN.has(name)));
  const lines = known.map(([name, value]) => `    ${name}=${python(value)},`);
  if (Object.keys(extra).length) lines.push(`    extra_body=${python(extra)},`);
  const chat = path.endsWith("/chat/completions");
  return `import os
from openai import OpenAI

client = OpenAI(base_url="${origin()}/v1", api_key=os.environ["MULTIFLORA_API_KEY"])
answer = client.${chat ? "chat.completions" : "completions"}.create(
${lines.join("\n")}
)
print(answer.choices[0].${chat ? "message.content" : "text"})`;
}

export function langchain({ body }) {
  const text = body.messages?.at(-1)?.content ?? body.prompt ?? "";
  return `import os
from langchain_openai import ChatOpenAI

model = ChatOpenAI(
    base_url="${origin()}/v1",
    api_key=os.environ["MULTIFLORA_API_KEY"],
    model=${JSON.stringify(body.model)},
    temperature=${body.temperature ?? 0},
)
print(model.invoke(${JSON.stringify(text)}).content)`;
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
