/**
 * A measured pattern in; its curve without background, and the root of it against 1/d, out.
 *
 * As unimat_powder.search.curve and .amplitude do it, whose comments say why.
 */

import { clamp, clipped, radians, smoothed } from "./grid.mjs";

const STEP = 0.02; // degrees; finer steps are averaged
const SMOOTH = 0.04; // degrees, standard deviation
const HALF_WINDOW = 1.5; // degrees; what is narrower than twice this is a peak
const LEVEL = 2; // standard deviations of the noise that a signal must exceed
const PEAK = 5; // the same for a peak
const [HUMP, SHARP] = [1.5, 0.25]; // degrees; share of a line that smoothing by that takes away
const EVERY = 4; // points between two running medians; between these a line
const G_STEP = 3e-4; // 1/angstrom
const WIDTH = 0.0012; // 1/angstrom, standard deviation of the lines compared
const FEWEST = 3; // peaks

/** What keeps a pattern from being answered; the message says it to a reader. */
export class NoAnswer extends Error {}

/** Means over equal steps. */
function equidistant(x, y) {
  const steps = Float64Array.from({ length: x.length - 1 }, (_, i) => x[i + 1] - x[i]).sort();
  const step = Math.max(STEP, steps[steps.length >> 1]);
  const points = Math.floor((x.at(-1) - x[0]) / step + 1e-6) + 1;
  if (points < 50) throw new NoAnswer(`expected at least 50 points, but came ${points}`);
  const [sums, numbers] = [new Float64Array(points), new Float64Array(points)];
  for (let i = 0; i < x.length; i++) {
    const place = Math.min(Math.floor((x[i] - x[0]) / step + 0.5), points - 1);
    sums[place] += y[i];
    numbers[place]++;
  }
  let last = 0;
  const counts = sums.map((sum, i) => {
    if (numbers[i]) return (last = sum / numbers[i]);
    let next = i;
    while (!numbers[next]) next++; // the last point is always filled
    return (last += (sums[next] / numbers[next] - last) / (next - i + 1));
  });
  return { twoTheta: counts.map((_, i) => x[0] + step * i), counts, step };
}

/** Running median, exact at every fourth point. */
function medians(values, width) {
  const reach = Math.floor(width / 2);
  const exact = [];
  for (let i = 0; i < values.length + EVERY; i += EVERY) {
    const near = values.slice(Math.max(i - reach, 0), i + reach + 1).sort();
    exact.push(near.length ? near[near.length >> 1] : exact.at(-1));
  }
  return values.map((_, i) => {
    const left = Math.floor(i / EVERY);
    return exact[left] + ((i % EVERY) / EVERY) * (exact[left + 1] - exact[left]);
  });
}

const median = (values) => values.slice().sort()[values.length >> 1];
const highest = (values) => values.reduce((a, b) => Math.max(a, b), -Infinity);

/**
 * @param {{twoTheta: number[], intensity: number[], wavelength: number}} pattern
 * @returns {{twoTheta: Float64Array, counts: Float64Array, background: Float64Array,
 *   signal: Float64Array, peaks: number[]}} On equal steps; the signal is zero where noise explains
 *   it, and peaks are places of what clearly stands out.
 */
export function measuredCurve(pattern) {
  const inside = pattern.twoTheta.map((_, i) => i).filter((i) => pattern.twoTheta[i] > 0.5 && pattern.twoTheta[i] < 175);
  if (inside.length < 50) throw new NoAnswer("expected at least 50 points between 0.5 and 175 degrees");
  const { twoTheta, counts, step } = equidistant(inside.map((i) => pattern.twoTheta[i]), inside.map((i) => pattern.intensity[i]));
  const smooth = smoothed(counts, SMOOTH / step, 4);
  const floor = Math.min(-highest(smooth.map((x) => -x)), 0);
  const scale = 1e4 / Math.max(highest(smooth) - floor, 1e-300);
  const under = clipped(smooth.map((x) => (x - floor) * scale), Math.round(HALF_WINDOW / step));
  const line = under.map((x, i) => Math.min(x / scale + floor, smooth[i]));
  const squares = counts.map((y, i) => (i + 1 < counts.length ? (counts[i + 1] - y) ** 2 / 2 / 0.455 : 0));
  const least = (1e-5 * (highest(counts) - floor)) ** 2;
  const share = Math.min(1, step / (2 * Math.sqrt(Math.PI) * SMOOTH));
  const noise = medians(squares, 1.5 / step).map((v) => Math.sqrt(Math.max(v, least) * share));
  const above = smooth.map((y, i) => y - line[i]);
  const middle = median(above);
  const quiet = above.map((y, i) => (y < 4 * noise[i] + middle ? y : middle));
  const offset = medians(quiet, 4 / step);
  const signal = above.map((y, i) => (y - offset[i] > LEVEL * noise[i] ? y - offset[i] : 0));
  const peaks = peaksOf(signal, noise, step);
  if (peaks.length < FEWEST) throw new NoAnswer("too few lines stand out of the noise");
  const broad = smoothed(signal, HUMP / step);
  if (highest(signal.map((y, i) => y - broad[i])) < SHARP * highest(signal)) {
    throw new NoAnswer("what rises above the background is broad, as of a glass or a liquid");
  }
  return { twoTheta, counts, background: line.map((x, i) => x + offset[i]), signal, peaks };
}

/** Places of maxima that stand out of the noise and fall off on both sides. */
function peaksOf(signal, noise, step) {
  const reach = Math.max(Math.round(0.15 / step), 1);
  const found = [];
  signal.forEach((y, i) => {
    const near = signal.subarray(Math.max(i - reach, 0), i + reach + 1);
    const far = [signal.subarray(Math.max(i - 4 * reach, 0), i + 1), signal.subarray(i, i + 4 * reach + 1)];
    if (y > PEAK * noise[i] && y === highest(near) && far.every((part) => y + highest(part.map((x) => -x)) > PEAK * noise[i])) found.push(i);
  });
  return found;
}

/**
 * The root of a curve against g = 1/d, of norm 1, smoothed, to be looked up at any line.
 *
 * @param {ReturnType<typeof measuredCurve>} curve
 * @param {number} wavelength In angstrom.
 */
export function amplitudeOf({ twoTheta, signal }, wavelength) {
  const g = twoTheta.map((x) => (2 * Math.sin(radians(x / 2))) / wavelength);
  const [start, end] = [g[0], g.at(-1)];
  let at = 0;
  const root = Float64Array.from({ length: Math.ceil((end - start) / G_STEP) }, (_, i) => {
    const here = start + i * G_STEP;
    while (at < g.length - 2 && g[at + 1] < here) at++;
    const part = (here - g[at]) / (g[at + 1] - g[at]);
    return Math.sqrt(signal[at] + part * (signal[at + 1] - signal[at]));
  });
  const norm = Math.sqrt(root.reduce((sum, y) => sum + y * y, 0) * G_STEP);
  const reach = WIDTH / G_STEP;
  let square = 0; // of the kernel's sum of squares, to turn a mean into an overlap
  let total = 0;
  for (let k = -4 * reach; k <= 4 * reach; k++) {
    square += Math.exp(-((k / reach) ** 2)) * G_STEP;
    total += Math.exp(-((k / reach) ** 2) / 2);
  }
  const factor = ((total / Math.sqrt(square)) * G_STEP) / norm;
  const value = smoothed(root, reach, 4).map((y) => y * factor);
  /** Overlap with a line at g; 0 outside of what was measured. */
  const overlap = (here) => {
    if (here < start || here > end) return 0;
    const place = clamp((here - start) / G_STEP, 0, value.length - 1.001);
    const left = Math.floor(place);
    return value[left] + (place - left) * (value[left + 1] - value[left]);
  };
  return { overlap, start, end, wavelength, share: root.map((y) => (y / norm) ** 2 * G_STEP), step: G_STEP };
}
