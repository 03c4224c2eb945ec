/** What happened, in words: of events and of the audit's actions, which have the same names. Knows no markup. */
import { target } from "./format.js";
import { t } from "./language.js";

const nouns = () => ({
  adapter: t("adapter"), alert: t("alert"), alias: t("alias"), batch: t("batch"), cache: t("cached prefix"), context: t("context"), eval: t("eval"), file: t("file"), job: t("job"),
  key: t("key"), model: t("base model"), rollout: t("rollout"), session: t("session"), tenant: t("tenant"), version: t("version"), webhook: t("webhook"),
});

const verbs = () => ({
  aborted: t("stopped"), adjusted: t("adjusted"), archived: t("archived"), budget_warning: t("budget nearly used"), cancelled: t("cancelled"), cancelling: t("being cancelled"),
  changed: t("changed"), cleared: t("over"), closed: t("closed"), completed: t("completed"), created: t("created"), deleted: t("deleted"), drop: t("dropped"), evicted: t("evicted"),
  expired: t("expired"), failed: t("failed"), fetching: t("being fetched"), finalizing: t("nearly done"), in_progress: t("begun"), load: t("loaded"), loading: t("being loaded"),
  moved: t("moved"), opened: t("opened"), pin: t("pinned"), promoted: t("promoted"), protected: t("protected"), purged: t("purged"), raised: t("raised"), ready: t("ready"),
  redelivered: t("sent again"), rejected: t("rejected"), restored: t("restored"), revoked: t("revoked"), rolled_back: t("rolled back"), rotated: t("given a new secret"),
  run_cancelled: t("run cancelled"), run_completed: t("run completed"), run_failed: t("run failed"), run_queued: t("run queued"), split_degraded: t("split with one version that fails"),
  started: t("started"), stepped: t("gone a step further"), superseded: t("superseded"), tested: t("tried"), unload: t("unloaded"),
  unloading: t("being unloaded"), unpin: t("unpinned"), unprotected: t("unprotected"), updated: t("changed"),
});

/** Of a type such as alias.moved; what is not known stands as it is. */
export function eventWords(type) {
  const [noun, verb] = type.split(".");
  return t`${nouns()[noun] ?? noun} ${verbs()[verb] ?? verb.replaceAll("_", " ")}`;
}

const part = (target, place) => encodeURIComponent(target.split(/[@/]/).at(place));
const ofAdapter = (target, asked = "") => `/adapters/${part(target, 0)}${asked}`;
const places = {
  adapter: (target) => ofAdapter(target), alias: (target) => ofAdapter(target, "?tab=aliases"), rollout: (target) => ofAdapter(target, "?tab=aliases"),
  version: (target) => ofAdapter(target, `?compare=${part(target, 1)}`), eval: (target) => ofAdapter(target, "?tab=evals"), batch: () => "/batches", cache: () => "/cache", context: (target) => `/contexts?q=${part(target, 1)}`,
  job: () => "/jobs", key: () => "/tenants?tab=keys", model: () => "/models", tenant: (target) => `/tenants/${encodeURIComponent(target)}`,
  webhook: (target) => `/webhooks/${encodeURIComponent(target)}`,
};

/** The page of what an action was done to; null: it has none any more, or never had. */
export function placeOf(action, target) {
  const [noun, verb] = action.split(".");
  const isGone = verb === "purged" || (verb === "deleted" && ["adapter", "tenant", "webhook"].includes(noun));
  return isGone ? null : places[noun]?.(target) ?? null;
}

const fields = () => ({
  alias: t("alias"), candidate: t("candidate"), eval: t("eval"), eval_version: t("version of the eval"), fields: t("changed"), from: t("from"), lost_tokens: t("lost tokens"), model: t("model"),
  passed: t("passed"), percent: t("percent"), reason: t("because"), run: t("run"), score: t("score"), shadow_percent: t("percent copied"), stable: t("stable"), tenant: t("tenant"),
  to: t("to"), tokens: t("tokens"), total: t("total"), version: t("version"), versions: t("versions"), why: t("why"),
});
/** What says nothing to people. */
const UNSAID = new Set(["digest", "revision"]);

/** An event's payload, or an audit row's detail. */
export function detailWords(detail) {
  return Object.entries(detail ?? {}).filter(([name, value]) => !UNSAID.has(name) && value !== null && value !== "")
    .map(([name, value]) => `${fields()[name] ?? name.replaceAll("_", " ")} ${worded(value)}`).join(", ");
}

function worded(value) {
  if (Array.isArray(value)) return value.map(worded).join(" ");
  if (value && typeof value === "object") return value.version || value.split ? target(value) : detailWords(value);
  return value === true ? t("yes") : value === false ? t("no") : String(value);
}
