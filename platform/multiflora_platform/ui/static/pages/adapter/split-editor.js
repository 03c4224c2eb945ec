/** Which versions an alias means, and the part of its users that each gets. The parts always sum to 100. */
import { html, useState } from "../../lib/html.js";
import { t } from "../../lib/language.js";
import { series } from "../../components/bits.js";

const STEPS = [5, 10, 25, 50];

export function SplitEditor({ versions, alias, onSave, onCancel }) {
  const start = Object.fromEntries(versions.map((version) => [version, alias.split?.[version] ?? (alias.version === version ? 100 : 0)]));
  const [shares, setShares] = useState(start);
  const [problem, setProblem] = useState("");
  const [busy, setBusy] = useState(false);
  const shown = versions.toReversed();
  const used = versions.filter((version) => shares[version] > 0);
  const newest = versions.at(-1);
  const save = async (event) => {
    event.preventDefault();
    setBusy(true);
    try {
      await onSave(used.length === 1 ? { version: used[0] } : { split: Object.fromEntries(used.map((version) => [version, shares[version]])) });
    } catch (error) {
      setProblem(error.status === 412 ? t("Somebody else moved this alias just now. Look at where it points and try again.") : error.message);
    }
    setBusy(false);
  };
  const canary = (part) => setShares(moved(start, newest, part));
  return html`<form class="stack split-editor" onSubmit=${save}>
    ${versions.length > 1 && html`<div class="row"><span class="muted small">${t`Send to v${newest}:`}</span>${STEPS.map((part) => html`<button type="button" class="button small" key=${part} onClick=${() => canary(part)}>${part}%</button>`)}<button type="button" class="button small" onClick=${() => canary(100)}>${t("everybody")}</button></div>`}
    ${shown.map((version, i) => html`<label class="slider" key=${version}><span>v${version}</span>
      <input type="range" min="0" max="100" value=${shares[version]} style=${{ accentColor: series(i) }} aria-label=${t`Share of version ${version}`}
        onInput=${(event) => setShares(moved(shares, version, Number(event.target.value)))} />
      <span class="number">${shares[version]}%</span></label>`)}
    ${problem && html`<p class="problem" role="alert">${problem}</p>`}
    <div class="row end"><button type="button" class="button" onClick=${onCancel}>${t("Cancel")}</button><button class="button primary" disabled=${busy}>${t("Save")}</button></div>
  </form>`;
}

/** One share set to `part`; the others keep their proportions in what is left. */
export function moved(shares, version, part) {
  const others = Object.keys(shares).filter((one) => one !== String(version));
  if (!others.length) return { [version]: 100 };
  const rest = 100 - part;
  const sum = others.reduce((total, one) => total + shares[one], 0);
  const next = { ...shares, [version]: part };
  let given = 0;
  for (const one of others) {
    next[one] = sum ? Math.floor((shares[one] * rest) / sum) : 0;
    given += next[one];
  }
  const largest = others.reduce((best, one) => (shares[one] > shares[best] ? one : best), others.at(-1));
  next[largest] += rest - given;
  return next;
}
