/** Modal dialogs, and the one that asks for a name before something is destroyed. */
import { html, useEffect, useId, useRef, useState } from "../lib/html.js";
import { t } from "../lib/language.js";

/** Closed by Escape, by a click beside it, or by `onClose`. The focus returns to where it was. */
export function Dialog({ title, onClose, children, wide }) {
  const element = useRef(null);
  const id = useId();
  useEffect(() => {
    const before = document.activeElement;
    element.current.showModal();
    return () => before?.focus?.();
  }, []);
  return html`<dialog class=${`dialog${wide ? " wide" : ""}`} ref=${element} aria-labelledby=${id}
    onCancel=${(event) => { event.preventDefault(); onClose(); }}
    onMouseDown=${(event) => event.target === element.current && onClose()}>
    <div><h2 id=${id}>${title}</h2>${children}</div>
  </dialog>`;
}

/** @param {{name: string, action: string, onConfirm: () => Promise<any>}} props name: what has to be typed */
export function ConfirmByName({ title, name, action, children, onConfirm, onClose }) {
  const [typed, setTyped] = useState("");
  const [problem, setProblem] = useState("");
  const [busy, setBusy] = useState(false);
  const id = useId();
  const confirm = async (event) => {
    event.preventDefault();
    if (typed !== name || busy) return;
    setBusy(true);
    try {
      await onConfirm();
      onClose();
    } catch (error) {
      setProblem(error.message);
      setBusy(false);
    }
  };
  return html`<${Dialog} title=${title} onClose=${onClose}>
    <p>${children}</p>
    <form class="stack" onSubmit=${confirm}>
      <div class="field">
        <label for=${id}>${t`Type ${html`<code>${name}</code>`} to confirm`}</label>
        <input id=${id} autocomplete="off" spellcheck="false" value=${typed} onInput=${(event) => setTyped(event.target.value)} />
        ${problem && html`<span class="problem" role="alert">${problem}</span>`}
      </div>
      <footer>
        <button type="button" class="button" onClick=${onClose}>${t("Cancel")}</button>
        <button class="button danger" disabled=${typed !== name || busy}>${action}</button>
      </footer>
    </form>
  <//>`;
}
