/** Sliders of a cell in, its shape, its powder pattern and how lines split out. */

import { axes, curve, drawing, frame } from "./chart.mjs";
import { button, choice, onceAFrame, slider } from "./controls.mjs";
import { largestG, latticeOf, linesOf, patternOf, reciprocalMetric, reflectionsOf, seenLines, shapeOf, splitting, volumeOf } from "./crystal.mjs";
import { html, svg, table } from "./dom.mjs";
import { sceneOf } from "./solid.mjs";
import { viewer } from "./viewer.mjs";

const RANGE = [10, 90]; // degrees
const STEP = 0.03;
const GRID = { from: RANGE[0], step: STEP, points: Math.round((RANGE[1] - RANGE[0]) / STEP) + 1 };
const FWHM = 0.2;
const FAMILIES = ["100", "110", "111", "200"];
const NAMES = ["a", "b", "c", "α", "β", "γ"];
const HEIGHT = 320;
const LABELS = 9;
const FIRST = "Perovskite (cubic)";
const MINUS = (index) => (index < 0 ? `${-index}\u0305` : `${index}`);

/** Shapes to start from, as multiples of a and as angles. */
const SHAPES = {
  cubic: [1, 1, 1, 90, 90, 90],
  tetragonal: [1, 1, 1.06, 90, 90, 90],
  orthorhombic: [1, 1.03, 1.07, 90, 90, 90],
  hexagonal: [1, 1, 1.06, 90, 90, 120],
  rhombohedral: [1, 1, 1, 87, 87, 87],
  monoclinic: [1, 1.03, 1.07, 90, 95, 90],
  triclinic: [1, 1.03, 1.07, 88, 94, 86],
};

const CONDITIONS = {
  cubic: "a = b = c and right angles",
  tetragonal: "two equal edges, a third one, right angles",
  orthorhombic: "three different edges, right angles",
  hexagonal: "two equal edges at 120°, the third at right angles",
  trigonal: "a = b = c and α = β = γ: rhombohedral",
  monoclinic: "two right angles",
  triclinic: "no two right angles",
};

export const planeName = (hkl) => hkl.map(MINUS).join("");

export function start(place, data) {
  const wavelength = data.wavelengths.CuKa;
  const solid = viewer({ label: "The cell with its atoms.", small: true });
  const said = html("p", { class: "mv-said", role: "status" });
  const plot = html("div", { class: "mv-drawing", style: `min-height: ${HEIGHT}px` });
  const splits = html("div", {});
  const titles = data.crystals.map(({ title, formula }) => `${title}, ${formula}`);
  const first = data.crystals.findIndex(({ title }) => title === FIRST);
  const chosen = choice({ name: "Atoms of", titles, value: first }, () => reset());
  const update = onceAFrame(show);
  const sliders = NAMES.map((name, i) => slider({ name, min: 1, max: 2, step: 0.01, value: 1, say: (x) => (i < 3 ? `${x.toFixed(2)} Å` : `${x.toFixed(1)}°`) }, update));
  const shapes = Object.keys(SHAPES).map((name) => button(name, () => setShape(SHAPES[name]), { "data-shape": name }));
  let [before, radius] = [null, 1];

  const crystal = () => data.crystals[chosen.value];
  const cell = () => sliders.map(({ value }) => value);
  const compute = (values) => {
    const lattice = latticeOf(values);
    return lattice && linesOf(reflectionsOf(crystal(), lattice, data.elements, largestG(RANGE[1] + 1, wavelength)));
  };
  const curveOf = (lines) => patternOf(lines, GRID, { fwhm: FWHM, waves: [[wavelength, 1]] });

  /** The crystal's own cell, and sliders that reach a fourth to both sides of it. */
  function reset() {
    const own = crystal().cell;
    own.forEach((value, i) => {
      const { input } = sliders[i];
      [input.min, input.max, input.step] = i < 3 ? [(0.75 * value).toFixed(2), (1.25 * value).toFixed(2), 0.01] : [60, 130, 0.5];
      sliders[i].set(value);
    });
    before = curveOf(compute(cell()));
    radius = 1.15 * sceneOf(crystal(), data.elements, {}, cell()).radius;
    solid.reset();
    update();
  }

  function setShape(shape) {
    const a = crystal().cell[0];
    shape.forEach((value, i) => {
      if (i < 3) [sliders[i].input.min, sliders[i].input.max] = [(0.75 * a).toFixed(2), (1.25 * a).toFixed(2)];
      sliders[i].set(i < 3 ? (a * value).toFixed(2) : value);
    });
    update();
  }

  function show() {
    const values = cell();
    const lines = compute(values);
    place.dataset.shape = lines ? shapeOf(values) : "none";
    if (!lines) {
      said.textContent = "No cell has these three angles: one is as large as the others together, or they sum to 360°. Move one back.";
      return;
    }
    const lattice = latticeOf(values);
    const seen = seenLines(lines, wavelength, RANGE);
    const shape = place.dataset.shape;
    said.textContent = `Shape: ${shape} (${CONDITIONS[shape]}). ${seen.length} lines between ${RANGE[0]}° and ${RANGE[1]}°, volume ${volumeOf(lattice).toFixed(1)} Å³.`;
    place.dataset.lines = seen.length;
    solid.show(sceneOf(crystal(), data.elements, {}, values), radius);
    paint(seen, curveOf(lines));
    const metric = reciprocalMetric(lattice);
    splits.replaceChildren(table("Where planes that a cube makes equal have their lines (Cu Kα; how many planes share it)", ["planes", "lines", "2θ in degrees"], FAMILIES.map((name) => splitRow(name, metric))));
  }

  function splitRow(name, metric) {
    const groups = splitting(metric, [...name].map(Number), wavelength);
    const angles = groups.map(({ seen, twoTheta, planes }) => html("span", { class: "mv-whole" }, `${seen ? twoTheta.toFixed(2) : "–"} (${planes.length}×)`));
    return [`{${name}}`, `${groups.length}`, angles.flatMap((one, i) => (i ? [" ", one] : [one]))];
  }

  let drawn = null;
  function paint(seen, now) {
    drawn = [seen, now];
    const width = Math.max(plot.clientWidth, 280);
    const box = frame({ width, height: HEIGHT, x: RANGE, y: [0, 1.12], margin: { left: 10, bottom: 66 } });
    const figure = drawing(box, `Powder pattern of ${crystal().title} in this cell: ${seen.length} lines; the pattern of its own cell behind it.`);
    const x = Array.from({ length: GRID.points }, (_, i) => GRID.from + i * STEP);
    figure.append(curve(box, x, before, { class: "mv-before" }), curve(box, x, now, { class: "mv-pattern" }));
    const foot = HEIGHT - box.edge.bottom;
    figure.append(axes(frame({ width, height: HEIGHT, x: RANGE, y: [0, 1], margin: { left: 10 } }), { xName: "2θ (degrees)" }));
    for (const { twoTheta } of seen) figure.append(svg("line", { x1: box.x(twoTheta), x2: box.x(twoTheta), y1: foot + 5, y2: foot + 18, class: "mv-line" }));
    const taken = [];
    for (const { twoTheta, members } of [...seen].sort((u, v) => v.height - u.height)) {
      const at = box.x(twoTheta);
      if (taken.length >= LABELS || taken.some((other) => Math.abs(other - at) < 30)) continue;
      taken.push(at);
      figure.append(svg("text", { x: Math.min(Math.max(at, 14), width - 14), y: box.y(Math.min(now[Math.round((twoTheta - RANGE[0]) / STEP)], 1)) - 5, "text-anchor": "middle", class: "mv-index" }, planeName(best(members))));
    }
    plot.replaceChildren(figure);
  }

  place.append(
    html("div", { class: "mv-row" }, chosen.element, button("Reset", reset, { class: "mv-button mv-reset" })),
    html("div", { class: "mv-row", role: "group", "aria-label": "Shapes to start from" }, ...shapes),
    html("div", { class: "mv-beside" }, html("div", { class: "mv-sliders" }, ...sliders.map(({ element }) => element)), solid.element),
    said,
    plot,
    html("p", { class: "mv-key" }, html("span", { class: "mv-swatch mv-swatch-pattern" }), "this cell ", html("span", { class: "mv-swatch mv-swatch-before" }), "the crystal's own cell"),
    splits,
  );
  reset();
  new ResizeObserver(() => drawn && plot.clientWidth && paint(...drawn)).observe(plot);
}

/** The member that reads best: no minus signs, falling indices. */
function best(members) {
  const score = (hkl) => hkl.reduce((sum, x, i) => sum + (x < 0 ? 100 : 0) - Math.abs(x) * (3 - i), 0);
  return [...members].sort((u, v) => score(u) - score(v))[0].map((x, _, all) => (all.every((y) => y <= 0) ? -x : x));
}
