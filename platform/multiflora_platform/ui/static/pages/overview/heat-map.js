/** Adapters by time: the darker a cell, the more tokens. */
import { html, useMemo } from "../../lib/html.js";
import { clock, count } from "../../lib/format.js";
import { t } from "../../lib/language.js";
import { href } from "../../lib/router.js";
import { colourOf } from "../../lib/theme.js";
import { Card } from "../../components/bits.js";
import { heat } from "./models.js";

const COLUMNS = 60;
const ROWS = 12;
/** The least that is seen beside nothing. */
const FAINTEST = 0.15;

export function HeatMap({ points, span }) {
  const stretch = span / COLUMNS;
  const { starts, rows } = useMemo(() => heat(points, span, stretch, ROWS), [points, span]);
  if (!rows.length) return null;
  const most = Math.max(...rows.flatMap((row) => row.cells), 1);
  return html`<${Card} wide title=${t("Tokens by model and time")} about=${t`From ${clock(starts[0])}, ${stretch < 60 ? t`${stretch} s` : t`${stretch / 60} min`} a cell`}>
    <div class="heat">
      ${rows.map((row) => html`<div class="lane" key=${row.name}><a class="cut small" href=${href(`/requests?q=${encodeURIComponent(row.name)}`)}>${row.name}</a><span class="cells" role="img" aria-label=${t`${count(row.cells.reduce((sum, value) => sum + value, 0))} tokens`}>
        ${row.cells.map((value, i) => html`<${Cell} key=${starts[i]} name=${row.name} at=${starts[i]} value=${value} share=${value / most} />`)}</span></div>`)}</div><//>`;
}

/** Made anew only when its number changes: there are hundreds, and a point each second. */
function Cell({ name, at, value, share }) {
  const shade = value ? FAINTEST + (1 - FAINTEST) * Math.sqrt(share) : 0;
  return useMemo(() => html`<i title=${t`${name}, ${clock(at)}: ${count(value)} tokens`} style=${value ? { background: colourOf(name), opacity: shade } : undefined}></i>`, [name, at, value, shade]);
}
