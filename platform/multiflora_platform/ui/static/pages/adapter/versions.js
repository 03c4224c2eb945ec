/** The versions of an adapter, and up to three of them side by side. */
import { html, useState } from "../../lib/html.js";
import { get, post, remove } from "../../lib/api.js";
import { bytes, count, digest, target } from "../../lib/format.js";
import { useResource } from "../../lib/resource.js";
import { attempt, toast } from "../../lib/toasts.js";
import { Card, State, Tags, Time } from "../../components/bits.js";
import { ConfirmByName } from "../../components/dialog.js";
import { Empty, Loaded } from "../../components/states.js";
import { Report } from "../../components/report.js";

const MOST = 3;

export function Versions({ adapter, versions, aliases, api, mine, onChange }) {
  const [chosen, setChosen] = useState(() => versions.slice(0, 2).map((one) => one.version));
  if (!versions.length) return html`<div class="card"><${Empty} title="No version yet">Add one to make this adapter answer.<//></div>`;
  const toggle = (number) => setChosen((old) => (old.includes(number) ? old.filter((one) => one !== number) : [...old.slice(-(MOST - 1)), number]));
  const shown = versions.filter((one) => chosen.includes(one.version)).toReversed();
  return html`<div class="stack">
    <${Card} title="Versions" about=${`Immutable and numbered; choose up to ${MOST} to compare`} flush>
      <table><thead><tr><th><span class="visually-hidden">Compare</span></th><th>Version</th><th>State</th><th>Aliases</th><th class="number">Rank</th><th class="number">Size</th><th>Digest</th><th>Made</th><th></th></tr></thead>
      <tbody>${versions.map((one) => html`<tr key=${one.version}>
        <td><input type="checkbox" aria-label=${`Compare version ${one.version}`} checked=${chosen.includes(one.version)} onChange=${() => toggle(one.version)} /></td>
        <td><b>v${one.version}</b></td><td><${State} of=${one.deleted_at ? "archived" : one.state} /></td>
        <td>${pointing(aliases, one.version).map((alias) => html`<span class="tag" key=${alias.alias} title=${target(alias)}>${alias.alias}</span> `)}</td>
        <td class="number">${one.manifest?.max_rank ?? "–"}</td><td class="number">${bytes(one.manifest?.num_bytes)}</td>
        <td class="mono">${digest(one.digest)}</td><td class="muted"><${Time} at=${one.created_at} /></td>
        <td class="number">${mine && html`<${End} one=${one} adapter=${adapter} api=${api} onChange=${onChange} />`}</td></tr>`)}</tbody></table>
    <//>
    ${shown.length > 0 && html`<${Compared} versions=${shown} api=${api} />`}
    ${shown.map((one) => html`<${Validation} key=${one.version} one=${one} api=${api} />`)}
  </div>`;
}

const pointing = (aliases, number) => aliases.filter((alias) => alias.version === number || (alias.split && String(number) in alias.split));

function End({ one, adapter, api, onChange }) {
  const [asking, setAsking] = useState(false);
  if (!("deleted_at" in one)) return null;
  const path = `${api}/versions/${one.version}`;
  const name = `${adapter.name}@${one.version}`;
  const restore = () => attempt(() => post(`${path}:restore`), `${name} is back.`).then(onChange);
  if (one.deleted_at) return html`<button class="button small" onClick=${restore}>Restore</button>`;
  return html`<button class="button small quiet" onClick=${() => setAsking(true)}>Archive…</button>
    ${asking && html`<${ConfirmByName} title=${`Archive version ${one.version}?`} name=${name} action="Archive" onClose=${() => setAsking(false)}
      onConfirm=${async () => { await remove(path); toast(`${name} is archived.`, { undo: restore }); onChange(); }}>
      It is no longer served; it can be restored until it is purged.<//>`}`;
}

/** [label, (version) => comparable text or number, (value) => shown] */
const LINES = [
  ["State", (one) => one.state],
  ["Rank", (one) => one.manifest?.config?.r],
  ["Alpha", (one) => one.manifest?.config?.lora_alpha],
  ["rsLoRA", (one) => one.manifest?.config?.use_rslora],
  ["DoRA", (one) => one.manifest?.config?.use_dora],
  ["Modules", (one) => one.manifest?.target_modules?.join(", ")],
  ["Parameters", (one) => one.manifest?.num_parameters, count],
  ["Stored as", (one) => one.manifest?.dtype],
  ["Size", (one) => one.manifest?.num_bytes, bytes],
  ["Trained on", (one) => one.manifest?.base_model_name_or_path],
  ["Description", (one) => one.description],
  ["Tags", (one) => one.tags?.join(", ")],
  ["Trained further from", (one) => one.lineage?.parent_version && `v${one.lineage.parent_version}`],
  ["Training run", (one) => one.lineage?.training_run],
  ["Data", (one) => one.lineage?.datasets?.join(", ")],
  ["Evals", (one) => one.evals?.length && `${one.evals.filter((each) => each.passed).length} of ${one.evals.length} passed`],
  ["Source", (one) => one.source],
  ["Made by", (one) => one.created_by],
  ["Digest", (one) => one.digest],
];

function Compared({ versions }) {
  const lines = LINES.map(([label, value, show = plain]) => ({ label, values: versions.map(value), show }))
    .filter(({ values }) => values.some((value) => value !== undefined && value !== null && value !== "" && value !== 0));
  const differs = ({ values }) => new Set(values.map(String)).size > 1;
  return html`<${Card} title=${versions.length > 1 ? "Side by side" : `Version ${versions[0].version}`} about=${versions.length > 1 && "What differs stands out"} flush>
    <table class="compare"><thead><tr><th></th>${versions.map((one) => html`<th key=${one.version}>v${one.version}</th>`)}</tr></thead>
    <tbody>${lines.map((line) => html`<tr key=${line.label} class=${differs(line) ? "differs" : ""}><th scope="row">${line.label}</th>
      ${line.values.map((value, i) => html`<td key=${i} class=${line.label === "Digest" ? "mono" : ""}>${line.show(value)}</td>`)}</tr>`)}</tbody></table>
  <//>`;
}

const plain = (value) => (value === undefined || value === null || value === "" ? "–" : value === true ? "yes" : value === false ? "no" : String(value));

function Validation({ one, api }) {
  const report = useResource((signal) => get(`${api}/versions/${one.version}/validation`, { signal }), [api, one.version, one.state]);
  return html`<${Card} title=${`Validation of version ${one.version}`}><${Loaded} resource=${report} lines=${3}>
    ${(data) => html`<${Report} rows=${data.rows} evals=${data.evals} />`}<//><//>`;
}
