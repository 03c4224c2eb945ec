/** The model card of a version: of the newest that has one, or of another. */
import { html } from "../../lib/html.js";
import { get } from "../../lib/api.js";
import { t } from "../../lib/language.js";
import { cardElements } from "../../lib/model-card.js";
import { useResource } from "../../lib/resource.js";
import { query } from "../../lib/router.js";
import { Card } from "../../components/bits.js";
import { Choice } from "../../components/fields.js";
import { Empty, Loaded } from "../../components/states.js";

export default function ModelCard({ versions, api }) {
  const described = versions.filter((one) => one.has_card);
  if (!described.length) return html`<div class="card"><${Empty} title=${t("No model card")}>${t("Put a README.md beside the adapter's files when you register a version; it is shown here.")}<//></div>`;
  const asked = Number(query.value.get("card"));
  const version = described.some((one) => one.version === asked) ? asked : described[0].version;
  return html`<div class="stack">
    ${described.length > 1 && html`<${Choice} param="card" label=${t("Version")} of=${described.map((one, i) => [i ? String(one.version) : "", `v${one.version}`])} />`}
    <${Shown} api=${api} version=${version} />
  </div>`;
}

function Shown({ api, version }) {
  const card = useResource((signal) => get(`${api}/versions/${version}/card`, { signal }), [api, version]);
  return html`<${Card} title=${t`Model card of version ${version}`}><${Loaded} resource=${card}>
    ${(data) => html`<div class="prose">${cardElements(data.html ?? "")}</div>`}<//><//>`;
}
