/** What the API's closed sets of values are called: states, stages, events. What is in none of them stands as it is. */
import { t } from "./language.js";

const names = () => ({
  slot: t("on device"), cpu: t("host memory"), disk: t("on disk"),
  ready: t("ready"), succeeded: t("succeeded"), delivered: t("delivered"), rejected: t("rejected"), failed: t("failed"), archived: t("archived"),
  cancelled: t("cancelled"), pending: t("pending"), fetching: t("fetching"), validating: t("validating"), queued: t("queued"), running: t("running"),
  promoted: t("promoted"), completed: t("completed"), passed: t("passed"), error: t("error"), rolled_back: t("rolled back"), aborted: t("aborted"), starting: t("starting"), loading: t("loading"),
  draining: t("draining"), in_progress: t("in progress"), finalizing: t("finalizing"), cancelling: t("cancelling"), expired: t("expired"),
  restarting: t("restarting"), idle: t("idle"), stopped: t("stopped"), degraded: t("degraded"), disabled: t("disabled"), enabled: t("enabled"),
  warm: t("warm"), computing: t("computing"), partial: t("partial"), cold: t("cold"), better: t("better"), worse: t("worse"), same: t("same"), new: t("new"),
  queue: t("queue"), load: t("load"), prefill: t("prefill"), decode: t("decode"), evict: t("evict"), import: t("import"),
  high: t("high"), normal: t("normal"), low: t("low"),
});

export const named = (value) => names()[value] ?? value;
