/**
 * A measured pattern in; what the network looks at, a curve over ln(1/d) and a list of peaks, out.
 *
 * The same steps with the same constants as unimat_powder.preparation, .simulation.prepare and
 * .network.views, whose comments say why; a test holds both against each other.
 */

export const WAVELENGTH = 1.54184; // of the grid, angstrom
const FIRST = 5;
const STEP = 0.02; // degrees
const POINTS = 4251;
const AXIS = 4096; // points over ln g
const MOST = 80; // peaks
const [COARSE, HALF_WINDOW, FLOOR] = [4, 25, 0.003];
const [NOISE_WINDOW, QUIETEST, SMOOTH, APART, VALLEY, ABOVE, LOWEST] = [129, 3e-3, 2, 4, 30, 4, 0.012];

export const radians = (degrees) => (degrees * Math.PI) / 180;
export const degrees = (angle) => (angle * 180) / Math.PI;
export const clamp = (x, low, high) => Math.min(Math.max(x, low), high);

/** (1 + cos^2 2theta) / (sin^2 theta cos theta). */
export function lorentzPolarisation(sine) {
  const square = sine * sine;
  return (1 + (1 - 2 * square) ** 2) / (square * Math.sqrt(Math.max(1 - square, 1e-12)));
}

/** A curve with the mean of a window around each point in place of it; ends go on as they are. */
export function smoothed(curve, deviation, truncate = 3) {
  const reach = Math.round(truncate * deviation);
  const kernel = Array.from({ length: 2 * reach + 1 }, (_, i) => Math.exp(-(((i - reach) / deviation) ** 2) / 2));
  const total = kernel.reduce((a, b) => a + b);
  const last = curve.length - 1;
  return curve.map((_, i) => {
    let sum = 0;
    for (let k = -reach; k <= reach; k++) sum += kernel[k + reach] * curve[clamp(i + k, 0, last)];
    return sum / total;
  });
}

/** Peaks clipped off a curve in place (SNIP), on a double logarithmic and square-root scale. */
export function clipped(curve, halfWindow) {
  let level = Float64Array.from(curve, (x) => Math.log(Math.log(Math.sqrt(Math.max(x, 0) + 1) + 1) + 1));
  let window = Math.min(Math.max(halfWindow, 1), (level.length - 1) >> 1);
  for (; window; window = Math.floor((window * 4) / 5)) {
    const before = level.slice();
    for (let i = window; i < level.length - window; i++) {
      level[i] = Math.min(before[i], (before[i - window] + before[i + window]) / 2);
    }
  }
  return level.map((x) => (Math.exp(Math.exp(x) - 1) - 1) ** 2 - 1);
}

/** Counts on the grid, highest 1, and which points of it were measured. */
export function toGrid({ twoTheta, intensity, wavelength }) {
  const ratio = WAVELENGTH / wavelength;
  const x = [];
  for (const angle of twoTheta) {
    const sine = Math.sin(radians(angle / 2)) * ratio;
    if (sine > 1) break;
    x.push(Math.max(2 * degrees(Math.asin(sine)), x.at(-1) ?? 0));
  }
  const mask = new Uint8Array(POINTS);
  const counts = new Float32Array(POINTS);
  if (x.length < 2) return { counts, mask };
  const area = new Float64Array(x.length);
  for (let i = 1; i < x.length; i++) {
    area[i] = area[i - 1] + ((x[i] - x[i - 1]) * (intensity[i] + intensity[i - 1])) / 2;
  }
  let place = 0;
  const under = (at) => {
    while (place < x.length - 2 && x[place + 1] <= at) place++;
    while (place && x[place] > at) place--;
    const [step, part] = [Math.max(x[place + 1] - x[place], 1e-12), at - x[place]];
    const slope = (intensity[place + 1] - intensity[place]) / step;
    return area[place] + part * (intensity[place] + (slope * part) / 2);
  };
  for (let i = 0; i < POINTS; i++) {
    const point = FIRST + i * STEP;
    if (point < x[0] - STEP / 100 || point > x.at(-1) + STEP / 100) continue;
    mask[i] = 1;
    const [low, high] = [point - STEP / 2, point + STEP / 2].map((end) => clamp(end, x[0], x.at(-1)));
    const mean = Math.max((under(high) - under(low)) / (high - low), 0);
    counts[i] = mean * conversion(Math.sin(radians(point / 2)), wavelength);
  }
  const highest = counts.reduce((a, b) => Math.max(a, b), 0);
  return { counts: highest ? counts.map((c) => c / highest) : counts, mask };
}

/** From the Lorentz-polarisation factor and axis of a wavelength to those of the grid's. */
function conversion(here, wavelength) {
  if (wavelength === WAVELENGTH) return 1;
  const there = (here * wavelength) / WAVELENGTH;
  const stretch = Math.sqrt((1 - here * here) / Math.max(1 - there * there, 1e-12));
  return ((lorentzPolarisation(here) / lorentzPolarisation(there)) * stretch * wavelength) / WAVELENGTH;
}

/** Background off, highest point 1, on a scale between root and line. */
function prepare(counts, mask) {
  const [first, last] = [mask.indexOf(1), mask.lastIndexOf(1)];
  const held = counts.map((_, i) => counts[clamp(i, first, last)]);
  const coarse = new Float64Array(Math.ceil(POINTS / COARSE));
  coarse.forEach((_, i) => {
    for (let k = 0; k < COARSE; k++) coarse[i] += held[Math.min(i * COARSE + k, POINTS - 1)] / COARSE;
  });
  const end = coarse.length - 1;
  const means = coarse.map((_, i) => {
    let sum = 0;
    for (let k = -2; k <= 2; k++) sum += coarse[clamp(i + k, 0, end)];
    return sum / 5;
  });
  const scale = 1e4 / Math.max(means.reduce((a, b) => Math.max(a, b)), 1e-30);
  const under = clipped(means.map((x) => x * scale), HALF_WINDOW).map((x) => x / scale);
  const above = held.map((y, i) => {
    const at = Math.max((i + 0.5) / COARSE - 0.5, 0);
    const left = Math.floor(at);
    const right = under[Math.min(left + 1, end)];
    return mask[i] ? y - (under[left] + (at - left) * (right - under[left])) : 0;
  });
  const highest = Math.max(above.reduce((a, b) => Math.max(a, b)), 1e-30);
  return above.map((y) => (y / highest) * Math.sqrt((1 + FLOOR) / (Math.abs(y / highest) + FLOOR)));
}

/** Local standard deviation of white noise on a prepared curve. */
function noiseOf(prepared, mask) {
  const there = mask.map((m, i) => m && mask[i - 1] && mask[i + 1]);
  const size = prepared.map((p, i) => (there[i] ? Math.abs(p - (prepared[i - 1] + prepared[i + 1]) / 2) : 0));
  const sorted = size.filter((_, i) => there[i]).sort();
  const most = 4 * (sorted[(sorted.length - 1) >> 1] ?? 0);
  const [sums, numbers] = [new Float64Array(POINTS + 1), new Float64Array(POINTS + 1)];
  for (let i = 0; i < POINTS; i++) {
    sums[i + 1] = sums[i] + Math.min(size[i], most);
    numbers[i + 1] = numbers[i] + there[i];
  }
  return prepared.map((_, i) => {
    if (!mask[i]) return 0;
    const [a, b] = [Math.max(i - (NOISE_WINDOW >> 1), 0), Math.min(i + (NOISE_WINDOW >> 1) + 1, POINTS)];
    const number = Math.max(numbers[b] - numbers[a], 1e-6 * NOISE_WINDOW);
    return ((sums[b] - sums[a]) / number) * Math.sqrt(Math.PI / 3);
  });
}

/** The highest peaks: ln g, and height, ln of width, half ln of height over noise. */
function findPeaks(prepared, noise) {
  const smooth = smoothed(prepared, SMOOTH);
  let norm = 0;
  let total = 0;
  for (let k = -6; k <= 6; k++) {
    norm += Math.exp(-(k * k) / 4);
    total += Math.exp(-(k * k) / 8);
  }
  const found = [];
  for (let i = 1; i < POINTS - 1; i++) {
    const height = smooth[i];
    const quiet = (Math.max(noise[i], QUIETEST / 4) * Math.sqrt(norm)) / total;
    const threshold = Math.max(ABOVE * quiet, LOWEST);
    if (height <= threshold) continue;
    let [left, right, highest] = [height, height, height];
    for (let k = 1; k <= VALLEY; k++) {
      left = Math.min(left, smooth[Math.max(i - k, 0)]);
      right = Math.min(right, smooth[Math.min(i + k, POINTS - 1)]);
    }
    for (let k = -APART; k <= APART; k++) highest = Math.max(highest, smooth[i + k] ?? 0);
    if (height < highest || height - Math.max(left, right) <= threshold) continue;
    const bend = Math.max(2 * height - smooth[i - 1] - smooth[i + 1], 1e-6);
    const moved = i + clamp((smooth[i + 1] - smooth[i - 1]) / 2 / bend, -0.5, 0.5);
    const width = Math.sqrt(clamp(height / bend, 0.1, 1e4)) * 2.355 * STEP;
    const lnG = Math.log((2 * Math.sin(radians((FIRST + moved * STEP) / 2))) / WAVELENGTH);
    found.push({ lnG, features: [height, Math.log(width), Math.log(height / quiet) / 2] });
  }
  return found.sort((a, b) => b.features[0] - a.features[0]).slice(0, MOST);
}

/** The points of the axis, equidistant in ln g. */
export function lnGAxis() {
  const [low, high] = [FIRST, FIRST + (POINTS - 1) * STEP].map((x) => Math.log((2 * Math.sin(radians(x / 2))) / WAVELENGTH));
  return Float64Array.from({ length: AXIS }, (_, i) => low + ((high - low) * i) / (AXIS - 1));
}

/** Edges of the axis' intervals as places on the grid. */
const EDGES = (() => {
  const axis = lnGAxis();
  const half = (axis[1] - axis[0]) / 2;
  const edges = [...axis.map((x) => x - half), axis.at(-1) + half];
  return edges.map((x) => clamp((2 * degrees(Math.asin(Math.min((Math.exp(x) * WAVELENGTH) / 2, 1))) - FIRST) / STEP, 0, POINTS - 1));
})();

/** Means of a curve on the grid over the intervals of the axis. */
function overLnG(curve) {
  const total = new Float64Array(POINTS);
  for (let i = 1; i < POINTS; i++) total[i] = total[i - 1] + (curve[i] + curve[i - 1]) / 2;
  const under = EDGES.map((at) => {
    const place = Math.min(Math.floor(at), POINTS - 2);
    const part = at - place;
    return total[place] + part * curve[place] + ((part * part) / 2) * (curve[place + 1] - curve[place]);
  });
  return Float32Array.from({ length: AXIS }, (_, i) => (under[i + 1] - under[i]) / (EDGES[i + 1] - EDGES[i]));
}

/**
 * @param {{twoTheta: ArrayLike<number>, intensity: ArrayLike<number>, wavelength: number}} pattern
 * @returns {{curve: Float32Array[], peaks: {lnG: number, features: number[]}[]} | null} Three
 *   channels over ln g, and peaks by falling height; null: nothing lies in the network's range.
 */
export function viewsOf(pattern) {
  const { counts, mask } = toGrid(pattern);
  if (mask.reduce((a, b) => a + b, 0) < 2 || !counts.some((c) => c > 0)) return null;
  const prepared = prepare(counts, mask);
  const noise = noiseOf(prepared, mask);
  const [shape, measured, level] = [prepared, mask, noise].map(overLnG);
  const there = measured.map((m) => (m > 0.999 ? 1 : 0));
  const loud = level.map((x, i) => (there[i] * (Math.log(Math.max(x, QUIETEST)) + 4)) / 2);
  return { curve: [shape.map((x, i) => x * there[i]), there, loud], peaks: findPeaks(prepared, noise) };
}
