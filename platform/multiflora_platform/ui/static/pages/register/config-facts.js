/** What the chosen files say of themselves, before they are uploaded. */
import { html } from "../../lib/html.js";
import { configIn, factsOf } from "../../lib/adapter-config.js";
import { get } from "../../lib/api.js";
import { t } from "../../lib/language.js";
import { useResource } from "../../lib/resource.js";
import { session } from "../../lib/session.js";
import { Badge, Facts } from "../../components/bits.js";

const loadBases = async (signal) => (await get("/v1/models", { signal })).data.filter((one) => !one.parent).map((one) => one.id);

export function ConfigFacts({ files }) {
  const bases = useResource(loadBases, []).data ?? [session.value.base_model];
  const { data: config, error } = useResource(() => configIn(files), [files]);
  if (error) return html`<p class="problem" role="alert">${t`adapter_config.json cannot be read: ${error.message}.`}</p>`;
  if (!config) return null;
  const { rank, alpha, targets, trainedOn, base, problems } = factsOf(config, { bases, maxRank: session.value.max_lora_rank });
  return html`<section class="stack tight" aria-label=${t("What its configuration says")}><${Facts} of=${[
      [t("Rank"), t`${rank}, alpha ${alpha}`],
      targets && [t("Changes"), targets],
      trainedOn && [t("Trained on"), html`${trainedOn} ${base && html`<${Badge} kind="ok">${t("served here")}<//>`}`],
    ]} />
    ${problems.map(([kind, text]) => html`<p key=${text} class="small"><${Badge} kind=${kind}>${kind === "bad" ? t("would be rejected") : t("look again")}<//> ${text}</p>`)}</section>`;
}
