/** Playground: one prompt to up to four models at once, with what each needed and how sure it was. */
import { html, useEffect, useMemo, useState } from "../lib/html.js";
import { loadAdapters } from "../lib/adapters.js";
import { get } from "../lib/api.js";
import { plural, t } from "../lib/language.js";
import { useResource } from "../lib/resource.js";
import { href, query, setQuery } from "../lib/router.js";
import { session } from "../lib/session.js";
import { Card, PageHeader, Segmented } from "../components/bits.js";
import { Code } from "../components/code.js";
import { TextArea } from "../components/fields.js";
import { Icon } from "../components/icon.js";
import { Notice } from "../components/states.js";
import { Column } from "./playground/column.js";
import { taskOf } from "./playground/replay.js";
import { DEFAULTS, Settings } from "./playground/settings.js";

const MOST = 4;

export default function Playground() {
  const models = useResource(async (signal) => (await get("/v1/models", { signal })).data.map((model) => model.id), []);
  const adapters = useResource(loadAdapters, []);
  const [mode, setMode] = useState("chat");
  const [system, setSystem] = useState("");
  const [prompt, setPrompt] = useState(null);
  const [settings, setSettings] = useState(DEFAULTS);
  const [run, setRun] = useState(0);
  const [replay, setReplay] = useState(null);
  const replayed = useReplayed(query.value.get("request"), (task) => {
    setMode(task.mode);
    setSystem(task.system);
    setPrompt(task.prompt);
    setSettings(task.settings);
    setReplay(task.replay);
  });
  const chosen = query.value.getAll("model");
  const shown = chosen.length ? chosen : defaults(models.data);
  const text = prompt ?? suggestion(adapters.data, shown) ?? "";
  const names = useMemo(() => options(models.data, adapters.data), [models.data, adapters.data]);
  const setModels = (next) => setQuery({ model: next });
  const start = (event) => { event?.preventDefault(); setRun((count) => count + 1); };
  const task = { mode, system, prompt: text, settings, replay };
  return html`<${PageHeader} title=${t("Playground")} about=${t("The same prompt to several models, side by side")} />
    ${replayed.error && html`<${Notice} kind="warn" title=${t("The request cannot be replayed")}>${replayed.error.message}<//>`}
    <datalist id="model-names">${names.map((name) => html`<option key=${name} value=${name} />`)}</datalist>
    <div class="split-view">
      <form class="stack" onSubmit=${start}>
        <${Card} title=${t("Prompt")} actions=${html`<${Segmented} label=${t("Kind")} of=${[["chat", t("Chat")], ["completion", t("Completion")]]} value=${mode} onChange=${setMode} />`}><div class="stack">
          ${mode === "chat" && html`<${TextArea} label=${t("System prompt")} rows="2" value=${system} onInput=${setSystem} />`}
          ${replay && html`<${Replayed} replay=${replay} />`}
          ${!replay?.last && html`<${TextArea} label=${mode === "chat" ? t("Message") : t("Text to complete")} rows="4" value=${text} onInput=${setPrompt}
            onKeyDown=${(event) => event.key === "Enter" && (event.ctrlKey || event.metaKey) && start(event)} />`}
          <div class="row between"><span class="muted small">${t`${html`<kbd>Ctrl</kbd>`} ${html`<kbd>Enter</kbd>`} runs`}</span>
            <button class="button primary" disabled=${!(text.trim() || replay?.last) || !shown.length}>${t("Run")}</button></div>
        </div><//>
        <div class="columns" style=${{ "--count": shown.length }}>
          ${shown.map((model, i) => html`<${Column} key=${i} model=${model} task=${task} run=${run} canRemove=${shown.length > 1}
            onModel=${(name) => setModels(shown.with(i, name))} onRemove=${() => setModels(shown.toSpliced(i, 1))} />`)}
        </div>
        ${shown.length < MOST && html`<div><button type="button" class="button" onClick=${() => setModels([...shown, session.value.base_model])}><${Icon} name="plus" size=${16} />${t("Compare with another")}</button></div>`}
      </form>
      <${Settings} value=${settings} onChange=${setSettings} mode=${mode} />
    </div>`;
}

/** The request that the address names, once its body is there. */
function useReplayed(id, take) {
  const request = useResource(async (signal) => {
    if (!id) return null;
    const found = await get(`/api/v1/requests/${encodeURIComponent(id)}`, { signal });
    if (!found.body) throw new Error(t("The server has not kept its body: it is started with --log-bodies, and keeps the last ones."));
    return found;
  }, [id]);
  useEffect(() => { if (request.data) take(taskOf(request.data, DEFAULTS)); }, [request.data]);
  return request;
}

/** What is sent as it was, though the form has no place for it. */
function Replayed({ replay: { before, last, rest } }) {
  const kept = [...before, ...(last ? [last] : [])];
  const names = Object.keys(rest);
  return html`<p class="muted small">${t`${html`<a href=${href(`/requests/${encodeURIComponent(query.value.get("request"))}`)}>${t("An earlier request")}</a>`} again${names.length > 0 && t` with its ${names.join(", ")}`}.`}</p>
    ${kept.length > 0 && html`<details><summary class="small muted">${before.length ? plural(before.length, "The message before it, sent as it was", "The {0} messages before it, sent as it was", before.length) : t("What was asked, sent as it was")}</summary><${Code} wrap label=${t("Sent as it was")} text=${JSON.stringify(kept, null, 2)} /></details>`}`;
}

/** The first adapter beside the base model, where the page's address names none. */
function defaults(ids) {
  if (!ids) return [];
  const base = session.value.base_model;
  const adapter = ids.find((id) => id !== base);
  return [adapter, ids.includes(base) && base].filter(Boolean).slice(0, 2);
}

const suggestion = (adapters, shown) => adapters?.find((one) => shown.some((model) => model.split("@")[0] === one.name) && one.demo_prompt)?.demo_prompt;

function options(ids, adapters) {
  const names = new Set(ids);
  for (const adapter of (adapters ?? []).slice(0, 500)) {
    for (const alias of Object.keys(adapter.aliases)) if (alias !== "default") names.add(`${adapter.name}@${alias}`);
    for (const version of adapter.ready_versions) names.add(`${adapter.name}@${version}`);
  }
  return [...names];
}
