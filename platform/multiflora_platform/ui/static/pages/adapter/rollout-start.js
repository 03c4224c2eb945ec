/** A rollout started: which candidate, to whom, within which bounds, and why. */
import { html, useState } from "../../lib/html.js";
import { post } from "../../lib/api.js";
import { t } from "../../lib/language.js";
import { toast } from "../../lib/toasts.js";
import { Dialog } from "../../components/dialog.js";
import { Select, TextField } from "../../components/fields.js";

/** Of a text such as "1, 10, 50"; null where it is none, [] of an empty one. */
export function stepsOf(text) {
  const steps = text.split(",").map((part) => part.trim()).filter(Boolean).map(Number);
  return steps.every((step, i) => Number.isInteger(step) && step > (steps[i - 1] ?? 0) && step < 100) ? steps : null;
}

export function StartRollout({ candidates, alias, path, onClose, onChange }) {
  const [candidate, setCandidate] = useState(String(candidates.at(-1)));
  const [part, setPart] = useState("10");
  const [shadow, setShadow] = useState("0");
  const [errors, setErrors] = useState("5");
  const [ratio, setRatio] = useState("");
  const [steps, setSteps] = useState("");
  const [minutes, setMinutes] = useState("5");
  const [why, setWhy] = useState("");
  const [problem, setProblem] = useState("");
  const start = async (event) => {
    event.preventDefault();
    const shares = stepsOf(steps);
    if (!shares) {
      setProblem(t("Steps are whole percentages that grow, such as 1, 10, 50; everybody follows by itself."));
      return;
    }
    const body = { candidate: Number(candidate), percent: Number(part), shadow_percent: Number(shadow), max_error_rate: Number(errors) / 100, why };
    if (ratio) body.max_p95_ratio = Number(ratio);
    if (shares.length) Object.assign(body, { percent: 0, steps: shares, step_seconds: 60 * Number(minutes) });
    try {
      await post(`${path}/rollout`, body, { headers: { "If-Match": alias.etag } });
      toast(t`${body.steps?.[0] ?? part}% of ${alias.alias}'s users get v${candidate}.`);
      onChange();
      onClose();
    } catch (error) {
      setProblem(error.message);
    }
  };
  const number = { type: "number", min: 0, max: 100, required: true };
  return html`<${Dialog} title=${t`Roll out a version to ${alias.alias}`} onClose=${onClose}><form class="stack" onSubmit=${start}>
    <${Select} label=${t("Candidate")} value=${candidate} onChange=${setCandidate} of=${candidates.toReversed().map((one) => [String(one), t`Version ${one}`])} />
    <${TextField} label=${t("Why")} hint=${t("Optional, for whoever looks at it later")} maxlength="1000" value=${why} onInput=${setWhy} />
    <div class="form-grid">
      <${TextField} label=${t("Users that get it, %")} ...${number} max="99" value=${part} onInput=${setPart} />
      <${TextField} label=${t("Steps by itself, %")} hint=${t("Such as 1, 10, 50; then everybody. Empty: by hand")} value=${steps} onInput=${setSteps} />
      <${TextField} label=${t("Minutes at each step")} type="number" min="0.1" step="any" required value=${minutes} onInput=${setMinutes} />
      <${TextField} label=${t("Requests copied to it, %")} hint=${t("Answers are compared, nobody sees them")} ...${number} value=${shadow} onInput=${setShadow} />
      <${TextField} label=${t("Roll back above errors, %")} hint=${t("More than the stable version has")} ...${number} value=${errors} onInput=${setErrors} />
      <${TextField} label=${t("Roll back above p95 ratio")} hint=${t("To the stable version; empty: never")} type="number" min="1" step="0.1" value=${ratio} onInput=${setRatio} />
    </div>
    ${problem && html`<p class="problem" role="alert">${problem}</p>`}
    <footer><button type="button" class="button" onClick=${onClose}>${t("Cancel")}</button><button class="button primary">${t("Start")}</button></footer>
  </form><//>`;
}
