/** What is to be looked at first: alerts, rollouts that were rolled back, prompts that stopped hitting the cache. */
import { html } from "../../lib/html.js";
import { get } from "../../lib/api.js";
import { moment } from "../../lib/format.js";
import { t } from "../../lib/language.js";
import { useResource } from "../../lib/resource.js";
import { href } from "../../lib/router.js";
import { Time } from "../../components/bits.js";
import { DriftNotices, useDrift } from "../../components/drift-notices.js";
import { Notice } from "../../components/states.js";

/** Seconds for which a rollout that was rolled back is news, unless its alias has a newer one. */
const NEWS = 86_400;

/** @param {{rollouts: Array|undefined}} props the newest first */
export function Attention({ rollouts }) {
  const alerts = useResource((signal) => get("/api/v1/alerts", { signal }), [], { watch: ["alerts"], pause: 1 });
  const drift = useDrift();
  if (!alerts.data) return null;
  const back = rolledBack(rollouts ?? []);
  if (!alerts.data.items.length && !back.length && !drift?.length) return html`<${Notice} kind="ok" title=${t("All well")}>${t("No alert is raised.")}<//>`;
  return html`<div class="stack tight" aria-live="polite">${alerts.data.items.map((alert) => html`
    <${Notice} key=${alert.id} kind=${alert.severity === "error" ? "bad" : "warn"} title=${alert.title}
      action=${alert.link && html`<a class="button small" href=${alert.link.startsWith("/ui") ? alert.link : href(alert.link)}>${t("Look")}</a>`}>
      ${alert.detail} ${alert.next_step} <span class="muted nowrap">${t`Since ${html`<${Time} at=${alert.since} />`}.`}</span>
    <//>`)}
    ${back.map((one) => html`<${RolledBack} key=${one.id} of=${one} />`)}
    <${DriftNotices} of=${drift ?? []} /></div>`;
}

const aliasOf = (one) => `${one.adapter}@${one.alias}`;

/** Of each alias its newest rollout alone, for what came before it is settled. */
function rolledBack(rollouts) {
  const newest = new Map(rollouts.toReversed().map((one) => [aliasOf(one), one]));
  return [...newest.values()].filter((one) => one.state === "rolled_back" && moment(one.ended_at) >= Date.now() / 1000 - NEWS);
}

const RolledBack = ({ of: one }) => html`<${Notice} kind="warn" title=${t`Version ${one.candidate} of ${aliasOf(one)} was rolled back to version ${one.stable}`}
  action=${html`<a class="button small" href=${href(`/adapters/${one.adapter}?tab=aliases`)}>${t("Look")}</a>`}>
  ${t`Because ${one.reason}.`} <span class="muted"><${Time} at=${one.ended_at} /></span><//>`;
