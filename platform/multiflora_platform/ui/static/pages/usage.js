/** What a tenant used and may use, for itself. */
import { html } from "../lib/html.js";
import { get } from "../lib/api.js";
import { t } from "../lib/language.js";
import { useResource } from "../lib/resource.js";
import { session } from "../lib/session.js";
import { Card, PageHeader } from "../components/bits.js";
import { DriftNotices, useDrift } from "../components/drift-notices.js";
import { UsageDays } from "../components/usage-days.js";
import { UsageTable } from "../components/usage-table.js";
import { Budgets } from "./tenants/budgets.js";
import { LimitBars } from "./tenants/limit-bars.js";

export default function Usage() {
  const budgets = useResource((signal) => get("/api/v1/budgets", { signal }), [], { watch: ["records"], pause: 5 });
  const drift = useDrift(session.value.tenant);
  return html`<${PageHeader} title=${t("Usage and limits")} about=${t("Of all your keys together")} />
    <${DriftNotices} of=${drift ?? []} />
    ${session.value.tenant && html`<${LimitBars} tenant=${session.value.tenant} />`}
    ${budgets.data?.items.length > 0 && html`<${Card} title=${t("Budgets")}><${Budgets} of=${budgets.data.items} /><//>`}
    <${UsageDays} title=${t("Last 30 days")} filter=${{}} />
    <${UsageTable} title=${t("By adapter, since the beginning")} by="adapter" />
    <${UsageTable} title=${t("By key, since the beginning")} by="key" />`;
}
