/** The one stream on which the server tells what has changed: what is shown is asked for again when it has, and never in between. */
import { signal, useEffect, useState } from "./html.js";
import { get, online, send } from "./api.js";
import { events } from "./sse.js";

/** Of each kind of things, the server's stamp: another one when something of the kind has changed. Empty until it is known. */
const stamps = { records: signal(""), adapters: signal(""), requests: signal(""), engines: signal(""), alerts: signal("") };
/** The newest second of the series, for administrators. */
const newest = signal(null);
const AGAIN_MS = 2000;
/** After a look, times as long as it took: what is long or slow is looked at more seldom. */
const REST = 20;
/** Seconds up to which the series has a point a second. */
const FINE = 900;
const COARSE_SECONDS = 60;

/** From now on, while the window is seen. @returns what ends it */
export function startLive() {
  let abort = null;
  const look = () => {
    abort?.abort();
    abort = document.hidden ? null : new AbortController();
    if (abort) listen(abort.signal);
  };
  document.addEventListener("visibilitychange", look);
  look();
  return () => {
    document.removeEventListener("visibilitychange", look);
    abort?.abort();
  };
}

/** Comes again when the stream ends, until it is told to leave; a session that is over is told by `send`. */
async function listen(leaving) {
  while (!leaving.aborted) {
    try {
      for await (const text of events(await send("GET", "/api/v1/live", { signal: leaving }))) take(JSON.parse(text));
    } catch (error) {
      if (error.status >= 400 && error.status < 500) return;
    }
    await new Promise((resume) => setTimeout(resume, AGAIN_MS));
  }
}

function take({ changed = {}, point }) {
  for (const [kind, stamp] of Object.entries(changed)) if (kind in stamps) stamps[kind].value = stamp;
  if (point) newest.value = point;
}

/**
 * Calls `look` when something of these kinds has changed: one look after the other, at most one in `pause` seconds.
 * @param {Array<"records"|"adapters"|"requests"|"engines"|"alerts">} kinds
 * @param {() => Promise<void>} look
 * @returns what ends it
 */
export function follow(kinds, pause, look) {
  let notBefore = Date.now() + 1000 * pause;
  let isNews = false;
  let isOver = false;
  // From the news until the look that it leads to has ended.
  let timer = null;
  const plan = () => { timer ??= setTimeout(again, Math.max(0, notBefore - Date.now())); };
  const again = async () => {
    const began = Date.now();
    isNews = false;
    await look();
    notBefore = Math.max(began + 1000 * pause, Date.now() + REST * (Date.now() - began));
    timer = null;
    if (isNews && !isOver) plan();
  };
  const note = (stamp, known) => {
    isNews ||= stamp !== known;
    if (isNews) plan();
    return stamp;
  };
  const ends = kinds.map((kind) => {
    let known = stamps[kind].peek();
    return stamps[kind].subscribe((stamp) => { known = note(stamp, known); });
  });
  return () => {
    isOver = true;
    for (const end of ends) end();
    clearTimeout(timer);
  };
}

/**
 * The server's measurements over time: a window of them, and each new one as it comes.
 * @param {number} span seconds
 * @returns {{points: Array|undefined, interval: number, error: Error|null, reload: () => void}}
 */
export function useSeries(span) {
  const [state, setState] = useState({ points: undefined, interval: 1, error: null });
  const [again, setAgain] = useState(0);
  useEffect(() => {
    const abort = new AbortController();
    let loadedAt = 0;
    const load = () => {
      loadedAt = Date.now();
      return get(`/api/v1/series?window=${span}`, { signal: abort.signal }).then(
        ({ points, interval }) => setState({ points, interval, error: null }),
        (error) => error.name !== "AbortError" && setState((old) => ({ ...old, error })),
      );
    };
    setState((old) => ({ ...old, points: undefined }));
    load();
    const isFine = span <= FINE;
    const stop = newest.subscribe((point) => {
      if (!point) return;
      if (isFine) setState((old) => added(old, point, span));
      else if (Date.now() - loadedAt >= 1000 * COARSE_SECONDS) load();
    });
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

function added(old, point, span) {
  if (!old.points || (old.points.length && old.points.at(-1).at >= point.at)) return old;
  return { ...old, points: [...old.points.filter((one) => one.at > point.at - span), point] };
}
