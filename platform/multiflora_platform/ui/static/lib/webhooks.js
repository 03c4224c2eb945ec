/** Webhooks and what became of their deliveries. Knows no markup. */
import { get, patch, post } from "./api.js";
import { t } from "./language.js";
import { attempt, toast } from "./toasts.js";

export const pathOf = (webhook) => `/api/v1/webhooks/${encodeURIComponent(webhook.id)}`;
/** What stands for a webhook in sentences, and is typed before it is deleted. */
export const hostOf = (webhook) => webhook.url.split(/[/?#]/)[2];
export const unchanged = (webhook) => ({ headers: { "If-Match": webhook.etag } });

/** All, each with `last`: its newest delivery, or null. */
export async function loadWebhooks(signal) {
  const { items } = await get("/api/v1/webhooks", { signal });
  const newest = async (one) => (await get(`${pathOf(one)}/deliveries?limit=1`, { signal })).items[0] ?? null;
  return Promise.all(items.map(async (one) => ({ ...one, last: await newest(one) })));
}

export const sendTest = (webhook) => attempt(async () => {
  const delivery = await post(`${pathOf(webhook)}:test`);
  toast(delivery.state === "delivered" ? t`${hostOf(webhook)} took the test message: ${delivery.last_status}.` : t`The test message was not taken: ${delivery.last_error}`);
});

/** @param {() => any} onChange also called when it was undone */
export async function setDisabled(webhook, disabled, onChange) {
  await attempt(async () => {
    const changed = await patch(pathOf(webhook), { disabled }, unchanged(webhook));
    toast(disabled ? t`${hostOf(webhook)} is told of nothing; what happens meanwhile is not sent later.` : t`${hostOf(webhook)} is told of what happens from now on.`,
      disabled ? { undo: () => setDisabled(changed, false, onChange) } : undefined);
  });
  onChange();
}
