/** Lists that grow at their head: the newest are looked at again and again, older ones are loaded on demand. */
import { useRef } from "./html.js";
import { get } from "./api.js";
import { useResource } from "./resource.js";

const FIRST = 100;
/** The most that the API gives in one answer. */
const MOST = 1000;

/** @returns a resource of `{items, hasOlder, loadOlder}`; loadOlder: undefined once as many are loaded as may be */
export function useNewest(path, options) {
  const limit = useRef(FIRST);
  const load = async (signal) => {
    const page = await get(`${path}${path.includes("?") ? "&" : "?"}limit=${limit.current}`, { signal });
    return { items: page.items, hasOlder: Boolean(page.next_page_token) };
  };
  const resource = useResource(load, [path], options);
  const loadOlder = () => {
    limit.current = MOST;
    return resource.reload();
  };
  return { ...resource, data: resource.data && { ...resource.data, loadOlder: resource.data.items.length < MOST ? loadOlder : undefined } };
}
