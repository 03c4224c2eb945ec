/** One tenant: its limits, its keys, what it used. */
import { html, useState } from "../lib/html.js";
import { get, patch } from "../lib/api.js";
import { percent } from "../lib/format.js";
import { t } from "../lib/language.js";
import { useResource } from "../lib/resource.js";
import { attempt } from "../lib/toasts.js";
import { named } from "../lib/values.js";
import { Badge, Card, PageHeader, Stats } from "../components/bits.js";
import { Loaded } from "../components/states.js";
import { DriftNotices, useDrift } from "../components/drift-notices.js";
import { UsageDays } from "../components/usage-days.js";
import { UsageTable } from "../components/usage-table.js";
import { Budgets } from "./tenants/budgets.js";
import { Keys } from "./tenants/keys.js";
import { LimitBars } from "./tenants/limit-bars.js";
import { NewKey } from "./tenants/new-key.js";
import { TenantForm } from "./tenants/tenant-form.js";

export default function TenantPage({ name }) {
  const path = `/api/v1/tenants/${encodeURIComponent(name)}`;
  const [open, setOpen] = useState(null);
  const tenant = useResource((signal) => get(path, { signal }), [path], { watch: ["records"], pause: 3 });
  const keys = useResource((signal) => get(`/api/v1/keys?tenant=${encodeURIComponent(name)}`, { signal }), [name], { watch: ["records"], pause: 3 });
  const budgets = useResource((signal) => get(`/api/v1/budgets?tenant=${encodeURIComponent(name)}`, { signal }), [name], { watch: ["records"], pause: 5 });
  const drift = useDrift(name);
  const one = tenant.data;
  const changed = () => (tenant.reload(), budgets.reload());
  const able = (disabled) => attempt(() => patch(path, { disabled }), disabled ? t`${name} is disabled: its keys are refused.` : t`${name} may send requests again.`,
    disabled ? { undo: () => able(false) } : undefined).then(tenant.reload);
  return html`<${PageHeader} title=${name} back=${{ to: "/tenants", label: t("Tenants and keys") }} actions=${one && html`
      ${one.disabled && html`<${Badge} kind="bad">${t("disabled")}<//>`}
      <button class="button" onClick=${() => able(!one.disabled)}>${one.disabled ? t("Enable") : t("Disable")}</button>
      <button class="button" onClick=${() => setOpen("limits")}>${t("Change limits…")}</button>
      <button class="button primary" onClick=${() => setOpen("key")}>${t("New key")}</button>`} />
    <${DriftNotices} of=${drift ?? []} />
    <${Loaded} resource=${tenant}>${(data) => html`<${LimitBars} tenant=${name} /><${Further} of=${data} />`}<//>
    ${budgets.data?.items.length > 0 && html`<${Card} title=${t("Budgets")} about=${t("Of all servers together, by days and months of UTC")}><${Budgets} of=${budgets.data.items} /><//>`}
    <${UsageDays} title=${t("Usage, last 30 days")} filter=${{ tenant: name }} />
    <${UsageTable} title=${t("By adapter, since the beginning")} by="adapter" filter=${{ tenant: name }} />
    <${UsageTable} title=${t("By key, since the beginning")} by="key" filter=${{ tenant: name }} />
    <${Card} title=${t("Keys")} flush><${Loaded} resource=${keys}>${({ items }) => html`<${Keys} items=${items} onChange=${keys.reload} />`}<//><//>
    ${open === "limits" && html`<${TenantForm} tenant=${one} onClose=${() => setOpen(null)} onChange=${changed} />`}
    ${open === "key" && html`<${NewKey} tenants=${[name]} tenant=${name} onClose=${() => setOpen(null)} onChange=${keys.reload} />`}`;
}

const Further = ({ of }) => html`<${Stats} label=${t("Limits")} of=${[[t("Cache share"), percent(of.kv_share)], [t("Priority"), named(of.priority)], [t("Adapters"), of.allowed_adapters.join(", ")]]} />`;
