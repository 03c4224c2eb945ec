/** Whose prompts miss the prefix cache over and over, and what to do about it, in the server's words. */
import { html } from "../lib/html.js";
import { get } from "../lib/api.js";
import { t } from "../lib/language.js";
import { drifts } from "../lib/misses.js";
import { useResource } from "../lib/resource.js";
import { href } from "../lib/router.js";
import { isAdmin } from "../lib/session.js";
import { Notice } from "./states.js";

const MOST = 3;

/** What prompts of tenants do; what the chat template does to all of them is told on the cache's page.
 * @param {string|undefined} tenant undefined: of all that the key sees
 * @returns {Array|undefined} what costs most first; undefined until it is known */
export function useDrift(tenant) {
  const drift = useResource((signal) => get("/api/v1/cache/drift", { signal }), [], { watch: ["requests"], pause: 15 });
  return drift.data?.items.filter((one) => one.prompts > 0 && (tenant === undefined || one.tenant === tenant));
}

/** @param {{of: Array}} props of: as useDrift gives them */
export const DriftNotices = ({ of }) => html`${of.slice(0, MOST).map((one) => html`
  <${Notice} key=${[one.tenant, one.model, one.message, one.kind].join()} kind="warn" title=${t`Prompts of ${one.tenant ?? t("administrators")} to ${one.model} miss the prefix cache: ${drifts()[one.kind] ?? one.kind}`}
    action=${isAdmin.value && html`<a class="button small" href=${href("/cache?tab=misses")}>${t("Look")}</a>`}>
    ${one.advice} ${html`<code class="break">${one.example}</code>`}<//>`)}`;
