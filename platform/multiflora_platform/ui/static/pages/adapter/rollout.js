/** A candidate on its way to an alias's users: started, compared with the stable version while it runs, ended. */
import { html, useState } from "../../lib/html.js";
import { get, patch, post, put } from "../../lib/api.js";
import { count, percent, rate, seconds, target } from "../../lib/format.js";
import { t } from "../../lib/language.js";
import { useResource } from "../../lib/resource.js";
import { attempt, toast } from "../../lib/toasts.js";
import { Help, State, Time } from "../../components/bits.js";
import { Dialog } from "../../components/dialog.js";
import { Export } from "../../components/export.js";
import { COPIED, Pairs } from "./pairs.js";
import { Curves } from "./rollout-curves.js";
import { StartRollout } from "./rollout-start.js";
import { SplitArms } from "./split-arms.js";

export function Rollout({ adapter, alias, api, path, mine, onChange }) {
  const [starting, setStarting] = useState(false);
  const rollouts = useResource((signal) => get(`${path}/rollouts?limit=1`, { signal }), [path], { watch: ["records", "requests"], pause: 2, stamp: alias.etag });
  if (!rollouts.data) return null;
  const newest = rollouts.data.items[0];
  const running = newest?.state === "running";
  const changed = () => { rollouts.reload(); onChange(); };
  const copy = () => attempt(() => patch(`${path}/rollout`, { shadow_percent: COPIED }), t`Copies of ${COPIED}% of the requests run on v${newest.candidate}.`).then(changed);
  const candidates = adapter.ready_versions.filter((version) => version !== alias.version);
  return html`<div class="stack tight">
    ${!running && alias.split && html`<${SplitArms} adapter=${adapter} alias=${alias} path=${path} />`}
    ${newest && html`<${Observed} rollout=${newest} path=${path} mine=${mine && running} onChange=${changed}><${Pairs} rollout=${newest} path=${path} adapter=${adapter} api=${api} mine=${mine} onCopy=${copy} /><//>`}
    ${mine && !running && alias.version && candidates.length > 0 && html`<div><button class="button small" onClick=${() => setStarting(true)}>${t("Start a watched rollout…")}</button></div>`}
    ${starting && html`<${StartRollout} candidates=${candidates} alias=${alias} path=${path} onClose=${() => setStarting(false)} onChange=${changed} />`}
  </div>`;
}

const COLUMNS = ["version", "requests", "errors", "p50_seconds", "p95_seconds"].map((key) => ({ key }));

function Observed({ rollout, path, mine, onChange, children }) {
  const [asking, setAsking] = useState(false);
  const end = (verb) => attempt(() => post(`${path}/rollout:${verb}`, undefined, { headers: { "If-Match": rollout.etag } }));
  const stop = () => end("abort").then((ended) => { if (ended) toast(t`Everybody is back on v${rollout.stable}.`); onChange(); });
  const promote = async () => {
    const ended = await end("promote");
    if (ended) toast(t`v${rollout.candidate} is for everybody.`, { undo: await wayBack(ended, path, onChange) });
    onChange();
  };
  const samples = rollout.candidate_observed?.requests ?? 0;
  const few = samples < rollout.min_samples;
  const share = (part) => attempt(() => patch(`${path}/rollout`, { percent: part }), t`${part}% get v${rollout.candidate}.`, { undo: () => attempt(() => patch(`${path}/rollout`, { percent: rollout.percent })).then(onChange) }).then(onChange);
  const next = rollout.state === "running" && rollout.steps.length > 0 && (rollout.steps.find((step) => step > rollout.percent) ?? 100);
  const { stable_observed: stable, candidate_observed: candidate, shadow_observed: shadow } = rollout;
  const arms = [stable && { version: rollout.stable, ...stable }, candidate && { version: rollout.candidate, ...candidate }].filter(Boolean);
  const line = (label, show) => html`<tr key=${label}><th scope="row">${label}</th><td>${stable ? show(stable) : "–"}</td><td>${candidate ? show(candidate) : "–"}</td></tr>`;
  return html`<section class="rollout" aria-label=${t("Rollout")}>
    <div class="row between"><div class="row">${t`${html`<b>v${rollout.candidate}</b>`} to ${rollout.percent}%${next && t`, then ${next}%`}${rollout.shadow_percent > 0 && t`, shadowing ${rollout.shadow_percent}%`}`} <${State} of=${rollout.state} /> <${Help} of=${t("rollouts")} page="rollouts#rolling-out-a-candidate" />
      <span class="muted small">${rollout.reason}${rollout.ended_at && html` <${Time} at=${rollout.ended_at} />`}</span></div>
      ${mine && html`<div class="row">${[10, 25, 50].filter((part) => part > rollout.percent).map((part) => html`<button class="button small" key=${part} onClick=${() => share(part)}>${part}%</button>`)}
        <button class="button small primary" onClick=${() => (few ? setAsking(true) : promote())}>${t("Promote")}</button>
        <button class="button small danger" onClick=${stop}>${t("Stop")}</button></div>`}</div>
    <p class="small muted break">${t`Started by ${rollout.created_by} ${html`<${Time} at=${rollout.created_at} />`}`}${rollout.why && `: ${rollout.why}`}</p>
    <table><thead><tr><td></td><th>${t`v${rollout.stable}, stable`}</th><th>${t`v${rollout.candidate}, candidate`}</th></tr></thead><tbody>
      ${line(t("Requests"), (one) => count(one.requests))}
      ${line(t("Errors"), (one) => `${count(one.errors)} (${percent(one.requests ? one.errors / one.requests : 0)})`)}
      ${line(t("Median time"), (one) => seconds(one.p50_seconds))}
      ${line(t("95th percentile"), (one) => seconds(one.p95_seconds))}
    </tbody></table>
    <${Curves} rollout=${rollout} path=${path} />
    <${Export} name="rollout" label=${t("Rollout")} columns=${COLUMNS} rows=${arms} />
    ${shadow?.requests > 0 && html`<p class="small muted">${t`Shadow: ${count(shadow.requests)} requests, ${count(shadow.exact)} of ${count(shadow.compared)} answers equal, agreement ${percent(shadow.agreement)}, ${rate(shadow.latency_ratio)}× the time.`}</p>`}
    ${rollout.state === "running" && html`<p class="small">${few ? t`${samples} of ${rollout.min_samples} samples; until then neither errors nor times are judged.` : t`${samples} samples: judged by its bounds.`}${next && html` ${t`Goes on to ${next}% by itself, ${seconds(rollout.step_seconds)} at each step at least.`}`}</p>`}
    ${asking && html`<${Dialog} title=${t`Promote v${rollout.candidate} already?`} onClose=${() => setAsking(false)}><p>${t`It has had ${samples} of ${rollout.min_samples} requests: too few to tell whether it is worse than v${rollout.stable}. You can undo it afterwards.`}</p>
      <footer><button class="button" onClick=${() => setAsking(false)}>${t("Wait")}</button><button class="button primary" onClick=${() => { setAsking(false); promote(); }}>${t("Promote anyway")}</button></footer><//>`}
    <p class="small muted">${t`Rolls back by itself at ${percent(rollout.max_error_rate)} more errors than v${rollout.stable}${rollout.max_p95_ratio ? t` or ${rollout.max_p95_ratio}× the stable p95` : ""}${rollout.max_p95_seconds ? t` or a p95 above ${seconds(rollout.max_p95_seconds)}` : ""}, from ${rollout.min_samples} requests on.`}</p>
    ${children}
  </section>`;
}

/** How to undo a promotion: the alias goes back to where it pointed, unless it was moved meanwhile. */
async function wayBack({ stable, candidate, percent: share }, path, onChange) {
  const alias = await attempt(() => get(path));
  if (alias?.version !== candidate) return undefined;
  const former = share ? { split: { [stable]: 100 - share, [candidate]: share } } : { version: stable };
  return () => attempt(() => put(path, former, { headers: { "If-Match": alias.etag } }), t`${alias.alias} means ${target(former)} again.`).then(onChange);
}
