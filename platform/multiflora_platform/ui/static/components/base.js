/** What shows one of several base models: the choice of it, in the address, and the page's part that is its engines'. */
import { html } from "../lib/html.js";
import { ofBase } from "../lib/bases.js";
import { t } from "../lib/language.js";
import { query } from "../lib/router.js";
import { Choice } from "./fields.js";
import { Empty, Skeleton } from "./states.js";

const nameOf = (item) => (item.is_default ? "" : item.name);

/** Nothing where there is only one. of: useBases() */
export function BaseChoice({ of: items }) {
  const asked = query.value.get("model") ?? "";
  const choices = items.map((one) => [nameOf(one), one.name]);
  if (asked && items.length && !choices.some(([value]) => value === asked)) choices.push([asked, asked]);
  return choices.length > 1 && html`<${Choice} param="model" label=${t("Base model")} of=${choices} />`;
}

/** of: useBases(); children: drawn anew for another base model, and instead of them why there is nothing of one that idles. */
export function OfBase({ of: items, children }) {
  const asked = query.value.get("model") ?? "";
  if (asked && !items.length) return html`<${Skeleton} lines=${8} />`;
  const idle = items.find((one) => nameOf(one) === asked && one.state === "idle");
  return idle ? html`<div class="card"><${Empty} title=${t`${idle.name} is idle`}>${t("No engine of it runs: no request has come for a while. The next one starts it.")}<//></div>` : html`<div class="stack" key=${ofBase("")}>${children}</div>`;
}
