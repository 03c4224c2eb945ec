/** The adapters with all that is known of each: from the registry, the engine and the activity. */
import { get, getAll } from "./api.js";
import { isAdmin } from "./session.js";

const ORDER = { slot: 0, cpu: 1, disk: 2 };
/** What only some keys or servers have is left out, not a failure of the page. */
const optional = (promise, instead) => promise.catch((error) => {
  if (error.name === "AbortError" || error.status === 0 || error.status === 401) throw error;
  return instead;
});

export const loadAdapters = (signal) => getAll("/api/v1/adapters", { signal });

/** Changes by the second: residency, requests, speed, last use. `uses` is null where it is not known. */
export async function loadActivity(signal) {
  if (!isAdmin.value) return { replicas: [], uses: null };
  const [replicas, uses] = await Promise.all([
    optional(get("/api/v1/replicas?on_disk=false", { signal }), { items: [] }),
    optional(get("/api/v1/activity", { signal }), null),
  ]);
  return { replicas: replicas.items, uses: uses && new Map(uses.items.map((one) => [one.adapter, one])) };
}

/** Of an adapter that /api/v1/activity does not name. */
export const NOT_USED = { requests: 0, by_day: [], ended_requests: 0, error_share: null, last_day: null, last_used_at: null, timed_answers: 0, p95_seconds: null, tokens_per_second: 0 };

/** One row for each adapter. What no engine holds is on disk. */
export function joined(adapters, activity) {
  const residency = new Map();
  const elsewhere = activity?.replicas.length ? "disk" : null;
  for (const replica of activity?.replicas ?? []) {
    for (const one of replica.adapters) {
      const known = residency.get(one.digest);
      if (!known || ORDER[one.residency] < ORDER[known.residency]) residency.set(one.digest, one);
    }
  }
  return adapters.map((adapter) => {
    const use = activity?.uses && (activity.uses.get(adapter.name) ?? NOT_USED);
    const version = defaultVersion(adapter);
    const held = residency.get(adapter.digests?.[version]);
    return {
      ...adapter,
      version,
      residency: held?.residency ?? (version && elsewhere),
      pinned: held?.pinned ?? false,
      rank: held?.rank || (adapter.rank ?? null),
      bytes: held?.bytes || null,
      use,
      requests: use?.requests ?? null,
      speed: use?.tokens_per_second ?? null,
      p95: use?.p95_seconds ?? null,
      errors: use?.error_share ?? null,
      used: use && (use.last_used_at ?? (use.last_day && Date.parse(use.last_day) / 1000)),
    };
  });
}

/** The version that most of `model=name` means; null when it means none. */
export function defaultVersion({ aliases }) {
  const target = aliases?.default;
  if (!target) return null;
  if (target.version) return target.version;
  return Number(Object.entries(target.split).sort((a, b) => b[1] - a[1])[0][0]);
}
