/** How values of a kind are written, and at which steps an axis of them has its marks: round ones in the unit that is written. */
import { bytes, count, percent, rate, seconds } from "./format.js";

const decimal = (from, to) => Array.from({ length: to - from }, (_, i) => 10 ** (i + from)).flatMap((ten) => [ten, 2 * ten, 5 * ten]);
const binary = Array.from({ length: 50 }, (_, i) => 2 ** i);

export const UNITS = {
  bytes: { format: bytes, steps: binary },
  count: { format: count, steps: decimal(0, 12) },
  percent: { format: percent, steps: [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5] },
  rate: { format: rate, steps: decimal(-1, 9) },
  seconds: { format: seconds, steps: decimal(-6, 5) },
};
