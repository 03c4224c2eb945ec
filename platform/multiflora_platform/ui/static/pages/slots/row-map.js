/** The pool of rank rows, to scale: who has which rows, where gaps are, and who leaves for one more adapter. */
import { html, useState } from "../../lib/html.js";
import { bytes, count } from "../../lib/format.js";
import { t } from "../../lib/language.js";
import { colourOf } from "../../lib/theme.js";

const ROWS_OF_LINE = 128;
const MAX_LINES = 8;

const nameOf = (versions, digest) => versions.join(", ") || digest.slice(0, 12);

/** @param {{replica: object, label: string}} props replica: of /api/v1/slots */
export function RowMap({ replica, label }) {
  const { residents, rows, forecasts } = replica;
  const [rank, setRank] = useState(null);
  const forecast = forecasts.find((one) => one.rank === rank);
  const leaving = new Set(forecast?.digests);
  const length = Math.max(ROWS_OF_LINE, Math.ceil(rows / MAX_LINES));
  const lines = Array.from({ length: Math.ceil(rows / length) }, (_, i) => i * length);
  return html`<div class="stack">
    <div class="row-map" role="list" aria-label=${label}>
      ${lines.map((start) => html`<div role="presentation" key=${start} style=${{ width: `${(100 * Math.min(length, rows - start)) / length}%` }}>
        ${residents.filter((one) => one.first_row < start + length && one.first_row + one.rank > start).map((one) => html`<${Bar} key=${one.slot} one=${one} from=${start} to=${Math.min(start + length, rows)} isLeaving=${leaving.has(one.digest)} />`)}</div>`)}
    </div>
    ${forecasts.length > 0 && html`<label class="choice">${t("If one more comes")}
      <select value=${rank ?? ""} onChange=${(event) => setRank(event.target.value ? Number(event.target.value) : null)}>
        <option value="">${t("choose its rank")}</option>
        ${forecasts.map((one) => html`<option key=${one.rank} value=${one.rank}>${t`rank ${count(one.rank)}`}</option>`)}
      </select>
      <span role="status">${forecast && sentenceOf(forecast)}</span></label>`}
  </div>`;
}

/** What of an adapter lies in one line of the map, rows `from` to `to`. */
function Bar({ one, from, to, isLeaving }) {
  const name = nameOf(one.versions, one.digest);
  const place = t`${name}: rows ${count(one.first_row)} to ${count(one.first_row + one.rank - 1)}, ${bytes(one.bytes)}`;
  const first = Math.max(one.first_row, from);
  const share = (part) => `${(100 * part) / (to - from)}%`;
  const style = { left: share(first - from), width: share(Math.min(one.first_row + one.rank, to) - first), "--own": colourOf(one.names[0] ?? one.digest) };
  return html`<span role="listitem" tabindex="0" class=${isLeaving ? "leaving" : ""} style=${style} title=${place} aria-label=${isLeaving ? t`${place}; it leaves` : place}>${name}</span>`;
}

function sentenceOf({ fits, digests, versions }) {
  if (!fits) return t("It finds no room: what is here is pinned or in use.");
  if (!digests.length) return t("It finds room; nothing leaves.");
  return t`First to leave: ${digests.map((digest, i) => nameOf(versions[i], digest)).join(", ")}`;
}
