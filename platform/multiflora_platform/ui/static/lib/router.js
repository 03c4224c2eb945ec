/** Addresses below /ui/: where we are, going elsewhere, and links that do so without loading the page anew. */
import { computed, signal } from "./html.js";

const ROOT = "/ui";
const here = () => ({ path: location.pathname.slice(ROOT.length) || "/", query: location.search, fragment: location.hash.slice(1) });
const place = signal(here());

export const path = computed(() => place.value.path);
export const query = computed(() => new URLSearchParams(place.value.query));
/** What the address names within the page. */
export const fragment = computed(() => place.value.fragment);

/** @param {string} to below /ui, such as "/adapters/sql?tab=use" */
export function go(to, { replace = false } = {}) {
  history[replace ? "replaceState" : "pushState"](null, "", href(to));
  place.value = here();
}

export const href = (to) => ROOT + to;

/** A path with one more parameter. */
export const withQuery = (to, name, value) => `${to}${to.includes("?") ? "&" : "?"}${name}=${encodeURIComponent(value)}`;

/** Change what the address names within the page; "" for nothing. */
export const setFragment = (text) => text !== fragment.peek() && go(path.value + place.value.query + (text && `#${text}`), { replace: true });

/** Change parts of the query; null removes one. Replaces the history entry unless `push`. */
export function setQuery(changes, { push = false } = {}) {
  const next = new URLSearchParams(place.value.query);
  for (const [name, value] of Object.entries(changes)) {
    next.delete(name);
    for (const one of [value].flat()) if (one !== null && one !== "") next.append(name, one);
  }
  const text = next.toString();
  go(path.value + (text ? `?${text}` : "") + (fragment.value && `#${fragment.value}`), { replace: !push });
}

/** The parts that a pattern such as "/adapters/:name" names, or null. */
export function match(pattern, text) {
  const wanted = pattern.split("/");
  const given = text.replace(/\/$/, "").split("/");
  if (pattern === "/") return text === "/" ? {} : null;
  if (wanted.length !== given.length) return null;
  const found = {};
  if (/%(?![0-9a-f]{2})/i.test(text)) return null;
  for (let i = 0; i < wanted.length; i += 1) {
    if (wanted[i].startsWith(":")) found[wanted[i].slice(1)] = decodeURIComponent(given[i]);
    else if (wanted[i] !== given[i]) return null;
  }
  return found;
}

export function startRouter() {
  addEventListener("popstate", () => (place.value = here()));
  document.addEventListener("click", (event) => {
    const link = event.target.closest?.("a[href]");
    if (!link || event.defaultPrevented || event.button || event.metaKey || event.ctrlKey || event.shiftKey) return;
    if (link.target || link.hasAttribute("download") || link.origin !== location.origin) return;
    if (!link.pathname.startsWith(ROOT + "/") || (link.hash && link.pathname === location.pathname)) return;
    event.preventDefault();
    go(link.pathname.slice(ROOT.length) + link.search + link.hash);
  });
}
