/** Base models: their names, and what is asked of the engines of one of them. Knows no markup. */
import { get } from "./api.js";
import { useResource } from "./resource.js";
import { query, withQuery } from "./router.js";

/** A path of the API, asked of the base model that the address names; the default one where it names none. */
export const ofBase = (path) => (query.value.get("model") ? withQuery(path, "model", query.value.get("model")) : path);

/** The server's base models, the default one first; none while they are not known. */
export const useBases = () => useResource((signal) => get("/api/v1/models", { signal }), [], { watch: ["engines", "records"], pause: 5 }).data?.items ?? [];

/** The one of them that the address names, or the default one; undefined while they are not known. */
export const chosenOf = (bases) => bases.find((one) => (query.value.get("model") ? one.name === query.value.get("model") : one.is_default));

/** Of points of the series: names of all base models whose engines ran. */
export const basesOf = (points) => [...new Set(points.flatMap((point) => Object.keys(point.by_base ?? {})))];
export const kvUse = (gauges) => (gauges?.kv_blocks ? gauges.kv_blocks_used / gauges.kv_blocks : null);
