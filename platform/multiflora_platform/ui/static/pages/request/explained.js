/** What the prefix cache had of one request, where it parts from the closest one before it, and what to do about it. */
import { html } from "../../lib/html.js";
import { get } from "../../lib/api.js";
import { count, percent, seconds } from "../../lib/format.js";
import { t } from "../../lib/language.js";
import { causes, reasons } from "../../lib/misses.js";
import { useResource } from "../../lib/resource.js";
import { href } from "../../lib/router.js";
import { isAdmin } from "../../lib/session.js";
import { Badge, Card, Meter } from "../../components/bits.js";

export function Explained({ one }) {
  const begun = one.ttft !== null;
  const found = useResource((signal) => (begun ? get(`/api/v1/requests/${one.id}/cache`, { signal }) : null), [one.id, begun]);
  const { cached_tokens: cached, prompt_tokens: prompt } = one;
  // What it says is as exact as the kept prompt allows; the engine's own word is always there.
  const cause = found.data ? causes()[found.data.cause] ?? found.data.cause : one.miss_reason && reasons()[one.miss_reason];
  return html`<${Card} title=${t("Prefix cache")} help="insight#why-a-prompt-missed"><div class="stack">
    ${prompt > 0 && html`<${Meter} label=${t("Cached")} value=${(cached ?? 0) / prompt} />`}
    <p>${cached ? t`${count(cached)} of ${count(prompt)} prompt tokens were found (${percent(cached / prompt)}).` : t("Nothing of the prompt was found in the cache.")}
      ${cause && html` ${t("Why not more:")} <${Badge}>${cause}<//>`}</p>
    ${found.data && html`<${Found} of=${found.data} />`}
    ${found.error && html`<p class="small muted">${found.error.message}</p>`}
    ${isAdmin.value && html`<p><a href=${href("/cache?tab=misses")}>${t("All recent misses")}</a></p>`}</div><//>`;
}

function Found({ of: { first_difference: difference, lost_tokens: lost, lost_seconds: time, advice } }) {
  return html`${difference && html`<div class="stack tight"><p>${placeOf(difference)}</p>
      <div class="code wrap parting" role="group" aria-label=${t("Where they part")}>
        <pre tabindex="0"><span class="muted">${t("before")}</span> …${difference.before}<mark class="left">${difference.theirs}</mark>…</pre>
        <pre tabindex="0"><span class="muted">${t("this one")}</span> …${difference.before}<mark class="right">${difference.ours}</mark>…</pre></div></div>`}
    ${lost > 0 && html`<p>${t`${count(lost)} tokens were lost by that, about ${seconds(time)} of the device.`}</p>`}
    <p class="muted">${advice}</p>`;
}

const placeOf = ({ token, message, role }) => (message === null ? t`It differs from the closest prompt before it at token ${count(token)}:` : t`It differs from the closest prompt before it at token ${count(token)}, in message ${message + 1} (${role}):`);
