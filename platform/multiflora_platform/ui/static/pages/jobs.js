/** Jobs: what the server imports and has imported, how far it is, and why it failed. */
import { html, useState } from "../lib/html.js";
import { post } from "../lib/api.js";
import { bytes, count, moment, seconds } from "../lib/format.js";
import { t } from "../lib/language.js";
import { useNewest } from "../lib/newest.js";
import { href, query, setQuery } from "../lib/router.js";
import { may } from "../lib/session.js";
import { toast } from "../lib/toasts.js";
import { named } from "../lib/values.js";
import { Meter, PageHeader, Search, Segmented, State, Time } from "../components/bits.js";
import { ConfirmByName } from "../components/dialog.js";
import { Older } from "../components/older.js";
import { Empty, Loaded } from "../components/states.js";
import { Table } from "../components/table.js";

const stateChoices = () => [["", t("All")], ["queued", t("Queued")], ["running", t("Running")], ["succeeded", t("Succeeded")], ["failed", t("Failed")], ["cancelled", t("Cancelled")]];

export default function Jobs() {
  const [ending, setEnding] = useState(null);
  const state = stateChoices().map(([one]) => one).find((one) => one === query.value.get("state")) ?? "";
  const jobs = useNewest(`/api/v1/jobs${state && `?state=${state}`}`, { watch: ["records"], pause: 2 });
  return html`<${PageHeader} title=${t("Jobs")} about=${t("Each makes one version of an adapter: fetches its files, checks them, and tries again what may yet succeed")} />
    <div class="row"><${Search} label=${t("Adapter, source, error")} value=${query.value.get("q") ?? ""} onInput=${(value) => setQuery({ q: value })} />
      <${Segmented} label=${t("State")} of=${stateChoices()} value=${state} onChange=${(value) => setQuery({ state: value })} /></div>
    <div class="card"><${Loaded} resource=${jobs}>${(data) => html`<${Listed} data=${data} state=${state} onCancel=${setEnding} />`}<//></div>
    ${ending && html`<${ConfirmByName} title=${t("Cancel this job?")} name=${made(ending)} action=${t("Cancel the job")} onClose=${() => setEnding(null)}
      onConfirm=${async () => { await post(`/api/v1/jobs/${ending.id}:cancel`); toast(t`${made(ending)} is not made.`); jobs.reload(); }}>
      ${t("What was fetched is dropped, and the version is rejected. Register it again to have it after all.")}<//>`}`;
}

function Listed({ data, state, onCancel }) {
  const text = (query.value.get("q") ?? "").toLowerCase();
  const rows = text ? data.items.filter((job) => [job.id, made(job), job.source, job.error, job.created_by].join(" ").toLowerCase().includes(text)) : data.items;
  if (!data.items.length) return html`<${Nothing} state=${state} />`;
  return html`${rows.length ? html`<${Table} name="jobs" label=${t("Jobs")} columns=${columnsOf(onCancel)} rows=${rows} keyOf=${(job) => job.id} />` : html`<${Empty} title=${t("Nothing matches")}>${t("Only the jobs that are loaded are searched.")}<//>`}
    <${Older} of=${data} />`;
}

function Nothing({ state }) {
  if (state) return html`<${Empty} title=${t`No ${named(state)} jobs`} action=${html`<button class="button" onClick=${() => setQuery({ state: null })}>${t("Show all")}</button>`} />`;
  return html`<${Empty} title=${t("No jobs yet")} icon="jobs" action=${may("registry:write") && html`<a class="button" href=${href("/register")}>${t("Register an adapter")}</a>`}>${t("Whatever is registered is imported by a job; it is here while it runs, and afterwards.")}<//>`;
}

/** What a job makes, as `name@number`. */
const made = (job) => `${job.adapter}@${job.version}`;
const hasEnded = (job) => !["queued", "running"].includes(job.state);
/** From its creation, so that waiting counts. */
const took = (job) => (hasEnded(job) ? moment(job.updated_at) : Date.now() / 1000) - moment(job.created_at);
const share = ({ progress }) => (progress.total_bytes ? progress.done_bytes / progress.total_bytes : null);

const columnsOf = (onCancel) => [
  { key: "id", label: "ID", unseen: true },
  { key: "kind", label: t("Kind"), cell: (job) => html`<span title=${job.id}>${named(job.kind)}</span>` },
  { key: "version", label: t("Version"), value: made, class: "break", cell: (job) => html`<a href=${href(`/adapters/${encodeURIComponent(job.adapter)}?compare=${job.version}`)}><b>${made(job)}</b></a><div class="muted small">${job.source}</div>` },
  { key: "state", label: t("State"), cell: (job) => html`<${State} of=${job.state} />` },
  { key: "progress", label: t("Fetched"), value: share, cell: (job) => html`<${Fetched} of=${job} />` },
  { key: "source", label: t("Source"), unseen: true },
  { key: "created_at", label: t("Created"), time: true },
  { key: "seconds", label: t("Took"), number: true, value: took, cell: (job) => html`<span title=${t("From its creation, waiting included")}>${seconds(took(job))}</span>` },
  { key: "attempts", label: t("Attempts"), number: true, cell: (job) => count(job.attempts) },
  { key: "error", label: t("Error"), class: "break", cell: (job) => html`<${Problem} of=${job} />` },
  { key: "created_by", label: t("Created by"), unseen: true },
  ...(may("registry:write") ? [{ key: "actions", label: t("Actions"), control: true, cell: (job) => !hasEnded(job) && html`<button class="button small quiet" onClick=${() => onCancel(job)}>${t("Cancel…")}</button>` }] : []),
];

function Fetched({ of: job }) {
  const { done_bytes: done, total_bytes: total } = job.progress;
  if (!total) return done ? bytes(done) : html`<span class="muted">–</span>`;
  return html`<${Meter} value=${share(job)} label=${t`Fetched of ${made(job)}`} /><span class="small nowrap">${t`${bytes(done)} of ${bytes(total)}`}</span>`;
}

const Problem = ({ of: job }) => html`${job.error && html`<span class=${hasEnded(job) ? "problem" : "muted"}>${job.error}</span>`}
  ${job.next_attempt_at && html` <span class="muted small">${t`Tried again ${html`<${Time} at=${job.next_attempt_at} />`}`}</span>`}`;
