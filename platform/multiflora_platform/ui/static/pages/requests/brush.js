/** Choosing a range of bins: by a pointer or a finger that is drawn over them, or by keys. What it chooses is in seconds, and so
 * stays where it is when the bins change meanwhile. */
import { useState } from "../../lib/html.js";
import { binAt } from "../../lib/histogram.js";

const spanned = ({ anchor, head }) => [Math.min(anchor.from, head.from), Math.max(anchor.to, head.to)];

/**
 * @param {[number, number]|null} range that is chosen now
 * @param {(range: [number, number]|null) => void} onRange
 * @returns {{range, head, looked, handlers}} range: with what is being drawn; head: the bin where keys go on; looked: the bin that
 *   a pointer or the keys are at, while neither chooses
 */
export function useBrush(bins, range, onRange) {
  // anchor: the bin where it began, head: the one where it is.
  const [cursor, setCursor] = useState(null);
  const [isDrawing, setDrawing] = useState(false);
  const [looked, setLooked] = useState(null);
  const current = cursor ?? (range && ends(bins, range));
  const under = (event) => {
    const { left, width } = event.currentTarget.getBoundingClientRect();
    return binAt((event.clientX - left) / width, bins);
  };
  const onPointerDown = (event) => {
    if (event.button || !event.isPrimary) return;
    event.currentTarget.setPointerCapture(event.pointerId);
    // A finger does not give the focus that Escape and the other keys need.
    event.currentTarget.focus({ preventScroll: true });
    const bin = under(event);
    setCursor({ anchor: bin, head: bin });
    setDrawing(true);
  };
  const onPointerMove = (event) => {
    const bin = under(event);
    setLooked(bin.from);
    if (isDrawing && bin.from !== cursor.head.from) setCursor({ ...cursor, head: bin });
  };
  const onPointerUp = (event) => {
    if (!isDrawing) return;
    setDrawing(false);
    onRange(spanned({ ...cursor, head: under(event) }));
  };
  const step = (event, to) => {
    const next = { anchor: (event.shiftKey && current?.anchor) || to, head: to };
    setCursor(next);
    setLooked(event.shiftKey ? null : to.from);
    if (event.shiftKey) onRange(spanned(next));
  };
  const onKeyDown = (event) => {
    const index = bins.findIndex((bin) => bin.from === current?.head.from);
    const to = { ArrowLeft: Math.max(index - 1, 0), ArrowRight: Math.min(index + 1, bins.length - 1), Home: 0, End: bins.length - 1 }[event.key];
    if (to !== undefined) step(event, bins[to]);
    else if (["Enter", " "].includes(event.key) && current) onRange([current.head.from, current.head.to]);
    else if (event.key === "Escape" && isDrawing) setDrawing(false);
    else if (event.key === "Escape" && range) onRange(null);
    else return;
    event.preventDefault();
  };
  const leave = () => setLooked(null);
  const handlers = { onPointerDown, onPointerMove, onPointerUp, onPointerCancel: () => setDrawing(false), onPointerLeave: leave, onBlur: leave, onKeyDown };
  const found = (from) => bins.find((bin) => bin.from === from);
  return { range: isDrawing ? spanned(cursor) : range, head: found(current?.head.from), looked: isDrawing ? undefined : found(looked), handlers };
}

/** The bins at both ends of a range that the address brought. */
const ends = (bins, [from, to]) => ({ anchor: bins.find((bin) => bin.from >= from) ?? bins.at(-1), head: bins.findLast((bin) => bin.to <= to) ?? bins[0] });
