/** Contexts: beginnings of prompts that the cache holds on purpose, and requests name instead of sending them. */
import { html, useState } from "../lib/html.js";
import { getAll, patch, remove } from "../lib/api.js";
import { bytes, count, money } from "../lib/format.js";
import { useResource } from "../lib/resource.js";
import { query, setQuery } from "../lib/router.js";
import { isAdmin } from "../lib/session.js";
import { attempt, toast } from "../lib/toasts.js";
import { Badge, PageHeader, Search, Swatch, Time } from "../components/bits.js";
import { ConfirmByName } from "../components/dialog.js";
import { Icon } from "../components/icon.js";
import { Empty, Loaded } from "../components/states.js";
import { Table } from "../components/table.js";
import { NewContext } from "./contexts/new-context.js";

const KINDS = { warm: "ok", computing: "info", partial: "warn", cold: "bad" };
const pathOf = (context) => `/api/v1/contexts/${context.name}${context.tenant ? `?tenant=${encodeURIComponent(context.tenant)}` : ""}`;

export default function Contexts() {
  const contexts = useResource((signal) => getAll("/api/v1/contexts", { signal }), [], { every: 3 });
  const [isNew, setNew] = useState(false);
  const make = html`<button class="button primary" onClick=${() => setNew(true)}><${Icon} name="plus" size=${16} />New context</button>`;
  return html`<${PageHeader} title="Contexts" about=${html`Beginnings of prompts that stay computed. A request names one with <code>"context": "name"</code> and sends only what comes after it`} actions=${make} />
    <div class="card"><${Loaded} resource=${contexts}>${(items) => (items.length ? html`<${Listed} items=${items} onChange=${contexts.reload} />`
      : html`<${Empty} title="No contexts yet" icon="cache" action=${make}>Give the documents or the system prompt that many requests begin with a name: they are computed once, kept, and computed again if they are lost.<//>`)}<//></div>
    ${isNew && html`<${NewContext} onClose=${() => setNew(false)} onChange=${contexts.reload} />`}`;
}

function Listed({ items: all, onChange }) {
  const [dropped, setDropped] = useState(null);
  const text = query.value.get("q") ?? "";
  const items = all.filter((one) => [one.name, one.tenant, ...Object.keys(one.adapters)].join(" ").toLowerCase().includes(text.toLowerCase()));
  return html`<div class="row body-row"><${Search} label="Name, owner, model" value=${text} onInput=${(value) => setQuery({ q: value })} /></div>
    <${Table} name="contexts" label="Contexts" columns=${columnsOf(items, onChange, setDropped)} rows=${items} keyOf=${(one) => `${one.tenant} ${one.name}`} />
    ${dropped && html`<${ConfirmByName} title="Delete this context?" name=${dropped.name} action="Delete" onClose=${() => setDropped(null)}
      onConfirm=${async () => { await remove(pathOf(dropped)); toast(`${dropped.name} is deleted.`); onChange(); }}>
      Requests that name it are refused from now on. What is cached of it may be found until it is evicted.<//>`}`;
}

const OWNER = { key: "tenant", label: "Owner", cell: (one) => one.tenant ?? html`<span class="muted">admin</span>` };

/** What a context spared, less what holding and computing it again cost. */
const net = ({ money: of }) => of && of.saved - of.stored - of.computed_again;
const parts = ({ money: of }) => `saved ${money(of.saved, of.currency)}, holding it ${money(of.stored, of.currency)}, computing it again ${money(of.computed_again, of.currency)}`;
const NET = { key: "money", label: "Saved, net", number: true, value: net, cell: (one) => one.money && html`<span title=${parts(one)}>${money(net(one), one.money.currency)}</span>` };

// Beside the money there is no room for it.
const MEMORY = { key: "bytes", label: "Memory", number: true, cell: (one) => bytes(one.bytes) };

/** The base models of a context's model, where contexts have several. */
const basesIn = (contexts) => new Set(contexts.flatMap((one) => Object.values(one.adapters).flatMap((state) => state.base_models)));
const onBase = (name, state) => state.base_models.filter((base) => base !== name).join(", ");

function columnsOf(items, onChange, onDrop) {
  const hasPrices = items.some((one) => one.money);
  const several = basesIn(items).size > 1;
  return [
    { key: "name", label: "Context", cell: (one) => html`<b>${one.name}</b> ${one.pin && html`<${Badge} kind="accent">held<//>`}` },
    ...(isAdmin.value ? [OWNER] : []),
    { key: "status", label: "Status", cell: (one) => html`<${Badge} kind=${KINDS[one.status]}>${one.status}<//>` },
    { key: "models", label: "Models", value: (one) => Object.keys(one.adapters).join(", "), cell: (one) => Object.entries(one.adapters).map(([name, state]) => html`<div key=${name} title=${state.error ?? `${state.status}, ${count(state.cached_tokens)} tokens cached`}><span class="nowrap"><${Swatch} of=${name} />${name}</span>${several && onBase(name, state) && html` <span class="muted small nowrap">on ${onBase(name, state)}</span>`}${state.error && html`<div class="problem small">${state.error}</div>`}</div>`) },
    { key: "cached_tokens", label: "Tokens cached", number: true, cell: (one) => html`<span title=${`Whole blocks are cached: ${bytes(one.bytes)}`}>${count(one.cached_tokens)} of ${count(one.tokens)}</span>` },
    ...(hasPrices ? [] : [MEMORY]),
    { key: "hits", label: "Hits", number: true, cell: (one) => count(one.hits) },
    ...(hasPrices ? [NET] : []),
    { key: "expires_at", label: "Expires", time: true, cell: (one) => (one.expires_at ? html`<${Time} at=${one.expires_at} />` : html`<span class="muted">never</span>`) },
    { key: "actions", label: "Actions", control: true, class: "nowrap", cell: (one) => html`<${Actions} one=${one} onChange=${onChange} onDrop=${() => onDrop(one)} />` },
  ];
}

function Actions({ one, onChange, onDrop }) {
  const hold = () => attempt(() => patch(pathOf(one), { pin: !one.pin }, { headers: { "If-Match": one.etag } }), one.pin ? `${one.name} may be evicted; it is computed again when the server is idle.` : `${one.name} is held.`).then(onChange);
  return html`<button class="button small quiet" onClick=${hold}>${one.pin ? "Release" : "Hold"}</button>
    <button class="button small quiet" onClick=${onDrop}>Delete…</button>`;
}
