/** The search over everything that has a name: a dialog with a combobox. Its code comes when it is opened first. */
import { html, useEffect, useId, useMemo, useRef, useState } from "../lib/html.js";
import { findAdapters, findRequest, found, loadNamed, pageResults } from "../lib/finding.js";
import { t } from "../lib/language.js";
import { go } from "../lib/router.js";
import { Dialog } from "./dialog.js";

const PAUSE_MS = 120;

export default function Finder({ onClose }) {
  const [text, setText] = useState("");
  const [active, setActive] = useState(0);
  const id = useId();
  const named = useNamed();
  const asked = useAsked(text.trim());
  const kinds = useMemo(() => found([[t("Pages"), pageResults()], ...asked, ...(text.trim() ? withoutTwice(named.kinds, asked) : [])], text.trim()), [text, named, asked]);
  const all = kinds.flatMap(([, results]) => results);
  const at = Math.min(active, all.length - 1);
  const open = (result) => { onClose(); go(result.to); };
  const onKeyDown = (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step && all.length) setActive((at + step + all.length) % all.length);
    else if (event.key === "Enter" && all[at]) open(all[at]);
    else return;
    event.preventDefault();
  };
  return html`<${Dialog} title=${t("Search")} onClose=${onClose}><div class="finder">
    <input type="text" role="combobox" autofocus autocomplete="off" spellcheck=${false} value=${text} onKeyDown=${onKeyDown} onInput=${(event) => { setText(event.target.value); setActive(0); }}
      aria-label=${t("Adapters, versions, requests, tenants, contexts, settings, pages")} placeholder=${t("Adapter, name@version, request, tenant, setting …")}
      aria-autocomplete="list" aria-expanded=${all.length > 0} aria-controls=${id} aria-activedescendant=${all.length ? `${id}-${at}` : undefined} />
    <${Results} id=${id} kinds=${kinds} all=${all} at=${at} onActive=${setActive} onOpen=${open} />
    <p class="muted small" role="status">${all.length ? t`${all.length} found` : t("Nothing has this name.")}${named.missing.length > 0 && html` ${t`Could not be searched: ${named.missing.join(", ")}.`}`}</p>
  </div><//>`;
}

function Results({ id, kinds, all, at, onActive, onOpen }) {
  const list = useRef(null);
  useEffect(() => list.current?.querySelector("[aria-selected=true]")?.scrollIntoView({ block: "nearest" }), [at, all]);
  return html`<div role="listbox" id=${id} ref=${list} aria-label=${t("Found")}>${kinds.map(([name, results]) => html`<div role="group" aria-label=${name} key=${name}>
    <span class="kind" aria-hidden="true">${name}</span>
    ${results.map((one) => {
      const index = all.indexOf(one);
      return html`<div role="option" key=${one.to + one.label} id=${`${id}-${index}`} aria-selected=${index === at} onMouseMove=${() => onActive(index)} onClick=${() => onOpen(one)}>
        <b class="cut">${one.label}</b><span class="muted small cut">${one.note}</span></div>`;
    })}</div>`)}</div>`;
}

function useNamed() {
  const [named, setNamed] = useState({ kinds: [], missing: [] });
  useEffect(() => {
    const abort = new AbortController();
    loadNamed(abort.signal).then((loaded) => !abort.signal.aborted && setNamed(loaded));
    return () => abort.abort();
  }, []);
  return named;
}

/** What the server was asked for is not listed once more. */
function withoutTwice(kinds, asked) {
  const there = new Set(asked.flatMap(([, results]) => results.map((one) => one.to)));
  return kinds.map(([name, results]) => [name, results.filter((one) => !there.has(one.to))]);
}

/** As the text changes, after a pause; what was found before stays until the answers come. */
function useAsked(text) {
  const [asked, setAsked] = useState([]);
  useEffect(() => {
    const abort = new AbortController();
    const ask = async () => (await Promise.all([findRequest(text, abort.signal), findAdapters(text, abort.signal)])).flat();
    const timer = setTimeout(() => ask().then(setAsked, () => !abort.signal.aborted && setAsked([])), text ? PAUSE_MS : 0);
    return () => { clearTimeout(timer); abort.abort(); };
  }, [text]);
  return asked;
}
