/** Why prompts missed the prefix cache: what that cost by cause, what makes them miss over and over, and the last ones. */
import { html } from "../../lib/html.js";
import { get } from "../../lib/api.js";
import { ofBase } from "../../lib/bases.js";
import { count, percent, seconds } from "../../lib/format.js";
import { plural, t } from "../../lib/language.js";
import { causes, drifts, reasons } from "../../lib/misses.js";
import { useResource } from "../../lib/resource.js";
import { href } from "../../lib/router.js";
import { Badge, Card, Share, Time } from "../../components/bits.js";
import { Empty, Loaded } from "../../components/states.js";
import { Table } from "../../components/table.js";

const SERIES = 8;
const colour = (i) => `var(--series-${(i % SERIES) + 1})`;
const wordOf = (cause) => causes()[cause] ?? cause;

const lossColumns = () => [
  { key: "cause", label: t("Cause"), cell: (one) => html`<a href=${href(`/requests/${one.request_id}`)} title=${t("The newest of them")}><${Badge}>${wordOf(one.cause)}<//></a>` },
  { key: "prompts", label: t("Prompts"), number: true, cell: (one) => count(one.prompts) },
  { key: "lost_tokens", label: t("Tokens lost"), number: true, cell: (one) => count(one.lost_tokens) },
  { key: "lost_seconds", label: t("Device time of that"), number: true, cell: (one) => seconds(one.lost_seconds) },
  { key: "elsewhere_tokens", label: t("Cached behind another beginning"), number: true, cell: (one) => count(one.elsewhere_tokens) },
  { key: "advice", label: t("What to do"), class: "break sentence", cell: (one) => html`${one.advice}${one.elsewhere_tokens > 0 && html` <${Elsewhere} tokens=${one.elsewhere_tokens} />`}` },
];

/** Text that a cache of beginnings cannot find. */
export const Elsewhere = ({ tokens }) => html`<b>${plural(tokens, "{0} token of this text is cached behind another beginning.", "{0} tokens of this text are cached behind another beginning.", count(tokens))}</b> ${t("Put what prompts have in common first, in the same order.")}`;

export function Losses() {
  const losses = useResource((signal) => get(ofBase("/api/v1/cache/losses"), { signal }), [], { watch: ["requests"], pause: 15 });
  return html`<${Card} title=${t("Lost tokens by cause")} help="insight#why-a-prompt-missed" about=${t("The last 100 misses, each compared with the closest prompt before it")} flush><${Loaded} resource=${losses}>${(page) => (page.items.length
    ? html`<${Lost} of=${page} />` : html`<${Empty} title=${t("Nothing lost")} icon="check">${t("Every prompt since the start was found, or none has come yet.")}<//>`)}<//><//>`;
}

function Lost({ of: { items, unexplained } }) {
  const parts = items.filter((one) => one.lost_tokens > 0).map((one, i) => ({ label: wordOf(one.cause), value: one.lost_tokens, colour: colour(i) }));
  return html`${parts.length > 0 && html`<div class="body-row stack tight"><${Share} label=${t("Tokens lost")} parts=${parts} />
      <ul class="legend">${parts.map((part) => html`<li key=${part.label}><i style=${{ background: part.colour }}></i>${part.label} <b>${count(part.value)}</b></li>`)}</ul></div>`}
    <${Table} name="losses" label=${t("Lost tokens by cause")} sort="losses" columns=${lossColumns()} rows=${items} keyOf=${(one) => one.cause} />
    ${unexplained > 0 && html`<p class="body-row small muted">${plural(unexplained, "{0} more is not kept any more, and not counted.", "{0} more are not kept any more, and not counted.", count(unexplained))}</p>`}`;
}

const driftColumns = () => [
  { key: "tenant", label: t("Tenant"), value: (item) => (item.prompts ? item.tenant ?? t("admins") : t("all chats")) },
  { key: "model", label: t("Model") },
  { key: "kind", label: t("What"), cell: (item) => html`<${Badge}>${drifts()[item.kind] ?? item.kind}<//>` },
  { key: "prompts", label: t("Prompts"), number: true, cell: (item) => (item.prompts ? `${count(item.prompts)} (${percent(item.share)})` : "") },
  { key: "lost_tokens", label: t("Tokens lost"), number: true, cell: (item) => (item.prompts ? count(item.lost_tokens) : "") },
  { key: "example", label: t("Example"), class: "break sentence" },
  { key: "advice", label: t("What to do"), class: "break sentence" },
];

export function Drift() {
  const drift = useResource((signal) => get("/api/v1/cache/drift", { signal }), [], { watch: ["requests"], pause: 8 });
  return html`<${Card} title=${t("Drift")} help="prefix-cache#drift-prompts-that-miss-at-one-place" about=${t("Prompts of the last hour that miss over and over at one place")} flush><${Loaded} resource=${drift}>${({ items }) => (items.length
    ? html`<${Table} name="drift" label=${t("Drift")} sort="drift" columns=${driftColumns()} rows=${items} keyOf=${(item) => [item.tenant, item.model, item.message, item.kind].join()} />`
    : html`<${Empty} title=${t("No drift")} icon="check">${t("No date, id or order of things makes prompts miss over and over.")}<//>`)}<//><//>`;
}

const missColumns = () => [
  { key: "at", label: t("When"), time: true, cell: (miss) => html`<a href=${href(`/requests/${miss.request_id}`)}><${Time} at=${miss.at} /></a>` },
  { key: "model", label: t("Model") },
  { key: "cached_tokens", label: t("Cached"), number: true, cell: (miss) => count(miss.cached_tokens) },
  { key: "prompt_tokens", label: t("Prompt"), number: true, cell: (miss) => count(miss.prompt_tokens) },
  { key: "reason", label: t("Why"), cell: (miss) => html`<${Badge}>${reasons()[miss.reason] ?? miss.reason}<//>` },
  { key: "detail", label: t("What that means"), class: "break sentence" },
];

export function Misses() {
  const misses = useResource((signal) => get(ofBase("/api/v1/cache/misses"), { signal }), [], { watch: ["requests"], pause: 4 });
  return html`<${Card} title=${t("Last misses")} help="insight#why-a-prompt-missed" about=${t("The last 200 at most, the newest first")} flush><${Loaded} resource=${misses}>${({ items }) => (items.length
    ? html`<${Table} name="misses" label=${t("Last misses")} columns=${missColumns()} rows=${items} keyOf=${(miss) => miss.request_id} />`
    : html`<${Empty} title=${t("No misses")} icon="check">${t("Every prompt since the start was found, or none has come yet.")}<//>`)}<//><//>`;
}
