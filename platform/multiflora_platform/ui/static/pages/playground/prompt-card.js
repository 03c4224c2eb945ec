/** What is asked: a conversation, or a text to complete, behind a context or not. */
import { html } from "../../lib/html.js";
import { t } from "../../lib/language.js";
import { href, query, setQuery } from "../../lib/router.js";
import { Card, Segmented } from "../../components/bits.js";
import { ChatMessages } from "../../components/chat-messages.js";
import { Code } from "../../components/code.js";
import { Select, TextArea } from "../../components/fields.js";
import { turnProblem } from "./task.js";

const modes = () => [["chat", t("Chat")], ["completion", t("Completion")]];

export function PromptCard({ task, onChange, context, contexts, isReady, onRun }) {
  const { mode, system, turns, prompt, replay } = task;
  const set = (field) => (value) => onChange({ ...task, [field]: value });
  const isChat = mode === "chat";
  const onKeyDown = (event) => event.key === "Enter" && (event.ctrlKey || event.metaKey) && onRun(event);
  return html`<${Card} title=${t("Prompt")} actions=${html`<${Segmented} label=${t("Kind")} of=${modes()} value=${mode} onChange=${set("mode")} />`}><div class="stack" onKeyDown=${onKeyDown}>
    ${(contexts.length > 0 || context) && html`<${Select} label=${t("Context")} hint=${t("Stands before it, and is computed already")} value=${context} onChange=${(name) => setQuery({ context: name })}
      of=${[["", t("none")], ...[...new Set([...contexts, ...(context ? [context] : [])])].map((name) => [name, name])]} />`}
    ${replay && html`<${Replayed} rest=${replay.rest} />`}
    ${isChat && html`<${TextArea} label=${t("System prompt")} rows="2" value=${system} onInput=${set("system")} />
      ${turns.length > 0 && html`<fieldset><legend>${t("Conversation so far")}</legend><${ChatMessages} least=${0} value=${turns} onChange=${set("turns")} problemOf=${(i) => turnProblem(turns[i])} /></fieldset>`}`}
    ${!isChat && replay?.prompt ? html`<${Code} wrap label=${t("Sent as it was")} text=${JSON.stringify(replay.prompt)} />`
      : html`<${TextArea} label=${isChat ? t("New message") : t("Text to complete")} rows="4" value=${prompt} onInput=${set("prompt")} />`}
    <div class="row between"><span class="muted small">${t`${html`<kbd>Ctrl</kbd>`} ${html`<kbd>Enter</kbd>`} runs`}</span>
      <button class="button primary" disabled=${!isReady}>${t("Run")}</button></div>
  </div><//>`;
}

/** Of which request it is, and what is sent with it that the form has no place for. */
function Replayed({ rest }) {
  const names = Object.keys(rest);
  const id = query.value.get("request");
  const earlier = id ? html`<a href=${href(`/requests/${encodeURIComponent(id)}`)}>${t("An earlier request")}</a>` : t("An earlier request");
  return html`<p class="muted small">${t`${earlier} again${names.length > 0 && t` with its ${names.join(", ")}`}.`}</p>`;
}
