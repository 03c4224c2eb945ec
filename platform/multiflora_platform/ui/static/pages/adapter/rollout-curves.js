/** Errors and latency of a rollout's two versions since its start, as its verdicts saw them, with the bounds drawn in. */
import { html } from "../../lib/html.js";
import { get } from "../../lib/api.js";
import { t } from "../../lib/language.js";
import { useResource } from "../../lib/resource.js";
import { Chart } from "../../components/chart.js";

const boundLine = () => ({ label: t("rolls back above"), colour: "var(--bad)", dash: true });

export function Curves({ rollout, path }) {
  const stamp = `${rollout.state} ${rollout.stable_observed?.requests} ${rollout.candidate_observed?.requests}`;
  const loaded = useResource((signal) => get(`${path}/rollouts/${rollout.id}/timeline`, { signal }), [path, rollout.id], { stamp });
  const curves = loaded.data;
  if (!curves || curves.at.length < 2) return null;
  const lines = (field, bound) => [
    { label: t`v${rollout.stable}, stable`, values: curves.stable[field], slot: rollout.stable < rollout.candidate ? 0 : 1 },
    { label: t`v${rollout.candidate}, candidate`, values: curves.candidate[field], slot: rollout.stable < rollout.candidate ? 1 : 0 },
    ...(bound.some((one) => one !== null) ? [{ ...boundLine(), values: bound }] : []),
  ];
  return html`<div class="curves">
    <div><h3>${t("Errors")}</h3><${Chart} label=${t("Share of requests that failed")} unit="percent" times=${curves.at} lines=${lines("error_rate", curves.error_rate_bound)} height=${150} /></div>
    <div><h3>${t("95th percentile")}</h3><${Chart} label=${t("95th percentile of a request's time")} unit="seconds" times=${curves.at} lines=${lines("p95_seconds", curves.p95_seconds_bound)} height=${150} /></div>
  </div>`;
}
