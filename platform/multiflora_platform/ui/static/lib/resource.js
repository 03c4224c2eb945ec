/** Something that a page loads: its data, its error, and how fresh it is. */
import { useCallback, useEffect, useRef, useState } from "./html.js";
import { online } from "./api.js";

/**
 * @param {(signal: AbortSignal) => Promise<any>} load
 * @param {any[]} inputs load again when one of them changes
 * @param {{every?: number}} options every: seconds between looks, while the page is visible
 * Data of the last good load stays while a later one fails.
 */
export function useResource(load, inputs, { every } = {}) {
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
  useEffect(() => {
    if (!every) return undefined;
    const timer = setInterval(() => !document.hidden && online.value && reload(), every * 1000);
    return () => clearInterval(timer);
  }, [reload, every]);
  return { ...state, reload, setData: (data) => setState({ data, error: null, loading: false }) };
}
