/** The last requests: all of them once, then only those that changed since the last look. */
import { get } from "./api.js";

const MOST = 1000;
let known = { items: [], cursor: null };

/** @returns {Promise<Array>} newest first */
export async function loadRequests(signal) {
  const since = known.cursor ? `&since=${encodeURIComponent(known.cursor)}` : "";
  const page = await get(`/api/v1/requests?limit=${MOST}${since}`, { signal });
  known = { items: page.is_complete ? page.items : merged(page.items, known.items), cursor: page.cursor };
  return known.items;
}

function merged(changed, before) {
  const ids = new Set(changed.map((one) => one.id));
  const items = [...changed, ...before.filter((one) => !ids.has(one.id))];
  return items.sort((a, b) => b.at - a.at).slice(0, MOST);
}
