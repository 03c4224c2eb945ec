/** What was sent to a webhook and what is still to be: attempts, answers, and once more. */
import { html } from "../../lib/html.js";
import { post } from "../../lib/api.js";
import { count } from "../../lib/format.js";
import { t } from "../../lib/language.js";
import { query, setQuery } from "../../lib/router.js";
import { attempt } from "../../lib/toasts.js";
import { named } from "../../lib/values.js";
import { pathOf } from "../../lib/webhooks.js";
import { Segmented, State, Time } from "../../components/bits.js";
import { Older } from "../../components/older.js";
import { Empty } from "../../components/states.js";
import { Table } from "../../components/table.js";

const stateChoices = () => [["", t("All")], ["pending", t("Pending")], ["delivered", t("Delivered")], ["failed", t("Failed")]];

/** That the address asks for; "": all. */
const chosen = () => stateChoices().map(([state]) => state).find((state) => state === query.value.get("state")) ?? "";

export const Choice = () => html`<${Segmented} label=${t("State")} of=${stateChoices()} value=${chosen()} onChange=${(value) => setQuery({ state: value })} />`;

/** data: of useNewest */
export function Deliveries({ webhook, data, onChange }) {
  if (!data.items.length) return html`<${Empty} title=${t("Nothing was sent yet")}>${t("The next event that fits is sent within a second. Send a test to see whether it arrives.")}<//>`;
  const state = chosen();
  const rows = state ? data.items.filter((one) => one.state === state) : data.items;
  return html`${rows.length ? html`<${Table} name="deliveries" label=${t("Deliveries")} columns=${columnsOf(webhook, onChange)} rows=${rows} keyOf=${(one) => one.id} />`
    : html`<${Empty} title=${t`No ${named(state)} deliveries`} action=${html`<button class="button" onClick=${() => setQuery({ state: null })}>${t("Show all")}</button>`} />`}
    <${Older} of=${data} />`;
}

const columnsOf = (webhook, onChange) => [
  { key: "created_at", label: t("Created"), time: true },
  { key: "type", label: t("Event"), cell: (one) => html`<b>${one.type}</b><div class="muted small mono" title=${t("The header webhook-id")}>${one.message_id}</div>` },
  { key: "message_id", label: t("Message"), unseen: true },
  { key: "state", label: t("State"), cell: (one) => html`<${State} of=${one.state} />` },
  { key: "attempts", label: t("Attempts"), number: true, cell: (one) => count(one.attempts) },
  { key: "last_status", label: t("Answer"), number: true, cell: (one) => one.last_status ?? "–" },
  { key: "last_error", label: t("Error"), class: "break problem" },
  { key: "next_attempt_at", label: t("Next attempt"), time: true, cell: (one) => html`<${Next} of=${one} webhook=${webhook} />` },
  { key: "delivered_at", label: t("Delivered"), unseen: true, time: true },
  { key: "actions", label: t("Actions"), control: true, class: "nowrap", cell: (one) => html`<button class="button small quiet" onClick=${() => again(webhook, one).then(onChange)}>${t("Send again")}</button>` },
];

function Next({ of: { next_attempt_at: at }, webhook }) {
  if (!at) return html`<span class="muted">${t("none")}</span>`;
  return webhook.disabled ? html`<span class="muted">${t("when the webhook is enabled")}</span>` : html`<${Time} at=${at} />`;
}

const again = (webhook, delivery) => attempt(() => post(`${pathOf(webhook)}/deliveries/${delivery.id}:redeliver`),
  webhook.disabled ? t`${delivery.type} is sent again when the webhook is enabled.` : t`${delivery.type} is sent again.`);
