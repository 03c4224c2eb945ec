/** One request: what was asked of which version, where its time went, and why it missed the cache. */
import { html } from "../lib/html.js";
import { get } from "../lib/api.js";
import { count, dateTime, percent, seconds } from "../lib/format.js";
import { REASONS } from "../lib/misses.js";
import { useResource } from "../lib/resource.js";
import { href } from "../lib/router.js";
import { Badge, Card, Facts, PageHeader, Stats } from "../components/bits.js";
import { Code } from "../components/code.js";
import { Phases, PhaseLegend } from "../components/phases.js";
import { Empty, Loaded } from "../components/states.js";
import { Outcome } from "./requests.js";

export default function RequestPage({ id }) {
  const request = useResource((signal) => get(`/api/v1/requests/${encodeURIComponent(id)}`, { signal }), [id]);
  return html`<${PageHeader} title="Request" about=${id} back=${{ to: "/requests", label: "Requests" }} />
    <${Loaded} resource=${request}>${(one) => html`<${Shown} one=${one} />`}<//>`;
}

/** What a request left out is null in the kept body. */
const withoutNulls = (_, value) => value ?? undefined;

function Shown({ one }) {
  return html`<${Stats} label="Numbers" of=${[
      ["First token", seconds(one.ttft)], ["Total", seconds(one.total_seconds)],
      ["Prompt tokens", count(one.prompt_tokens), one.prompt_tokens ? `${percent((one.cached_tokens ?? 0) / one.prompt_tokens)} cached` : ""],
      ["Generated tokens", count(one.completion_tokens)],
    ]} />
    <${Card} title="Where the time went" actions=${html`<${PhaseLegend} />`}><div class="stack">
      <${Phases} of=${one} longest=${["queue", "load", "prefill", "decode"].reduce((sum, name) => sum + (one[`${name}_seconds`] ?? 0), 0) || 1} />
      <${Facts} of=${(one.timeline ?? []).map(({ stage, start, end }) => [stage, `${seconds(end - start)}, from ${seconds(Math.max(0, start - one.timeline[0].start))} on`])} />
    </div><//>
    <div class="grid">
      <${Card} title="What was asked"><${Facts} of=${[
        ["When", dateTime(one.at)], ["Model", one.model],
        one.adapter && ["Adapter", one.version ? html`<a href=${href(`/adapters/${one.adapter}`)}>${one.adapter}</a>` : one.adapter],
        one.version && ["Version", `v${one.version}`],
        ["Tenant", one.tenant ?? "administrator"], ["Call", `${one.path}${one.stream ? ", streamed" : ""}`],
        ["Outcome", html`<${Outcome} of=${one} />`], one.finish_reason && ["Ended because", one.finish_reason],
      ]} /><//>
      <${Card} title="Prefix cache"><p>${one.cached_tokens ? `${count(one.cached_tokens)} of ${count(one.prompt_tokens)} prompt tokens were found.` : "Nothing of the prompt was found in the cache."}
          ${one.miss_reason && html` Why not more: <${Badge}>${REASONS[one.miss_reason]}<//>`}</p>
        <p><a href=${href("/cache?tab=misses")}>All recent misses</a></p><//>
    </div>
    ${one.body
      ? html`<${Card} title="Body"><${Code} wrap label="Body" text=${JSON.stringify(one.body.request, withoutNulls, 2)} /><//>
        ${one.body.answers.map((text, i) => html`<${Card} key=${i} title=${one.body.answers.length > 1 ? `Answer ${i + 1}` : "Answer"}><${Code} wrap label="Answer" text=${text} /><//>`)}`
      : html`<${Card} title="Body"><${Empty} title="Not kept">The server shows a request's numbers, not its prompt and answer. Started with <code>--log-bodies</code>, it keeps the last ones for administrators.<//><//>`}`;
}
