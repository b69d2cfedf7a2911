/**
 * A cell and its atoms in; the metric, reflections, lines and the powder pattern out.
 *
 * The same physics as unimat_lib.views.bragg and .render, whose comments say why; a test holds both
 * against each other. Cells are [a, b, c, alpha, beta, gamma] in angstrom and degrees.
 */

import { clamp, degrees, lorentzPolarisation, radians } from "./grid.mjs";

const NEGLIGIBLE = 1e-15; // of F(000)^2
const SAME = 1e-5; // relative distance of g that counts as one line
const EQUAL = [0.005, 0.05]; // angstrom and degrees that count as equal
const LEAST_SHOWN = 1e-4; // of the highest line: what no curve shows
const FWHM = 2 * Math.sqrt(2 * Math.log(2)); // per standard deviation
const REACH = { gauss: 4, lorentz: 40 }; // full widths at which a profile ends

/** Rows a, b, c in angstrom, a along x and b in the plane of x and y; null: no cell has these angles. */
export function latticeOf([a, b, c, ...angles]) {
  const [alpha, beta, gamma] = angles.map((angle) => Math.cos(radians(angle)));
  const sine = Math.sqrt(1 - gamma * gamma);
  const along = (alpha - beta * gamma) / sine;
  const up = 1 - beta * beta - along * along;
  if (!(up > 1e-6)) return null;
  return [[a, 0, 0], [b * gamma, b * sine, 0], [c * beta, c * along, c * Math.sqrt(up)]];
}

export const dot = (u, v) => u[0] * v[0] + u[1] * v[1] + u[2] * v[2];
const cross = (u, v) => [u[1] * v[2] - u[2] * v[1], u[2] * v[0] - u[0] * v[2], u[0] * v[1] - u[1] * v[0]];

export const volumeOf = ([a, b, c]) => dot(a, cross(b, c));

/** The reciprocal metric: 1/d^2 = h G h for h = (h, k, l), in 1/angstrom^2. */
export function reciprocalMetric(lattice) {
  const volume = volumeOf(lattice);
  const [a, b, c] = lattice;
  const rows = [cross(b, c), cross(c, a), cross(a, b)].map((row) => row.map((x) => x / volume));
  return rows.map((u) => rows.map((v) => dot(u, v)));
}

/** 1/d in 1/angstrom of a plane. */
export function spacing(metric, h, k, l) {
  const square = h * h * metric[0][0] + k * k * metric[1][1] + l * l * metric[2][2];
  return Math.sqrt(Math.max(square + 2 * (h * k * metric[0][1] + h * l * metric[0][2] + k * l * metric[1][2]), 0));
}

/** f(g) = Z - 41.78214 s^2 sum a exp(-b s^2), s = g / 2. */
function formFactor(number, { scattering }, g) {
  const square = (g * g) / 4;
  return number - 41.78214 * square * scattering.reduce((sum, [a, b]) => sum + a * Math.exp(-b * square), 0);
}

/**
 * Reflections up to a 1/d; one of each pair (hkl), (-h -k -l) counts for both.
 *
 * @param {{atoms: number[][]}} crystal Atoms as [Z, x, y, z].
 * @param {number[][]} lattice
 * @param {Object<string, {scattering: number[][]}>} elements By atomic number.
 * @param {number} gMax
 * @returns {{hkl: number[], g: number, intensity: number}[]}
 */
export function reflectionsOf({ atoms }, lattice, elements, gMax) {
  const metric = reciprocalMetric(lattice);
  const [hMost, kMost, lMost] = lattice.map((edge) => Math.floor(Math.sqrt(dot(edge, edge)) * gMax + 1e-9));
  const kinds = [...new Set(atoms.map(([z]) => z))].map((z) => [z, atoms.filter((atom) => atom[0] === z)]);
  const least = 2 * NEGLIGIBLE * atoms.reduce((sum, [z]) => sum + z, 0) ** 2;
  const found = [];
  for (let l = 0; l <= lMost; l++) {
    for (let k = l ? -kMost : 0; k <= kMost; k++) {
      for (let h = l || k ? -hMost : 1; h <= hMost; h++) {
        const g = spacing(metric, h, k, l);
        if (g > gMax * (1 + 1e-9)) continue;
        let [real, imaginary] = [0, 0];
        for (const [z, places] of kinds) {
          const factor = formFactor(z, elements[z], g);
          for (const [, x, y, w] of places) {
            const phase = 2 * Math.PI * ((h * x + k * y + l * w) % 1);
            real += factor * Math.cos(phase);
            imaginary += factor * Math.sin(phase);
          }
        }
        const intensity = 2 * (real * real + imaginary * imaginary);
        if (intensity > least) found.push({ hkl: [h, k, l], g, intensity });
      }
    }
  }
  return found;
}

/** Reflections at one 1/d are one line of a powder pattern; lines by rising g. */
export function linesOf(reflections) {
  const lines = [];
  for (const one of [...reflections].sort((u, v) => u.g - v.g)) {
    const last = lines.at(-1);
    if (last && one.g - last.g < SAME * one.g) {
      last.intensity += one.intensity;
      last.members.push(one.hkl);
    } else lines.push({ g: one.g, intensity: one.intensity, members: [one.hkl] });
  }
  return lines;
}

export const largestG = (twoTheta, wavelength) => (2 * Math.sin(radians(twoTheta / 2))) / wavelength;

/** Place in degrees and height (highest 1, times Lorentz-polarisation) of each line that the range shows. */
export function seenLines(lines, wavelength, [from, to]) {
  const seen = [];
  for (const line of lines) {
    const sine = (line.g * wavelength) / 2;
    if (sine >= 1) continue;
    const twoTheta = 2 * degrees(Math.asin(sine));
    if (twoTheta >= from && twoTheta <= to) seen.push({ ...line, twoTheta, height: line.intensity * lorentzPolarisation(sine) });
  }
  const highest = seen.reduce((most, { height }) => Math.max(most, height), 1e-300);
  return seen.map((line) => ({ ...line, height: line.height / highest })).filter(({ height }) => height > LEAST_SHOWN);
}

/**
 * The curve of lines as pseudo-Voigt profiles of unit area, highest point 1.
 *
 * @param {ReturnType<typeof linesOf>} lines
 * @param {{from: number, step: number, points: number}} grid Degrees of 2theta.
 * @param {{fwhm: number, eta?: number, shift?: number, waves: [number, number][]}} instrument Width
 *   and zero shift in degrees, Lorentzian share, wavelengths with their shares.
 */
export function patternOf(lines, { from, step, points }, { fwhm, eta = 0, shift = 0, waves }) {
  const curve = new Float64Array(points);
  const [deviation, half] = [fwhm / FWHM, fwhm / 2];
  for (const [wavelength, share] of waves) {
    for (const { g, intensity } of lines) {
      const sine = (g * wavelength) / 2;
      if (sine >= 0.99999) continue;
      const place = 2 * degrees(Math.asin(sine)) + shift;
      const weight = share * intensity * lorentzPolarisation(sine);
      const reach = fwhm * (eta ? REACH.lorentz : REACH.gauss);
      const first = Math.max(Math.ceil((place - reach - from) / step), 0);
      const last = Math.min(Math.floor((place + reach - from) / step), points - 1);
      for (let i = first; i <= last; i++) {
        const x = from + i * step - place;
        const gauss = Math.exp(-((x / deviation) ** 2) / 2) / (deviation * Math.sqrt(2 * Math.PI));
        curve[i] += weight * (eta ? (1 - eta) * gauss + (eta * half) / (Math.PI * (x * x + half * half)) : gauss);
      }
    }
  }
  const highest = curve.reduce((a, b) => Math.max(a, b), 1e-300);
  return curve.map((y) => y / highest);
}

const near = (x, y, tolerance) => Math.abs(x - y) <= tolerance;

/**
 * What the metric alone allows at most: the crystal system of the shape of this very cell.
 *
 * A rhombohedral cell (a = b = c, alpha = beta = gamma) counts as trigonal.
 */
export function shapeOf([a, b, c, alpha, beta, gamma]) {
  const [ab, bc, ac] = [near(a, b, EQUAL[0]), near(b, c, EQUAL[0]), near(a, c, EQUAL[0])];
  const right = [alpha, beta, gamma].map((angle) => near(angle, 90, EQUAL[1]));
  const lengths = ab + bc + ac;
  if (right.every(Boolean)) return lengths === 3 ? "cubic" : lengths ? "tetragonal" : "orthorhombic";
  if (lengths === 3 && near(alpha, beta, EQUAL[1]) && near(beta, gamma, EQUAL[1])) return "trigonal";
  const oblique = right.indexOf(false);
  if (right.filter(Boolean).length < 2) return "triclinic";
  const pair = [bc, ac, ab][oblique];
  return pair && near([alpha, beta, gamma][oblique], 120, EQUAL[1]) ? "hexagonal" : "monoclinic";
}

/** A seeded source of numbers from 0 to 1 (mulberry32): noise that stays while another slider moves. */
export function randomFrom(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

/** Counts of a counter at a rate, drawn from Poisson's law; above 60 the normal law does. */
export function poisson(rate, random) {
  if (rate > 60) {
    const normal = Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random());
    return Math.max(Math.round(rate + Math.sqrt(rate) * normal), 0);
  }
  const end = Math.exp(-rate);
  let [counts, product] = [0, random()];
  while (product > end) {
    counts++;
    product *= random();
  }
  return counts;
}

/** Planes that the cubic cell makes equivalent: all signs and orders of three indices, one of each pair. */
export function familyOf(indices) {
  const orders = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
  const seen = new Map();
  for (const order of orders) {
    for (let signs = 0; signs < 8; signs++) {
      const plane = order.map((place, i) => indices[place] * (signs & (1 << i) ? -1 : 1) + 0);
      const first = plane.find((x) => x !== 0) ?? 0;
      if (first > 0) seen.set(plane.join(), plane);
    }
  }
  return [...seen.values()];
}

/** The lines into which a family splits: place, spacing and planes of each, by falling d. */
export function splitting(metric, indices, wavelength) {
  const groups = [];
  for (const plane of familyOf(indices)) {
    const g = spacing(metric, ...plane);
    const group = groups.find((one) => Math.abs(one.g - g) < SAME * g);
    if (group) group.planes.push(plane);
    else groups.push({ g, planes: [plane] });
  }
  return groups
    .sort((u, v) => u.g - v.g)
    .map(({ g, planes }) => ({ d: 1 / g, planes, twoTheta: 2 * degrees(Math.asin(clamp((g * wavelength) / 2, 0, 1))), seen: (g * wavelength) / 2 < 1 }));
}
