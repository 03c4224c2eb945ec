/** The server's API: one way to call it, one kind of error, and whether the server answers at all. */
import { signal } from "./html.js";
import { t } from "./language.js";

/** False from the first request that got no answer until the server answers again. */
export const online = signal(true);
/** Counts up whenever an answer says that the session is over. */
export const refused = signal(0);
let csrf = "";

export function setCsrf(token) {
  csrf = token;
}

/** status 0: no answer. rows: of a rejected version. `absent`: this server does not have that call. */
export class ApiError extends Error {
  constructor(status, message, document = {}) {
    super(message);
    this.status = status;
    this.code = document.error?.code ?? String(document.type ?? "").split(":").pop();
    this.rows = document.rows ?? [];
    this.pointer = document.errors?.[0]?.pointer ?? null;
    this.document = document;
  }
  get absent() {
    return this.status === 405 || (this.status === 404 && /^There is no \/(api|v1)/.test(this.message));
  }
}

export const get = (path, options) => call("GET", path, options);
export const post = (path, body, options) => call("POST", path, { body, ...options });
export const put = (path, body, options) => call("PUT", path, { body, ...options });
export const patch = (path, body, options) => call("PATCH", path, { body, ...options });
export const remove = (path, options) => call("DELETE", path, options);

/** @returns {Promise<any>} the JSON answer, or null when there is none. Throws ApiError; AbortError when aborted. */
export async function call(method, path, options) {
  const response = await send(method, path, options);
  const text = await response.text();
  return text && response.headers.get("content-type")?.includes("json") ? JSON.parse(text) : null;
}

/** The raw answer of a call that succeeded, for streams. */
export async function send(method, path, { body, headers = {}, signal: abort, accept, keepalive } = {}) {
  const init = { method, headers: { ...headers }, signal: abort, cache: "no-store", keepalive };
  if (accept) init.headers.Accept = accept;
  if (method !== "GET") init.headers["X-CSRF-Token"] = csrf;
  if (body !== undefined) {
    init.headers["Content-Type"] = "application/json";
    init.body = JSON.stringify(body);
  }
  let response;
  try {
    response = await fetch(path, init);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    online.value = false;
    throw new ApiError(0, t("The server does not answer. It may be restarting; this page tries again by itself."));
  }
  online.value = true;
  if (!response.ok) throw await failure(response);
  return response;
}

/** All pages of a list. @param {number} most items, to stay bounded */
export async function getAll(path, { most = 20000, signal: abort } = {}) {
  const items = [];
  let token = null;
  do {
    const url = path + (path.includes("?") ? "&" : "?") + "limit=1000" + (token ? `&page_token=${encodeURIComponent(token)}` : "");
    const page = await get(url, { signal: abort });
    items.push(...page.items);
    token = page.next_page_token;
  } while (token && items.length < most);
  return items;
}

/** Files as multipart, with progress, which fetch cannot tell. onProgress({done, total}), bytes */
export function upload(path, form, { headers = {}, onProgress, signal: abort } = {}) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", path);
    request.setRequestHeader("X-CSRF-Token", csrf);
    for (const [name, value] of Object.entries(headers)) request.setRequestHeader(name, value);
    request.upload.onprogress = (event) => event.lengthComputable && onProgress?.({ done: event.loaded, total: event.total });
    request.onerror = () => reject(new ApiError(0, t("The connection broke during the upload. Nothing was registered; try again.")));
    request.onabort = () => reject(new DOMException(t("The upload was cancelled."), "AbortError"));
    request.onload = () => {
      const document = parsed(request.responseText);
      if (request.status < 400) resolve({ status: request.status, body: document });
      else reject(described(request.status, document));
    };
    abort?.addEventListener("abort", () => request.abort());
    request.send(form);
  });
}

async function failure(response) {
  return described(response.status, parsed(await response.text()));
}

function described(status, document) {
  if (status === 401) refused.value += 1;
  const message = document.detail ?? document.error?.message ?? document.title ?? t`The server answered ${status}.`;
  return new ApiError(status, message, document);
}

function parsed(text) {
  try {
    return JSON.parse(text) ?? {};
  } catch {
    return {};
  }
}

let waiting = null;

/** While the server is gone: ask until it is there again. */
export function watchServer() {
  online.subscribe((value) => {
    if (value || waiting) return;
    waiting = setInterval(async () => {
      try {
        await fetch("/health/live", { cache: "no-store" });
        clearInterval(waiting);
        waiting = null;
        online.value = true;
      } catch {
        // Still gone.
      }
    }, 2000);
  });
}
