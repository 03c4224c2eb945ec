/** Why prompts miss the prefix cache, in two words. */
import { t } from "./language.js";

/** Why it had no more of a prompt. */
export const reasons = () => ({ first_seen: t("first time"), other_adapter: t("other adapter"), other_tenant: t("other tenant"), other_salt: t("other salt"), evicted: t("evicted"), diverged: t("differs"), whole_prompt_asked: t("whole prompt asked"), engine_restarted: t("engine restarted"), other_replica: t("other engine"), none: t("nothing missed"), too_short: t("too short") });

/** What makes prompts miss over and over at one place. */
export const drifts = () => ({ timestamp: t("time"), uuid: "UUID", nonce: t("new id"), counter: t("counter"), tools_reordered: t("order of tools"), keys_reordered: t("order of keys"), template_date: t("template's date"), template_reasoning: t("reasoning dropped"), template_history: t("template rewrites") });

/** All causes that an explanation names: what differs, or why the same was not there. */
export const causes = () => ({
  ...reasons(), ...drifts(), tools_changed: t("other tools"), format_changed: t("other options"), history_edited: t("history edited"),
  reasoning_dropped: t("reasoning dropped"), adapter_version: t("other version"),
});
