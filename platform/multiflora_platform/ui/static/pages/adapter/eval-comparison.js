/** Two runs of an eval, prompt by prompt: what got better, what got worse, in which words. */
import { html, useMemo, useState } from "../../lib/html.js";
import { get } from "../../lib/api.js";
import { dateTime, percent } from "../../lib/format.js";
import { t } from "../../lib/language.js";
import { useResource } from "../../lib/resource.js";
import { query, setQuery } from "../../lib/router.js";
import { named } from "../../lib/values.js";
import { wordDiff } from "../../lib/words.js";
import { Badge, Card, Segmented } from "../../components/bits.js";
import { Select } from "../../components/fields.js";
import { Empty, Loaded } from "../../components/states.js";
import { Differing } from "../../components/word-diff.js";
import { Checks } from "./eval-matrix.js";

const KINDS = { better: "ok", worse: "bad", same: "", new: "info" };
const shownChoices = () => [["changed", t("What changed")], ["all", t("All")]];

/** runs: completed, newest first. */
export function Comparison({ runs, api }) {
  const [shown, setShown] = useState("changed");
  const known = (id) => (runs.some((run) => String(run.id) === id) ? id : null);
  const byVersion = runs.toSorted((one, other) => (other.version ?? 0) - (one.version ?? 0));
  const newest = byVersion[0];
  const other = byVersion.find((run) => run.version !== newest.version) ?? byVersion[1];
  const right = known(query.value.get("right")) ?? String(newest.id);
  const left = known(query.value.get("left")) ?? String(other.id);
  const compared = useResource((signal) => get(`${api}/eval-runs:compare?left=${left}&right=${right}`, { signal }), [api, left, right]);
  const names = runs.map((run) => [String(run.id), `${run.mix.adapters ? t("mix") : run.model}, ${percent(run.score)}, ${dateTime(run.created_at)}`]);
  return html`<${Card} title=${t("Side by side")} about=${t("Two runs, prompt by prompt")}><div class="stack">
    <div class="form-grid"><${Select} label=${t("Before")} value=${left} onChange=${(id) => setQuery({ left: id })} of=${names} /><${Select} label=${t("After")} value=${right} onChange=${(id) => setQuery({ right: id })} of=${names} /></div>
    <${Loaded} resource=${compared} lines=${4}>${(data) => html`<div class="row between"><p>${t`${html`<b>${data.better}</b>`} better, ${html`<b>${data.worse}</b>`} worse, ${data.same} same`}</p><${Segmented} label=${t("Which prompts")} of=${shownChoices()} value=${shown} onChange=${setShown} /></div>
      <${Cases} items=${data.items.filter((item) => shown === "all" || item.change !== "same")} />`}<//>
  </div><//>`;
}

const Cases = ({ items }) => (items.length
  ? html`<ul class="pairs">${items.map((item, i) => html`<${Case} key=${i} item=${item} />`)}</ul>`
  : html`<${Empty} title=${t("Nothing changed")}>${t("Each prompt passes in both runs, or in neither.")}<//>`);

function Case({ item }) {
  const [left, right] = [item.left?.answer ?? "", item.right?.answer ?? ""];
  const runs = useMemo(() => wordDiff(left, right), [left, right]);
  return html`<li><div class="row"><${Badge} kind=${KINDS[item.change]}>${named(item.change)}<//><b class="break">${item.name ?? item.question}</b></div>
    <div class="pair"><${Side} of=${item.left} runs=${runs} side="left" /><${Side} of=${item.right} runs=${runs} side="right" /></div></li>`;
}

const Side = ({ of, runs, side }) => html`<div>${of
  ? html`<p class="text"><${Differing} runs=${runs} side=${side} /></p><${Checks} of=${of.checks.filter((check) => !check.passed)} />`
  : html`<p class="muted">${t("not asked")}</p>`}</div>`;
