/** An eval's prompts and checks as a form holds them, and as the API has them. Knows no markup. */
import { keyed, messageDraft, messageOf, newMessage, parsed } from "./chat-messages.js";
import { t } from "./language.js";

/** By type: what it is called, and the field that says what is wanted. */
export const checkTypes = () => ({
  contains: { label: t("Contains"), main: "text" },
  exact: { label: t("Is exactly"), main: "text" },
  regex: { label: t("Matches a pattern"), main: "pattern" },
  json_schema: { label: t("Is JSON by a schema"), main: "schema" },
  number: { label: t("Ends in a number"), main: "value" },
  judge: { label: t("Is graded by a model"), main: "rubric" },
});

const NO_CHECK = { type: "contains", text: "", ignore_case: false, pattern: "", schema: "", value: "", tolerance: "0", relative: false, model: "", rubric: "", min_grade: "7" };

export const newCheck = () => keyed(NO_CHECK);
export const newCase = () => keyed({ name: "", kind: "chat", prompt: "", messages: [newMessage()], max_tokens: "256", checks: [newCheck()] });

/** A case of the API for the form. */
export const draftOf = ({ name, prompt, messages, max_tokens = 256, checks }) => keyed({
  name: name ?? "", kind: messages ? "chat" : "plain", prompt: prompt ?? "", messages: messages ? messages.map(messageDraft) : [newMessage()],
  max_tokens: String(max_tokens), checks: checks.map(checkDraft),
});

function checkDraft(check) {
  const texts = Object.entries(check).map(([field, value]) => [field, field === "schema" ? JSON.stringify(value, null, 2) : typeof value === "number" ? String(value) : value]);
  return keyed({ ...NO_CHECK, ...Object.fromEntries(texts) });
}

/** As the API takes it. Throws Misplaced. @param {string} place the case's in the body */
export function caseOf(draft, place) {
  const question = draft.kind === "chat" ? { messages: draft.messages.map((one, i) => messageOf(one, `${place}/messages/${i}`)) } : { prompt: draft.prompt };
  return { ...question, ...(draft.name && { name: draft.name }), max_tokens: number(draft.max_tokens), checks: draft.checks.map((check, i) => checkOf(check, `${place}/checks/${i}`)) };
}

function checkOf(check, place) {
  const { type, text, ignore_case, model, rubric } = check;
  switch (type) {
    case "regex": return { type, pattern: check.pattern };
    case "json_schema": return { type, schema: parsed(check.schema, `${place}/schema`) };
    case "number": return { type, value: number(check.value), tolerance: number(check.tolerance), relative: check.relative };
    case "judge": return { type, model, rubric, min_grade: number(check.min_grade) };
    default: return { type, text, ignore_case };
  }
}

/** Undefined of an empty text, so that the server says that it is required. */
const number = (text) => (text === "" ? undefined : Number(text));

/** What stands for a case in a list. */
export const titleOf = ({ name, kind, prompt, messages }) => name || (kind === "chat" ? messages.at(-1)?.content : prompt) || t("(no prompt yet)");

/** The problem's message where it is at one of these places, or below. @param {{message: string, pointer: string}|null} problem */
export const problemAt = (problem, ...places) => (places.some((place) => problem?.pointer === place || problem?.pointer?.startsWith(`${place}/`)) ? problem.message : "");
