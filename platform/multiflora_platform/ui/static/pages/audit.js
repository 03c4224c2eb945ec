/** Audit: who changed what, newest first. */
import { html, useMemo, useState } from "../lib/html.js";
import { get } from "../lib/api.js";
import { detailWords, eventWords, placeOf } from "../lib/events.js";
import { count } from "../lib/format.js";
import { t } from "../lib/language.js";
import { useResource } from "../lib/resource.js";
import { href, query, setQuery } from "../lib/router.js";
import { attempt } from "../lib/toasts.js";
import { PageHeader, Search } from "../components/bits.js";
import { Choice } from "../components/fields.js";
import { Empty, Loaded } from "../components/states.js";
import { VirtualTable } from "../components/virtual-table.js";

export default function Audit() {
  const first = useResource((signal) => get("/api/v1/audit?limit=500", { signal }), []);
  const text = query.value.get("q") ?? "";
  return html`<${PageHeader} title=${t("Audit")} about=${t("Every change, by whom and when")} actions=${html`<button class="button" onClick=${first.reload}>${t("Refresh")}</button>`} />
    <div class="row"><${Search} label=${t("Who, what, where")} value=${text} onInput=${(value) => setQuery({ q: value })} />
      <${Filters} items=${first.data?.items ?? []} /></div>
    <div class="card"><${Loaded} resource=${first} lines=${10}>${(page) => html`<${Rows} key=${page.items[0]?.id} page=${page} text=${text.toLowerCase()} />`}<//></div>`;
}

/** [parameter, label, of a row: its value, in words] */
const facets = () => [["who", t("Who"), (row) => row.actor, String], ["what", t("What"), (row) => row.action, eventWords]];

/** Choices of what there is among the newest rows, and of what the address asks for. */
const Filters = ({ items }) => facets().map(([param, label, of, words]) => {
  const values = [...new Set([...items.map(of), query.value.get(param)])].filter(Boolean).sort();
  return html`<${Choice} key=${param} param=${param} label=${label} any=${t("any")} of=${values.map((value) => [value, words(value)])} />`;
});

const isWanted = (row, text, asked) => facets().every(([param, , of]) => !asked.has(param) || of(row) === asked.get(param)) && (!text || JSON.stringify(row).toLowerCase().includes(text));

function Rows({ page, text }) {
  const [items, setItems] = useState(page.items);
  const [token, setToken] = useState(page.next_page_token);
  const more = () => attempt(async () => {
    const next = await get(`/api/v1/audit?limit=500&page_token=${encodeURIComponent(token)}`);
    setItems([...items, ...next.items]);
    setToken(next.next_page_token);
  });
  const asked = query.value;
  const rows = useMemo(() => items.filter((row) => isWanted(row, text, asked)), [items, text, asked]);
  if (!items.length) return html`<${Empty} title=${t("Nothing was changed yet")} />`;
  return html`${rows.length ? html`<${VirtualTable} name="audit" label=${t("Audit")} rows=${rows} keyOf=${(row) => row.id} columns=${columns()} least=${820} />` : html`<${Empty} title=${t("Nothing matches")}>${t("Only the rows that are loaded are searched.")}<//>`}
    ${token && html`<div class="row body-row"><button class="button small" onClick=${more}>${t("Load older ones")}</button><span class="muted small">${t`${count(items.length)} loaded`}</span></div>`}`;
}

const columns = () => [
  { key: "at", label: t("When"), time: true, width: "130px" },
  { key: "actor", label: t("Who"), width: "minmax(130px, 0.8fr)", cell: (row) => html`<span title=${row.actor}>${row.actor}</span>` },
  { key: "action", label: t("What"), value: (row) => eventWords(row.action), width: "minmax(120px, 0.6fr)", cell: (row) => html`<b>${eventWords(row.action)}</b>` },
  { key: "target", label: t("Where"), width: "minmax(110px, 0.7fr)", cell: (row) => html`<${Target} of=${row} />` },
  { key: "detail", label: t("Details"), value: (row) => detailWords(row.detail), width: "2fr", cell: (row) => html`<span class="muted small" title=${detailWords(row.detail)}>${detailWords(row.detail)}</span>` },
];

function Target({ of }) {
  const place = placeOf(of.action, of.target);
  return place ? html`<a href=${href(place)} title=${of.target}>${of.target}</a>` : html`<span title=${of.target}>${of.target}</span>`;
}
