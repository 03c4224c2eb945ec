/** Which requests stand on one axis of time, and from when to when it goes. */

const MOST = 30;
const endOf = (request) => request.timeline.at(-1).end;

/**
 * @param {Array} requests newest first
 * @param {number} span seconds before the last end among them, or the last look at one that runs
 * @returns {{lanes: Array, from: number, until: number, left: number}} lanes: in the order they came, those that run and the
 *   newest; from, until: Unix seconds; left: how many more there were in that time
 */
export function lanesOf(requests, span) {
  const begun = requests.filter((one) => one.timeline.length);
  const until = Math.max(...begun.map(endOf));
  const within = begun.filter((one) => endOf(one) > until - span);
  const [running, ended] = [true, false].map((runs) => within.filter((one) => (one.status === null) === runs));
  const lanes = [...running, ...ended].slice(0, MOST).sort((a, b) => a.at - b.at);
  return { lanes, from: Math.max(until - span, lanes[0]?.at ?? 0), until, left: within.length - lanes.length };
}
