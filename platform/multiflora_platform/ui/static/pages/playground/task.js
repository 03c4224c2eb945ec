/** What the playground asks of each of its models, and how the address keeps it: a reload and a link show the same.
 * Knows no markup. */
import { useEffect, useState } from "../../lib/html.js";
import { messageDraft, messageOf, Misplaced } from "../../lib/chat-messages.js";
import { fragment, setFragment } from "../../lib/router.js";

export const DEFAULTS = { temperature: "0", topP: "1", topK: "", maxTokens: "128", seed: "", stop: "", tools: "", schema: "", colour: "none" };
/** turns: drafts of the messages between the system's and the new one; prompt: null where an adapter's example stands for it;
 * replay: of replay.js, or null. */
export const EMPTY = { mode: "chat", system: "", turns: [], prompt: null, settings: DEFAULTS, replay: null };

const PAUSE_MS = 250;
/** Browsers cut or refuse longer addresses; what is longer is not kept. */
const LONGEST = 200_000;

/** As `useState`, of a task that the address keeps. @returns {[object, (task) => void, boolean]} the last: whether it is too long to be kept */
export function useTask() {
  const [task, setTask] = useState(() => taskIn(fragment.peek()) ?? EMPTY);
  const text = textOf(task);
  const isTooLong = text.length > LONGEST;
  useEffect(() => {
    const timer = setTimeout(() => setFragment(isTooLong ? "" : text), PAUSE_MS);
    return () => clearTimeout(timer);
  }, [text]);
  return [task, setTask, isTooLong];
}

const differing = (value, usual) => Object.fromEntries(Object.entries(value).filter(([name, one]) => JSON.stringify(one) !== JSON.stringify(usual[name])));

/** What differs from the usual, as an address has it; "" where nothing does. */
export function textOf(task) {
  const { settings, turns, ...rest } = differing(task, EMPTY);
  const kept = { ...rest, ...(turns && { turns: turns.map(({ key, ...one }) => one) }), ...(settings && { settings: differing(settings, DEFAULTS) }) };
  return Object.keys(kept).length ? encodeURIComponent(JSON.stringify(kept)) : "";
}

/** null of a text that is no task. */
export function taskIn(text) {
  try {
    const { settings, turns = [], ...rest } = JSON.parse(decodeURIComponent(text));
    const drafts = turns.map((one) => ({ ...messageDraft({ role: "user", content: "" }), ...one }));
    return { ...EMPTY, ...rest, turns: drafts, settings: { ...DEFAULTS, ...settings } };
  } catch {
    return null;
  }
}

/** All messages of a chat, as the API takes them. Throws Misplaced. */
export function messagesOf({ system, turns, prompt }) {
  return [
    ...(system.trim() ? [{ role: "system", content: system }] : []),
    ...turns.map((one, i) => messageOf(one, `/turns/${i}`)),
    ...(prompt?.trim() ? [{ role: "user", content: prompt }] : []),
  ];
}

/** What is wrong with a turn, or "". */
export function turnProblem(turn) {
  try {
    messageOf(turn, "");
    return "";
  } catch (error) {
    if (error instanceof Misplaced) return error.message;
    throw error;
  }
}

/** The conversation after an answer: what was asked and answered become turns, with an empty result for each call of a tool. */
export function goneOn({ prompt, turns, ...task }, { text, calls }) {
  const answer = { role: "assistant", content: calls.length && !text ? null : text, ...(calls.length && { tool_calls: calls }) };
  const results = calls.map((call) => ({ role: "tool", tool_call_id: call.id, content: "" }));
  const asked = prompt?.trim() ? [{ role: "user", content: prompt }] : [];
  return { ...task, prompt: "", turns: [...turns, ...[...asked, answer, ...results].map(messageDraft)] };
}
