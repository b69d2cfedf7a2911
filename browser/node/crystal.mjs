/**
 * Questions on standard input, what the page of things to move computes on standard output, one
 * line of JSON each; for the tests, with Node.js. No page uses it.
 *
 * Usage: node crystal.mjs < [{"ask": NAME, ...}], with the names of the functions below.
 */

import { readFileSync } from "node:fs";
import * as crystal from "../crystal.mjs";
import { lossOf, softmax } from "../softmax.mjs";
import { nearest } from "../neighbours.mjs";
import { filtered, summaryOf, wantedOf } from "../filters.mjs";

const ASKED = {
  reflections: ({ atoms, cell, elements, gMax }) => crystal.reflectionsOf({ atoms }, crystal.latticeOf(cell), elements, gMax),
  pattern: ({ atoms, cell, elements, gMax, grid, instrument }) =>
    Array.from(crystal.patternOf(crystal.linesOf(crystal.reflectionsOf({ atoms }, crystal.latticeOf(cell), elements, gMax)), grid, instrument)),
  splitting: ({ cell, indices, wavelength }) => crystal.splitting(crystal.reciprocalMetric(crystal.latticeOf(cell)), indices, wavelength),
  shape: ({ cell }) => crystal.shapeOf(cell),
  lattice: ({ cell }) => crystal.latticeOf(cell),
  counts: ({ rate, number }) => {
    const random = crystal.randomFrom(5);
    return Array.from({ length: number }, () => crystal.poisson(rate, random));
  },
  softmax: ({ cosines, scale }) => ({ rows: softmax(cosines, scale), loss: lossOf(cosines, scale) }),
  nearest: ({ query, points, width, most }) => nearest(Float32Array.from(query), Float32Array.from(points), width, most),
  summary: ({ places, lengths, angles, said, systems }) => summaryOf(places, lengths, angles, said, systems),
  filtered: ({ rows, text, system, least, most }) => filtered(rows, { ...wantedOf(text), system, least, most }),
};

for (const { ask, ...given } of JSON.parse(readFileSync(0, "utf8"))) console.log(JSON.stringify(ASKED[ask](given)));
