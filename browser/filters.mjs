/** Rows of crystals and what is wanted of them in, the places of those that fit out. */

import { parseElements } from "./answer.mjs";

const PART = /([A-Z][a-z]?)(\d+\.?\d*)?/g;
const GROUP = /\(([^()]*)\)(\d+\.?\d*)?/;

/** Numbers of atoms by element in a formula such as CaFe(SiO3)2. */
export function countsOf(formula) {
  let text = formula;
  const times = (inside, factor) => inside.replace(PART, (_, symbol, number = 1) => `${symbol}${number * factor}`);
  while (GROUP.test(text)) text = text.replace(GROUP, (_, inside, factor = 1) => times(inside, factor));
  const counts = {};
  for (const [, symbol, number = 1] of text.matchAll(PART)) counts[symbol] = (counts[symbol] ?? 0) + Number(number);
  return counts;
}

const divisor = (a, b) => (b ? divisor(b, a % b) : a);

/** The same text for the same ratio of elements. */
function ratioOf(formula) {
  const counts = Object.entries(countsOf(formula)).sort(([a], [b]) => (a < b ? -1 : 1));
  const common = counts.map(([, number]) => number).reduce(divisor, 0);
  return counts.map(([symbol, number]) => `${symbol}${number / common}`).join("");
}

/**
 * What a text asks for: "TiO2" this ratio, "Ti-O" these elements and no others, "Ti, O" at least
 * these. An error names what is no element.
 */
export function wantedOf(text) {
  const symbols = parseElements(text);
  if (/\d/.test(text)) return { ratio: ratioOf(text) };
  return /[A-Z][a-z]?\s*-\s*[A-Z]/.test(text) ? { symbols, only: true } : { symbols, only: false };
}

function fits(formula, { ratio, symbols = [], only }) {
  if (ratio) return ratioOf(formula) === ratio;
  if (!symbols.length) return true;
  const there = new Set(Object.keys(countsOf(formula)));
  return symbols.every((symbol) => there.has(symbol)) && (!only || there.size === symbols.length);
}

/**
 * @param {{formula: string, system: number, atoms: number}[]} rows
 * @param {{ratio?: string, symbols?: string[], only?: boolean, system?: number, least?: number,
 *   most?: number}} wanted Composition, crystal system (-1 for any) and numbers of atoms in the cell.
 * @returns {number[]} Places in `rows`, as they stand there.
 */
export function filtered(rows, { system = -1, least = 1, most = Infinity, ...composition }) {
  const places = [];
  rows.forEach((row, i) => {
    if ((system < 0 || row.system === system) && row.atoms >= least && row.atoms <= most && fits(row.formula, composition)) places.push(i);
  });
  return places;
}

/**
 * What a model's errors of some crystals come to.
 *
 * @param {number[]} places
 * @param {ArrayLike<number>} lengths Mean absolute error of a, b, c of each crystal.
 * @param {ArrayLike<number>} angles The same of the angles.
 * @param {ArrayLike<number>} said Crystal system answered.
 * @param {ArrayLike<number>} systems The true one.
 */
export function summaryOf(places, lengths, angles, said, systems) {
  const number = places.length;
  const mean = (of) => places.reduce((sum, i) => sum + of(i), 0) / number;
  const sorted = places.map((i) => lengths[i]).sort((a, b) => a - b);
  const median = number ? (sorted[(number - 1) >> 1] + sorted[number >> 1]) / 2 : NaN;
  return { number, lengths: mean((i) => lengths[i]), median, angles: mean((i) => angles[i]), right: mean((i) => +(said[i] === systems[i])) };
}
