/** Messages of a chat as forms hold them, and as the API has them. Knows no markup. */
import { t } from "./language.js";

let last = 0;
/** With a key by which lists of forms tell them apart. */
export const keyed = (fields) => ({ key: (last += 1), ...fields });

export const newMessage = (role = "user") => keyed({ role, content: "", isJson: false, rest: {} });

/** What cannot be read before it is sent, with its place in the body as the server would tell it. */
export class Misplaced extends Error {
  constructor(message, pointer) {
    super(message);
    this.pointer = pointer;
  }
}

/** rest: what a message has besides, such as tool_calls. */
export function messageDraft({ role, content, ...rest }) {
  const isJson = typeof content !== "string";
  return keyed({ role, content: isJson ? JSON.stringify(content ?? null) : content, isJson, rest });
}

/** As the API takes it. Throws Misplaced. @param {string} place the message's in the body */
export const messageOf = ({ role, content, isJson, rest }, place) => ({ role, content: isJson ? parsed(content, `${place}/content`) : content, ...rest });

/** Throws Misplaced. */
export function parsed(text, pointer) {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new Misplaced(t`This is no JSON: ${error.message}.`, pointer);
  }
}
