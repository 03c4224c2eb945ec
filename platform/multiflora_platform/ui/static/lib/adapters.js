/** The adapters with all that is known of each: from the registry, the engine, the last requests and the usage. */
import { get, getAll } from "./api.js";
import { loadRequests } from "./requests.js";
import { quantile } from "./format.js";
import { isAdmin } from "./session.js";

const ORDER = { slot: 0, cpu: 1, disk: 2 };
/** What only some keys or servers have is left out, not a failure of the page. */
const optional = (promise, instead) => promise.catch((error) => {
  if (error.name === "AbortError" || error.status === 0 || error.status === 401) throw error;
  return instead;
});

export const loadAdapters = (signal) => getAll("/api/v1/adapters", { signal });

/** Changes by the second: residency, speed, last use. */
export async function loadActivity(signal) {
  if (!isAdmin.value) return { replicas: [], requests: [], speed: {} };
  const [replicas, requests, series] = await Promise.all([
    optional(get("/api/v1/replicas", { signal }), { items: [] }),
    optional(loadRequests(signal), []),
    optional(get("/api/v1/series?window=60", { signal }), { points: [] }),
  ]);
  return { replicas: replicas.items, requests, speed: meanSpeed(series.points.slice(-10)) };
}

function meanSpeed(points) {
  const sums = {};
  for (const point of points) {
    for (const [model, value] of Object.entries(point.by_model ?? {})) sums[model] = (sums[model] ?? 0) + value / points.length;
  }
  return sums;
}

/** One row for each adapter. */
export function joined(adapters, activity) {
  const residency = new Map();
  for (const replica of activity?.replicas ?? []) {
    for (const one of replica.adapters) {
      const known = residency.get(one.digest);
      if (!known || ORDER[one.residency] < ORDER[known.residency]) residency.set(one.digest, one);
    }
  }
  const requests = Map.groupBy(activity?.requests ?? [], (request) => request.adapter);
  return adapters.map((adapter) => {
    const own = requests.get(adapter.name) ?? [];
    const held = adapter.digests ? residency.get(adapter.digests[defaultVersion(adapter)]) : undefined;
    return {
      ...adapter,
      version: defaultVersion(adapter),
      residency: held?.residency ?? null,
      pinned: held?.pinned ?? false,
      rank: held?.rank || (adapter.rank ?? null),
      bytes: held?.bytes || null,
      requests: own.length,
      speed: activity?.speed[adapter.name] ?? 0,
      p95: quantile(own.map((request) => request.total_seconds), 0.95),
      used: own[0]?.at ?? null,
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
