/**
 * A measured curve and an index of known crystals in; those that explain it best out.
 *
 * As unimat_powder.search does it, with the strongest lines of each crystal only and with isotropic
 * strain and a displacement of the sample only: in ln g a strain is a shift, so one table, looked up
 * at every line, compares all crystals at all strains.
 */

import { degrees } from "./grid.mjs";
import { systemOf } from "./network.mjs";

const [DELTA, G_START] = [0.0015, 0.03]; // positions are steps of ln g from there
const [LOW, HIGH] = [-20, 50]; // steps of isotropic strain
const COARSE = 5; // steps between strains at which norms are computed
const [MEAN, DEVIATION] = [-0.009, 0.012]; // of isotropic strain: theory's cells are too large
const DISPLACEMENT = 0.08; // degrees, standard deviation
const PENALTY = 0.01; // of half a squared standard deviation
const SIGMA = 0.0012; // 1/angstrom, of the lines
const NEAR = 0.003; // 1/angstrom; a line explains what is that near to it
const REFINED = 200; // crystals of which strain and displacement are refined
const MARGIN = 60;

/** A unit of squared structure factor in a Cu pattern, as the index counts heights. */
function shownWeight(g) {
  const square = Math.min((g * 1.5418) / 2, 0.9) ** 2;
  return ((1 + (1 - 2 * square) ** 2) / (square * Math.sqrt(1 - square))) * Math.exp(-0.3 * g * g);
}

/** The same in a curve against g at a wavelength. */
function lineFactor(g, wavelength) {
  const square = Math.min(Math.max((g * wavelength) / 2, 1e-6), 0.9995) ** 2;
  return ((1 + (1 - 2 * square) ** 2) / (square * (1 - square))) * Math.exp(-0.35 * g * g);
}

export const elementsOf = (formula) => new Set(formula.match(/[A-Z][a-z]?/g));

const withoutHydrogen = (symbols) => [...symbols].filter((s) => s !== "H" && s !== "D").sort().join(" ");

export class Index {
  /** @param {ReturnType<import("./tensors.mjs").readTensors>} tensors Of index.safetensors. */
  constructor(tensors) {
    const { counts, position, height, cell, space_group: groups, names } = tensors;
    this.position = position.data;
    this.cell = cell.data;
    this.groups = groups.data;
    this.names = new TextDecoder().decode(names.data).split("\n").map((line) => line.split("\t"));
    this.offsets = new Uint32Array(counts.data.length + 1);
    counts.data.forEach((count, i) => (this.offsets[i + 1] = this.offsets[i] + count));
    this.g = Float32Array.from(this.position, (p) => G_START * Math.exp(p * DELTA));
    this.amplitude = this.g.map((g, i) => height.data[i] / 255 / Math.sqrt(shownWeight(g)));
    this.height = height.data;
    this.overlap = this.#overlaps();
  }

  get length() {
    return this.groups.length;
  }

  /** What each line adds to its crystal's squared norm, with the overlap of its neighbours. */
  #overlaps() {
    const { g, amplitude, offsets } = this;
    const total = amplitude.map((a) => a * a);
    for (let c = 0; c < this.length; c++) {
      for (let i = offsets[c]; i < offsets[c + 1]; i++) {
        for (let k = i + 1; k < offsets[c + 1] && g[k] - g[i] < 6 * SIGMA; k++) {
          const both = amplitude[i] * amplitude[k] * Math.exp(-((g[k] - g[i]) ** 2) / (4 * SIGMA ** 2));
          total[i] += both;
          total[k] += both;
        }
      }
    }
    return total;
  }

  /** Rows of the crystals of exactly these elements, hydrogen aside; all where none are given. */
  rows(symbols) {
    const every = Array.from({ length: this.length }, (_, c) => c);
    if (!symbols?.length) return every;
    this.kinds ??= this.names.map(([formula]) => withoutHydrogen(elementsOf(formula)));
    const wanted = withoutHydrogen(symbols);
    return every.filter((c) => this.kinds[c] === wanted);
  }

  /** What a reader is told of a crystal, its cell strained as in the fit. */
  crystal(c, strain = 0) {
    const [formula, id] = this.names[c];
    const cell = Array.from(this.cell.subarray(6 * c, 6 * c + 6), (x, i) => (i < 3 ? (x / 1000) * (1 + strain) : x / 100));
    return { formula, id, group: this.groups[c], system: systemOf(this.groups[c]), cell };
  }
}

/** Best cosine of each row over all strains, and the strain. */
function coarse(index, rows, { overlap, start, end, wavelength }) {
  const size = Math.ceil(Math.log(1.2 / G_START) / DELTA) + 2 * MARGIN;
  const [seen, norms] = [new Float32Array(size), new Float32Array(size)];
  for (let i = 0; i < size; i++) {
    const g = G_START * Math.exp((i - MARGIN) * DELTA);
    const factor = lineFactor(g, wavelength);
    seen[i] = overlap(g) * Math.sqrt(factor);
    norms[i] = g >= start && g <= end ? factor : 0;
  }
  const shifts = HIGH - LOW + 1;
  const [found, square] = [new Float64Array(shifts), new Float64Array(Math.ceil(shifts / COARSE))];
  const unlikely = found.map((_, s) => (((-(s + LOW) * DELTA - MEAN) / DEVIATION) ** 2 / 2) * PENALTY);
  return rows.map((c) => {
    found.fill(0);
    square.fill(0);
    for (let i = index.offsets[c]; i < index.offsets[c + 1]; i++) {
      const [from, amplitude, own] = [index.position[i] + MARGIN + LOW, index.amplitude[i], index.overlap[i]];
      for (let s = 0; s < shifts; s++) found[s] += amplitude * seen[from + s];
      for (let s = 0; s < square.length; s++) square[s] += own * norms[from + s * COARSE];
    }
    let [score, best] = [-1, 0];
    for (let s = 0; s < shifts; s++) {
      const here = found[s] / Math.sqrt(Math.max(square[Math.floor(s / COARSE)], 1e-12)) - unlikely[s];
      if (here > score) [score, best] = [here, s];
    }
    return { c, score, strain: -(best + LOW) * DELTA };
  });
}

/** Where a line at g is measured: cell strained, sample displaced by so many degrees. */
function moved(g, { strain, displacement }, wavelength) {
  const sine = (g * Math.exp(-strain) * wavelength) / 2;
  if (sine >= 1) return Infinity;
  const theta = Math.asin(sine) + (displacement * Math.PI * Math.sqrt(1 - sine * sine)) / 360;
  return (2 * Math.sin(theta)) / wavelength;
}

/** Cosine of a crystal, with its penalty for what is unlikely. */
function compare(index, c, at, { overlap, start, end, wavelength }) {
  let [sum, square] = [0, 0];
  for (let i = index.offsets[c]; i < index.offsets[c + 1]; i++) {
    const g = moved(index.g[i], at, wavelength);
    if (g < start || g > end) continue;
    const factor = lineFactor(g, wavelength);
    sum += index.amplitude[i] * overlap(g) * Math.sqrt(factor);
    square += index.overlap[i] * factor;
  }
  const cosine = sum / Math.sqrt(Math.max(square, 1e-12));
  const unlikely = ((at.strain - MEAN) / DEVIATION) ** 2 + (at.displacement / DISPLACEMENT) ** 2;
  return { ...at, cosine, score: cosine - (PENALTY * unlikely) / 2 };
}

/** Strain and displacement of a crystal that fit best, from a first strain. */
function refine(index, { c, strain }, amplitude) {
  let best = compare(index, c, { strain, displacement: 0 }, amplitude);
  for (const [strains, displacements, step] of [[2, 3, 0.04], [2, 1, 0.02], [1, 1, 0.01]]) {
    const middle = best;
    for (let i = -strains; i <= strains; i++) {
      for (let k = -displacements; k <= displacements; k++) {
        const at = { strain: middle.strain + i * step * (DELTA / 0.04), displacement: middle.displacement + k * step };
        const here = compare(index, c, at, amplitude);
        if (here.score > best.score) best = here;
      }
    }
  }
  return { c, ...best };
}

/** Shares of the measured intensity and of the measured range that are near to a crystal's lines. */
function explained(index, found, { share, start, end, step, wavelength }) {
  const near = new Uint8Array(share.length);
  let lines = 0;
  for (let i = index.offsets[found.c]; i < index.offsets[found.c + 1]; i++) {
    const g = moved(index.g[i], found, wavelength);
    if (g < start || g > end) continue;
    lines++;
    near.fill(1, Math.max(Math.round((g - NEAR - start) / step), 0), Math.max(Math.round((g + NEAR - start) / step), 0));
  }
  let [met, covered] = [0, 0];
  share.forEach((part, i) => {
    met += part * near[i];
    covered += near[i] / near.length;
  });
  return { met, covered, lines };
}

/**
 * @param {Index} index
 * @param {ReturnType<import("./signal.mjs").amplitudeOf>} amplitude Of the measurement.
 * @param {{symbols?: string[], without?: Set<number>, most?: number}} [options] Elements of the
 *   crystal, rows that count as unknown, and how many matches are wanted.
 * @returns {{c: number, score: number, cosine: number, strain: number, displacement: number,
 *   met: number, covered: number, lines: number}[]} The best first.
 */
export function search(index, amplitude, { symbols, without, most = 12 } = {}) {
  const rows = index.rows(symbols).filter((c) => !without?.has(c));
  const first = coarse(index, rows, amplitude).sort((a, b) => b.score - a.score).slice(0, REFINED);
  const refined = first.map((one) => refine(index, one, amplitude)).sort((a, b) => b.score - a.score);
  return refined.slice(0, most).map((one) => ({ ...one, ...explained(index, one, amplitude) }));
}

/** Angles and heights (0 to 1) at which a match has its lines. */
export function ticksOf(index, found, wavelength) {
  const ticks = [];
  for (let i = index.offsets[found.c]; i < index.offsets[found.c + 1]; i++) {
    const sine = (moved(index.g[i], found, wavelength) * wavelength) / 2;
    if (sine < 1) ticks.push([2 * degrees(Math.asin(sine)), index.height[i] / 255]);
  }
  return ticks;
}
