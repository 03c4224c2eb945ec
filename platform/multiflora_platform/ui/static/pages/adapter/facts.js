/** What an adapter is and does, in one strip under its name. */
import { html } from "../../lib/html.js";
import { joined, loadActivity } from "../../lib/adapters.js";
import { bytes, count, percent, rate, seconds, splitWords } from "../../lib/format.js";
import { t } from "../../lib/language.js";
import { useResource } from "../../lib/resource.js";
import { isAdmin } from "../../lib/session.js";
import { named } from "../../lib/values.js";
import { LastUsed, Stats } from "../../components/bits.js";
import { Sparkline } from "../../components/sparkline.js";

export function FactStrip({ adapter, versions }) {
  const activity = useResource(loadActivity, [], { watch: ["requests", "engines"], pause: 3 });
  const [row] = joined([adapter], activity.data);
  const served = adapter.aliases.default;
  const newest = versions[0];
  return html`<${Stats} small label=${t("At a glance")} of=${[
    [t("Serves"), served ? (served.split ? splitWords(served.split) : `v${served.version}`) : t("none"), newest && newest.version !== row.version && t`newest v${newest.version}, ${named(newest.state)}`],
    [t("Versions"), count(versions.length), t`${count(adapter.ready_versions.length)} ready`],
    [t("Rank"), row.rank ?? "–", row.bytes && bytes(row.bytes)],
    [t("Owner"), adapter.owner ?? t("administrators")],
    ...(isAdmin.value ? ofAdmins(row) : []),
  ]} />`;
}

const ofAdmins = (row) => [
  [t("Where"), row.residency ? named(row.residency) : t("on disk"), row.pinned && t("pinned")],
  [t("Requests, 7 days"), count(row.requests), row.requests > 0 && html`<${Sparkline} values=${row.use.by_day} />`],
  [t("Errors"), percent(row.errors), row.use?.ended_requests > 0 && t`of the last ${row.use.ended_requests} requests`],
  [t("p95 time"), seconds(row.p95), row.use?.timed_answers > 0 && t`last ${row.use.timed_answers} answers`],
  [t("Tokens per second"), rate(row.speed)],
  [t("Last used"), html`<${LastUsed} of=${row.use} />`],
];
