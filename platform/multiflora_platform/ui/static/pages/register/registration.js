/** The steps of a registration: adapter, upload, validation, alias, loading. Knows no markup. */
import { useRef, useState } from "../../lib/html.js";
import { ApiError, get, post, put, upload } from "../../lib/api.js";

const ENDED = new Set(["ready", "rejected", "archived"]);
const LOOK_MS = 400;

/** @returns {{state: object|null, start: (wish) => Promise<void>, cancel: () => void}} */
export function useRegistration() {
  const [state, setState] = useState(null);
  const abort = useRef(null);
  const start = async (wish) => {
    abort.current = new AbortController();
    const report = (part) => setState((old) => ({ ...old, ...part }));
    setState({ busy: true, name: wish.name, step: "upload", progress: 0, rows: [], error: null, version: null, notes: [] });
    try {
      await register(wish, report, abort.current.signal);
    } catch (error) {
      if (error.rows?.length) report({ rows: error.rows });
      report({ error: error.name === "AbortError" ? new ApiError(0, "Cancelled. Nothing was registered.") : error });
    }
    report({ busy: false });
  };
  return { state, start, cancel: () => abort.current?.abort() };
}

async function register(wish, report, signal) {
  const api = `/api/v1/adapters/${encodeURIComponent(wish.name)}`;
  if (!(await find(wish.name))) await makeAdapter(wish);
  const made = await makeVersion(wish, api, report, signal);
  report({ step: "validate", version: made.version });
  const version = await validated(api, made, report, signal);
  if (version.state !== "ready") throw new ApiError(422, `Version ${version.version} was rejected. The rows say why and what to do; nothing of it is served.`);
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
  const options = { headers: { Prefer: "respond-async" }, signal, onProgress: (progress) => report({ progress, step: progress < 1 ? "upload" : "validate" }) };
  return (await upload(path, form, options)).body;
}

/** Rows are shown as they come; the rows of a rejection are asked for, too. */
async function validated(api, made, report, signal) {
  for (;;) {
    const version = await get(`${api}/versions/${made.version}`, { signal });
    const { rows } = await get(`${api}/versions/${made.version}/validation`, { signal });
    report({ rows });
    if (ENDED.has(version.state)) return version;
    if (made.job) await showProgress(made.job, report, signal);
    await new Promise((resolve) => setTimeout(resolve, LOOK_MS));
  }
}

async function showProgress(job, report, signal) {
  const { done, total } = await get(`/api/v1/jobs/${job.id ?? job}`, { signal });
  if (total) report({ progress: done / total });
}

async function setAlias(api, alias, version) {
  const known = (await get(`${api}/aliases`)).items.find((one) => one.alias === alias);
  const headers = known ? { "If-Match": known.etag } : { "If-None-Match": "*" };
  await put(`${api}/aliases/${encodeURIComponent(alias)}`, { version }, { headers });
}
