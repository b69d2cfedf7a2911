/**
 * A pattern and known elements in; matches, symmetry and cell with probabilities out.
 *
 * The probability of the first match weighs how well it fits, how far ahead of the others it is and
 * what the network thinks of its symmetry; the weights were fitted on simulated laboratory patterns
 * of crystals that the index holds and of ones that it lacks (calibration.json says how).
 */

import { viewsOf } from "./grid.mjs";
import { amplitudeOf, measuredCurve, NoAnswer } from "./signal.mjs";
import { search, ticksOf } from "./search.mjs";
import { SYSTEMS } from "./network.mjs";

const SURE = 0.5; // probability below which a match is no answer
const SURE_SYSTEM = 0.8; // the same for a system: below, the network is right less often than it says
const LEAST = 1e-3; // of the network's probabilities
const NARROWEST = 0.35; // 1/Å between the ends of a scan: 10 to 42 degrees with copper
const FEWEST = 6; // peaks; the command warns of fewer, and of narrower scans, too

export const SYMBOLS = (
  "H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se Br Kr " +
  "Rb Sr Y Zr Nb Mo Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm Yb " +
  "Lu Hf Ta W Re Os Ir Pt Au Hg Tl Pb Bi Po At Rn Fr Ra Ac Th Pa U Np Pu Am Cm Bk Cf Es"
).split(" ");

/** Symbols in a text such as "Ti, O" or "TiO2"; an error names what is no element. */
export function parseElements(text) {
  const symbols = [...new Set(text.match(/[A-Z][a-z]?/g) ?? [])];
  const rest = text.replace(/[A-Z][a-z]?|[\d.,;()[\]\s+-]/g, "");
  const wrong = rest || symbols.find((symbol) => !SYMBOLS.includes(symbol));
  if (wrong) throw new NoAnswer(`expected element symbols such as Ti, O, but came “${wrong.slice(0, 20)}”`);
  return symbols;
}

/** What library and network say, before it is weighed; `without` holds rows not to be found. */
export function evidenceOf(pattern, symbols, { network, index }, { without } = {}) {
  const curve = measuredCurve(pattern);
  const found = search(index, amplitudeOf(curve, pattern.wavelength), { symbols, without });
  const views = viewsOf(pattern);
  const read = views && network.read(views, symbols.map((s) => SYMBOLS.indexOf(s) + 1));
  const crystals = found.map((one) => index.crystal(one.c, one.strain));
  return { curve, found, crystals, read, features: found.length ? featuresOf(curve, found, crystals, read) : null };
}

/** What counts for the first match; the order is that of calibration.json's weights. */
function featuresOf(curve, [first, ...others], [crystal, ...rest], read) {
  const other = others.find((_, i) => rest[i].formula !== crystal.formula || rest[i].group !== crystal.group);
  const uniform = (number) => Math.log(1 / number);
  return [
    1,
    -Math.log(1.001 - Math.min(first.cosine, 1)),
    10 * Math.min(first.score - (other?.score ?? 0), 0.2),
    -Math.log(1.03 - first.met),
    Math.log(first.covered + 0.02),
    Math.log(first.lines + 1),
    Math.log(curve.peaks.length),
    read ? Math.log(Math.max(read.systems[crystal.system], LEAST)) : uniform(7),
    read ? Math.log(Math.max(read.groups[crystal.group - 1], LEAST)) : uniform(230),
  ];
}

/** What about a measurement makes percentages doubtful: sentences, none where there is nothing to say. */
function doubtsOf({ twoTheta, wavelength }, peaks) {
  const [low, high] = [twoTheta[0], twoTheta.at(-1)];
  const reach = (angle) => (2 * Math.sin((angle * Math.PI) / 360)) / wavelength;
  const doubts = [];
  if (reach(high) - reach(low) < NARROWEST) doubts.push(`Short scan, ${low.toFixed(1)} to ${high.toFixed(1)} degrees: many lines of a cell lie outside. Measure further if you can, and rely less on the percentages.`);
  if (peaks < FEWEST) doubts.push(`Few peaks: ${peaks === 1 ? "one stands" : `${peaks || "none"} stand`} out of the noise. So few fit many cells by chance.`);
  return doubts;
}

const logistic = (features, weights) => 1 / (1 + Math.exp(-features.reduce((sum, x, i) => sum + x * weights[i], 0)));

/**
 * @param {{twoTheta: number[], intensity: number[], wavelength: number}} pattern
 * @param {string[]} symbols Of the elements; none if unknown.
 * @param {{network: import("./network.mjs").Network, index: import("./search.mjs").Index,
 *   calibration: object}} witnesses
 * @returns {object} `verdict` ("match", "cell", "system" or "none") and what it rests on, with
 *   `doubts` about the measurement; `reason` where the pattern cannot be answered at all.
 */
export function answer(pattern, symbols, witnesses) {
  const weights = witnesses.calibration[symbols.length ? "elements" : "pattern"];
  let evidence;
  try {
    evidence = evidenceOf(pattern, symbols, witnesses);
  } catch (error) {
    if (!(error instanceof NoAnswer)) throw error;
    return { verdict: "none", reason: error.message, matches: [] };
  }
  const { curve, found, crystals, features } = evidence;
  const read = evidence.read && witnesses.network.tempered(evidence.read, weights.temperature);
  const crystal = features ? logistic(features, weights.crystal) : 0;
  const cell = features ? Math.max(logistic(features, weights.cell), crystal) : 0;
  const best = read ? read.systems.indexOf(Math.max(...read.systems)) : -1;
  const system = read && { name: SYSTEMS[best], probability: read.systems[best] };
  return {
    verdict: crystal >= SURE ? "match" : cell >= SURE ? "cell" : system && system.probability >= SURE_SYSTEM ? "system" : "none",
    crystal,
    cell,
    system,
    systems: read?.systems.map((p, i) => [SYSTEMS[i], p]),
    cells: read?.cells.slice(0, 3),
    matches: crystals.map((one, i) => ({ ...one, ...found[i], systemName: SYSTEMS[one.system] })),
    ticks: found.length ? ticksOf(witnesses.index, found[0], pattern.wavelength) : [],
    background: Array.from(curve.background),
    angles: Array.from(curve.twoTheta),
    peaks: curve.peaks.length,
    doubts: doubtsOf(pattern, curve.peaks.length),
  };
}
