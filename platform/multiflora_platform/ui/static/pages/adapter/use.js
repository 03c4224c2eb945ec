/** Code that calls this adapter, in the languages people use. */
import { html, useState } from "../../lib/html.js";
import { t } from "../../lib/language.js";
import { exported } from "../../lib/snippets.js";
import { Card } from "../../components/bits.js";
import { Snippets } from "../../components/code.js";
import { Select } from "../../components/fields.js";

export default function UseIt({ adapter }) {
  const [model, setModel] = useState(adapter.name);
  const names = [
    [adapter.name, t`${adapter.name} (follows default)`],
    ...Object.keys(adapter.aliases).filter((alias) => alias !== "default").map((alias) => [`${adapter.name}@${alias}`, `${adapter.name}@${alias}`]),
    ...adapter.ready_versions.toReversed().map((version) => [`${adapter.name}@${version}`, t`${adapter.name}@${version} (always this version)`]),
  ];
  const body = { model, temperature: 0, messages: [{ role: "user", content: adapter.demo_prompt || t("Hello!") }] };
  return html`<${Card} title=${t("Use it")} about=${t("The key is read from MULTIFLORA_API_KEY")}><div class="stack">
    <div class="form-grid"><${Select} label=${t("Model")} value=${model} onChange=${setModel} of=${names} /></div>
    <${Snippets} of=${exported({ path: "/v1/chat/completions", body })} />
  </div><//>`;
}
