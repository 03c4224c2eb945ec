/** Scores over time of the newest version of an eval: a line for each version, model or mix that was asked. */
import { html, useMemo } from "../../lib/html.js";
import { moment } from "../../lib/format.js";
import { t } from "../../lib/language.js";
import { Chart } from "../../components/chart.js";

const MOST_LINES = 8;

/** runs: completed, newest first; nameOf(run): what was asked; bound: the score that the eval asks for, or null */
export function Scores({ runs, nameOf, bound }) {
  const { times, lines } = useMemo(() => courses(runs.toReversed(), nameOf, bound), [runs.map((run) => run.id).join(), bound]);
  return times.length > 1 && html`<div class="body-row"><${Chart} label=${t("Scores over time")} unit="percent" range=${[0, 1]} times=${times} lines=${lines} height=${150} joined /></div>`;
}

function courses(runs, nameOf, bound) {
  const names = [...new Set(runs.toReversed().map(nameOf))].slice(0, MOST_LINES);
  const lines = names.map((name) => ({ label: name, values: runs.map((run) => (nameOf(run) === name ? run.score : null)) }));
  if (bound !== null) lines.push({ label: t("asked for"), colour: "var(--muted)", dash: true, values: runs.map(() => bound) });
  return { times: runs.map((run) => moment(run.created_at)), lines };
}
