/** Whether the window is as narrow as a phone's, where rows of tables are cards. */
import { signal } from "./html.js";

const narrow = matchMedia("(max-width: 640px)");
export const isNarrow = signal(narrow.matches);
narrow.addEventListener("change", () => { isNarrow.value = narrow.matches; });
