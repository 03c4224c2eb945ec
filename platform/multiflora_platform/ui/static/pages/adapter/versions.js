/** The versions of an adapter, and up to three of them side by side. */
import { html, useState } from "../../lib/html.js";
import { get, post, remove } from "../../lib/api.js";
import { bytes, count, digest, percent, target } from "../../lib/format.js";
import { t } from "../../lib/language.js";
import { useResource } from "../../lib/resource.js";
import { query, setQuery } from "../../lib/router.js";
import { isAdmin, session } from "../../lib/session.js";
import { attempt, toast } from "../../lib/toasts.js";
import { named } from "../../lib/values.js";
import { Card, Scroll, Segmented, State, Tags } from "../../components/bits.js";
import { ConfirmByName } from "../../components/dialog.js";
import { Export } from "../../components/export.js";
import { Empty, Loaded } from "../../components/states.js";
import { FoldedReport } from "../../components/report.js";
import { Table } from "../../components/table.js";

const MOST = 3;
/** In the address: no version is chosen. There are no versions 0. */
const NONE = 0;

export default function Versions({ adapter, versions, aliases, api, mine, onChange }) {
  const asked = query.value.getAll("compare").map(Number);
  const isOwn = isAdmin.value || adapter.owner === session.value.tenant;
  const scores = useResource(async (signal) => (isOwn ? get(`${api}/eval-runs?state=completed&limit=200`, { signal }) : { items: [] }), [api, isOwn], { watch: ["records"], pause: 5 });
  const chosen = query.value.has("compare") ? asked : versions.slice(0, 2).map((one) => one.version);
  if (!versions.length) return html`<div class="card"><${Empty} title=${t("No version yet")}>${t("Add one to make this adapter answer.")}<//></div>`;
  const toggle = (number) => {
    const next = chosen.includes(number) ? chosen.filter((one) => one !== number) : [...chosen.slice(-(MOST - 1)), number];
    setQuery({ compare: next.length ? next : NONE });
  };
  const shown = versions.filter((one) => chosen.includes(one.version)).toReversed();
  return html`<div class="stack">
    <${Card} title=${t("Versions")} about=${t`Immutable and numbered; choose up to ${MOST} to compare`} flush>
      <${Table} kind="versions" name=${`versions of ${adapter.name}`} label=${t("Versions")} rows=${versions} keyOf=${(one) => one.version} columns=${columnsOf(chosen, toggle, aliases, scores.data?.items,
        mine && ((one) => html`<${End} one=${one} adapter=${adapter} api=${api} onChange=${onChange} />`))} />
    <//>
    ${shown.length > 0 && html`<${Compared} versions=${shown} api=${api} />`}
    ${shown.map((one) => html`<${Validation} key=${one.version} one=${one} api=${api} />`)}
  </div>`;
}

const columnsOf = (chosen, toggle, aliases, scores, end) => [
  { key: "chosen", label: t("Compare"), control: true, cell: (one) => html`<input type="checkbox" aria-label=${t`Compare version ${one.version}`} checked=${chosen.includes(one.version)} onChange=${() => toggle(one.version)} />` },
  { key: "version", label: t("Version"), cell: (one) => html`<b>v${one.version}</b>` },
  { key: "state", label: t("State"), value: stateOf, cell: (one) => html`<${State} of=${stateOf(one)} />` },
  { key: "aliases", label: t("Aliases"), value: (one) => pointing(aliases, one.version).map((alias) => shareWords(alias, one.version)).join(", "),
    cell: (one) => pointing(aliases, one.version).map((alias) => html`<span class="tag" key=${alias.alias} title=${target(alias)}>${shareWords(alias, one.version)}</span> `) },
  { key: "tags", label: t("Tags"), value: (one) => one.tags.join(" "), cell: (one) => html`<${Tags} of=${one.tags} />` },
  { key: "evals", label: t("Evals"), value: (one) => scoresOf(scores, one).join(", "), cell: (one) => scoresOf(scores, one).map((words) => html`<span class="tag" key=${words}>${words}</span> `) },
  { key: "rank", label: t("Rank"), number: true, value: (one) => one.manifest?.max_rank, cell: (one) => one.manifest?.max_rank ?? "–" },
  { key: "bytes", label: t("Size"), number: true, value: (one) => one.manifest?.num_bytes, cell: (one) => bytes(one.manifest?.num_bytes) },
  { key: "digest", label: t("Digest"), unseen: true, class: "mono", cell: (one) => digest(one.digest) },
  { key: "created_at", label: t("Created"), time: true, class: "muted" },
  ...(end ? [{ key: "actions", label: t("Actions"), control: true, cell: end }] : []),
];

/** An alias's name, with the share of this version where it is split. */
const shareWords = ({ alias, split }, number) => (split ? `${alias} ${split[number]}%` : alias);

/** Of the newest completed run of each eval, and of what was asked at registration. */
const scoresOf = (scores, one) => [
  ...(one.evals?.length ? [t`${one.evals.filter((each) => each.passed).length} of ${one.evals.length} at registration`] : []),
  ...(scores ?? []).filter((run, i) => run.version === one.version && i === scores.findIndex((other) => other.version === run.version && other.eval === run.eval)).map((run) => `${run.eval} ${percent(run.score)}`),
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
  return html`${one.state !== "rejected" && one.digest && html`<a class="button small quiet" href=${`${path}/archive`} download>${t("Download")}</a>`}<button class="button small quiet" onClick=${() => setAsking(true)}>${t("Archive…")}</button>
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
  [t("Evals"), (one) => (one.evals?.length ? t`${one.evals.filter((each) => each.passed).length} of ${one.evals.length} passed` : "")],
  [t("Metrics"), (one) => Object.entries(one.metrics ?? {}).map(([name, value]) => `${name} ${value}`).join(", ")],
  [t("Source"), (one) => one.source],
  [t("Created by"), (one) => one.created_by],
  [t("Digest"), (one) => one.digest],
];

function Compared({ versions }) {
  const lines = comparedLines().map(([label, value, show = plain]) => ({ label, values: versions.map(value), show }))
    .filter(({ values }) => values.some((value) => value !== undefined && value !== null && value !== "" && value !== 0));
  const differs = ({ values }) => new Set(values.map(String)).size > 1;
  const several = versions.length > 1;
  const all = !several || query.value.get("lines") === "all";
  const shown = all ? lines : lines.filter(differs);
  return html`<${Card} title=${several ? t("Side by side") : t`Version ${versions[0].version}`} about=${several && t`${count(lines.filter(differs).length)} of ${count(lines.length)} lines differ`} flush
      actions=${several && html`<${Segmented} label=${t("Which lines")} of=${[["", t("What differs")], ["all", t("All")]]} value=${all ? "all" : ""} onChange=${(value) => setQuery({ lines: value })} />`}>
    <${Scroll} label=${t("Side by side")}><table class="compare"><thead><tr><td></td>${versions.map((one) => html`<th key=${one.version}>v${one.version}</th>`)}</tr></thead>
    <tbody>${shown.map((line) => html`<tr key=${line.label} class=${all && differs(line) ? "differs" : ""}><th scope="row">${line.label}</th>
      ${line.values.map((value, i) => html`<td key=${i} class=${line.label === t("Digest") ? "mono" : ""}>${line.show(value)}</td>`)}</tr>`)}</tbody></table><//>
    <${Export} name="versions side by side" label=${t("Side by side")} columns=${[{ key: "label" }, ...versions.map((one, i) => ({ key: `v${one.version}`, value: (line) => line.values[i] }))]} rows=${shown} />
  <//>`;
}

const plain = (value) => (value === undefined || value === null || value === "" ? "–" : value === true ? t("yes") : value === false ? t("no") : String(value));

function Validation({ one, api }) {
  const report = useResource((signal) => get(`${api}/versions/${one.version}/validation`, { signal }), [api, one.version], { stamp: one.state });
  return html`<${Card} title=${t`Validation of version ${one.version}`}><${Loaded} resource=${report} lines=${3}>
    ${(data) => html`<${FoldedReport} rows=${data.rows} evals=${data.evals} />`}<//><//>`;
}
