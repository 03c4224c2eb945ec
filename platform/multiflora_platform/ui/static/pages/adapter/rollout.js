/** A candidate on its way to an alias's users: started, compared with the stable version while it runs, ended. */
import { html, useState } from "../../lib/html.js";
import { get, patch, post } from "../../lib/api.js";
import { count, percent, rate, seconds } from "../../lib/format.js";
import { useResource } from "../../lib/resource.js";
import { attempt, toast } from "../../lib/toasts.js";
import { State, Time } from "../../components/bits.js";
import { Dialog } from "../../components/dialog.js";
import { Export } from "../../components/export.js";
import { Select, TextField } from "../../components/fields.js";
import { Pairs } from "./pairs.js";

export function Rollout({ adapter, alias, api, path, mine, onChange }) {
  const [starting, setStarting] = useState(false);
  const rollouts = useResource((signal) => get(`${path}/rollouts?limit=1`, { signal }), [path], { every: 2, stamp: alias.etag });
  if (!rollouts.data) return null;
  const newest = rollouts.data.items[0];
  const running = newest?.state === "running";
  const changed = () => { rollouts.reload(); onChange(); };
  const candidates = adapter.ready_versions.filter((version) => version !== alias.version);
  return html`<div class="stack tight">
    ${newest && html`<${Observed} rollout=${newest} path=${path} mine=${mine && running} onChange=${changed}><${Pairs} rollout=${newest} path=${path} adapter=${adapter} api=${api} mine=${mine} /><//>`}
    ${mine && !running && alias.version && candidates.length > 0 && html`<div><button class="button small" onClick=${() => setStarting(true)}>Start a watched rollout…</button></div>`}
    ${starting && html`<${Start} candidates=${candidates} alias=${alias} path=${path} onClose=${() => setStarting(false)} onChange=${changed} />`}
  </div>`;
}

const COLUMNS = ["version", "requests", "errors", "p50_seconds", "p95_seconds"].map((key) => ({ key }));

function Observed({ rollout, path, mine, onChange, children }) {
  const [asking, setAsking] = useState(false);
  const back = () => attempt(() => post(`${path}:rollback`), `Everybody is back on v${rollout.stable}.`).then(onChange);
  const end = (verb, done, options) => attempt(() => post(`${path}/rollout:${verb}`), done, options).then(onChange);
  const promote = () => end("promote", `v${rollout.candidate} is for everybody.`, { undo: back });
  const samples = rollout.candidate_observed?.requests ?? 0;
  const few = samples < rollout.min_samples;
  const share = (part) => attempt(() => patch(`${path}/rollout`, { percent: part }), `${part}% get v${rollout.candidate}.`, { undo: () => attempt(() => patch(`${path}/rollout`, { percent: rollout.percent })).then(onChange) }).then(onChange);
  const next = rollout.state === "running" && rollout.steps.length > 0 && (rollout.steps.find((step) => step > rollout.percent) ?? 100);
  const { stable_observed: stable, candidate_observed: candidate, shadow_observed: shadow } = rollout;
  const arms = [stable && { version: rollout.stable, ...stable }, candidate && { version: rollout.candidate, ...candidate }].filter(Boolean);
  const line = (label, show) => html`<tr key=${label}><th scope="row">${label}</th><td>${stable ? show(stable) : "–"}</td><td>${candidate ? show(candidate) : "–"}</td></tr>`;
  return html`<section class="rollout" aria-label="Rollout">
    <div class="row between"><div class="row"><b>v${rollout.candidate}</b> to ${rollout.percent}%${next && `, then ${next}%`}${rollout.shadow_percent > 0 && `, shadowing ${rollout.shadow_percent}%`} <${State} of=${rollout.state} />
      <span class="muted small">${rollout.reason} <${Time} at=${rollout.ended_at ?? rollout.created_at} /></span></div>
      ${mine && html`<div class="row">${[10, 25, 50].filter((part) => part > rollout.percent).map((part) => html`<button class="button small" key=${part} onClick=${() => share(part)}>${part}%</button>`)}
        <button class="button small primary" onClick=${() => (few ? setAsking(true) : promote())}>Promote</button>
        <button class="button small danger" onClick=${() => end("abort", `Everybody is back on v${rollout.stable}.`)}>Stop</button></div>`}</div>
    <table><thead><tr><td></td><th>v${rollout.stable}, stable</th><th>v${rollout.candidate}, candidate</th></tr></thead><tbody>
      ${line("Requests", (one) => count(one.requests))}
      ${line("Errors", (one) => `${count(one.errors)} (${percent(one.requests ? one.errors / one.requests : 0)})`)}
      ${line("Median time", (one) => seconds(one.p50_seconds))}
      ${line("95th percentile", (one) => seconds(one.p95_seconds))}
    </tbody></table>
    <${Export} name="rollout" columns=${COLUMNS} rows=${arms} />
    ${shadow && html`<p class="small muted">Shadow: ${count(shadow.requests)} requests, ${count(shadow.exact)} of ${count(shadow.compared)} answers equal, agreement ${percent(shadow.agreement)}, ${rate(shadow.latency_ratio)}× the time.</p>`}
    ${rollout.state === "running" && html`<p class="small">${few ? `${samples} of ${rollout.min_samples} samples; until then neither errors nor times are judged.` : `${samples} samples: judged by its bounds.`}${next && ` Goes on to ${next}% by itself, ${seconds(rollout.step_seconds)} at each step at least.`}</p>`}
    ${asking && html`<${Dialog} title=${`Promote v${rollout.candidate} already?`} onClose=${() => setAsking(false)}><p>It has had ${samples} of ${rollout.min_samples} requests: too few to tell whether it is worse than v${rollout.stable}. You can roll back afterwards.</p>
      <footer><button class="button" onClick=${() => setAsking(false)}>Wait</button><button class="button primary" onClick=${() => { setAsking(false); promote(); }}>Promote anyway</button></footer><//>`}
    <p class="small muted">Rolls back by itself at ${percent(rollout.max_error_rate)} more errors than v${rollout.stable}${rollout.max_p95_ratio ? ` or ${rollout.max_p95_ratio}× the stable p95` : ""}, from ${rollout.min_samples} requests on.</p>
    ${children}
  </section>`;
}

/** Of a text such as "1, 10, 50"; null where it is none, [] of an empty one. */
export function stepsOf(text) {
  const steps = text.split(",").map((part) => part.trim()).filter(Boolean).map(Number);
  return steps.every((step, i) => Number.isInteger(step) && step > (steps[i - 1] ?? 0) && step < 100) ? steps : null;
}

function Start({ candidates, alias, path, onClose, onChange }) {
  const [candidate, setCandidate] = useState(String(candidates.at(-1)));
  const [part, setPart] = useState("10");
  const [shadow, setShadow] = useState("0");
  const [errors, setErrors] = useState("5");
  const [ratio, setRatio] = useState("");
  const [steps, setSteps] = useState("");
  const [minutes, setMinutes] = useState("5");
  const [problem, setProblem] = useState("");
  const start = async (event) => {
    event.preventDefault();
    const shares = stepsOf(steps);
    if (!shares) {
      setProblem("Steps are whole percentages that grow, such as 1, 10, 50; everybody follows by itself.");
      return;
    }
    const body = { candidate: Number(candidate), percent: Number(part), shadow_percent: Number(shadow), max_error_rate: Number(errors) / 100 };
    if (ratio) body.max_p95_ratio = Number(ratio);
    if (shares.length) Object.assign(body, { percent: 0, steps: shares, step_seconds: 60 * Number(minutes) });
    try {
      await post(`${path}/rollout`, body, { headers: { "If-Match": alias.etag } });
      toast(`${body.steps?.[0] ?? part}% of ${alias.alias}'s users get v${candidate}.`);
      onChange();
      onClose();
    } catch (error) {
      setProblem(error.message);
    }
  };
  const number = { type: "number", min: 0, max: 100, required: true };
  return html`<${Dialog} title=${`Roll out a version to ${alias.alias}`} onClose=${onClose}><form class="stack" onSubmit=${start}>
    <${Select} label="Candidate" value=${candidate} onChange=${setCandidate} of=${candidates.toReversed().map((one) => [String(one), `Version ${one}`])} />
    <div class="form-grid">
      <${TextField} label="Users that get it, %" ...${number} max="99" value=${part} onInput=${setPart} />
      <${TextField} label="Steps by itself, %" hint="Such as 1, 10, 50; then everybody. Empty: by hand" value=${steps} onInput=${setSteps} />
      <${TextField} label="Minutes at each step" type="number" min="0.1" step="any" required value=${minutes} onInput=${setMinutes} />
      <${TextField} label="Requests copied to it, %" hint="Answers are compared, nobody sees them" ...${number} value=${shadow} onInput=${setShadow} />
      <${TextField} label="Roll back above errors, %" hint="More than the stable version has" ...${number} value=${errors} onInput=${setErrors} />
      <${TextField} label="Roll back above p95 ratio" hint="To the stable version; empty: never" type="number" min="1" step="0.1" value=${ratio} onInput=${setRatio} />
    </div>
    ${problem && html`<p class="problem" role="alert">${problem}</p>`}
    <footer><button type="button" class="button" onClick=${onClose}>Cancel</button><button class="button primary">Start</button></footer>
  </form><//>`;
}
