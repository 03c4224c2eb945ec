/** Prefix cache: what is in it, why the last prompts missed it, what it saves. */
import { html } from "../lib/html.js";
import { get } from "../lib/api.js";
import { bytes, count, percent, seconds } from "../lib/format.js";
import { useSeries } from "../lib/live.js";
import { DRIFTS, REASONS } from "../lib/misses.js";
import { useResource } from "../lib/resource.js";
import { href, query } from "../lib/router.js";
import { Badge, Card, PageHeader, Stats, Tabs, Time } from "../components/bits.js";
import { Chart } from "../components/chart.js";
import { Empty, Loaded } from "../components/states.js";
import { Icicle } from "./cache/icicle.js";
import { Tree } from "./cache/tree.js";
import { Warm } from "./cache/warm.js";

const TABS = [["tree", "What is cached"], ["misses", "Why prompts missed"], ["savings", "Savings"]];

export default function Cache() {
  const cache = useResource((signal) => get("/api/v1/cache", { signal }), [], { every: 4 });
  const tab = TABS.some(([name]) => name === query.value.get("tab")) ? query.value.get("tab") : "tree";
  return html`<${PageHeader} title="Prefix cache" about="Prompts that begin alike share the work that was done for the first of them"
      actions=${html`<${Warm} onDone=${cache.reload} />`} />
    <${Loaded} resource=${cache} lines=${8}>${(data) => html`
      <${Numbers} cache=${data} />
      <${Tabs} label="Parts of this page" of=${TABS} current=${tab} path="/cache" />
      ${tab === "tree" && html`<${Icicle} nodes=${data.nodes} /><${Tree} cache=${data} onChange=${cache.reload} />`}
      ${tab === "misses" && html`<${Drift} /><${Misses} />`}
      ${tab === "savings" && html`<${Savings} of=${data.savings ?? []} /><${HitRate} />`}`}<//>`;
}

function Numbers({ cache }) {
  const { blocks, free, cached, block_size: size, bytes_per_block: each } = cache;
  return html`<${Stats} label="Now" of=${[
    ["Hit rate since the start", percent(cache.queries_tokens ? cache.hits_tokens / cache.queries_tokens : null), `${count(cache.hits_tokens)} of ${count(cache.queries_tokens)} tokens`],
    ["Cached", bytes(cached * each), `${count(cached * size)} tokens`],
    ["In use by requests", count(Math.max(0, blocks - free - cached)), "blocks"],
    ["Free", count(free), `of ${count(blocks)} blocks`],
    ["Evicted", count(cache.evictions), "blocks, since the start"],
  ]} />`;
}

function Drift() {
  const drift = useResource((signal) => get("/api/v1/cache/drift", { signal }), [], { every: 8 });
  return html`<${Card} title="Drift" about="Prompts of the last hour that miss over and over at one place" flush><${Loaded} resource=${drift}>${({ items }) => (items.length
    ? html`<table><thead><tr><th>Tenant</th><th>Model</th><th>What</th><th class="number">Prompts</th><th class="number">Tokens lost</th><th>Example</th><th>What to do</th></tr></thead>
      <tbody>${items.map((item) => html`<tr key=${[item.tenant, item.model, item.message, item.kind].join()}><td>${item.prompts ? item.tenant ?? "admins" : "all chats"}</td><td>${item.model}</td><td><${Badge}>${DRIFTS[item.kind] ?? item.kind}<//></td>
        <td class="number">${item.prompts ? `${count(item.prompts)} (${percent(item.share)})` : ""}</td><td class="number">${item.prompts ? count(item.lost_tokens) : ""}</td><td class="break sentence">${item.example}</td><td class="break sentence">${item.advice}</td></tr>`)}</tbody></table>`
    : html`<${Empty} title="No drift" icon="check">No date, id or order of things makes prompts miss over and over.<//>`)}<//><//>`;
}

function Misses() {
  const misses = useResource((signal) => get("/api/v1/cache/misses", { signal }), [], { every: 4 });
  return html`<${Card} title="Last misses" about="The last 200 at most, the newest first" flush><${Loaded} resource=${misses}>${({ items }) => (items.length
    ? html`<table><thead><tr><th>When</th><th>Model</th><th class="number">Cached</th><th class="number">Prompt</th><th>Why</th><th>What that means</th></tr></thead>
      <tbody>${items.map((miss) => html`<tr key=${miss.request_id}><td><a href=${href(`/requests/${miss.request_id}`)}><${Time} at=${miss.at} /></a></td><td>${miss.model}</td>
        <td class="number">${count(miss.cached_tokens)}</td><td class="number">${count(miss.prompt_tokens)}</td><td><${Badge}>${REASONS[miss.reason] ?? miss.reason}<//></td><td class="break sentence">${miss.detail}</td></tr>`)}</tbody></table>`
    : html`<${Empty} title="No misses" icon="check">Every prompt since the start was found, or none has come yet.<//>`)}<//><//>`;
}

const Savings = ({ of }) => html`<${Card} title="Saved by the cache" about="Prompt tokens that were found instead of computed, since the server's start" flush>${of.length
  ? html`<table><thead><tr><th>Adapter</th><th class="number">Tokens</th><th class="number">Device time</th></tr></thead>
    <tbody>${of.toSorted((a, b) => b.tokens - a.tokens).map((row) => html`<tr key=${row.adapter}><td>${row.adapter ? html`<b>${row.adapter}</b>` : "base model"}</td><td class="number">${count(row.tokens)}</td><td class="number">${seconds(row.device_seconds)}</td></tr>`)}</tbody></table>`
  : html`<${Empty} title="Nothing yet">The second prompt that begins like an earlier one saves its beginning.<//>`}<//>`;

function HitRate() {
  const series = useSeries(3600);
  if (!series.points?.length) return null;
  return html`<${Card} title="Hit rate, last hour"><${Chart} label="Hit rate" times=${series.points.map((point) => point.at)} unit="percent" range=${[0, 1]}
    lines=${[{ label: "hit rate", values: series.points.map((point) => point.cache_hit_rate), slot: 2 }]} /><//>`;
}
