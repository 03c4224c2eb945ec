/** Playground: one conversation to up to four models at once, with what each needed and how sure it was. */
import { html, useEffect, useState } from "../lib/html.js";
import { get, getAll } from "../lib/api.js";
import { t } from "../lib/language.js";
import { adapterOf, loadModels } from "../lib/models.js";
import { useResource } from "../lib/resource.js";
import { query, setQuery } from "../lib/router.js";
import { session } from "../lib/session.js";
import { PageHeader } from "../components/bits.js";
import { Copy } from "../components/code.js";
import { Icon } from "../components/icon.js";
import { Notice } from "../components/states.js";
import { Column } from "./playground/column.js";
import { PromptCard } from "./playground/prompt-card.js";
import { taskOf } from "./playground/replay.js";
import { requestOf } from "./playground/request.js";
import { jsonProblem, Settings } from "./playground/settings.js";
import { EMPTY, goneOn, turnProblem, useTask } from "./playground/task.js";

const MOST = 4;

export default function Playground() {
  const models = useResource(loadModels, []).data;
  const contexts = useResource(loadContexts, []).data ?? [];
  const [kept, setTask, isTooLong] = useTask();
  const [run, setRun] = useState(0);
  const [answers, setAnswers] = useState({});
  const replayed = useReplayed(query.value.get("request"), kept, setTask);
  const chosen = query.value.getAll("model");
  const shown = chosen.length ? chosen : defaults(models);
  const task = { ...kept, prompt: kept.prompt ?? suggestion(kept, models, shown) };
  const context = query.value.get("context") ?? "";
  const setModels = (next) => setQuery({ model: next });
  const isReady = isAsked(task) && shown.length > 0;
  const start = (event) => { event?.preventDefault(); if (isReady) { setTask(task); setAnswers({}); setRun(run + 1); } };
  return html`<${PageHeader} title=${t("Playground")} about=${t("The same prompt to several models, side by side")}
      actions=${html`<button type="button" class="button" onClick=${() => { setTask({ ...EMPTY, prompt: "" }); setQuery({ request: null }); }}>${t("Start anew")}</button><${Copy} text=${() => location.href} label=${t("Copy link")} size="" />`} />
    ${replayed.error && html`<${Notice} kind="warn" title=${t("The request cannot be replayed")}>${replayed.error.message}<//>`}
    ${isTooLong && html`<${Notice} title=${t("Too long for an address")}>${t("A reload or a link shows the page without this conversation.")}<//>`}
    <div class="split-view">
      <div class="stack">
        <form onSubmit=${start}><${PromptCard} task=${task} onChange=${setTask} context=${context} contexts=${contexts} isReady=${isReady} onRun=${start} /></form>
        <div class="columns" style=${{ "--count": shown.length }}>
          ${shown.map((model, i) => html`<${Column} key=${i} model=${model} models=${models} task=${task} request=${isReady ? requestOf(model, context, task, models) : null} run=${run} canRemove=${shown.length > 1}
            other=${otherOf(answers, i, shown.length)} onAnswer=${(text) => setAnswers((old) => ({ ...old, [i]: text }))} onGoOn=${(answer) => setTask(goneOn(task, answer))}
            onModel=${(name) => setModels(shown.with(i, name))} onRemove=${() => { setAnswers({}); setModels(shown.toSpliced(i, 1)); }} />`)}
        </div>
        ${shown.length < MOST && html`<div><button type="button" class="button" onClick=${() => setModels([...shown, models?.bases[0] ?? session.value.base_model])}><${Icon} name="plus" size=${16} />${t("Compare with another")}</button></div>`}
      </div>
      <${Settings} value=${task.settings} onChange=${(settings) => setTask({ ...task, settings })} mode=${task.mode} longest=${models?.longest} />
    </div>`;
}

/** Those that the key's requests may name. */
const loadContexts = async (signal) => (await getAll("/api/v1/contexts", { signal })).filter((one) => one.tenant === (session.value.tenant ?? null)).map((one) => one.name);

/** There is something to ask, and no text of the form is in the way. */
function isAsked({ mode, prompt, turns, replay, settings }) {
  if (mode === "completion") return Boolean(prompt.trim() || replay?.prompt);
  return Boolean(prompt.trim() || turns.length) && !turns.some(turnProblem) && !jsonProblem(settings.schema) && !jsonProblem(settings.tools);
}

/** What an answer is compared with: the first one's, and of two the first with the second. */
function otherOf(answers, i, count) {
  if (i) return answers[0] === undefined ? null : { text: answers[0], side: "right" };
  return count === 2 && answers[1] !== undefined ? { text: answers[1], side: "left" } : null;
}

/** The request that the address names, once its body is there; what the address keeps of the task goes before it. */
function useReplayed(id, kept, setTask) {
  const request = useResource(async (signal) => {
    if (!id || kept !== EMPTY) return null;
    const found = await get(`/api/v1/requests/${encodeURIComponent(id)}`, { signal });
    if (!found.body) throw new Error(t("The server has not kept its body: it is started with --log-bodies, and keeps the last ones."));
    return found;
  }, [id]);
  useEffect(() => { if (request.data) setTask(taskOf(request.data)); }, [request.data]);
  return request;
}

/** The first adapter beside its base model, where the page's address names none. */
function defaults(models) {
  if (!models) return [];
  const adapter = models.options.find(({ value }) => models.adapters.has(value));
  return [...(adapter ? [adapter.value] : []), adapter ? models.adapters.get(adapter.value).base : models.bases[0]].filter(Boolean);
}

const suggestion = ({ turns }, models, shown) => (turns.length ? "" : shown.map((model) => models?.adapters.get(adapterOf(model))?.demo_prompt).find(Boolean) ?? "");
