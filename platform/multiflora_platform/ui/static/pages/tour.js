/** Tour: what a failing canary and a missed cache look like, done for real on an adapter of its own. */
import { html, useEffect, useRef, useState } from "../lib/html.js";
import { count, percent, seconds } from "../lib/format.js";
import { t } from "../lib/language.js";
import { useResource } from "../lib/resource.js";
import { go, href } from "../lib/router.js";
import { isDemo } from "../lib/session.js";
import { attempt } from "../lib/toasts.js";
import { BOUND, SAMPLES, explainMiss, leftOvers, makeAdapter, newName, removeAdapter, sendTwice, sendUntilDecided, startCanary } from "../lib/tour.js";
import { Badge, Facts, Help, PageHeader, State } from "../components/bits.js";
import { Icon } from "../components/icon.js";
import { Empty, Notice } from "../components/states.js";

/** about: before it is done; shown(result): once it is. */
const stepsOf = (name) => [
  { title: t("An adapter with two versions"), action: t("Make it"), run: makeAdapter,
    about: t`The tour makes an adapter of its own, ${html`<b>${name}</b>`}, and removes it when you leave. It has one rank, is made in this window, and changes no answer.`,
    shown: (adapter) => t`${html`<a href=${href(`/adapters/${name}`)} target="_blank">${name}</a>`} has ${count(adapter.ready_versions.length)} versions; ${html`<code>${name}</code>`} means version 1, the first that was ready.` },
  { title: t("A canary that has to fail"), action: t("Start it"), run: startCanary,
    about: t`Version 2 gets half of the users while 95 of 100 of its answers take less than ${seconds(BOUND)}. None is that fast: the bound is there to be broken.`,
    shown: (rollout) => html`<${State} of="running" /> ${t`${rollout.percent}% of the users get version ${rollout.candidate}, judged from ${SAMPLES} requests on.`}` },
  { title: t("Rolled back, with the evidence"), action: t("Send requests"), run: sendUntilDecided,
    about: t("Requests of many users, one after the other, until the server decides. You do nothing about it."),
    shown: (rollout) => html`<p><${State} of=${rollout.state} /> ${rollout.reason}. ${t`After ${count(rollout.sent)} requests version ${rollout.stable} has all users again.`} <${Help} of=${t("Rollout")} page="rollouts#rolling-out-a-candidate" /></p>
      <${Facts} of=${[[t("Requests of version 2"), count(rollout.candidate_observed.requests)], [t("Its errors"), count(rollout.candidate_observed.errors)], [t("Its 95th percentile"), seconds(rollout.candidate_observed.p95_seconds)], [t("The bound"), seconds(rollout.max_p95_seconds)]]} />
      <a href=${href(`/adapters/${name}?tab=aliases`)} target="_blank">${t("The rollout's card, as you would find it on another day")}</a>` },
  { title: t("A prompt that misses the cache"), action: t("Send two prompts"), run: sendTwice,
    about: t("Two prompts with the same instructions, which begin with the time. The second should find the first one's work in the prefix cache."),
    shown: ([, second]) => t`Of the second prompt's ${count(second.prompt_tokens)} tokens, ${count(second.prompt_tokens_details.cached_tokens)} were cached (${percent(second.prompt_tokens_details.cached_tokens / second.prompt_tokens)}): what stands behind the time was computed again.` },
  { title: t("Why it missed"), action: t("Ask the server"), run: explainMiss,
    about: t("The server compares a prompt with an earlier one that begins most like it, and generates nothing."),
    shown: (answer) => html`<p><${Badge} kind="warn">${answer.cause}<//> ${answer.advice} <${Help} of=${t("Why it missed")} page="insight#why-a-prompt-missed" /></p>
      <${Facts} of=${[[t("They differ at token"), count(answer.first_difference?.token)], [t("Before it"), html`<code>${answer.first_difference?.before}</code>`], [t("Then"), html`<code>${answer.first_difference?.theirs}</code>`], [t("Now"), html`<code>${answer.first_difference?.ours}</code>`], [t("Tokens computed again"), count(answer.lost_tokens)]]} />` },
];

export default function Tour() {
  const [name] = useState(newName);
  const { results, error, busy, next } = useSteps(name);
  const steps = stepsOf(name);
  const at = results.length;
  const isOver = at === steps.length;
  const leave = html`<button class="button" onClick=${() => go("/")}>${isOver ? t("End the tour") : t("Leave the tour")}</button>`;
  if (!isDemo.value) return html`<${PageHeader} title=${t("Tour")} /><div class="card"><${Empty} title=${t("The tour is for the bundled demo")}>${t`It needs an administrator's key, and the base model that ${html`<code>multiflora serve</code>`} serves without another one.`}<//></div>`;
  return html`<${PageHeader} title=${t("Tour")} about=${t("Five steps, each a real call of the API; what they make is removed when you leave")} actions=${leave} />
    <${LeftOvers} />
    <ol class="numbered">${steps.map((step, i) => html`<li key=${i} class=${i < at ? "done" : i === at ? "now" : ""} aria-current=${i === at ? "step" : undefined}>
      <h2>${i < at && html`<${Icon} name="check" />`}${step.title}</h2>
      ${i <= at && html`<p class="muted">${step.about}</p>`}
      <div aria-live="polite">${i < at && step.shown(results[i])}</div>
      ${i === at && error && html`<${Notice} kind="bad" title=${t("This step did not work")}>${error.message}<//>`}
      ${i === at && html`<${Next} label=${busy ? t("Working…") : step.action} busy=${busy} onClick=${() => next(step)} />`}</li>`)}</ol>
    ${isOver && html`<${Notice} kind="ok" title=${t("That was all")}>${t`${name} goes when you leave this page.`}<//>`}`;
}

/** Takes the focus, so that Enter goes on. */
function Next({ label, busy, onClick }) {
  const button = useRef(null);
  useEffect(() => button.current.focus(), []);
  return html`<button class="button primary" ref=${button} aria-disabled=${busy} onClick=${() => !busy && onClick()}>${label}</button>`;
}

/** To leave in the middle of a step ends it; the adapter goes in any case. */
function useSteps(name) {
  const [state, setState] = useState({ results: [], error: null, busy: false });
  const tour = useRef({ abort: new AbortController(), work: null }).current;
  const next = (step) => {
    setState((old) => ({ ...old, error: null, busy: true }));
    tour.work = step.run(name, tour.abort.signal).then(
      (result) => setState((old) => ({ results: [...old.results, result], error: null, busy: false })),
      (error) => setState((old) => ({ ...old, error, busy: false })),
    );
  };
  useEffect(() => {
    const close = () => tour.work && removeAdapter(name, true).catch(() => {});
    addEventListener("pagehide", close);
    return () => {
      removeEventListener("pagehide", close);
      tour.abort.abort();
      tour.work?.then(() => removeAdapter(name)).catch(() => {});
    };
  }, []);
  return { ...state, next };
}

function LeftOvers() {
  const left = useResource(leftOvers, []);
  const clean = () => attempt(() => Promise.all(left.data.map((one) => removeAdapter(one))), t("Removed.")).then(left.reload);
  return left.data?.length > 0 && html`<${Notice} kind="warn" title=${t("An earlier tour has left something, or is going on elsewhere")} action=${html`<button class="button small" onClick=${clean}>${t("Remove")}</button>`}>${left.data.join(", ")}<//>`;
}
