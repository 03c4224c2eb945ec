/** Contexts: beginnings of prompts that the cache holds on purpose, and requests name instead of sending them. */
import { html, useState } from "../lib/html.js";
import { getAll, patch, remove } from "../lib/api.js";
import { bytes, count, money } from "../lib/format.js";
import { t } from "../lib/language.js";
import { useResource } from "../lib/resource.js";
import { query, setQuery } from "../lib/router.js";
import { isAdmin } from "../lib/session.js";
import { attempt, toast } from "../lib/toasts.js";
import { named } from "../lib/values.js";
import { Badge, PageHeader, Search, Swatch, Time } from "../components/bits.js";
import { ConfirmByName } from "../components/dialog.js";
import { Icon } from "../components/icon.js";
import { Empty, Loaded } from "../components/states.js";
import { Table } from "../components/table.js";
import { NewContext } from "./contexts/new-context.js";

const KINDS = { warm: "ok", computing: "info", partial: "warn", cold: "bad" };
const pathOf = (context) => `/api/v1/contexts/${context.name}${context.tenant ? `?tenant=${encodeURIComponent(context.tenant)}` : ""}`;

export default function Contexts() {
  const contexts = useResource((signal) => getAll("/api/v1/contexts", { signal }), [], { watch: ["records", "engines"], pause: 3 });
  const [isNew, setNew] = useState(false);
  const make = html`<button class="button primary" onClick=${() => setNew(true)}><${Icon} name="plus" size=${16} />${t("New context")}</button>`;
  return html`<${PageHeader} title=${t("Contexts")} about=${t`Beginnings of prompts that stay computed. A request names one with ${html`<code>"context": "name"</code>`} and sends only what comes after it`} actions=${make} />
    <div class="card"><${Loaded} resource=${contexts}>${(items) => (items.length ? html`<${Listed} items=${items} onChange=${contexts.reload} />`
      : html`<${Empty} title=${t("No contexts yet")} icon="cache" action=${make}>${t("Give the documents or the system prompt that many requests begin with a name: they are computed once, kept, and computed again if they are lost.")}<//>`)}<//></div>
    ${isNew && html`<${NewContext} onClose=${() => setNew(false)} onChange=${contexts.reload} />`}`;
}

function Listed({ items: all, onChange }) {
  const [dropped, setDropped] = useState(null);
  const text = query.value.get("q") ?? "";
  const items = all.filter((one) => [one.name, one.tenant, ...Object.keys(one.adapters)].join(" ").toLowerCase().includes(text.toLowerCase()));
  return html`<div class="row body-row"><${Search} label=${t("Name, owner, model")} value=${text} onInput=${(value) => setQuery({ q: value })} /></div>
    <${Table} name="contexts" label=${t("Contexts")} columns=${columnsOf(items, onChange, setDropped)} rows=${items} keyOf=${(one) => `${one.tenant} ${one.name}`} />
    ${dropped && html`<${ConfirmByName} title=${t("Delete this context?")} name=${dropped.name} action=${t("Delete")} onClose=${() => setDropped(null)}
      onConfirm=${async () => { await remove(pathOf(dropped)); toast(t`${dropped.name} is deleted.`); onChange(); }}>
      ${t("Requests that name it are refused from now on. What is cached of it may be found until it is evicted.")}<//>`}`;
}

const ownerColumn = () => ({ key: "tenant", label: t("Owner"), cell: (one) => one.tenant ?? html`<span class="muted">${t("admin")}</span>` });

/** What a context spared, less what holding and computing it again cost. */
const net = ({ money: of }) => of && of.saved - of.stored - of.computed_again;
const parts = ({ money: of }) => t`saved ${money(of.saved, of.currency)}, holding it ${money(of.stored, of.currency)}, computing it again ${money(of.computed_again, of.currency)}`;
const netColumn = () => ({ key: "money", label: t("Saved, net"), number: true, value: net, cell: (one) => one.money && html`<span title=${parts(one)}>${money(net(one), one.money.currency)}</span>` });

// Beside the money there is no room for it.
const memoryColumn = () => ({ key: "bytes", label: t("Memory"), number: true, cell: (one) => bytes(one.bytes) });

/** The base models of a context's model, where contexts have several. */
const basesIn = (contexts) => new Set(contexts.flatMap((one) => Object.values(one.adapters).flatMap((state) => state.base_models)));
const onBase = (name, state) => state.base_models.filter((base) => base !== name).join(", ");

function columnsOf(items, onChange, onDrop) {
  const hasPrices = items.some((one) => one.money);
  const several = basesIn(items).size > 1;
  return [
    { key: "name", label: t("Context"), cell: (one) => html`<b>${one.name}</b> ${one.pin && html`<${Badge} kind="accent">${t("held")}<//>`}` },
    ...(isAdmin.value ? [ownerColumn()] : []),
    { key: "status", label: t("Status"), cell: (one) => html`<${Badge} kind=${KINDS[one.status]}>${named(one.status)}<//>` },
    { key: "models", label: t("Models"), value: (one) => Object.keys(one.adapters).join(", "), cell: (one) => Object.entries(one.adapters).map(([name, state]) => html`<div key=${name} title=${state.error ?? t`${named(state.status)}, ${count(state.cached_tokens)} tokens cached`}><span class="nowrap"><${Swatch} of=${name} />${name}</span>${several && onBase(name, state) && html` <span class="muted small nowrap">${t`on ${onBase(name, state)}`}</span>`}${state.error && html`<div class="problem small">${state.error}</div>`}</div>`) },
    { key: "cached_tokens", label: t("Tokens cached"), number: true, cell: (one) => html`<span title=${t`Whole blocks are cached: ${bytes(one.bytes)}`}>${t`${count(one.cached_tokens)} of ${count(one.tokens)}`}</span>` },
    ...(hasPrices ? [] : [memoryColumn()]),
    { key: "hits", label: t("Hits"), number: true, cell: (one) => count(one.hits) },
    ...(hasPrices ? [netColumn()] : []),
    { key: "expires_at", label: t("Expires"), time: true, cell: (one) => (one.expires_at ? html`<${Time} at=${one.expires_at} />` : html`<span class="muted">${t("never")}</span>`) },
    { key: "actions", label: t("Actions"), control: true, class: "nowrap", cell: (one) => html`<${Actions} one=${one} onChange=${onChange} onDrop=${() => onDrop(one)} />` },
  ];
}

function Actions({ one, onChange, onDrop }) {
  const hold = () => attempt(() => patch(pathOf(one), { pin: !one.pin }, { headers: { "If-Match": one.etag } }), one.pin ? t`${one.name} may be evicted; it is computed again when the server is idle.` : t`${one.name} is held.`).then(onChange);
  return html`<button class="button small quiet" onClick=${hold}>${one.pin ? t("Release") : t("Hold")}</button>
    <button class="button small quiet" onClick=${onDrop}>${t("Delete…")}</button>`;
}
