/** What is shown when there is nothing to show: loading, empty, an error, a call that this server does not have. */
import { html } from "../lib/html.js";
import { t } from "../lib/language.js";
import { Icon } from "./icon.js";

export const Skeleton = ({ lines = 5 }) => html`<div class="skeleton" role="status" aria-label=${t("Loading")}>
  ${Array.from({ length: lines }, (_, i) => html`<i key=${i}></i>`)}</div>`;

export const Empty = ({ title, children, action, icon = "empty" }) => html`<div class="state">
  <${Icon} name=${icon} /><h3>${title}</h3>${children && html`<p>${children}</p>`}${action}</div>`;

/** @param {{kind: "warn"|"bad"|"ok"|"", title: string}} props */
export const Notice = ({ kind = "", title, children, action }) => html`<div class=${`notice ${kind}`} role=${kind === "bad" ? "alert" : "status"}>
  <${Icon} name=${kind === "ok" ? "check" : kind ? "warning" : "info"} />
  <div><strong>${title}</strong>${children && html`<div>${children}</div>`}</div>${action ?? html`<span></span>`}</div>`;

export function Failure({ error, onRetry }) {
  if (error.absent) return html`<${Empty} title=${t("Not offered by this server")} icon="info">${t("Its version has no such call. Everything else works as usual.")}<//>`;
  if (error.status === 403) return html`<${Empty} title=${t("Not for this key")} icon="info">${error.message}<//>`;
  const title = error.status === 404 ? t("Not found") : error.status ? t("This could not be loaded") : t("The server is not answering");
  return html`<${Empty} title=${title} icon=${error.status ? "warning" : "gone"}
    action=${onRetry && html`<button class="button" onClick=${onRetry}>${t("Try again")}</button>`}>${error.message}<//>`;
}

/** One of: skeleton, failure, or what `children(data)` makes of it. A failed refresh keeps the old data on screen. */
export function Loaded({ resource, children, lines }) {
  if (resource.data !== undefined) return children(resource.data);
  if (resource.error) return html`<${Failure} error=${resource.error} onRetry=${resource.reload} />`;
  return html`<${Skeleton} lines=${lines} />`;
}
