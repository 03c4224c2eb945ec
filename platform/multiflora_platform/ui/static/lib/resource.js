/** Something that a page loads: its data, its error, and when it is loaded again. */
import { useCallback, useEffect, useRef, useState } from "./html.js";
import { online } from "./api.js";
import { follow } from "./live.js";

/**
 * @param {(signal: AbortSignal) => Promise<any>} load
 * @param {any[]} inputs what `load` depends on: when one of them changes, the data is another's and is dropped
 * @param {{watch?: string[], pause?: number, stamp?: any}} options watch: kinds of things (see live.js) whose changes at the server
 *   make it load the data again, at most once in `pause` seconds; stamp: when it changes, likewise, at once
 * Data of the last good load stays until a later one succeeds: what is open on it stays open.
 */
export function useResource(load, inputs, { watch = [], pause = 1, stamp } = {}) {
  const [state, setState] = useState({ data: undefined, error: null, loading: true });
  const current = useRef(null);
  const reload = useCallback(() => {
    current.current?.abort();
    const abort = new AbortController();
    current.current = abort;
    abort.ended = load(abort.signal).then(
      (data) => !abort.signal.aborted && setState({ data, error: null, loading: false }),
      (error) => error.name !== "AbortError" && !abort.signal.aborted && setState((old) => ({ ...old, error, loading: false })),
    );
    return abort.ended;
  }, inputs);
  // What is being loaded is shown before it is loaded again: otherwise a list that takes longer than the pause would never be there.
  const look = useCallback(() => current.current.ended.then(reload), [reload]);
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
  useEffect(() => follow(watch, pause, look), [look, watch.join(), pause]);
  return { ...state, reload, setData: (data) => setState({ data, error: null, loading: false }) };
}
