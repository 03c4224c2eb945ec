/** How the versions of an alias do that is split by hand: requests, errors and latency of each since it moved. */
import { html } from "../../lib/html.js";
import { get } from "../../lib/api.js";
import { count, percent, seconds } from "../../lib/format.js";
import { t } from "../../lib/language.js";
import { useResource } from "../../lib/resource.js";
import { Time } from "../../components/bits.js";
import { Loaded, Notice } from "../../components/states.js";
import { Table } from "../../components/table.js";

const rate = ({ errors, requests }) => (requests ? errors / requests : null);
const columns = () => [
  { key: "version", label: t("Version"), cell: (arm) => html`<b>v${arm.version}</b>` },
  { key: "percent", label: t("Users"), number: true, cell: (arm) => `${arm.percent}%` },
  { key: "requests", label: t("Requests"), number: true, value: (arm) => arm.observed.requests, cell: (arm) => count(arm.observed.requests) },
  { key: "errors", label: t("Errors"), number: true, value: (arm) => arm.observed.errors, cell: ({ observed }) => `${count(observed.errors)} (${percent(rate(observed))})` },
  { key: "p50_seconds", label: t("Median time"), number: true, value: (arm) => arm.observed.p50_seconds, cell: (arm) => seconds(arm.observed.p50_seconds) },
  { key: "p95_seconds", label: t("95th percentile"), number: true, value: (arm) => arm.observed.p95_seconds, cell: (arm) => seconds(arm.observed.p95_seconds) },
];

export function SplitArms({ adapter, alias, path }) {
  const split = useResource((signal) => get(`${path}/split`, { signal }), [path], { watch: ["records", "requests"], pause: 3, stamp: alias.etag });
  return html`<${Loaded} resource=${split} lines=${2}>${({ since, arms }) => arms.length > 0 && html`<section class="rollout" aria-label=${t("Split")}>
    <p class="small muted">${since ? t`What its versions do, by the last 1,000 requests of each; the first came ${html`<${Time} at=${since} />`}. Unlike a watched rollout, it does not turn back by itself.` : t("No request has come since it was split.")}</p>
    ${arms.filter((arm) => arm.is_worse).map((arm) => html`<${Notice} key=${arm.version} kind="bad" title=${t`v${arm.version} fails more than the others`}>
      ${t`${percent(rate(arm.observed))} of its requests failed, and ${percent(rateOfOthers(arms, arm))} of the others’. Chance alone does that less than once in 1,000 times: roll back, or look at its failed requests.`}<//>`)}
    ${since && html`<${Table} kind="split" name=${`split of ${adapter.name} ${alias.alias}`} label=${t("Versions of the split")} rows=${arms} keyOf=${(arm) => arm.version} columns=${columns()} />`}
  </section>`}<//>`;
}

function rateOfOthers(arms, one) {
  const others = arms.filter((arm) => arm !== one).map((arm) => arm.observed);
  const sum = (field) => others.reduce((total, observed) => total + observed[field], 0);
  return rate({ errors: sum("errors"), requests: sum("requests") });
}
