/** The versions of an adapter, and up to three of them side by side. */
import { html, useState } from "../../lib/html.js";
import { get, post, remove } from "../../lib/api.js";
import { bytes, count, digest, target } from "../../lib/format.js";
import { t } from "../../lib/language.js";
import { useResource } from "../../lib/resource.js";
import { query, setQuery } from "../../lib/router.js";
import { attempt, toast } from "../../lib/toasts.js";
import { named } from "../../lib/values.js";
import { Card, Scroll, State } from "../../components/bits.js";
import { ConfirmByName } from "../../components/dialog.js";
import { Export } from "../../components/export.js";
import { Empty, Loaded } from "../../components/states.js";
import { Report } from "../../components/report.js";
import { Table } from "../../components/table.js";

const MOST = 3;
/** In the address: no version is chosen. There are no versions 0. */
const NONE = 0;

export function Versions({ adapter, versions, aliases, api, mine, onChange }) {
  const asked = query.value.getAll("compare").map(Number);
  const chosen = query.value.has("compare") ? asked : versions.slice(0, 2).map((one) => one.version);
  if (!versions.length) return html`<div class="card"><${Empty} title=${t("No version yet")}>${t("Add one to make this adapter answer.")}<//></div>`;
  const toggle = (number) => {
    const next = chosen.includes(number) ? chosen.filter((one) => one !== number) : [...chosen.slice(-(MOST - 1)), number];
    setQuery({ compare: next.length ? next : NONE });
  };
  const shown = versions.filter((one) => chosen.includes(one.version)).toReversed();
  return html`<div class="stack">
    <${Card} title=${t("Versions")} about=${t`Immutable and numbered; choose up to ${MOST} to compare`} flush>
      <${Table} kind="versions" name=${`versions of ${adapter.name}`} label=${t("Versions")} rows=${versions} keyOf=${(one) => one.version} columns=${columnsOf(chosen, toggle, aliases,
        mine && ((one) => html`<${End} one=${one} adapter=${adapter} api=${api} onChange=${onChange} />`))} />
    <//>
    ${shown.length > 0 && html`<${Compared} versions=${shown} api=${api} />`}
    ${shown.map((one) => html`<${Validation} key=${one.version} one=${one} api=${api} />`)}
  </div>`;
}

const columnsOf = (chosen, toggle, aliases, end) => [
  { key: "chosen", label: t("Compare"), control: true, cell: (one) => html`<input type="checkbox" aria-label=${t`Compare version ${one.version}`} checked=${chosen.includes(one.version)} onChange=${() => toggle(one.version)} />` },
  { key: "version", label: t("Version"), cell: (one) => html`<b>v${one.version}</b>` },
  { key: "state", label: t("State"), value: stateOf, cell: (one) => html`<${State} of=${stateOf(one)} />` },
  { key: "aliases", label: t("Aliases"), value: (one) => pointing(aliases, one.version).map((alias) => alias.alias).join(", "),
    cell: (one) => pointing(aliases, one.version).map((alias) => html`<span class="tag" key=${alias.alias} title=${target(alias)}>${alias.alias}</span> `) },
  { key: "rank", label: t("Rank"), number: true, value: (one) => one.manifest?.max_rank, cell: (one) => one.manifest?.max_rank ?? "–" },
  { key: "bytes", label: t("Size"), number: true, value: (one) => one.manifest?.num_bytes, cell: (one) => bytes(one.manifest?.num_bytes) },
  { key: "digest", label: t("Digest"), class: "mono", cell: (one) => digest(one.digest) },
  { key: "created_at", label: t("Made"), time: true, class: "muted" },
  ...(end ? [{ key: "actions", label: t("Actions"), control: true, cell: end }] : []),
];

const stateOf = (one) => (one.deleted_at ? "archived" : one.state);
const pointing = (aliases, number) => aliases.filter((alias) => alias.version === number || (alias.split && String(number) in alias.split));

function End({ one, adapter, api, onChange }) {
  const [asking, setAsking] = useState(false);
  if (!("deleted_at" in one)) return null;
  const path = `${api}/versions/${one.version}`;
  const name = `${adapter.name}@${one.version}`;
  const restore = () => attempt(() => post(`${path}:restore`), t`${name} is back.`).then(onChange);
  if (one.deleted_at) return html`<button class="button small" onClick=${restore}>${t("Restore")}</button>`;
  return html`<button class="button small quiet" onClick=${() => setAsking(true)}>${t("Archive…")}</button>
    ${asking && html`<${ConfirmByName} title=${t`Archive version ${one.version}?`} name=${name} action=${t("Archive")} onClose=${() => setAsking(false)}
      onConfirm=${async () => { await remove(path); toast(t`${name} is archived.`, { undo: restore }); onChange(); }}>
      ${t("It is no longer served; it can be restored until it is purged.")}<//>`}`;
}

/** [label, (version) => comparable text or number, (value) => shown] */
const comparedLines = () => [
  [t("State"), (one) => named(one.state)],
  [t("Rank"), (one) => one.manifest?.config?.r],
  [t("Alpha"), (one) => one.manifest?.config?.lora_alpha],
  ["rsLoRA", (one) => one.manifest?.config?.use_rslora],
  ["DoRA", (one) => one.manifest?.config?.use_dora],
  [t("Modules"), (one) => one.manifest?.target_modules?.join(", ")],
  [t("Parameters"), (one) => one.manifest?.num_parameters, count],
  [t("Stored as"), (one) => one.manifest?.dtype],
  [t("Size"), (one) => one.manifest?.num_bytes, bytes],
  [t("Trained on"), (one) => one.manifest?.base_model_name_or_path],
  [t("Description"), (one) => one.description],
  [t("Tags"), (one) => one.tags?.join(", ")],
  [t("Trained further from"), (one) => one.lineage?.parent_version && `v${one.lineage.parent_version}`],
  [t("Training run"), (one) => one.lineage?.training_run],
  [t("Data"), (one) => one.lineage?.datasets?.join(", ")],
  [t("Evals"), (one) => one.evals?.length && t`${one.evals.filter((each) => each.passed).length} of ${one.evals.length} passed`],
  [t("Metrics"), (one) => Object.entries(one.metrics ?? {}).map(([name, value]) => `${name} ${value}`).join(", ")],
  [t("Source"), (one) => one.source],
  [t("Made by"), (one) => one.created_by],
  [t("Digest"), (one) => one.digest],
];

function Compared({ versions }) {
  const lines = comparedLines().map(([label, value, show = plain]) => ({ label, values: versions.map(value), show }))
    .filter(({ values }) => values.some((value) => value !== undefined && value !== null && value !== "" && value !== 0));
  const differs = ({ values }) => new Set(values.map(String)).size > 1;
  return html`<${Card} title=${versions.length > 1 ? t("Side by side") : t`Version ${versions[0].version}`} about=${versions.length > 1 && t("What differs stands out")} flush>
    <${Scroll} label=${t("Side by side")}><table class="compare"><thead><tr><th></th>${versions.map((one) => html`<th key=${one.version}>v${one.version}</th>`)}</tr></thead>
    <tbody>${lines.map((line) => html`<tr key=${line.label} class=${differs(line) ? "differs" : ""}><th scope="row">${line.label}</th>
      ${line.values.map((value, i) => html`<td key=${i} class=${line.label === "Digest" ? "mono" : ""}>${line.show(value)}</td>`)}</tr>`)}</tbody></table><//>
    <${Export} name="versions side by side" label=${t("Side by side")} columns=${[{ key: "label" }, ...versions.map((one, i) => ({ key: `v${one.version}`, value: (line) => line.values[i] }))]} rows=${lines} />
  <//>`;
}

const plain = (value) => (value === undefined || value === null || value === "" ? "–" : value === true ? t("yes") : value === false ? t("no") : String(value));

function Validation({ one, api }) {
  const report = useResource((signal) => get(`${api}/versions/${one.version}/validation`, { signal }), [api, one.version], { stamp: one.state });
  return html`<${Card} title=${t`Validation of version ${one.version}`}><${Loaded} resource=${report} lines=${3}>
    ${(data) => html`<${Report} rows=${data.rows} evals=${data.evals} />`}<//><//>`;
}
