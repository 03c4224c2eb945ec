/** The model card of an adapter's newest version that has one. */
import { html } from "../../lib/html.js";
import { get } from "../../lib/api.js";
import { t } from "../../lib/language.js";
import { cardElements } from "../../lib/model-card.js";
import { useResource } from "../../lib/resource.js";
import { Card } from "../../components/bits.js";
import { Empty, Loaded } from "../../components/states.js";

export function ModelCard({ versions, api }) {
  const newest = versions.find((one) => one.has_card);
  if (!newest) return html`<div class="card"><${Empty} title=${t("No model card")}>${t("Put a README.md beside the adapter's files when you register a version; it is shown here.")}<//></div>`;
  return html`<${Shown} api=${api} version=${newest.version} />`;
}

function Shown({ api, version }) {
  const card = useResource((signal) => get(`${api}/versions/${version}/card`, { signal }), [api, version]);
  return html`<${Card} title=${t`Model card of version ${version}`}><${Loaded} resource=${card}>
    ${(data) => html`<div class="prose">${cardElements(data.html ?? "")}</div>`}<//><//>`;
}
