/** One request: what was asked of which version, where its time went, and why it missed the cache. */
import { html } from "../lib/html.js";
import { get } from "../lib/api.js";
import { count, dateTime, percent, seconds } from "../lib/format.js";
import { REASONS } from "../lib/misses.js";
import { useResource } from "../lib/resource.js";
import { href } from "../lib/router.js";
import { Badge, Card, Facts, PageHeader, Stats } from "../components/bits.js";
import { Code } from "../components/code.js";
import { Empty, Loaded } from "../components/states.js";
import { Waterfall } from "../components/waterfall.js";
import { Outcome } from "./requests.js";

export default function RequestPage({ id }) {
  const request = useResource((signal) => get(`/api/v1/requests/${encodeURIComponent(id)}`, { signal }), [id]);
  return html`<${PageHeader} title="Request" about=${id} back=${{ to: "/requests", label: "Requests" }} actions=${request.data && html`<${Replay} one=${request.data} />`} />
    <${Loaded} resource=${request}>${(one) => html`<${Shown} one=${one} />`}<//>`;
}

const REPLAYED = new Set(["/v1/chat/completions", "/v1/completions"]);

/** To the playground with the same body, and the version that answered. */
function Replay({ one }) {
  if (!one.body || !REPLAYED.has(one.path)) return null;
  const model = one.adapter && one.version ? `${one.adapter}@${one.version}` : one.model;
  return html`<a class="button" href=${href(`/playground?request=${encodeURIComponent(one.id)}&model=${encodeURIComponent(model)}`)}>Replay in the playground</a>`;
}

const WHY = { cached: "it has more of the prompt", idle: "less waits there", adapter: "the adapter is there, or sooner there", faster: "its steps are faster", tie: "as good as another, and the home of this beginning or adapter", turn: "in turn" };

/** Which of several engines had it, and what was expected of that; what came of it stands behind. */
function Placed({ of, request }) {
  const expected = of.cached_tokens != null;
  return html`<${Card} title="Which engine"><${Facts} of=${[
    ["Replica", of.replica], ["Chosen because", WHY[of.reason] ?? of.reason],
    of.moves > 0 && ["Handed on", of.moves > 1 ? `${of.moves} times` : "once, by an engine that was gone"],
    expected && ["Expected in its cache", `${count(of.cached_tokens)} tokens; ${request.ttft == null ? "not begun yet" : `${count(request.cached_tokens)} were`}`],
    expected && ["Expected first token", `${seconds(of.seconds)}; ${request.ttft == null ? "not there yet" : `${seconds(request.ttft)} it was`}`],
    of.runner_up_seconds != null && ["The next best", seconds(of.runner_up_seconds)],
  ]} /><//>`;
}

/** What a request left out is null in the kept body. */
const withoutNulls = (_, value) => value ?? undefined;

function Shown({ one }) {
  return html`<${Stats} label="Numbers" of=${[
      ["First token", seconds(one.ttft)], ["Total", seconds(one.total_seconds)],
      ["Prompt tokens", count(one.prompt_tokens), one.prompt_tokens ? `${percent((one.cached_tokens ?? 0) / one.prompt_tokens)} cached` : ""],
      ["Generated tokens", count(one.completion_tokens)],
    ]} />
    <${Card} title="Where the time went"><div class="stack">
      ${one.timeline.length > 0 ? html`<${Waterfall} timeline=${one.timeline} />` : html`<p class="muted">It was refused before it was a prompt.</p>`}
    </div><//>
    <div class="grid">
      <${Card} title="What was asked"><${Facts} of=${[
        ["When", dateTime(one.at)], ["Model", one.model],
        one.adapter && ["Adapter", one.version ? html`<a href=${href(`/adapters/${one.adapter}`)}>${one.adapter}</a>` : one.adapter],
        one.version && ["Version", html`<a href=${href(`/adapters/${one.adapter}?compare=${one.version}`)}>v${one.version}</a>`],
        ["Tenant", one.tenant ?? "administrator"], one.key_id && ["Key", html`<a href=${href(`/requests?key=${encodeURIComponent(one.key_id)}`)}>${one.key_id}</a>`],
        one.placement && ["Replica", one.placement.replica], ["Call", `${one.path}${one.stream ? ", streamed" : ""}`],
        ["Outcome", html`<${Outcome} of=${one} />`], one.finish_reason && ["Ended because", one.finish_reason],
      ]} /><//>
      <${Card} title="Prefix cache"><p>${one.cached_tokens ? `${count(one.cached_tokens)} of ${count(one.prompt_tokens)} prompt tokens were found.` : "Nothing of the prompt was found in the cache."}
          ${one.miss_reason && html` Why not more: <${Badge}>${REASONS[one.miss_reason]}<//>`}</p>
        <p><a href=${href("/cache?tab=misses")}>All recent misses</a></p><//>
      ${one.placement && one.placement.reason !== "only" && html`<${Placed} of=${one.placement} request=${one} />`}
    </div>
    ${one.body
      ? html`<${Card} title="Body"><${Code} wrap label="Body" text=${JSON.stringify(one.body.request, withoutNulls, 2)} /><//>
        ${one.body.answers.map((text, i) => html`<${Card} key=${i} title=${one.body.answers.length > 1 ? `Answer ${i + 1}` : "Answer"}><${Code} wrap label="Answer" text=${text} /><//>`)}`
      : html`<${Card} title="Body"><${Empty} title="Not kept">The server shows a request's numbers, not its prompt and answer. Started with <code>--log-bodies</code>, it keeps the last ones for administrators.<//><//>`}`;
}
