/** The window in a row of numbers: each with its course, its change and what it is now. */
import { html } from "../../lib/html.js";
import { kvUse } from "../../lib/bases.js";
import { count, percent, rate, seconds } from "../../lib/format.js";
import { t } from "../../lib/language.js";
import { highest, intervalOf, known, mean, sum } from "../../lib/measured.js";
import { Sparkline } from "../../components/sparkline.js";

/** Less change than this is none. */
const NOTABLE = 0.05;

export function Tiles({ points }) {
  const of = (field) => points.map((point) => point[field]);
  const requests = sum(of("requests"));
  const errors = sum(of("errors"));
  return html`<dl class="stats tiles" aria-label=${t("Over the window")}>
    <${Tile} label=${t("Tokens per second")} values=${of("tokens_per_second")} of=${mean} format=${rate} />
    <${Tile} label=${t("Requests per second")} values=${of("requests").map((value) => value / intervalOf(points))} of=${mean} format=${rate} />
    <${Tile} label=${t("Errors")} values=${of("errors")} of=${sum} format=${(value) => `${percent(requests ? value / requests : 0)}`} now=${t`${count(errors)} of ${count(requests)}`} />
    <${Tile} label=${t("Time to first token")} values=${of("ttft_p50")} of=${mean} format=${seconds} now=${`p95 ${seconds(mean(of("ttft_p95")))}`} />
    <${Tile} label=${t("Between tokens")} values=${of("itl_p50")} of=${mean} format=${seconds} now=${`p95 ${seconds(mean(of("itl_p95")))}`} />
    <${Tile} label=${t("Running at most")} values=${of("running")} of=${highest} format=${count} now=${t`now ${count(points.at(-1)?.running)}, ${count(points.at(-1)?.waiting)} waiting`} />
    <${Tile} label=${t("KV blocks in use at most")} values=${of("kv_use")} of=${highest} format=${percent} now=${nowByBase(points.at(-1))} />
    <${Tile} label=${t("Cache hit rate")} values=${of("cache_hit_rate")} of=${mean} format=${percent} />
  </dl>`;
}

/** KV blocks in use of each base model; undefined where there is only one. */
function nowByBase(point) {
  const bases = Object.entries(point?.by_base ?? {});
  return bases.length > 1 ? bases.map(([name, gauges]) => `${name} ${percent(kvUse(gauges))}`).join(", ") : undefined;
}

/** @param {{of: (values) => number|null}} props of: what of the values is shown; now: instead of the newest value */
function Tile({ label, values, of, format, now }) {
  return html`<div><dt>${label}</dt><dd>${format(of(values))} <small>${now ?? t`now ${format(known(values.slice(-1))[0])}`}</small></dd>
    <dd class="course"><${Sparkline} values=${values} />${change(of(values.slice(0, values.length / 2)), of(values.slice(values.length / 2)))}</dd></div>`;
}

/** The later half of the window against the earlier, in words; nothing while they are alike. */
function change(earlier, later) {
  if (!earlier || later === null || Math.abs(later / earlier - 1) < NOTABLE) return null;
  const times = later / earlier;
  const text = times >= 2 ? `${rate(times)}×` : `${times > 1 ? "+" : "−"}${percent(Math.abs(times - 1))}`;
  return html`<small title=${t("The later half of the window against the earlier")}>${text}</small>`;
}
