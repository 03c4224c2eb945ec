/** Something that a page loads: its data, its error, and how fresh it is. */
import { useCallback, useEffect, useRef, useState } from "./html.js";
import { online } from "./api.js";

/**
 * @param {(signal: AbortSignal) => Promise<any>} load
 * @param {any[]} inputs what `load` depends on: when one of them changes, the data is another's and is dropped
 * @param {{every?: number, stamp?: any}} options every: seconds between looks, while the page is visible;
 *   stamp: when it changes, the same data is loaded again
 * Data of the last good load stays until a later one succeeds: what is open on it stays open.
 */
export function useResource(load, inputs, { every, stamp } = {}) {
  const [state, setState] = useState({ data: undefined, error: null, loading: true });
  const current = useRef(null);
  const reload = useCallback(async () => {
    current.current?.abort();
    const abort = new AbortController();
    current.current = abort;
    try {
      const data = await load(abort.signal);
      if (!abort.signal.aborted) setState({ data, error: null, loading: false });
    } catch (error) {
      if (error.name !== "AbortError" && !abort.signal.aborted) setState((old) => ({ ...old, error, loading: false }));
    }
  }, inputs);
  useEffect(() => {
    setState({ data: undefined, error: null, loading: true });
    reload();
    const back = online.subscribe((value) => value && current.current?.failed && reload());
    return () => {
      back();
      current.current?.abort();
    };
  }, [reload]);
  useEffect(() => {
    if (current.current) current.current.failed = Boolean(state.error);
  }, [state.error]);
  const loadedAt = useRef(stamp);
  useEffect(() => {
    if (loadedAt.current === stamp) return;
    loadedAt.current = stamp;
    reload();
  }, [stamp]);
  useEffect(() => {
    if (!every) return undefined;
    const timer = setInterval(() => !document.hidden && online.value && reload(), every * 1000);
    return () => clearInterval(timer);
  }, [reload, every]);
  return { ...state, reload, setData: (data) => setState({ data, error: null, loading: false }) };
}
