/** What can be done with a webhook without opening anything. */
import { html, useState } from "../../lib/html.js";
import { t } from "../../lib/language.js";
import { sendTest, setDisabled } from "../../lib/webhooks.js";
import { Badge } from "../../components/bits.js";

export const Enabled = ({ of }) => html`<${Badge} kind=${of.disabled ? "bad" : "ok"}>${of.disabled ? t("disabled") : t("enabled")}<//>`;

/** kind: of the button. The answer may take seconds: the receiver's is awaited. */
export function Test({ one, onChange, kind = "" }) {
  const [busy, setBusy] = useState(false);
  const send = async () => {
    setBusy(true);
    await sendTest(one);
    setBusy(false);
    onChange();
  };
  return html`<button class=${`button ${kind}`} disabled=${busy} onClick=${send}>${busy ? t("Sending…") : t("Send test")}</button>`;
}

export const Switch = ({ one, onChange, kind = "" }) => html`<button class=${`button ${kind}`} onClick=${() => setDisabled(one, !one.disabled, onChange)}>${one.disabled ? t("Enable") : t("Disable")}</button>`;
