/** Batches: files of requests that are answered behind all others; how far each is, what failed, its files. */
import { html, useState } from "../lib/html.js";
import { post } from "../lib/api.js";
import { answered, endedAt, hasEnded, loadBatches } from "../lib/batches.js";
import { count, seconds } from "../lib/format.js";
import { t } from "../lib/language.js";
import { useResource } from "../lib/resource.js";
import { href, query, setQuery } from "../lib/router.js";
import { isAdmin } from "../lib/session.js";
import { toast } from "../lib/toasts.js";
import { named } from "../lib/values.js";
import { Meter, PageHeader, Search, State, Time } from "../components/bits.js";
import { ConfirmByName } from "../components/dialog.js";
import { Choice } from "../components/fields.js";
import { Older } from "../components/older.js";
import { Empty, Loaded } from "../components/states.js";
import { Table } from "../components/table.js";

const STATES = ["validating", "in_progress", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled"];
const [FIRST, MOST] = [100, 1000];

export default function Batches() {
  const [most, setMost] = useState(FIRST);
  const [ending, setEnding] = useState(null);
  const batches = useResource((signal) => loadBatches(most, signal), [most], { watch: ["records"], pause: 2 });
  const requests = isAdmin.value && html`<a class="button" href=${href("/requests?key=batches")}>${t("Their requests")}</a>`;
  return html`<${PageHeader} title=${t("Batches")} about=${t("A file of requests, answered behind all that clients wait for, within a day")} actions=${requests} />
    <div class="row"><${Search} label=${t("Batch, endpoint, error, metadata")} value=${query.value.get("q") ?? ""} onInput=${(value) => setQuery({ q: value })} />
      <${Choice} param="state" label=${t("State")} any=${t("all")} of=${STATES.map((one) => [one, named(one)])} /></div>
    <div class="card"><${Loaded} resource=${batches}>${(data) => html`<${Listed} data=${{ ...data, loadOlder: most < MOST ? () => setMost(MOST) : undefined }} onCancel=${setEnding} />`}<//></div>
    ${ending && html`<${ConfirmByName} title=${t("Cancel this batch?")} name=${shortOf(ending)} action=${t("Cancel the batch")} onClose=${() => setEnding(null)}
      onConfirm=${async () => { await post(`/v1/batches/${ending.id}/cancel`); toast(t`${shortOf(ending)} is being cancelled.`); batches.reload(); }}>
      ${t("What is answered stays in its output file; the rest is not begun.")}<//>`}`;
}

function Listed({ data, onCancel }) {
  const text = (query.value.get("q") ?? "").toLowerCase();
  const state = query.value.get("state");
  const rows = data.items.filter((one) => (!state || one.status === state) && [one.id, one.endpoint, errorsOf(one), noteOf(one)].join(" ").toLowerCase().includes(text));
  if (!data.items.length) return html`<${Empty} title=${t("No batches yet")} icon="batches">${t`Upload a file of requests to ${html`<code>/v1/files</code>`} and name it in ${html`<code>POST /v1/batches</code>`}, as with OpenAI's API.`}<//>`;
  return html`${rows.length ? html`<${Table} name="batches" label=${t("Batches")} columns=${columnsOf(onCancel)} rows=${rows} keyOf=${(one) => one.id} />` : html`<${Empty} title=${t("Nothing matches")}>${t("Only the batches that are loaded are searched.")}<//>`}
    <${Older} of=${data} />`;
}

/** Of `batch_` and 32 letters as many as tell one from another. */
const shortOf = (batch) => batch.id.slice(0, 14);
const errorsOf = (batch) => (batch.errors?.data ?? []).map((one) => one.message).join(" ");
const noteOf = (batch) => Object.entries(batch.metadata ?? {}).map(([name, value]) => `${name}: ${value}`).join(", ");
const took = (batch) => (endedAt(batch) ?? Date.now() / 1000) - batch.created_at;
const share = (batch) => (batch.request_counts.total ? answered(batch) / batch.request_counts.total : null);
/** By key: as the download is called. */
const FILES = [["input_file_id", "requests"], ["output_file_id", "answers"], ["error_file_id", "errors"]];
const fileNames = () => ({ requests: t("requests"), answers: t("answers"), errors: t("errors") });

const columnsOf = (onCancel) => [
  { key: "id", label: t("Batch"), cell: (one) => html`<b class="nowrap" title=${one.id}>${shortOf(one)}</b><div class="muted small nowrap">${one.endpoint}</div><div class="muted small break">${noteOf(one)}</div>` },
  { key: "endpoint", label: t("Endpoint"), unseen: true },
  { key: "status", label: t("State"), cell: (one) => html`<${State} of=${one.status} />${!hasEnded(one) && html`<div class="muted small nowrap">${t`expires ${html`<${Time} at=${one.expires_at} />`}`}</div>`}` },
  { key: "progress", label: t("Answered"), value: share, cell: (one) => html`<${Answered} of=${one} />` },
  { key: "completed", label: t("Succeeded"), number: true, unseen: true, value: (one) => one.request_counts.completed },
  { key: "total", label: t("Requests in all"), number: true, unseen: true, value: (one) => one.request_counts.total },
  { key: "failed", label: t("Failed"), number: true, value: (one) => one.request_counts.failed, cell: (one) => html`<span class=${one.request_counts.failed ? "problem" : ""}>${count(one.request_counts.failed)}</span>` },
  { key: "created_at", label: t("Created"), time: true },
  { key: "seconds", label: t("Took"), number: true, value: took, cell: (one) => html`<span title=${t("From its creation, waiting included")}>${seconds(took(one))}</span>` },
  { key: "expires_at", label: t("Expires"), unseen: true, time: true },
  { key: "files", label: t("Files"), value: (one) => FILES.map(([key]) => one[key]).filter(Boolean).join(" "), cell: (one) => FILES.filter(([key]) => one[key]).map(([key, name]) => html`<a key=${key} class="nowrap" href=${`/v1/files/${one[key]}/content`} download=${`${shortOf(one)}-${name}.jsonl`}>${fileNames()[name]}</a> `) },
  { key: "errors", label: t("Error"), class: "break", value: errorsOf, cell: (one) => errorsOf(one) && html`<span class="problem">${errorsOf(one)}</span>` },
  { key: "actions", label: t("Actions"), control: true, cell: (one) => !hasEnded(one) && html`<button class="button small quiet" disabled=${one.status === "cancelling"} onClick=${() => onCancel(one)}>${t("Cancel…")}</button>` },
];

function Answered({ of: batch }) {
  const { total } = batch.request_counts;
  if (!total) return html`<span class="muted">–</span>`;
  return html`<${Meter} value=${share(batch)} label=${t`Answered of ${shortOf(batch)}`} /><span class="small nowrap">${t`${count(answered(batch))} of ${count(total)}`}</span>`;
}
