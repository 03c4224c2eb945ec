/** The documentation that this server has: which pages, what they are called, their text. Knows no markup. */
import { asset } from "./assets.js";
import { t } from "./language.js";

/** Of the pages in the repository's docs/. */
const FOLDER = "/docs/";
let index;

/** @typedef {{path: string, title: string, headings: Array<[number, string, string]>}} Document path: below docs/; headings: level, text, anchor */

/** @returns {Promise<Array<Document>>} asked for once */
export function documents() {
  index ??= fetched("index.json").then((response) => response.json()).catch((error) => { index = undefined; throw error; });
  return index;
}

export const textOf = async (path) => (await fetched(path)).text();

async function fetched(path) {
  const response = await fetch(asset(`docs/${path}`));
  if (!response.ok) throw Object.assign(new Error(t("There is no such page in the documentation of this server.")), { status: response.status });
  return response;
}

/** Where the UI shows a file: /docs for README.md, /docs/developing for developing/README.md. */
export const pathOf = (file, anchor) => `${FOLDER}${file.replace(/(README)?\.md$/, "")}`.replace(/\/$/, "") + (anchor ? `#${anchor}` : "");

/** Where a link of the file `from` leads: the address of a page here, one elsewhere on the web, or null for what neither is.
 * @param {Array<Document>} pages */
export function destination(target, from, pages) {
  const url = new URL(target, location.origin + FOLDER + from);
  if (url.origin !== location.origin) return /^https?:$/.test(url.protocol) ? { elsewhere: url.href } : null;
  const file = url.pathname.slice(FOLDER.length);
  return url.pathname.startsWith(FOLDER) && pages.some((page) => page.path === file) ? { here: pathOf(file, url.hash.slice(1)) } : null;
}
