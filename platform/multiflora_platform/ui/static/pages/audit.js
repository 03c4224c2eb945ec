/** Audit: who changed what, newest first. */
import { html, useMemo, useState } from "../lib/html.js";
import { get } from "../lib/api.js";
import { actionWords, count } from "../lib/format.js";
import { t } from "../lib/language.js";
import { useResource } from "../lib/resource.js";
import { query, setQuery } from "../lib/router.js";
import { attempt } from "../lib/toasts.js";
import { PageHeader, Search } from "../components/bits.js";
import { Empty, Loaded } from "../components/states.js";
import { VirtualTable } from "../components/virtual-table.js";

export default function Audit() {
  const first = useResource((signal) => get("/api/v1/audit?limit=500", { signal }), []);
  const text = query.value.get("q") ?? "";
  return html`<${PageHeader} title=${t("Audit")} about=${t("Every change, by whom and when")} actions=${html`<button class="button" onClick=${first.reload}>${t("Look again")}</button>`} />
    <div class="row"><${Search} label=${t("Who, what, where")} value=${text} onInput=${(value) => setQuery({ q: value })} /></div>
    <div class="card"><${Loaded} resource=${first} lines=${10}>${(page) => html`<${Rows} key=${page.items[0]?.id} page=${page} text=${text.toLowerCase()} />`}<//></div>`;
}

function Rows({ page, text }) {
  const [items, setItems] = useState(page.items);
  const [token, setToken] = useState(page.next_page_token);
  const more = () => attempt(async () => {
    const next = await get(`/api/v1/audit?limit=500&page_token=${encodeURIComponent(token)}`);
    setItems([...items, ...next.items]);
    setToken(next.next_page_token);
  });
  const rows = useMemo(() => (text ? items.filter((row) => JSON.stringify(row).toLowerCase().includes(text)) : items), [items, text]);
  if (!items.length) return html`<${Empty} title=${t("Nothing was changed yet")} />`;
  return html`${rows.length ? html`<${VirtualTable} name="audit" label=${t("Audit")} rows=${rows} keyOf=${(row) => row.id} columns=${columns()} least="820px" />` : html`<${Empty} title=${t("Nothing matches")}>${t("Only the rows that are loaded are searched.")}<//>`}
    ${token && html`<div class="row body-row"><button class="button small" onClick=${more}>${t("Load older ones")}</button><span class="muted small">${t`${count(items.length)} loaded`}</span></div>`}`;
}

const details = (row) => Object.entries(row.detail ?? {}).map(([name, value]) => `${name}: ${typeof value === "object" ? JSON.stringify(value) : value}`).join(", ");

const columns = () => [
  { key: "at", label: t("When"), time: true, width: "130px" },
  { key: "actor", label: t("Who"), width: "minmax(130px, 0.8fr)", cell: (row) => html`<span title=${row.actor}>${row.actor}</span>` },
  { key: "action", label: t("What"), value: (row) => actionWords(row.action), width: "minmax(120px, 0.6fr)", cell: (row) => html`<b>${actionWords(row.action)}</b>` },
  { key: "target", label: t("Where"), width: "minmax(110px, 0.7fr)", cell: (row) => html`<span title=${row.target}>${row.target}</span>` },
  { key: "detail", label: t("Details"), value: details, width: "2fr", cell: (row) => html`<span class="muted small" title=${details(row)}>${details(row)}</span>` },
];
