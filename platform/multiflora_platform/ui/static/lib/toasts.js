/** Short notes about what was just done, with a way back where there is one. */
import { signal } from "./html.js";

export const toasts = signal([]);
let last = 0;

/** @param {{undo?: () => any}} options */
export function toast(message, { undo } = {}) {
  last += 1;
  const note = { id: last, message, undo };
  toasts.value = [...toasts.value.slice(-2), note];
  setTimeout(() => dismiss(note.id), undo ? 12_000 : 5000);
}

export function dismiss(id) {
  toasts.value = toasts.value.filter((note) => note.id !== id);
}

/** Do it and say so, or say why not. */
export async function attempt(work, done, options) {
  try {
    const result = await work();
    if (done) toast(done, options);
    return result;
  } catch (error) {
    if (error.name !== "AbortError") toast(error.message);
    return undefined;
  }
}
