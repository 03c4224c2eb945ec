/** A tenant's limits as bars: what is used of each at this moment. */
import { html } from "../../lib/html.js";
import { count } from "../../lib/format.js";
import { t } from "../../lib/language.js";
import { Facts, Meter } from "../../components/bits.js";

const used = (limit, left) => Math.min(limit, Math.max(0, limit - left));

/** @param {{now: object}} props as /api/v1/tenants/{tenant}/limits has them */
export const LimitBars = ({ now }) => html`<${Facts} of=${[
  [t("Requests per minute"), now.requests_per_minute, used(now.requests_per_minute, now.requests_left)],
  [t("Tokens per minute"), now.tokens_per_minute, used(now.tokens_per_minute, now.tokens_left)],
  [t("Requests at once"), now.max_concurrent_requests, now.running],
].map(([name, limit, value]) => [name, limit === null ? html`<span class="muted">${t("no limit")}</span>`
  : html`<${Meter} value=${value / limit} label=${name} /> <span title=${t`Counted by ${now.counted_by}`}>${t`${count(value)} of ${count(limit)}`}</span>`])} />`;
