/** One webhook: what it is told of, and what became of each delivery. */
import { html, useState } from "../lib/html.js";
import { get, post, remove } from "../lib/api.js";
import { t } from "../lib/language.js";
import { useNewest } from "../lib/newest.js";
import { useResource } from "../lib/resource.js";
import { go } from "../lib/router.js";
import { toast } from "../lib/toasts.js";
import { hostOf, pathOf, unchanged } from "../lib/webhooks.js";
import { Card, Facts, PageHeader, Tags, Time } from "../components/bits.js";
import { ConfirmByName } from "../components/dialog.js";
import { Loaded } from "../components/states.js";
import { Enabled, Switch, Test } from "./webhooks/actions.js";
import { Choice, Deliveries } from "./webhooks/deliveries.js";
import { ShowSecret, WebhookForm } from "./webhooks/webhook-form.js";


export default function WebhookPage({ id }) {
  const path = pathOf({ id });
  const [open, setOpen] = useState(null);
  const [made, setMade] = useState(null);
  const close = () => setOpen(null);
  const webhook = useResource((signal) => get(path, { signal }), [path], { watch: ["records"], pause: 3 });
  const deliveries = useNewest(`${path}/deliveries`, { watch: ["records"], pause: 3 });
  const one = webhook.data;
  const reload = () => {
    webhook.reload();
    deliveries.reload();
  };
  return html`<${PageHeader} title=${t("Webhook")} back=${{ to: "/webhooks", label: t("Webhooks") }} actions=${one && html`
      <${Test} one=${one} onChange=${reload} /><${Switch} one=${one} onChange=${reload} />
      <button class="button" onClick=${() => setOpen("form")}>${t("Edit…")}</button>
      <button class="button" onClick=${() => setOpen("rotate")}>${t("New secret…")}</button>
      <button class="button danger" onClick=${() => setOpen("delete")}>${t("Delete…")}</button>`} />
    <${Loaded} resource=${webhook}>${(data) => html`<${Card}><${About} of=${data} /><//>
      <${Card} title=${t("Deliveries")} about=${t("Kept for a week")} flush actions=${html`<${Choice} />`}><${Loaded} resource=${deliveries}>${(list) => html`<${Deliveries} webhook=${data} data=${list} onChange=${deliveries.reload} />`}<//><//>`}<//>
    ${open === "form" && html`<${WebhookForm} webhook=${one} onClose=${close} onChange=${reload} />`}
    ${open === "rotate" && html`<${ConfirmByName} title=${t("Create a new secret?")} name=${hostOf(one)} action=${t("Create a new secret")} onClose=${close} onConfirm=${async () => { setMade(await rotate(one)); reload(); }}>
      ${t("The old one signs nothing from now on: the receiver refuses messages until it knows the new one.")}<//>`}
    ${open === "delete" && html`<${ConfirmByName} title=${t("Delete this webhook?")} name=${hostOf(one)} action=${t("Delete")} onClose=${close} onConfirm=${() => drop(one)}>
      ${t("Its deliveries are deleted with it, those that are still to be sent as well.")}<//>`}
    ${made && html`<${ShowSecret} made=${made} onClose=${() => setMade(null)} />`}`;
}

const About = ({ of }) => html`<${Facts} of=${[
  ["URL", html`<code class="break">${of.url}</code>`], [t("State"), html`<${Enabled} of=${of} />`], [t("Events"), html`<${Tags} of=${of.events} />`],
  of.description && [t("Description"), of.description], [t("Created"), html`<${Time} at=${of.created_at} /> ${t`by ${of.created_by}`}`], [t("Id"), html`<code>${of.id}</code>`],
]} />`;

const rotate = (one) => post(`${pathOf(one)}:rotate`, undefined, unchanged(one));

async function drop(one) {
  await remove(pathOf(one), unchanged(one));
  toast(t`${hostOf(one)} is told of nothing any more.`);
  go("/webhooks");
}
