/** Batches of /v1, which lists them in OpenAI's way. Knows no markup. */
import { get } from "./api.js";

/** The most that the API gives in one answer. */
const PAGE = 100;
const ENDED = new Set(["completed", "failed", "expired", "cancelled"]);

export const hasEnded = (batch) => ENDED.has(batch.status);
export const answered = ({ request_counts: { completed, failed } }) => completed + failed;
/** Unix seconds of its end; null while it goes on. */
export const endedAt = (batch) => batch.completed_at ?? batch.failed_at ?? batch.expired_at ?? batch.cancelled_at;

/** The newest, as many pages as it takes for `most`. @returns {Promise<{items: Array, hasOlder: boolean}>} */
export async function loadBatches(most, signal) {
  const items = [];
  let page;
  do {
    page = await get(`/v1/batches?limit=${PAGE}${items.length ? `&after=${items.at(-1).id}` : ""}`, { signal });
    items.push(...page.data);
  } while (page.has_more && items.length < most);
  return { items, hasOlder: page.has_more };
}
