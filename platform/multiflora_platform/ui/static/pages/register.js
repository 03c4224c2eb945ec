/** Register: a folder, an archive or a source becomes a version, checked row by row before anything is served. */
import { html, useEffect, useState } from "../lib/html.js";
import { suggestedName } from "../lib/adapter-config.js";
import { bytes } from "../lib/format.js";
import { t } from "../lib/language.js";
import { query } from "../lib/router.js";
import { isAdmin } from "../lib/session.js";
import { Card, PageHeader, Segmented } from "../components/bits.js";
import { Check, TextArea, TextField } from "../components/fields.js";
import { Icon } from "../components/icon.js";
import { ConfigFacts } from "./register/config-facts.js";
import { Details, detailsOf, NO_DETAILS } from "./register/details.js";
import { DropZone } from "./register/drop-zone.js";
import { Evals, evalsOf, pointedAt, problemsOf } from "./register/evals.js";
import { foldersOf, problemOf } from "./register/files.js";
import { Progress } from "./register/progress.js";
import { find, useRegistration } from "./register/registration.js";

const NAME = /^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/;

export default function Register() {
  const [name, setName] = useState(query.value.get("name") ?? "");
  const [description, setDescription] = useState("");
  const [tags, setTags] = useState("");
  const [prompt, setPrompt] = useState("");
  const [from, setFrom] = useState("files");
  const [files, setFiles] = useState([]);
  const [source, setSource] = useState("");
  const [details, setDetails] = useState(NO_DETAILS);
  const [evals, setEvals] = useState([]);
  const [alias, setAlias] = useState("");
  const [promote, setPromote] = useState(false);
  const [warm, setWarm] = useState(false);
  const [problems, setProblems] = useState({});
  const existing = useExisting(name);
  const registration = useRegistration();
  const take = (chosen) => {
    setFiles(chosen);
    if (!name) setName(suggestedName(foldersOf(chosen)));
  };
  const submit = (event) => {
    event.preventDefault();
    const found = {};
    if (!NAME.test(name)) found.name = t("Letters, digits, dots, dashes and underscores; it starts with a letter or digit.");
    const wrong = from === "files" ? problemOf(files) : source.trim() ? "" : t("Say where the adapter is.");
    if (wrong) found.content = wrong;
    const unfinished = problemsOf(evals);
    if (unfinished.size) found.evals = unfinished;
    setProblems(found);
    if (Object.keys(found).length) return;
    const wanted = tags.split(",").map((tag) => tag.trim()).filter(Boolean);
    const about = detailsOf(existing ? details : { ...details, parent: "" }, evalsOf(evals));
    const content = from === "files" ? { files } : { source: source.trim() };
    registration.start({ name, adapter: { description, tags: wanted, demo_prompt: prompt || null }, ...content, details: about, alias: alias.trim(), promote, warm });
  };
  const busy = registration.state?.busy;
  return html`<${PageHeader} title=${t("Register an adapter")} about=${t("A PEFT LoRA for this server's base model. Everything is checked before a request can reach it.")} />
    <div class="split-view">
      <form class="stack" onSubmit=${submit}>
        <${Card} title=${t("Name")}><div class="stack">
          <${TextField} label=${t("Adapter")} autocomplete="off" spellcheck="false" placeholder="support-en" value=${name} onInput=${setName} problem=${problems.name}
            hint=${existing ? t`There is an adapter of this name; this makes its version ${Math.max(0, ...existing.ready_versions) + 1}.` : t("What clients send as model")} />
          ${!existing && html`<${TextField} label=${t("Description")} placeholder=${t("What it does, in a sentence")} value=${description} onInput=${setDescription} />
            <${TextField} label=${t("Tags")} hint=${t("Separated by commas")} value=${tags} onInput=${setTags} />
            <${TextArea} label=${t("Example prompt")} hint=${t("What the playground starts with")} rows="2" value=${prompt} onInput=${setPrompt} />`}
        </div><//>
        <${Card} title=${t("Content")}><div class="stack">
          <${Segmented} label=${t("Where it comes from")} of=${[["files", t("Upload")], ["source", t("From a source")]]} value=${from} onChange=${setFrom} />
          ${from === "files" ? html`<${DropZone} onFiles=${take} />
              ${files.length > 0 && html`<ul class="files" aria-label=${t("Files to upload")}>${files.map((file) => html`<li key=${file.name}><${Icon} name="check" size=${14} /><span class="mono break">${file.name}</span><span class="muted">${bytes(file.size)}</span></li>`)}</ul><${ConfigFacts} files=${files} />`}`
            : html`<${TextField} label=${t("Source")} spellcheck="false" value=${source} onInput=${setSource} placeholder="hf://organisation/repository@revision"
                hint=${t("hf://…, s3://…, or file:///… below a folder that the server allows")} />`}
          ${problems.content && html`<p class="problem" role="alert">${problems.content}</p>`}
        </div><//>
        <${Details} value=${details} onChange=${setDetails} versions=${existing?.ready_versions ?? []} />
        <${Evals} value=${evals} onChange=${setEvals} problems=${problems.evals ?? pointedAt(registration.state?.error)} />
        <${Card} title=${t("When it is ready")}><div class="stack">
          <${TextField} label=${t("Alias to set")} hint=${t("Optional, for example canary. The first version becomes default by itself.")} autocomplete="off" value=${alias} onInput=${setAlias} />
          <${Check} label=${t("Make it the default at once")} hint=${t("Everybody who asks for the adapter by name gets this version")} checked=${promote} onChange=${setPromote} />
          ${isAdmin.value && html`<${Check} label=${t("Load it onto the device")} hint=${t("The first request does not wait for it")} checked=${warm} onChange=${setWarm} />`}
        </div><//>
        <div class="row end">
          ${busy && html`<button type="button" class="button" onClick=${registration.cancel}>${t("Cancel")}</button>`}
          <button class="button primary" disabled=${busy}>${busy ? t("Registering…") : t("Register")}</button>
        </div>
      </form>
      <${Progress} state=${registration.state} />
    </div>`;
}

/** The adapter that has this name already, asked for when typing pauses. */
function useExisting(name) {
  const [found, setFound] = useState(null);
  useEffect(() => {
    setFound(null);
    if (!NAME.test(name)) return undefined;
    const abort = new AbortController();
    const timer = setTimeout(() => find(name, abort.signal).then(setFound, () => {}), 250);
    return () => {
      clearTimeout(timer);
      abort.abort();
    };
  }, [name]);
  return found;
}
