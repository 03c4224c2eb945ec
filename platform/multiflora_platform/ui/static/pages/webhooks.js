/** Webhooks: who is told of which events, and whether it arrives. */
import { html, useState } from "../lib/html.js";
import { t } from "../lib/language.js";
import { useResource } from "../lib/resource.js";
import { href, query, setQuery } from "../lib/router.js";
import { loadWebhooks } from "../lib/webhooks.js";
import { PageHeader, Search, State, Tags, Time } from "../components/bits.js";
import { Icon } from "../components/icon.js";
import { Empty, Loaded } from "../components/states.js";
import { Table } from "../components/table.js";
import { Enabled, Switch, Test } from "./webhooks/actions.js";
import { WebhookForm } from "./webhooks/webhook-form.js";


export default function Webhooks() {
  const webhooks = useResource(loadWebhooks, [], { watch: ["records"], pause: 3 });
  const [isNew, setNew] = useState(false);
  const make = html`<button class="button primary" onClick=${() => setNew(true)}><${Icon} name="plus" size=${16} />${t("New webhook")}</button>`;
  return html`<${PageHeader} title=${t("Webhooks")} about=${t("Addresses that are told of events, in signed messages that are sent until they arrive")} actions=${make} />
    <div class="card"><${Loaded} resource=${webhooks}>${(items) => (items.length ? html`<${Listed} items=${items} onChange=${webhooks.reload} />`
      : html`<${Empty} title=${t("No webhooks yet")} icon="webhooks" action=${make}>${t("Have a chat, a pager or a program of yours told when an alias moves, a rollout ends or an alert comes.")}<//>`)}<//></div>
    ${isNew && html`<${WebhookForm} onClose=${() => setNew(false)} onChange=${webhooks.reload} />`}`;
}

function Listed({ items, onChange }) {
  const text = query.value.get("q") ?? "";
  const rows = items.filter((one) => [one.id, one.url, one.description, ...one.events].join(" ").toLowerCase().includes(text.toLowerCase()));
  return html`<div class="row body-row"><${Search} label=${t("URL, description, event")} value=${text} onInput=${(value) => setQuery({ q: value })} /></div>
    ${rows.length ? html`<${Table} name="webhooks" label=${t("Webhooks")} columns=${columnsOf(onChange)} rows=${rows} keyOf=${(one) => one.id} />` : html`<${Empty} title=${t("Nothing matches")} />`}`;
}

const columnsOf = (onChange) => [
  { key: "id", label: "ID", unseen: true },
  { key: "url", label: "URL", class: "break", cell: (one) => html`<a href=${href(`/webhooks/${one.id}`)}><b>${one.url}</b></a>${one.description && html`<div class="muted small">${one.description}</div>`}` },
  { key: "description", label: t("Description"), unseen: true },
  { key: "state", label: t("State"), value: (one) => (one.disabled ? "disabled" : "enabled"), cell: (one) => html`<${Enabled} of=${one} />` },
  { key: "events", label: t("Events"), value: (one) => one.events.join(", "), cell: (one) => html`<${Tags} of=${one.events} />` },
  { key: "last_delivery", label: t("Last delivery"), time: true, value: (one) => one.last?.created_at, cell: (one) => html`<${Time} at=${one.last?.created_at} />` },
  { key: "outcome", label: t("Outcome"), class: "break", value: (one) => one.last?.state, cell: ({ last }) => last && html`<${State} of=${last.state} /> <span class="muted small">${last.last_error}</span>` },
  { key: "actions", label: t("Actions"), control: true, class: "nowrap", cell: (one) => html`<${Test} one=${one} onChange=${onChange} kind="small quiet" /> <${Switch} one=${one} onChange=${onChange} kind="small quiet" />` },
];
