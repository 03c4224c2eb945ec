/** A model that is chosen among all there are, by a part of its name: a combobox. */
import { html, useEffect, useId, useMemo, useRef, useState } from "../lib/html.js";
import { t } from "../lib/language.js";
import { matching } from "../lib/models.js";

/** options: of lib/models.js; label: of the field; last: {label, onChoose} of what stands behind them, or none */
export function ModelChoice({ value, options, onChange, label, last }) {
  // null: it is closed.
  const [text, setText] = useState(null);
  const [active, setActive] = useState(0);
  const id = useId();
  const found = useMemo(() => (text === null ? [] : [...matching(options, text), ...(last ? [last] : [])]), [options, text]);
  const open = () => { setText(""); setActive(Math.max(0, options.findIndex((one) => one.value === value))); };
  const choose = (one) => { setText(null); if (one.onChoose) one.onChoose(); else onChange(one.value); };
  const onKeyDown = (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step && text === null) open();
    else if (step) setActive((active + step + found.length) % (found.length || 1));
    else if (event.key === "Enter" && text !== null && (found[active] || text.trim())) choose(found[active] ?? { value: text.trim() });
    else if (event.key === "Escape" && text !== null) setText(null);
    else return;
    event.preventDefault();
  };
  return html`<span class="combo"><input type="text" role="combobox" aria-label=${label} autocomplete="off" spellcheck=${false} title=${value} value=${text ?? value} placeholder=${value}
      aria-expanded=${text !== null} aria-controls=${id} aria-autocomplete="list" aria-activedescendant=${found[active] ? `${id}-${active}` : undefined}
      onClick=${() => text === null && open()} onInput=${(event) => { setText(event.target.value); setActive(0); }} onBlur=${() => setText(null)} onKeyDown=${onKeyDown} />
    ${text !== null && html`<${Options} id=${id} found=${found} active=${active} label=${label} onChoose=${choose} />`}</span>`;
}

function Options({ id, found, active, label, onChoose }) {
  const list = useRef(null);
  useEffect(() => list.current.querySelector("[aria-selected=true]")?.scrollIntoView({ block: "nearest" }), [active, found]);
  // The field keeps the focus: what takes it closes the list.
  return html`<div role="listbox" id=${id} ref=${list} aria-label=${label} onMouseDown=${(event) => event.preventDefault()}>
    ${found.map((one, i) => html`<div role="option" key=${one.value ?? one.label} id=${`${id}-${i}`} aria-selected=${i === active} onClick=${() => onChoose(one)}>
      <b class="cut">${one.label ?? one.value}</b><span class="muted small cut">${one.note}</span></div>`)}
    ${!found.length && html`<p class="muted small">${t("Nothing has this name.")}</p>`}</div>`;
}
