/** The smallest parts: headings, badges, numbers, meters, tabs, choices. */
import { html, useEffect, useLayoutEffect, useRef } from "../lib/html.js";
import { href, path, withQuery } from "../lib/router.js";
import { ago, dateTime, isoTime } from "../lib/format.js";
import { explained } from "../lib/help.js";
import { t } from "../lib/language.js";
import { colourOf } from "../lib/theme.js";
import { named } from "../lib/values.js";
import { Icon } from "./icon.js";

/** The page's title, in the window's, too. Takes the focus, so that a screen reader says where one is. */
export function PageHeader({ title, about, back, actions }) {
  const heading = useRef(null);
  useLayoutEffect(() => {
    document.title = `${title} · Multiflora`;
  }, [title]);
  useEffect(() => heading.current?.focus({ preventScroll: true }), []);
  return html`<header class="page-header">
    <div>
      ${back && html`<a class="crumb" href=${href(back.to)}>← ${back.label}</a>`}
      <div class="titled"><h1 tabindex="-1" ref=${heading}>${title}</h1><${Help} of=${title} page=${explained(path.value)} /></div>
      ${about && html`<p>${about}</p>`}
    </div>
    ${actions && html`<div class="row">${actions}</div>`}
  </header>`;
}

/** A link to what explains it. @param {{of: string, page: string|undefined}} props page: of the documentation, with a heading or without */
export const Help = ({ of, page }) => page && html`<a class="help" href=${href(`/docs/${page}`)} title=${t("Documentation")} aria-label=${t`Documentation of ${of}`}>?</a>`;

export function Card({ title, about, actions, children, flush, wide, help }) {
  return html`<section class=${`card${wide ? " wide" : ""}`} aria-label=${title}>
    ${title && html`<header><div><div class="titled"><h2>${title}</h2><${Help} of=${title} page=${help} /></div>${about && html`<p>${about}</p>`}</div>${actions && html`<div class="row">${actions}</div>`}</header>`}
    ${flush ? children : html`<div class="body">${children}</div>`}
  </section>`;
}

/** What may be wider than its place; scrolled with the keyboard, too. */
export const Scroll = ({ label, children }) => html`<div class="scroll" tabindex="0" role="group" aria-label=${label}>${children}</div>`;

/** A card that opens on demand. */
export const Fold = ({ title, about, open, children }) => html`<details class="card" open=${open}>
  <summary><h2>${title}</h2><p>${about}</p></summary><div class="body">${children}</div></details>`;

export const Badge = ({ kind = "", children }) => html`<span class=${`badge ${kind}`}>${children}</span>`;
export const Tags = ({ of }) => html`${of.map((tag) => html`<span class="tag" key=${tag}>${tag}</span> `)}`;
/** How long ago, with the moment and its zone on hover. words: instead of how long ago */
export const Time = ({ at, words }) => html`<time title=${dateTime(at)} datetime=${isoTime(at)} class="nowrap">${words ?? ago(at)}</time>`;
/** When an adapter was last used (`of` an AdapterUse, or none); after a restart of the server only the day is known. */
export const LastUsed = ({ of }) => (of?.last_used_at ? html`<${Time} at=${of.last_used_at} />` : html`<span title=${of?.last_day ? t("A day of UTC: the moment was before this server's start") : undefined}>${of?.last_day ?? "–"}</span>`);

const STATES = { ready: "ok", succeeded: "ok", delivered: "ok", slot: "ok", rejected: "bad", failed: "bad", archived: "", cancelled: "", pending: "info",
  fetching: "info", validating: "info", queued: "info", running: "info", cpu: "info", promoted: "ok", completed: "ok", rolled_back: "bad", starting: "warn",
  loading: "info", draining: "warn", in_progress: "info", finalizing: "info", cancelling: "warn", expired: "bad", restarting: "warn" };
export const State = ({ of }) => html`<${Badge} kind=${STATES[of] ?? ""}>${named(of)}<//>`;

/** All versions (`name@number`) of a digest, for what they share: a slot, cached blocks. A mix is named by its recipe, the
 * base model as that, and what is registered no longer by its digest. */
export function Names({ of, digest, link }) {
  if (!digest) return html`<span class="muted">${t("base")}</span>`;
  if (!of.length) return html`<code title=${t("No longer registered")}>${digest.slice(0, 12)}</code>`;
  return of.map((version, i) => html`${i > 0 && ", "}${link && adapterOf(version) ? html`<a href=${href(`/adapters/${adapterOf(version)}`)}><b>${version}</b></a>` : version}`);
}

/** Of `name@number`; null for a mix's recipe, which has spaces. */
const adapterOf = (version) => (version.includes(" ") ? null : version.split("@")[0]);

/** @param {{of: Array<[string, any, any?]>}} props label, value, small print; small: values no larger than text */
export const Stats = ({ of, label, small }) => html`<dl class=${`stats${small ? " strip" : ""}`} aria-label=${label}>
  ${of.map(([name, value, small]) => html`<div key=${name}><dt>${name}</dt><dd>${value} ${small && html`<small>${small}</small>`}</dd></div>`)}
</dl>`;

export const Facts = ({ of }) => html`<dl class="facts">
  ${of.filter(Boolean).map(([name, value]) => html`<dt key=${name}>${name}</dt><dd>${value}</dd>`)}
</dl>`;

/** value, and the peak that is marked: 0..1 */
export const Meter = ({ value, peak, label }) => html`<span class="meter" role="img" aria-label=${t`${label}: ${Math.round(value * 100)}%`}>
  <i style=${{ width: `${Math.min(100, value * 100)}%` }}></i>${peak > 0 && html`<b style=${{ left: `${Math.min(100, peak * 100)}%` }}></b>`}</span>`;

/** Parts of a whole as one bar. @param {{parts: Array<{label: string, value: number, colour?: string}>}} props */
export function Share({ parts, label }) {
  const total = parts.reduce((sum, part) => sum + part.value, 0) || 1;
  const text = parts.map((part) => `${part.label} ${Math.round((100 * part.value) / total)}%`).join(", ");
  return html`<span class="share" role="img" aria-label=${t`${label}: ${text}`} title=${text}>
    ${parts.map((part, i) => html`<i key=${part.label} style=${{ flex: `${part.value} 0 0`, background: part.colour ?? series(i) }}></i>`)}
  </span>`;
}

/** An adapter's colour beside its name. */
export const Swatch = ({ of }) => html`<i class="swatch" style=${{ background: colourOf(of) }}></i>`;

export const series = (index) => `var(--series-${(index % 8) + 1})`;

/** @param {{of: Array<[string, string]>}} props [value of ?tab, label]; the first is the default */
export const Tabs = ({ of, current, path, label }) => html`<nav class="tabs" aria-label=${label}>
  ${of.map(([value, name], i) => html`<a key=${value} href=${href(i ? withQuery(path, "tab", value) : path)}
    aria-current=${value === current ? "page" : undefined}>${name}</a>`)}
</nav>`;

export const Segmented = ({ of, value, onChange, label }) => html`<div class="segmented" role="group" aria-label=${label}>
  ${of.map(([one, name]) => html`<button key=${one} type="button" aria-pressed=${one === value} onClick=${() => onChange(one)}>${name}</button>`)}
</div>`;

export const Search = ({ value, onInput, label }) => html`<div class="search"><${Icon} name="search" size=${16} />
  <input type="search" value=${value} placeholder=${label} aria-label=${label} onInput=${(event) => onInput(event.target.value)} /></div>`;
