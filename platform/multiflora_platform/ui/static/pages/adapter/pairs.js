/** Prompts that a rollout's two versions answered differently, word by word; one click makes a case of an eval of one. */
import { html, useMemo, useState } from "../../lib/html.js";
import { get } from "../../lib/api.js";
import { count } from "../../lib/format.js";
import { t } from "../../lib/language.js";
import { useResource } from "../../lib/resource.js";
import { href } from "../../lib/router.js";
import { isAdmin, session } from "../../lib/session.js";
import { wordDiff } from "../../lib/words.js";
import { Time } from "../../components/bits.js";
import { Empty, Loaded } from "../../components/states.js";
import { Differing } from "../../components/word-diff.js";
import { EvalTarget, useEvalTarget } from "./eval-target.js";

const AT_ONCE = 10;
/** Percent of the stable version's requests, where none are yet. */
export const COPIED = 10;
/** As many as the server keeps of one rollout. */
const MOST = 100;
const MOST_TOKENS = 4096;

export function Pairs({ rollout, path, ...rest }) {
  const [open, setOpen] = useState(false);
  const { compared, exact } = rollout.shadow_observed ?? { compared: 0, exact: 0 };
  return html`<details onToggle=${(event) => setOpen(event.target.open)}><summary class="small">${t`Answers that differ: ${count(compared - exact)} of ${count(compared)}`}</summary>
    ${open && html`<${Kept} rollout=${rollout} path=${`${path}/rollouts/${rollout.id}/pairs`} stamp=${compared} ...${rest} />`}</details>`;
}

function Kept({ rollout, path, stamp, adapter, api, mine, onCopy }) {
  const pairs = useResource((signal) => get(`${path}?limit=${MOST}`, { signal }), [path], { stamp });
  const [shown, setShown] = useState(AT_ONCE);
  const canAdd = mine && (isAdmin.value || adapter.owner === session.value.tenant);
  const target = useEvalTarget(api, canAdd, "differences");
  return html`<${Loaded} resource=${pairs} lines=${3}>${({ kept, items }) => {
    if (!kept) return html`<${Empty} title=${t("Texts are not kept")} icon="info">${t`The server compares answers and forgets them. Started with ${html`<code>--log-bodies</code>`}, it keeps the last ones that differ, in memory.`}<//>`;
    if (!items.length) return html`<${Nothing} rollout=${rollout} onCopy=${mine && onCopy} />`;
    return html`<div class="stack">
      ${canAdd && html`<${EvalTarget} of=${target} hint=${t("Which side is right? Its text becomes the answer that is asked for")} />`}
      <ul class="pairs">${items.slice(0, shown).map((pair) => html`<${Pair} key=${pair.id} pair=${pair} rollout=${rollout} adapter=${adapter} target=${canAdd ? target : null} />`)}</ul>
      ${items.length > shown && html`<div><button class="button small" onClick=${() => setShown(shown + AT_ONCE)}>${t`Show more (${items.length - shown})`}</button></div>`}
    </div>`;
  }}<//>`;
}

/** Without copies of requests, no prompt is answered by both versions. */
function Nothing({ rollout, onCopy }) {
  if (rollout.shadow_percent || rollout.state !== "running") return html`<${Empty} title=${t("None to show")}>${t("No two answers that can be repeated differ, or the server was started anew since.")}<//>`;
  const action = onCopy && html`<button class="button small" onClick=${onCopy}>${t`Copy ${COPIED}% of them`}</button>`;
  return html`<${Empty} title=${t("No request is answered by both")} action=${action}>${t`Copies of v${rollout.stable}’s requests can be run on v${rollout.candidate}, too. Nobody sees those answers.`}<//>`;
}

function Pair({ pair, rollout, adapter, target }) {
  const [added, setAdded] = useState(null);
  const runs = useMemo(() => wordDiff(pair.stable, pair.candidate), [pair.stable, pair.candidate]);
  const refused = whyNot(pair, adapter);
  const { messages, prompt } = pair;
  const add = (text) => target.add({ ...(messages ? { messages } : { prompt }), max_tokens: Math.min(pair.max_tokens, MOST_TOKENS), checks: [{ type: "exact", text }] }).then(setAdded);
  const side = (name) => html`<div><div class="row between"><b>v${rollout[name]}</b>${target && !added && !refused && html`<button class="button small" onClick=${() => add(pair[name])}>${t`v${rollout[name]} is right`}</button>`}</div>
    <p class="text"><${Differing} runs=${runs} side=${name === "stable" ? "left" : "right"} /></p></div>`;
  return html`<li><div class="text question" tabindex="0" role="group" aria-label=${t("Prompt")}>${questionOf(pair)}</div>
    <p class="small muted"><${Time} at=${pair.at} />, ${pair.tenant ?? t("an administrator")}${target && refused && html` · ${refused}`}${added && html` · ${t`added to ${html`<a href=${href(`/adapters/${adapter.name}?tab=evals&eval=${added}`)}>${added}</a>`}`}`}</p>
    <div class="pair">${side("stable")}${side("candidate")}</div></li>`;
}

/** Why a pair is no case of an eval; null when it may be one. */
function whyNot({ beyond, tenant }, { owner }) {
  if (beyond.length) return t`Asked with ${beyond.join(", ")}: an eval cannot ask so.`;
  return owner && tenant !== owner ? t`The evals are seen by ${owner}, whose text this is not.` : null;
}

const words = (content) => (typeof content === "string" ? content : JSON.stringify(content));
const questionOf = ({ prompt, messages }) => prompt ?? (messages.length === 1 ? words(messages[0].content) : messages.map(({ role, content }) => `${role}: ${words(content)}`).join("\n"));
