/** What the checks of a version said, row by row, and what its evals answered. */
import { html } from "../lib/html.js";
import { plural, t } from "../lib/language.js";
import { Badge } from "./bits.js";

const KINDS = { error: "bad", warning: "warn", info: "info", ok: "ok" };
const words = () => ({ error: t("problem"), warning: t("warning"), info: t("note"), ok: t("good") });

/** The rows by kind, the worst first; what is well is folded, unless there is nothing else. */
export function FoldedReport({ rows, evals }) {
  const kinds = Object.keys(KINDS).map((kind) => [kind, rows.filter((row) => row.severity === kind)]).filter(([, of]) => of.length);
  const isOpen = (kind) => kinds.length === 1 || kind === "error" || kind === "warning";
  return html`<div class="stack tight">
    ${kinds.map(([kind, of]) => html`<details key=${kind} open=${isOpen(kind)}><summary><${Badge} kind=${KINDS[kind]}>${words()[kind]}<//> ${plural(of.length, "{0} check", "{0} checks", of.length)}</summary><${Report} rows=${of} /></details>`)}
    ${evals.length > 0 && html`<${Report} rows=${[]} evals=${evals} />`}
  </div>`;
}

export const Report = ({ rows, evals = [] }) => html`<ul class="report">
  ${rows.map((row, i) => html`<li key=${i}><${Badge} kind=${KINDS[row.severity]}>${words()[row.severity] ?? row.severity}<//>
    <div class="break"><span>${row.message}</span>
      ${row.observed && row.expected && html`<div class="muted small">${t`Found ${row.observed}; expected ${row.expected}.`}</div>`}
      ${row.hint && html`<div class="small"><b>${t("Next:")}</b> ${row.hint}</div>`}</div></li>`)}
  ${evals.map((one, i) => html`<li key=${`eval-${i}`}><${Badge} kind=${one.passed ? "ok" : "bad"}>${one.passed ? t("passed") : t("failed")}<//>
    <div class="break"><span>${one.prompt ?? one.messages?.at(-1)?.content}</span><div class="muted small">${one.answer}</div></div></li>`)}
</ul>`;
