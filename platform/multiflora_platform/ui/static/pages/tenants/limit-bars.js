/** A tenant's limits as bars: what is used of each at this moment, the most that was, and how many requests were refused. */
import { html } from "../../lib/html.js";
import { get } from "../../lib/api.js";
import { count } from "../../lib/format.js";
import { t } from "../../lib/language.js";
import { useResource } from "../../lib/resource.js";
import { query } from "../../lib/router.js";
import { Card, Facts, Meter, Tags } from "../../components/bits.js";
import { Choice } from "../../components/fields.js";
import { Loaded } from "../../components/states.js";

const used = (limit, left) => Math.min(limit, Math.max(0, limit - left));
const causes = () => ({ requests: t("requests per minute"), tokens: t("tokens per minute"), concurrent: t("requests at once"), budget: t("budget"), not_allowed: t("not allowed"), overloaded: t("server overloaded") });
const total = (refused) => Object.values(refused).reduce((sum, number) => sum + number, 0);

/** The window of peaks and refusals stands in the address. @param {{tenant: string}} props its name */
export function LimitBars({ tenant }) {
  const path = `/api/v1/tenants/${encodeURIComponent(tenant)}/limits?window=${query.value.get("window") ?? "day"}`;
  const limits = useResource((signal) => get(path, { signal }), [path], { watch: ["requests"], pause: 5 });
  const windows = html`<${Choice} param="window" label=${t("Peaks and refusals")} any=${t("today")} of=${[["week", t("last 7 days")], ["month", t("last 30 days")]]} />`;
  return html`<${Card} title=${t("Limits")} actions=${windows}><${Loaded} resource=${limits} lines=${4}>${(now) => html`<${Bars} now=${now} />`}<//><//>`;
}

const Bars = ({ now }) => html`<${Facts} of=${[
  ...[
    [t("Requests per minute"), now.requests_per_minute, used(now.requests_per_minute, now.requests_left), now.peak.requests_per_minute],
    [t("Tokens per minute"), now.tokens_per_minute, used(now.tokens_per_minute, now.tokens_left), now.peak.tokens_per_minute],
    [t("Concurrent requests"), now.max_concurrent_requests, now.running, now.peak.concurrent],
  ].map(([name, limit, value, peak]) => [name, limit === null ? html`<span class="muted">${t`no limit, peak ${count(peak)}`}</span>`
    : html`<${Meter} value=${value / limit} peak=${peak / limit} label=${name} /> <span title=${t`Counted by ${now.counted_by}`}>${t`${count(value)} of ${count(limit)}, peak ${count(peak)}`}</span>`]),
  [t("Refused"), html`${count(total(now.refused))} <${Tags} of=${Object.entries(causes()).filter(([cause]) => now.refused[cause]).map(([cause, name]) => `${name} ${count(now.refused[cause])}`)} />`],
]} />`;

/** A column with what each tenant was refused today. refusals: as /api/v1/refusals has them */
export function refusedColumn(refusals) {
  const by = new Map(refusals.map((one) => [one.tenant, total(one.refused)]));
  return { key: "refused", label: t("Refused today"), number: true, value: (tenant) => by.get(tenant.name) ?? 0, cell: (tenant) => count(by.get(tenant.name) ?? 0) };
}
