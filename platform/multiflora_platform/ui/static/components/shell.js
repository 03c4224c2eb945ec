/** What stands around every page: navigation, who is signed in, theme, notes, and whether the server answers. */
import { html, useEffect, useSignal, useState } from "../lib/html.js";
import { online } from "../lib/api.js";
import { asset } from "../lib/assets.js";
import { count } from "../lib/format.js";
import { plural, t } from "../lib/language.js";
import { startLive } from "../lib/live.js";
import { pageGroups } from "../lib/pages.js";
import { href, path } from "../lib/router.js";
import { isAdmin, session, signOut } from "../lib/session.js";
import { setTheme, theme } from "../lib/theme.js";
import { attempt, dismiss, toasts } from "../lib/toasts.js";
import { Icon } from "./icon.js";
import { LanguageChoice } from "./language.js";

const isHere = (to) => (to === "/" ? path.value === "/" : path.value === to || path.value.startsWith(`${to}/`));

export function Shell({ children }) {
  const open = useSignal(false);
  const [finder, openFinder] = useFinder();
  useEffect(startLive, []);
  useEffect(() => { open.value = false; }, [path.value]);
  useEffect(() => {
    const onKey = (event) => {
      if (event.key === "Escape") open.value = false;
      if (event.key.toLowerCase() !== "k" || !(event.ctrlKey || event.metaKey) || event.shiftKey || event.altKey) return;
      event.preventDefault();
      if (!document.querySelector("dialog[open]")) openFinder();
    };
    addEventListener("keydown", onKey);
    return () => removeEventListener("keydown", onKey);
  }, []);
  return html`<div class="shell">
    <a class="skip" href="#main">${t("Skip to the page")}</a>
    <header class="topbar">
      <button class="button quiet" aria-label=${t("Open the navigation")} aria-expanded=${open.value} onClick=${() => { open.value = true; }}><${Icon} name="menu" /></button>
      <${Brand} />
      <button class="button quiet" aria-label=${t("Search everything")} onClick=${openFinder}><${Icon} name="search" /></button>
    </header>
    ${open.value && html`<button class="scrim" aria-label=${t("Close the navigation")} onClick=${() => { open.value = false; }}></button>`}
    <header class=${`side${open.value ? " open" : ""}`}>
      <${Brand} />
      <button class="find" aria-keyshortcuts="Control+K" onClick=${openFinder}><${Icon} name="search" size=${16} />${t("Search")} <kbd>Ctrl K</kbd></button>
      <nav aria-label=${t("Pages")}>${pageGroups().map(([name, pages]) => html`<${Group} key=${name} name=${name} pages=${pages} />`)}</nav>
      <${Who} />
    </header>
    <div>
      ${!online.value && html`<div class="offline" role="alert">${t("The server is not answering. What you see is its last state; trying again.")}</div>`}
      <main id="main" tabindex="-1">${children}</main>
    </div>
    ${finder}
    <${Toasts} />
  </div>`;
}

/** The search, once it is opened and its code is there; and what opens it. */
function useFinder() {
  const [Finder, setFinder] = useState(null);
  const open = () => attempt(() => import("./finder.js").then((module) => setFinder(() => module.default)));
  return [Finder && html`<${Finder} onClose=${() => setFinder(null)} />`, open];
}

const Brand = () => html`<a class="brand" href=${href(isAdmin.value ? "/" : "/adapters")}><img src=${asset("icon.svg")} alt="" />Multiflora</a>`;

function Group({ name, pages }) {
  const shown = pages.filter(([, , , visible]) => visible());
  if (!shown.length) return null;
  return html`<div><h2>${name}</h2><ul>${shown.map(([to, label, icon]) => html`<li key=${to}>
    <a href=${href(to)} aria-current=${isHere(to) ? "page" : undefined}><${Icon} name=${icon} />${label}</a></li>`)}</ul></div>`;
}

function Who() {
  const { tenant, key_id: key, person, open, version, replicas } = session.value;
  return html`<div class="foot">
    <label class="who">${t("Theme")}
      <select aria-label=${t("Theme")} class="theme" value=${theme.value} onChange=${(event) => setTheme(event.target.value)}>
        <option value="system">${t("System")}</option><option value="light">${t("Light")}</option><option value="dark">${t("Dark")}</option>
      </select></label>
    <${LanguageChoice} />
    <div class="who"><span class="cut" title=${person ?? key}>${open ? t("Open server, no key") : tenant ?? t("Administrator")}${person && html`<br /><small>${person}</small>`}</span>
      ${!open && html`<button class="button quiet small" onClick=${() => attempt(signOut)}><${Icon} name="out" size=${15} />${t("Sign out")}</button>`}</div>
    <span>${t`Version ${version}`}${replicas && html` · <a href=${href("/replicas")}>${plural(replicas, "{0} replica", "{0} replicas", count(replicas))}</a>`}</span>
  </div>`;
}

export const Toasts = () => html`<div class="toasts" role="status" aria-live="polite">${toasts.value.map((note) => html`<div class="toast" key=${note.id}>
  <span class="break">${note.message}</span>
  ${note.undo
    ? html`<button onClick=${() => { dismiss(note.id); note.undo(); }}>${t("Undo")}</button>`
    : html`<button aria-label=${t("Dismiss")} onClick=${() => dismiss(note.id)}>✕</button>`}
</div>`)}</div>`;
