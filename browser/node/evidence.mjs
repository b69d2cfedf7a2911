/**
 * Patterns on standard input, what the page's code makes of them on standard output: for the
 * calibration and for the tests, with Node.js. No page uses it.
 *
 * Usage: node evidence.mjs FOLDER < {"patterns": [{twoTheta, intensity, wavelength, symbols,
 * without}]}, the folder as unimat_book.browser.export writes it.
 */

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { evidenceOf } from "../answer.mjs";
import { Network } from "../network.mjs";
import { Index } from "../search.mjs";
import { readTensors } from "../tensors.mjs";

const folder = process.argv[2];
const bytes = (name) => Uint8Array.from(readFileSync(join(folder, name))).buffer;
const { bravais } = JSON.parse(readFileSync(join(folder, "facts.json"), "utf8"));
const network = new Network(readTensors(bytes("reader.safetensors")), bravais);
const index = new Index(readTensors(bytes("index.safetensors")));

for (const { symbols, without, ...pattern } of JSON.parse(readFileSync(0, "utf8")).patterns) {
  const start = performance.now();
  let said;
  try {
    const options = { without: without && new Set(without) };
    const { curve, found, crystals, read, features } = evidenceOf(pattern, symbols ?? [], { network, index }, options);
    said = { peaks: curve.peaks.length, found: found.map((one, i) => ({ ...one, ...crystals[i] })), read, features };
  } catch (error) {
    said = { error: error.message };
  }
  console.log(JSON.stringify({ ...said, milliseconds: performance.now() - start }));
}
