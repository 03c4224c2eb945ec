/** The tour of the bundled demo: what its steps do to the server, over the API and on an adapter of the tour's own. Knows no markup. */
import { get, post, remove, upload } from "./api.js";
import { t } from "./language.js";
import { tinyAdapter } from "./tiny-adapter.js";

const TAG = "tour";
/** Seconds that the 95th percentile of the candidate may take: none of its answers is as fast. */
export const BOUND = 0.001;
export const SAMPLES = 5;
/** Half of the users get the candidate; that none of so many would is out of the question. */
const MOST_USERS = 60;
const SHOP = "You answer for a shop that sells lamps, chairs and tables. Answer briefly, name the price of each product that you mention, and never invent one. Say so when you do not know.";

/** Another one for each tour: two people can take it at once. */
export const newName = () => `tour-${Math.random().toString(36).slice(2, 8)}`;
const pathOf = (name) => `/api/v1/adapters/${name}`;
const rolloutOf = (name) => `${pathOf(name)}/aliases/default/rollout`;

export async function makeAdapter(name, signal) {
  await post("/api/v1/adapters", { name, description: "Made by the tour of the demo, which removes it at its end", tags: [TAG] }, { signal });
  for (const alpha of [1, 2]) await upload(`${pathOf(name)}/versions`, tinyAdapter(alpha), { signal });
  return get(pathOf(name), { signal });
}

export async function startCanary(name, signal) {
  const { etag } = await get(`${pathOf(name)}/aliases/default`, { signal });
  return post(rolloutOf(name), { candidate: 2, percent: 50, min_samples: SAMPLES, max_p95_seconds: BOUND, why: "The tour shows how a bound is broken" }, { signal, headers: { "If-Match": etag } });
}

/** One request of each user, until the server has decided. @returns the rollout, and how many requests it took */
export async function sendUntilDecided(name, signal) {
  for (let user = 1; user <= MOST_USERS; user += 1) {
    await post("/v1/completions", { model: name, prompt: "The shop opens at", max_tokens: 8, user: `user-${user}` }, { signal });
    const rollout = await get(rolloutOf(name), { signal });
    if (rollout.state !== "running") return { ...rollout, sent: user };
  }
  throw new Error(t`After ${MOST_USERS} requests the server has not decided. Look at the rollout, or leave the tour.`);
}

/** As a template that tells the time makes it. */
function question(name, seconds) {
  const time = new Date(Date.now() + seconds * 1000).toISOString().slice(0, 19).replace("T", " ");
  return { model: name, messages: [{ role: "system", content: `It is ${time}. ${SHOP}` }, { role: "user", content: "Which lamps do you have?" }] };
}

/** @returns the usages of two prompts that differ only in the time at their beginning */
export async function sendTwice(name, signal) {
  const usages = [];
  for (const seconds of [0, 7]) usages.push((await post("/v1/chat/completions", { ...question(name, seconds), max_tokens: 8 }, { signal })).usage);
  return usages;
}

export const explainMiss = (name, signal) => post("/api/v1/cache:explain", question(name, 14), { signal });

/** @param {boolean} leaving the window closes: the call outlives it */
export const removeAdapter = (name, leaving) => remove(pathOf(name), { keepalive: leaving });

/** Names of what tours left whose window was lost. */
export const leftOvers = async (signal) => (await get(`/api/v1/adapters?limit=20&tag=${TAG}`, { signal })).items.map((one) => one.name);
