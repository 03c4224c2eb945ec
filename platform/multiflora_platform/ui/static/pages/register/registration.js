/** The steps of a registration: adapter, upload, validation, alias, loading. Knows no markup. */
import { useRef, useState } from "../../lib/html.js";
import { ApiError, get, post, put, upload } from "../../lib/api.js";
import { t } from "../../lib/language.js";

const ENDED = new Set(["ready", "rejected", "archived"]);
/** Of a version: its files are on their way, from where its source lies. */
const FETCHED = new Set(["pending", "fetching"]);
const LOOK_MS = 400;

/** @returns {{state: object|null, start: (wish) => Promise<void>, cancel: () => void}} */
export function useRegistration() {
  const [state, setState] = useState(null);
  const abort = useRef(null);
  const start = async (wish) => {
    abort.current = new AbortController();
    let job = null;
    const report = (part) => {
      job = part.job ?? job;
      setState((old) => ({ ...old, ...part }));
    };
    const total = wish.files?.reduce((sum, file) => sum + file.size, 0) ?? null;
    setState({ busy: true, name: wish.name, isUpload: Boolean(wish.files), step: "content", bytes: { done: 0, total }, job: null, rows: [], error: null, version: null });
    try {
      await register(wish, report, abort.current.signal);
    } catch (error) {
      if (error.rows?.length) report({ rows: error.rows });
      report({ error: error.name === "AbortError" ? new ApiError(0, await cancelled(job)) : error });
    }
    report({ busy: false });
  };
  return { state, start, cancel: () => abort.current?.abort() };
}

/** What the server does by itself ends, too; in words. */
async function cancelled(job) {
  try {
    if (job) await post(`/api/v1/jobs/${job.id}:cancel`);
    return t("Cancelled. Nothing was registered.");
  } catch (error) {
    return error.message;
  }
}

async function register(wish, report, signal) {
  const api = `/api/v1/adapters/${encodeURIComponent(wish.name)}`;
  if (!(await find(wish.name))) await makeAdapter(wish);
  const made = await makeVersion(wish, api, report, signal);
  report({ step: wish.files ? "validate" : "content", version: made.version, job: made.job });
  const version = await validated(api, made, Boolean(made.job) && !wish.files, report, signal);
  if (version.state === "archived") throw new ApiError(409, t`Version ${version.version} is archived, not served: the rows say why.`);
  if (version.state !== "ready") throw new ApiError(422, t`Version ${version.version} was rejected. The rows say why and what to do; nothing of it is served.`);
  report({ step: "finish" });
  if (wish.alias) await setAlias(api, wish.alias, version.version);
  if (wish.warm) await post(`${api}:load?version=${version.version}`);
  report({ step: "done" });
}

/** The adapter of this name, or null; a 404 would be an answer, too, but browsers report it as a fault. */
export async function find(name, signal) {
  const { items } = await get(`/api/v1/adapters?limit=1000&q=${encodeURIComponent(name)}`, { signal });
  return items.find((item) => item.name === name) ?? null;
}

async function makeAdapter({ name, adapter }) {
  try {
    await post("/api/v1/adapters", { name, ...adapter });
  } catch (error) {
    if (error.status !== 409) throw error;
  }
}

async function makeVersion({ files, source, details, promote }, api, report, signal) {
  const path = `${api}/versions${promote ? "?promote=true" : ""}`;
  if (!files) return post(path, { source, ...details }, { signal });
  const form = new FormData();
  form.append("metadata", JSON.stringify(details));
  for (const file of files) form.append("files", file, file.name);
  const options = { headers: { Prefer: "respond-async" }, signal, onProgress: (bytes) => report({ bytes, step: bytes.done < bytes.total ? "content" : "validate" }) };
  return (await upload(path, form, options)).body;
}

/** Rows are shown as they come; the rows of a rejection are asked for, too. */
async function validated(api, made, isFetched, report, signal) {
  for (;;) {
    const version = await get(`${api}/versions/${made.version}`, { signal });
    const { rows } = await get(`${api}/versions/${made.version}/validation`, { signal });
    report({ rows });
    if (ENDED.has(version.state)) return version;
    if (isFetched && FETCHED.has(version.state)) await reportFetched(made.job, report, signal);
    else report({ step: "validate" });
    await new Promise((resolve) => setTimeout(resolve, LOOK_MS));
  }
}

async function reportFetched({ id }, report, signal) {
  const job = await get(`/api/v1/jobs/${id}`, { signal });
  report({ job, bytes: { done: job.progress.done_bytes, total: job.progress.total_bytes } });
}

async function setAlias(api, alias, version) {
  const known = (await get(`${api}/aliases`)).items.find((one) => one.alias === alias);
  const headers = known ? { "If-Match": known.etag } : { "If-None-Match": "*" };
  await put(`${api}/aliases/${encodeURIComponent(alias)}`, { version }, { headers });
}
