/** Models by time: the darker a cell, the more tokens or requests, the slower, or the more errors. */
import { html, useMemo } from "../../lib/html.js";
import { clock, count, seconds } from "../../lib/format.js";
import { t } from "../../lib/language.js";
import { href, query, setQuery } from "../../lib/router.js";
import { colourOf } from "../../lib/theme.js";
import { Card, Segmented } from "../../components/bits.js";
import { Empty } from "../../components/states.js";
import { heat, joined, MEASURES } from "./models.js";

const COLUMNS = 60;
const ROWS = 12;
/** The least that is seen beside nothing. */
const FAINTEST = 0.15;

const measures = () => [["tokens", t("Tokens")], ["requests", t("Requests")], ["p95", "p95"], ["errors", t("Errors")]];
const WORDS = {
  tokens: (value) => t`${count(value)} tokens`,
  requests: (value) => t`${count(value)} requests`,
  p95: (value) => t`95 of 100 within ${seconds(value)}`,
  errors: (value) => t`${count(value)} errors`,
};

export function HeatMap({ points, span }) {
  const stretch = span / COLUMNS;
  const measure = query.value.get("heat") in MEASURES ? query.value.get("heat") : "tokens";
  const { starts, rows } = useMemo(() => heat(points, span, stretch, ROWS, measure), [points, span, measure]);
  const most = Math.max(...rows.flatMap((row) => row.cells), Number.MIN_VALUE);
  const words = WORDS[measure];
  return html`<${Card} wide title=${t("Models by time")} about=${t`From ${clock(starts[0])}, ${stretch < 60 ? t`${stretch} s` : t`${stretch / 60} min`} a cell`}
    actions=${html`<${Segmented} label=${t("What is shown")} of=${measures()} value=${measure} onChange=${(value) => setQuery({ heat: value === "tokens" ? null : value })} />`}>
    ${rows.length ? html`<div class="heat">
      ${rows.map((row) => html`<div class="lane" key=${row.name}><a class="cut small" href=${href(`/requests?q=${encodeURIComponent(row.name)}`)}>${row.name}</a><span class="cells" role="img" aria-label=${words(joined(row, MEASURES[measure].join))}>
        ${row.cells.map((value, i) => html`<${Cell} key=${starts[i]} name=${row.name} at=${starts[i]} value=${value} share=${value / most} words=${words} />`)}</span></div>`)}</div>`
    : html`<${Empty} title=${measure === "errors" ? t("No errors") : t("No requests yet")} />`}<//>`;
}

/** Made anew only when its number changes: there are hundreds, and a point each second. */
function Cell({ name, at, value, share, words }) {
  const shade = value ? FAINTEST + (1 - FAINTEST) * Math.sqrt(share) : 0;
  return useMemo(() => html`<i title=${`${name}, ${clock(at)}: ${words(value)}`} style=${value ? { background: colourOf(name), opacity: shade } : undefined}></i>`, [name, at, value, shade, words]);
}
