/** Register: a folder, an archive or a source becomes a version, checked row by row before anything is served. */
import { html, useEffect, useState } from "../lib/html.js";
import { bytes } from "../lib/format.js";
import { query } from "../lib/router.js";
import { isAdmin } from "../lib/session.js";
import { Card, PageHeader, Segmented } from "../components/bits.js";
import { Check, TextArea, TextField } from "../components/fields.js";
import { Icon } from "../components/icon.js";
import { Details, detailsOf, NO_DETAILS } from "./register/details.js";
import { DropZone } from "./register/drop-zone.js";
import { Evals, evalsOf, pointedAt, problemsOf } from "./register/evals.js";
import { problemOf } from "./register/files.js";
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
  const submit = (event) => {
    event.preventDefault();
    const found = {};
    if (!NAME.test(name)) found.name = "Letters, digits, dots, dashes and underscores; it starts with a letter or digit.";
    const wrong = from === "files" ? problemOf(files) : source.trim() ? "" : "Say where the adapter is.";
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
  return html`<${PageHeader} title="Register an adapter" about="A PEFT LoRA for this server's base model. Everything is checked before a request can reach it." />
    <div class="split-view">
      <form class="stack" onSubmit=${submit}>
        <${Card} title="Name"><div class="stack">
          <${TextField} label="Adapter" autocomplete="off" spellcheck="false" placeholder="support-en" value=${name} onInput=${setName} problem=${problems.name}
            hint=${existing ? `There is an adapter of this name; this makes its version ${Math.max(0, ...existing.ready_versions) + 1}.` : "What clients send as model"} />
          ${!existing && html`<${TextField} label="Description" placeholder="What it does, in a sentence" value=${description} onInput=${setDescription} />
            <${TextField} label="Tags" hint="Separated by commas" value=${tags} onInput=${setTags} />
            <${TextArea} label="Example prompt" hint="What the playground starts with" rows="2" value=${prompt} onInput=${setPrompt} />`}
        </div><//>
        <${Card} title="Content"><div class="stack">
          <${Segmented} label="Where it comes from" of=${[["files", "Upload"], ["source", "From a source"]]} value=${from} onChange=${setFrom} />
          ${from === "files" ? html`<${DropZone} onFiles=${setFiles} />
              ${files.length > 0 && html`<ul class="files" aria-label="Files to upload">${files.map((file) => html`<li key=${file.name}><${Icon} name="check" size=${14} /><span class="mono break">${file.name}</span><span class="muted">${bytes(file.size)}</span></li>`)}</ul>`}`
            : html`<${TextField} label="Source" spellcheck="false" value=${source} onInput=${setSource} placeholder="hf://organisation/repository@revision"
                hint="hf://…, s3://…, or file:///… below a folder that the server allows" />`}
          ${problems.content && html`<p class="problem" role="alert">${problems.content}</p>`}
        </div><//>
        <${Details} value=${details} onChange=${setDetails} versions=${existing?.ready_versions ?? []} />
        <${Evals} value=${evals} onChange=${setEvals} problems=${problems.evals ?? pointedAt(registration.state?.error)} />
        <${Card} title="When it is ready"><div class="stack">
          <${TextField} label="Alias to set" hint="Optional, for example canary. The first version becomes default by itself." autocomplete="off" value=${alias} onInput=${setAlias} />
          <${Check} label="Make it the default at once" hint="Everybody who asks for the adapter by name gets this version" checked=${promote} onChange=${setPromote} />
          ${isAdmin.value && html`<${Check} label="Load it onto the device" hint="The first request does not wait for it" checked=${warm} onChange=${setWarm} />`}
        </div><//>
        <div class="row end">
          ${busy && html`<button type="button" class="button" onClick=${registration.cancel}>Cancel</button>`}
          <button class="button primary" disabled=${busy}>${busy ? "Registering…" : "Register"}</button>
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
