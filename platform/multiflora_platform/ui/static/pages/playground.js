/** Playground: one prompt to up to four models at once, with what each needed and how sure it was. */
import { html, useMemo, useState } from "../lib/html.js";
import { loadAdapters } from "../lib/adapters.js";
import { get } from "../lib/api.js";
import { useResource } from "../lib/resource.js";
import { query, setQuery } from "../lib/router.js";
import { session } from "../lib/session.js";
import { Card, PageHeader, Segmented } from "../components/bits.js";
import { TextArea } from "../components/fields.js";
import { Icon } from "../components/icon.js";
import { Column } from "./playground/column.js";
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
  const chosen = query.value.getAll("model");
  const shown = chosen.length ? chosen : defaults(models.data);
  const text = prompt ?? suggestion(adapters.data, shown) ?? "";
  const names = useMemo(() => options(models.data, adapters.data), [models.data, adapters.data]);
  const setModels = (next) => setQuery({ model: next });
  const start = (event) => { event?.preventDefault(); setRun((count) => count + 1); };
  const task = { mode, system, prompt: text, settings };
  return html`<${PageHeader} title="Playground" about="The same prompt to several models, side by side" />
    <datalist id="model-names">${names.map((name) => html`<option key=${name} value=${name} />`)}</datalist>
    <div class="split-view">
      <form class="stack" onSubmit=${start}>
        <${Card} title="Prompt" actions=${html`<${Segmented} label="Kind" of=${[["chat", "Chat"], ["completion", "Completion"]]} value=${mode} onChange=${setMode} />`}><div class="stack">
          ${mode === "chat" && html`<${TextArea} label="System prompt" rows="2" value=${system} onInput=${setSystem} />`}
          <${TextArea} label=${mode === "chat" ? "Message" : "Text to complete"} rows="4" value=${text} onInput=${setPrompt}
            onKeyDown=${(event) => event.key === "Enter" && (event.ctrlKey || event.metaKey) && start(event)} />
          <div class="row between"><span class="muted small"><kbd>Ctrl</kbd> <kbd>Enter</kbd> runs</span>
            <button class="button primary" disabled=${!text.trim() || !shown.length}>Run</button></div>
        </div><//>
        <div class="columns" style=${{ "--count": shown.length }}>
          ${shown.map((model, i) => html`<${Column} key=${i} model=${model} task=${task} run=${run} canRemove=${shown.length > 1}
            onModel=${(name) => setModels(shown.with(i, name))} onRemove=${() => setModels(shown.toSpliced(i, 1))} />`)}
        </div>
        ${shown.length < MOST && html`<div><button type="button" class="button" onClick=${() => setModels([...shown, session.value.base_model])}><${Icon} name="plus" size=${16} />Compare with another</button></div>`}
      </form>
      <${Settings} value=${settings} onChange=${setSettings} mode=${mode} />
    </div>`;
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
