/** The server's measurements over time: a window of them, and each new one as it comes. */
import { useEffect, useState } from "./html.js";
import { get, online } from "./api.js";

/**
 * @param {number} span seconds
 * @returns {{points: Array|undefined, interval: number, error: Error|null, reload: () => void}}
 * Short windows follow the stream, one point a second; longer ones are asked for again as their points come.
 */
export function useSeries(span) {
  const [state, setState] = useState({ points: undefined, interval: 1, error: null });
  const [again, setAgain] = useState(0);
  useEffect(() => {
    const abort = new AbortController();
    const load = () => get(`/api/v1/series?window=${span}`, { signal: abort.signal }).then(
      ({ points, interval }) => setState({ points, interval, error: null }),
      (error) => error.name !== "AbortError" && setState((old) => ({ ...old, error })),
    );
    setState((old) => ({ ...old, points: undefined }));
    load();
    const stop = span <= 900 ? follow(span, setState) : every(60, load);
    const back = online.subscribe((value) => value && abort.missed && load());
    abort.missed = true;
    return () => {
      abort.abort();
      stop();
      back();
    };
  }, [span, again]);
  return { ...state, reload: () => setAgain((count) => count + 1) };
}

function follow(span, setState) {
  const source = new EventSource("/api/v1/series/stream");
  const take = (event) => {
    const point = JSON.parse(event.data);
    if (document.hidden && point.at % 5 >= 1) return;
    setState((old) => {
      if (!old.points || (old.points.length && old.points.at(-1).at >= point.at)) return old;
      return { ...old, points: [...old.points.filter((one) => one.at > point.at - span), point] };
    });
  };
  source.addEventListener("point", take);
  source.onmessage = take;
  return () => source.close();
}

function every(seconds, work) {
  const timer = setInterval(() => !document.hidden && work(), seconds * 1000);
  return () => clearInterval(timer);
}
