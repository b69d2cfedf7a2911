/**
 * A file that a reader dropped in, a pattern out; or an error that says what was expected, what
 * came, and what to do. The formats: columns of text (.xy, .xye, .csv, .txt, .dat), .xrdml and .ras.
 * unimat_powder.reading reads more, and more oddly written ones.
 */

import { NoAnswer } from "./signal.mjs";

const CU_K_ALPHA = 1.54184; // angstrom, mean of the doublet
const K_ALPHA = {
  Cr: [2.28976, 2.293663], Fe: [1.936042, 1.93998], Co: [1.788996, 1.79285], Ni: [1.65791, 1.661747],
  Cu: [1.540598, 1.544426], Mo: [0.709317, 0.713607], Ag: [0.559421, 0.563813],
};
const COMMENT = /^\s*[#!%'/*;"]/;
const NUMBER = /^[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?$/;
const LARGEST = 20e6; // bytes of a file
const EXPORT = "export the scan as two columns of text (2theta in degrees, intensity)";

const fail = (message) => {
  throw new NoAnswer(message);
};

/** Wavelength in angstrom of a tube by its anode, such as Co; undefined for others. */
export const wavelengthOfTube = (anode) => (Object.hasOwn(K_ALPHA, anode) ? meanOf(...K_ALPHA[anode]) : undefined);

const meanOf = (first, second, ratio = 0.5) => (second ? (first + ratio * second) / (1 + ratio) : first);

/**
 * @param {ArrayBuffer} bytes
 * @param {string} name Of the file.
 * @returns {{twoTheta: number[], intensity: number[], wavelength: number, from: "file" | "default",
 *   notes: string[]}}
 */
export function readPattern(bytes, name) {
  if (bytes.byteLength > LARGEST) fail(`${name} has ${(bytes.byteLength / 1e6).toFixed(0)} MB: expected one scan; ${EXPORT}`);
  const view = new Uint8Array(bytes);
  const wide = (view[0] === 0xff && view[1] === 0xfe) || (view[0] === 0xfe && view[1] === 0xff);
  if (!wide && view.subarray(0, 4096).includes(0)) fail(`${name} is a binary file, which this page does not read; ${EXPORT}`);
  const text = new TextDecoder(wide ? (view[0] === 0xff ? "utf-16le" : "utf-16be") : "utf-8").decode(bytes);
  if (!text.trim()) fail(`${name} is empty; ${EXPORT}`);
  const read = /^\s*</.test(text) ? readXrdml : /^\*RAS_/m.test(text) ? readRas : readColumns;
  const { x, y, wavelength, notes = [] } = read(text, name);
  if (wavelength !== undefined && !(wavelength >= 0.01 && wavelength <= 100)) {
    fail(`${name} states a wavelength of ${wavelength}: expected 0.01 to 100 Å; correct the file`);
  }
  return { ...checked(x, y, name, notes), wavelength: wavelength ?? CU_K_ALPHA, from: wavelength ? "file" : "default", notes };
}

/** Points in rising order, or what is wrong with them. */
function checked(x, y, name, notes) {
  if (x.length !== y.length) fail(`${name}: expected as many intensities as angles, but came ${y.length} and ${x.length}`);
  if (x.length < 50) fail(`${name}: expected at least 50 points, but came ${x.length}; ${EXPORT}`);
  const bad = x.findIndex((angle, i) => !Number.isFinite(angle) || !Number.isFinite(y[i]) || Math.abs(y[i]) > 1e30);
  if (bad >= 0) fail(`${name}: point ${bad + 1} is not finite (${x[bad]}, ${y[bad]}); remove or repair it`);
  if (x[0] > x.at(-1)) {
    x.reverse();
    y.reverse();
    notes.push("the angles ran downwards: reversed");
  }
  const back = x.findIndex((angle, i) => i && angle <= x[i - 1]);
  if (back > 0) fail(`${name}: 2theta must increase, but goes from ${x[back - 1]} to ${x[back]} at point ${back + 1}; keep one scan, sorted`);
  const step = (x.at(-1) - x[1]) / (x.length - 2);
  if (x[1] - x[0] > 20 * step) fail(`${name}: the first point, ${x[0]}, lies far from the next, ${x[1]}; if that line is a header, begin it with #`);
  if (x[0] < 0 || x.at(-1) > 180) fail(`${name}: expected 2theta of 0 to 180 degrees, but the first column runs from ${x[0]} to ${x.at(-1)}`);
  if (!(y.reduce((a, b) => Math.max(a, b)) > 0)) fail(`${name}: no intensity is positive; is the second column the intensity?`);
  return { twoTheta: x, intensity: y };
}

/** Two or more columns of text, whatever parts them. */
function readColumns(text, name) {
  const lines = text.replace(/^\ufeff/, "").split(/\r\n|\r|\n/);
  const split = splitter(lines);
  const [rows, words, notes] = [[], [], []];
  let strange = 0;
  lines.forEach((line, i) => {
    if (!line.trim()) return;
    if (/"[^"]*\d,\d+"/.test(line)) fail(`${name}: line ${i + 1} groups digits or writes decimals with commas in quotes; write plain numbers with a point`);
    const fields = COMMENT.test(line) ? [] : split(line);
    if (fields.length < 2 || !NUMBER.test(fields[0]) || !NUMBER.test(fields[1])) {
      words.push(line);
      strange ||= rows.length && !COMMENT.test(line) ? i + 1 : 0;
      return;
    }
    if (strange) fail(`${name}: expected two numbers at line ${strange}, but came “${lines[strange - 1].trim().slice(0, 40)}”; repair it, or begin comments with #`);
    rows.push(fields);
  });
  if (!rows.length) fail(`${name}: found no line with two numbers; ${EXPORT}`);
  const header = words.slice(0, 100).join("\n");
  const [angle, height] = namedColumns(words, split, rows[0].length, name);
  if (rows[0].length > 2) notes.push(`columns ${angle + 1} and ${height + 1} of ${rows[0].length} were used`);
  const [x, y] = [angle, height].map((column) => rows.map((row) => Number(row[column])));
  return { x, y, wavelength: statedWavelength(header), notes };
}

/** Places of angle and intensity by the names in a header, else the first two. */
function namedColumns(words, split, width, name) {
  for (const line of words.slice(0, 100)) {
    const names = split(line.replace(/^\s*[#!%'/*;]+\s*/, ""));
    const angle = names.findIndex((name) => /^(2|two)?[\s_-]?(theta|th|θ)|^tth|angle/i.test(name));
    if (angle < 0 && /^(q|d|d[\s_-]?spacing)([\s_([/^]|$)/i.test(names[0]) && names.length >= width) {
      fail(`${name}: the first column is called “${names[0].slice(0, 20)}”: expected 2theta in degrees; convert it`);
    }
    if (names.length !== width || angle < 0) continue;
    if (/^(theta|th|θ)([\s_([/^]|$)/i.test(names[angle])) {
      fail(`${name}: the axis is called “${names[angle].slice(0, 20)}”: is it theta or 2theta? Name it 2theta, with twice the values where it is theta`);
    }
    const height = names.findIndex((name, i) => i !== angle && /int|count|cps|obs|signal/i.test(name));
    return [angle, height >= 0 ? height : names.findIndex((_, i) => i !== angle)];
  }
  return [0, 1];
}

/** How lines of this file are parted into fields; a decimal comma becomes a point. */
function splitter(lines) {
  const sample = lines.filter((line) => /^\s*[-+]?[.\d]/.test(line)).slice(0, 200);
  const most = (pattern) => sample.filter((line) => pattern.test(line.trim())).length > sample.length / 2;
  // Where a comma is the decimal mark, points group thousands: 1.230 counts are not 1.23.
  const digits = (f) => (/^[-+]?[1-9]\d{0,2}(\.\d{3})+(,\d*)?$/.test(f) ? f.replace(/\./g, "") : f).replace(",", ".");
  const comma = most(/\d,\d/);
  if (most(/;/)) return (line) => line.split(";").map((f) => (comma ? digits(f.trim()) : f.trim().replace(",", ".")));
  if (most(/^[-+]?\d+,\d+[ \t]+[-+]?\d/)) return (line) => line.trim().split(/[ \t]+/).map(digits);
  return (line) => line.trim().split(/\s*,\s*|\s+/).map((f) => f.replace(/^"|"$/g, ""));
}

/** Wavelength in angstrom that a header states, in numbers or by its anode. */
function statedWavelength(header) {
  const ratio = header.match(/^.*ratio.*alpha.*?(\d+\.\d+)\s*$/im);
  const [first, second] = [1, 2].map((line) => header.match(new RegExp(`^(?!.*ratio).*k\\W?alpha\\W?${line}\\W[^0-9\\n]{0,30}?(\\d+\\.\\d+)`, "im"))?.[1]);
  if (first) return meanOf(Number(first), Number(second ?? 0), Number(ratio?.[1] ?? 0.5));
  const found = header.match(/(?:wave\s*-?length|lambda|λ)[^0-9\n]{0,30}?(\d+[.,]\d+|\.\d+)\s*(nm|pm)?/i);
  if (found) return Number(found[1].replace(",", ".")) * ({ nm: 10, pm: 0.01 }[found[2]?.toLowerCase()] ?? 1);
  const anode = header.match(/\b(Cr|Fe|Co|Ni|Cu|Mo|Ag)[\s_-]*K[\s_-]*(?:alpha|α|a)[\s_-]*(1?)(?![a-z2])/i) ?? header.match(/(?:anode|target)\W{0,5}(Cr|Fe|Co|Ni|Cu|Mo|Ag)\b/i);
  const lines = anode && K_ALPHA[anode[1][0].toUpperCase() + anode[1].slice(1).toLowerCase()];
  return lines ? (anode[2] ? lines[0] : meanOf(...lines)) : undefined;
}

/** PANalytical's XML. */
function readXrdml(text, name) {
  const document = new DOMParser().parseFromString(text, "application/xml");
  if (document.querySelector("parsererror")) fail(`${name}: not a readable XML document; ${EXPORT}`);
  const [scan, ...others] = document.getElementsByTagNameNS("*", "scan");
  if (!scan) fail(`${name}: expected an XRDML document with a <scan>, but found none; ${EXPORT}`);
  if (others.length) fail(`${name}: expected one scan, but found ${others.length + 1}; export one alone`);
  const tag = (parent, wanted) => parent?.getElementsByTagNameNS("*", wanted)[0];
  const numbers = (element) => element?.textContent.trim().split(/\s+/).map(Number);
  const axis = [...scan.getElementsByTagNameNS("*", "positions")].find((one) => /^2theta$/i.test(one.getAttribute("axis")));
  const y = numbers(tag(scan, "intensities") ?? tag(scan, "counts"));
  if (!axis || !y) fail(`${name}: the scan has no 2Theta positions or no intensities; ${EXPORT}`);
  const factors = numbers(tag(scan, "beamAttenuationFactors"));
  if (factors && !tag(scan, "intensities")) y.forEach((_, i) => (y[i] *= factors[i]));
  const [start, end] = ["startPosition", "endPosition"].map((one) => numbers(tag(axis, one))?.[0]);
  const x = numbers(tag(axis, "listPositions")) ?? y.map((_, i) => start + ((end - start) * i) / (y.length - 1));
  const used = tag(document, "usedWavelength");
  const [first, second, ratio] = ["kAlpha1", "kAlpha2", "ratioKAlpha2KAlpha1"].map((one) => numbers(tag(used, one))?.[0]);
  const alone = ratio === 0 || [...document.getElementsByTagNameNS("*", "crystal")].some((one) => /^\s*(ge|si)/i.test(one.textContent));
  return { x, y, wavelength: alone ? first : first && meanOf(first, second, ratio) };
}

/** Rigaku's text. */
function readRas(text, name) {
  const parts = [...text.matchAll(/^\*RAS_INT_START\s*$([^]*?)^\*RAS_INT_END/gm)];
  if (parts.length !== 1) fail(`${name}: expected one scan between *RAS_INT_START and *RAS_INT_END, but found ${parts.length}; ${EXPORT}`);
  const rows = parts[0][1].trim().split(/\n/).map((line) => line.trim().split(/\s+/).map(Number));
  const label = (key) => text.match(new RegExp(`^\\*${key}\\s+"([^"]*)"`, "m"))?.[1];
  const [first, second] = ["1", "2"].map((line) => Number(label(`HW_XG_WAVE_LENGTH_ALPHA${line}`)) || undefined);
  const alone = /^ka1$/i.test(label("MEAS_COND_XG_WAVE_TYPE") ?? "");
  return {
    x: rows.map((row) => row[0]),
    y: rows.map((row) => row[1] * (row[2] > 0 ? row[2] : 1)),
    wavelength: first && (alone ? first : meanOf(first, second)),
  };
}
