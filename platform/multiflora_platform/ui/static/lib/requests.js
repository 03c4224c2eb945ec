/** The last requests: the newest once, older ones on demand, then only those that changed since the last look. */
import { get } from "./api.js";

const PAGE = 1000;
const MOST = 50000;
/** Pages after which what has come is shown: each time all that is made of the requests is made anew. */
const STEP = 5;
/** older: where what came before goes on; null: there is no more. */
let known = { items: [], cursor: null, older: null };

/** @returns {Promise<Array>} newest first; the same array where nothing has changed */
export async function loadRequests(signal) {
  const since = known.cursor ? `&since=${encodeURIComponent(known.cursor)}` : "";
  const page = await get(`/api/v1/requests?limit=${PAGE}${since}`, { signal });
  // Where more have changed than one page holds, what lies between them and the others is missing.
  const isGap = page.is_complete || page.next_page_token;
  known = isGap ? { items: page.items, cursor: page.cursor, older: page.next_page_token }
    : { ...known, items: merged(page.items, known.items), cursor: page.cursor };
  return known.items;
}

export const loadNewest = async (signal) => (await loadRequests(signal)).slice(0, PAGE);

/** All that the server has, a part after the other. @returns {AsyncGenerator<Array>} what is known then, newest first */
export async function* olderRequests(signal) {
  for (let pages = 1; hasOlder(); pages += 1) {
    const { items, next_page_token: older } = await get(`/api/v1/requests?limit=${PAGE}&page_token=${encodeURIComponent(known.older)}`, { signal });
    const ids = new Set(known.items.map((one) => one.id));
    known = { ...known, items: [...known.items, ...items.filter((one) => !ids.has(one.id))].slice(0, MOST), older };
    if (pages % STEP === 0 || !hasOlder()) yield known.items;
  }
}

/** Seconds between looks, after each of which all that is made of the requests is made anew. */
export const lookPause = () => Math.max(2, Math.ceil(known.items.length / 5000));

export const hasOlder = () => known.older !== null && known.items.length < MOST;

function merged(changed, before) {
  if (!changed.length) return before;
  const ids = new Set(changed.map((one) => one.id));
  const items = [...changed, ...before.filter((one) => !ids.has(one.id))];
  return items.sort((a, b) => b.at - a.at).slice(0, MOST);
}
