/** One request: what was asked of which version, where its time went, and why it missed the cache. */
import { html, useState } from "../lib/html.js";
import { get } from "../lib/api.js";
import { count, dateTime, money, percent, seconds } from "../lib/format.js";
import { t } from "../lib/language.js";
import { useResource } from "../lib/resource.js";
import { href } from "../lib/router.js";
import { isAdmin } from "../lib/session.js";
import { Card, Facts, PageHeader, Stats } from "../components/bits.js";
import { Code } from "../components/code.js";
import { Empty, Loaded } from "../components/states.js";
import { Waterfall } from "../components/waterfall.js";
import { placeOf } from "./playground/replay.js";
import { Explained } from "./request/explained.js";
import { Outcome } from "./requests.js";

export default function RequestPage({ id }) {
  const [isRunning, setRunning] = useState(true);
  const request = useResource(async (signal) => {
    const one = await get(`/api/v1/requests/${encodeURIComponent(id)}`, { signal });
    setRunning(one.status === null);
    return one;
  }, [id], { watch: isRunning ? ["requests"] : [] });
  return html`<${PageHeader} title=${t("Request")} about=${id} back=${{ to: "/requests", label: t("Requests") }} actions=${request.data && html`<${Replay} one=${request.data} />`} />
    <${Loaded} resource=${request}>${(one) => html`<${Shown} one=${one} />`}<//>`;
}

const REPLAYED = new Set(["/v1/chat/completions", "/v1/completions"]);

/** To the playground with the same body, and the version that answered. */
function Replay({ one }) {
  if (!one.body || !REPLAYED.has(one.path)) return null;
  return html`<a class="button" href=${href(`/playground?${placeOf(one)}`)}>${t("Replay in the playground")}</a>`;
}

const whyThere = () => ({ cached: t("it has more of the prompt"), idle: t("less waits there"), adapter: t("the adapter is there, or sooner there"), faster: t("its steps are faster"), tie: t("as good as another, and the home of this beginning or adapter"), turn: t("in turn") });

/** Which of several engines had it, and what was expected of that; what came of it stands behind. */
function Placed({ of, request }) {
  const expected = of.cached_tokens != null;
  return html`<${Card} title=${t("Which engine")}><${Facts} of=${[
    [t("Replica"), of.replica], [t("Chosen because"), whyThere()[of.reason] ?? of.reason],
    of.moves > 0 && [t("Handed on"), of.moves > 1 ? t`${of.moves} times` : t("once, by an engine that was gone")],
    expected && [t("Expected in its cache"), t`${count(of.cached_tokens)} tokens; ${request.ttft == null ? t("not begun yet") : t`${count(request.cached_tokens)} were`}`],
    expected && [t("Expected first token"), `${seconds(of.seconds)}; ${request.ttft == null ? t("not there yet") : t`${seconds(request.ttft)} it was`}`],
    of.runner_up_seconds != null && [t("The next best"), seconds(of.runner_up_seconds)],
  ]} /><//>`;
}

/** What a request left out is null in the kept body. */
const withoutNulls = (_, value) => value ?? undefined;

function Shown({ one }) {
  return html`<${Stats} label=${t("Numbers")} of=${[
      one.adapter && [t("Answered by"), html`<span class="break">${one.adapter}</span>`, one.version && t`version ${one.version}`],
      one.cost && [t("Cost"), money(one.cost.amount, one.cost.currency), t`${seconds(one.device_seconds)} of the device`],
      [t("First token"), seconds(one.ttft)], [t("Total"), seconds(one.total_seconds)],
      [t("Prompt tokens"), count(one.prompt_tokens), one.prompt_tokens ? t`${percent((one.cached_tokens ?? 0) / one.prompt_tokens)} cached` : ""],
      [t("Generated tokens"), count(one.completion_tokens)],
    ].filter(Boolean)} />
    <${Card} title=${t("Where the time went")}><div class="stack">
      ${one.timeline.length > 0 ? html`<${Waterfall} timeline=${one.timeline} />` : html`<p class="muted">${t("It was refused before it was a prompt.")}</p>`}
    </div><//>
    <div class="grid">
      <${Card} title=${t("What was asked")}><${Facts} of=${[
        [t("When"), dateTime(one.at)], [t("Model"), one.model],
        one.adapter && [t("Adapter"), one.version ? html`<a href=${href(`/adapters/${one.adapter}`)}>${one.adapter}</a>` : one.adapter],
        one.version && [t("Version"), html`<a href=${href(`/adapters/${one.adapter}?compare=${one.version}`)}>v${one.version}</a>`],
        [t("Tenant"), one.tenant ?? t("administrator")], one.key_id && [t("Key"), html`<a href=${href(`/requests?key=${encodeURIComponent(one.key_id)}`)}>${one.key_id}</a>`],
        one.placement && [t("Replica"), one.placement.replica], [t("Call"), one.stream ? t`${one.path}, streamed` : one.path],
        [t("Outcome"), html`<${Outcome} of=${one} />`], one.finish_reason && [t("Ended because"), one.finish_reason],
      ]} /><//>
      <${Explained} one=${one} />
      ${one.placement && one.placement.reason !== "only" && html`<${Placed} of=${one.placement} request=${one} />`}
    </div>
    ${one.body
      ? html`<${Card} title=${t("Body")}><${Code} wrap label=${t("Body")} text=${JSON.stringify(one.body.request, withoutNulls, 2)} /><//>
        ${one.body.answers.map((text, i) => html`<${Card} key=${i} title=${one.body.answers.length > 1 ? t`Answer ${i + 1}` : t("Answer")}><${Code} wrap label=${t("Answer")} text=${text} /><//>`)}`
      : isAdmin.value && html`<${Card} title=${t("Body")}><${Empty} title=${t("Not kept")}>${t`The server shows a request's numbers, not its prompt and answer. Started with ${html`<code>--log-bodies</code>`}, it keeps the last ones for administrators.`}<//><//>`}`;
}
