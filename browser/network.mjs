/**
 * Views of a pattern and known elements in; crystal systems and cells with probabilities out.
 *
 * unimat_powder.network.reader without its training: convolutions over the curve and a list of
 * peaks, joined by attention over ln g. What was not measured makes no token here; there it is
 * masked, which is the same.
 */

import { clamp, degrees, lnGAxis } from "./grid.mjs";

const EPS = 1e-3; // of the norms
const ELEMENTS = 100;
const POOL = 32; // points of the curve that make a token
const HEAD = 32; // numbers of a head of attention
const OFFSET = [1.8, 1.8, 2, 0, 0, 0]; // of ln lengths and cosines
const GROUPS_END = [2, 15, 74, 142, 167, 194, 230]; // last space group of each crystal system

export const SYSTEMS = ["triclinic", "monoclinic", "orthorhombic", "tetragonal", "trigonal", "hexagonal", "cubic"];
const BRAVAIS = ["aP", "mP", "mC", "oP", "oC", "oF", "oI", "tP", "tI", "hR", "hP", "cP", "cF", "cI"];

export const systemOf = (group) => GROUPS_END.findIndex((last) => group <= last);

/** Error function to 2e-7 (Abramowitz and Stegun 7.1.26). */
function erf(x) {
  const t = 1 / (1 + 0.3275911 * Math.abs(x));
  const series = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))));
  return Math.sign(x) * (1 - series * Math.exp(-x * x));
}

function gelu(x) {
  for (let i = 0; i < x.length; i++) x[i] *= 0.5 * (1 + erf(x[i] * Math.SQRT1_2));
  return x;
}

/** Rows of `x`, each of `inputs` numbers, times a weight [outputs, inputs], plus a bias. */
function linear(x, { data: weight, shape }, bias) {
  const inputs = shape.slice(1).reduce((a, b) => a * b);
  const outputs = shape[0];
  const rows = x.length / inputs;
  const y = new Float32Array(rows * outputs);
  for (let r = 0; r < rows; r += 4) {
    // Four rows by two outputs at once: each number is fetched once for several products. Beyond
    // the last row or output the last one is computed again.
    const some = Math.min(4, rows - r);
    const [p0, p1, p2, p3] = [0, 1, 2, 3].map((k) => (r + Math.min(k, some - 1)) * inputs);
    for (let o = 0; o < outputs; o += 2) {
      const next = Math.min(o + 1, outputs - 1);
      const [u, v] = [o * inputs, next * inputs];
      let [a0, a1, a2, a3, b0, b1, b2, b3] = [0, 0, 0, 0, 0, 0, 0, 0];
      for (let i = 0; i < inputs; i++) {
        const one = weight[u + i];
        const other = weight[v + i];
        const x0 = x[p0 + i];
        const x1 = x[p1 + i];
        const x2 = x[p2 + i];
        const x3 = x[p3 + i];
        a0 += one * x0;
        a1 += one * x1;
        a2 += one * x2;
        a3 += one * x3;
        b0 += other * x0;
        b1 += other * x1;
        b2 += other * x2;
        b3 += other * x3;
      }
      const sums = [a0, a1, a2, a3, b0, b1, b2, b3];
      for (let k = 0; k < some; k++) {
        y[(r + k) * outputs + o] = sums[k] + bias.data[o];
        y[(r + k) * outputs + next] = sums[next > o ? k + 4 : k] + bias.data[next];
      }
    }
  }
  return y;
}

function layerNorm(x, { data: weight }, { data: bias }) {
  const width = weight.length;
  const y = new Float32Array(x.length);
  for (let start = 0; start < x.length; start += width) {
    let [mean, square] = [0, 0];
    for (let i = 0; i < width; i++) mean += x[start + i] / width;
    for (let i = 0; i < width; i++) square += (x[start + i] - mean) ** 2 / width;
    const scale = 1 / Math.sqrt(square + EPS);
    for (let i = 0; i < width; i++) y[start + i] = (x[start + i] - mean) * scale * weight[i] + bias[i];
  }
  return y;
}

const added = (x, y) => x.map((a, i) => a + y[i]);

const waveNumbers = (number) =>
  Array.from({ length: number }, (_, i) => (2 * Math.PI) / (8 * (4e-3 / 8) ** (i / (number - 1))));

/** A convolution with stride over rows of channels, as a product of matrices. */
function strided(x, weight, bias) {
  const [, channels, reach] = weight.shape;
  const stride = (reach - 1) / 2;
  const padding = (reach - stride + 1) >> 1;
  const length = x.length / channels;
  const windows = new Float32Array((length / stride) * channels * reach);
  for (let t = 0, at = 0; t < length / stride; t++) {
    for (let c = 0; c < channels; c++) {
      for (let k = 0; k < reach; k++, at++) windows[at] = x[(t * stride + k - padding) * channels + c] ?? 0;
    }
  }
  return linear(windows, weight, bias);
}

/** A convolution of each channel with itself. */
function depthwise(x, { data: weight, shape }, { data: bias }) {
  const [channels, , reach] = shape;
  const y = new Float32Array(x.length);
  for (let at = 0; at < x.length; at++) {
    const c = at % channels;
    let sum = bias[c];
    for (let k = 0; k < reach; k++) {
      const from = at + (k - (reach >> 1)) * channels;
      if (from >= 0 && from < x.length) sum += weight[c * reach + k] * x[from];
    }
    y[at] = sum;
  }
  return y;
}

/** Attention of rows of queries, keys and values, heads side by side, turned by their places. */
function attention(qkv, width, places) {
  const rows = places.length;
  const half = HEAD / 2;
  const waves = waveNumbers(half);
  const [cosine, sine] = [Math.cos, Math.sin].map((f) => places.map((p) => waves.map((w) => f(p * w))));
  const out = new Float32Array(rows * width);
  const [q, k] = [new Float32Array(rows * HEAD), new Float32Array(rows * HEAD)];
  const score = new Float64Array(rows);
  for (let head = 0; head < width; head += HEAD) {
    for (const [target, part] of [[q, 0], [k, width]]) {
      for (let t = 0; t < rows; t++) {
        for (let i = 0; i < half; i++) {
          const from = t * 3 * width + part + head + i;
          const c = cosine[t][i];
          const s = sine[t][i];
          target[t * HEAD + i] = qkv[from] * c - qkv[from + half] * s;
          target[t * HEAD + half + i] = qkv[from] * s + qkv[from + half] * c;
        }
      }
    }
    for (let t = 0; t < rows; t++) {
      let most = -Infinity;
      for (let u = 0; u < rows; u++) {
        let dot = 0;
        for (let i = 0; i < HEAD; i++) dot += q[t * HEAD + i] * k[u * HEAD + i];
        score[u] = dot / Math.sqrt(HEAD);
        most = Math.max(most, score[u]);
      }
      let total = 0;
      for (let u = 0; u < rows; u++) total += score[u] = Math.exp(score[u] - most);
      for (let u = 0; u < rows; u++) {
        const share = score[u] / total;
        const from = u * 3 * width + 2 * width + head;
        for (let i = 0; i < HEAD; i++) out[t * width + head + i] += share * qkv[from + i];
      }
    }
  }
  return out;
}

export class Network {
  /**
   * @param {ReturnType<import("./tensors.mjs").readTensors>} tensors Of reader.safetensors.
   * @param {number[]} bravais Place in BRAVAIS of each space group.
   */
  constructor(tensors, bravais) {
    this.tensors = tensors;
    this.bravais = bravais;
    this.width = tensors.first.shape[0];
    this.depth = Object.keys(tensors).filter((name) => name.endsWith(".qkv.bias")).length;
    const axis = lnGAxis();
    this.middles = Array.from({ length: axis.length / POOL }, (_, i) => axis.subarray(i * POOL, (i + 1) * POOL).reduce((a, b) => a + b) / POOL);
  }

  /** Weight and bias of a layer. */
  #of(name) {
    return [this.tensors[`${name}.weight`], this.tensors[`${name}.bias`]];
  }

  /** Two linear layers. */
  #two(name, x, second = 2) {
    return linear(gelu(linear(x, ...this.#of(`${name}.0`))), ...this.#of(`${name}.${second}`));
  }

  #stem([curve, measured, level]) {
    let x = Float32Array.from({ length: 3 * curve.length }, (_, i) => [curve, measured, level][i % 3][Math.floor(i / 3)]);
    for (let step = 0; this.tensors[`stem.steps.${step}.bias`] || this.tensors[`stem.steps.${step}.along.bias`]; step++) {
      const name = `stem.steps.${step}`;
      if (this.tensors[`${name}.bias`]) x = strided(x, ...this.#of(name));
      else x = added(x, this.#two(`${name}.across`, layerNorm(depthwise(x, ...this.#of(`${name}.along`)), ...this.#of(`${name}.norm`))));
    }
    return x;
  }

  #peaks(peaks) {
    const waves = waveNumbers(24);
    const rows = peaks.flatMap(({ lnG, features }) => [...waves.map((w) => Math.sin(lnG * w)), ...waves.map((w) => Math.cos(lnG * w)), ...features]);
    return this.#two("peaks", Float32Array.from(rows));
  }

  /** Tokens and their places in ln g. */
  #tokens({ curve, peaks }, elements) {
    const features = new Float32Array(2 * ELEMENTS + 4);
    for (const z of elements ?? []) features[z] = 1;
    features[2 * ELEMENTS + (elements?.length ? 1 : 0)] = 1;
    const known = this.#two("composition", features);
    const along = this.#stem(curve);
    const there = this.middles.map((_, i) => i).filter((i) => curve[1].subarray(i * POOL, (i + 1) * POOL).some((m) => m > 0));
    const rows = [...added(known, this.tensors.first.data), ...known];
    for (const i of there) rows.push(...along.subarray(i * this.width, (i + 1) * this.width));
    if (peaks.length) rows.push(...this.#peaks(peaks));
    const middle = this.middles.reduce((a, b) => a + b) / this.middles.length;
    const places = [middle, middle, ...there.map((i) => this.middles[i]), ...peaks.map((p) => p.lnG)];
    return [Float32Array.from(rows), places];
  }

  /**
   * @param {NonNullable<ReturnType<import("./grid.mjs").viewsOf>>} views
   * @param {number[]} [elements] Atomic numbers, if known.
   * @returns {{groups: number[], systems: number[], cells: {bravais: string, probability: number,
   *   lengths: number[], angles: number[], error: number[]}[]}}
   */
  read(views, elements) {
    let [x, places] = this.#tokens(views, elements);
    for (let i = 0; i < this.depth; i++) {
      const name = `blocks.${i}`;
      const qkv = linear(layerNorm(x, ...this.#of(`${name}.first_norm`)), ...this.#of(`${name}.qkv`));
      x = added(x, linear(attention(qkv, this.width, places), ...this.#of(`${name}.out`)));
      x = added(x, this.#two(`${name}.across`, layerNorm(x, ...this.#of(`${name}.second_norm`))));
    }
    const mean = new Float32Array(this.width);
    x.forEach((value, i) => (mean[i % this.width] += value / places.length));
    const pooled = layerNorm(Float32Array.from([...x.subarray(0, this.width), ...mean]), ...this.#of("norm"));
    const logits = this.#two("groups", pooled, 3);
    const most = Math.max(...logits);
    return this.#opinion(Array.from(logits, (z) => Math.exp(z - most)), this.#cells(pooled));
  }

  /** The same opinion at a temperature of calibration.json: more or less sure of itself. */
  tempered({ groups, cells }, temperature) {
    return this.#opinion(groups.map((p) => p ** (1 / temperature)), cells);
  }

  /** Probabilities of groups, systems and Bravais lattices from the odds of groups. */
  #opinion(odds, cells) {
    const total = odds.reduce((a, b) => a + b);
    const groups = odds.map((p) => p / total);
    const systems = SYSTEMS.map(() => 0);
    groups.forEach((p, i) => (systems[systemOf(i + 1)] += p));
    const chance = (name) => groups.reduce((sum, p, i) => sum + (BRAVAIS[this.bravais[i]] === name ? p : 0), 0);
    const likely = cells.map((cell) => ({ ...cell, probability: chance(cell.bravais) }));
    return { groups, systems, cells: likely.sort((a, b) => b.probability - a.probability) };
  }

  /** A cell for each Bravais lattice. */
  #cells(pooled) {
    const [cells, count] = [this.#two("cells", pooled, 3), BRAVAIS.length * 6];
    return BRAVAIS.map((bravais, b) => {
      const row = Array.from(cells.subarray(b * 6, b * 6 + 6), (y, i) => y + OFFSET[i]);
      const spread = Array.from(cells.subarray(count + b * 6, count + b * 6 + 3));
      return {
        bravais,
        lengths: row.slice(0, 3).map(Math.exp),
        angles: row.slice(3).map((c) => degrees(Math.acos(clamp(c, -0.99, 0.99)))),
        error: spread.map((s) => Math.exp(clamp(s, -3, 3) * 2 - 3)),
      };
    });
  }
}
