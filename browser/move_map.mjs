/** A crystal that is pointed at in, the nearest points of another view out, on a map and as a list. */

import { button, choice, field, onceAFrame } from "./controls.mjs";
import { formulaOf, html, svg, table } from "./dom.mjs";
import { nearest, rankOf } from "./neighbours.mjs";
import { systemOf } from "./network.mjs";
import { readTensors } from "./tensors.mjs";

const VIEWS = ["structure", "pattern", "formula"]; // in the order of map.safetensors
const KINDS = ["structure", "xrd", "composition"];
const HEIGHT = 420;
const EDGE = 16;
const SHOWN = 5;
const NEAR = 28; // pixels; a point that is farther from the pointer is not meant

/** A mark of a view: circle, triangle, square, as in the book's figures. */
function mark(view, x, y, size, attributes = {}) {
  const all = { class: `mv-point mv-fill-${KINDS[view]}`, ...attributes };
  if (view === 0) return svg("circle", { cx: x, cy: y, r: size, ...all });
  if (view === 1) return svg("path", { d: `M${x} ${y - 1.2 * size}l${1.15 * size} ${2.1 * size}h${-2.3 * size}z`, ...all });
  return svg("rect", { x: x - size, y: y - size, width: 2 * size, height: 2 * size, ...all });
}

async function load() {
  const response = await fetch(new URL("map.safetensors", import.meta.url));
  if (!response.ok) throw new Error(`map.safetensors could not be loaded (${response.status})`);
  const { points, places, space_group: groups, names } = readTensors(await response.arrayBuffer());
  const [, number, width] = points.shape;
  const rows = new TextDecoder().decode(names.data).split("\n").map((line) => line.split("\t"));
  const part = (tensor, size, view) => tensor.data.subarray(view * number * size, (view + 1) * number * size);
  return {
    number,
    width,
    groups: groups.data,
    formulas: rows.map(([formula]) => formula),
    ids: rows.map(([, id]) => id),
    points: VIEWS.map((_, view) => part(points, width, view)),
    places: VIEWS.map((_, view) => part(places, 2, view)),
  };
}

export async function start(place, data) {
  const map = await load();
  const first = Math.max(map.formulas.indexOf("TiO2"), 0);
  let row = first;
  const options = VIEWS.map((view) => `its ${view}`);
  const from = choice({ name: "Ask with", titles: options, value: 1 }, () => anew());
  const to = choice({ name: "Find the nearest", titles: ["structures", "patterns", "formulas"], value: 0 }, () => anew());
  const list = html("datalist", { id: "mv-formulas" }, ...[...new Set(map.formulas)].sort().map((value) => html("option", { value })));
  const formula = field({ name: "Formula", placeholder: "TiO2", list: "mv-formulas" }, () => seek());
  const plot = html("div", { class: "mv-drawing mv-map", style: `min-height: ${HEIGHT}px` });
  const said = html("p", { class: "mv-said", role: "status" });
  const found = html("div", {});
  const key = KINDS.map((kind, view) => {
    const sign = svg("svg", { width: 14, height: 14, viewBox: "0 0 14 14", "aria-hidden": "true" });
    sign.append(mark(view, 7, 7, 4));
    return html("span", { class: "mv-whole mv-sign" }, sign, ` ${VIEWS[view]} `);
  });
  const update = onceAFrame(show);
  let [overall, overlay, screen] = ["", null, null];

  const point = (view, i) => map.points[view].subarray(i * map.width, (i + 1) * map.width);

  /** Views have changed: all ranks, and the map, are made anew. */
  function anew() {
    let right = 0;
    for (let i = 0; i < map.number; i++) right += rankOf(point(from.value, i), map.points[to.value], map.width, i) === 1;
    const own = from.value === to.value;
    overall = own ? "A view is nearest to itself: choose two different ones." : `Of all ${map.number} crystals here, ${Math.round((100 * right) / map.number)} % have their own ${VIEWS[to.value]} first.`;
    paint();
    update();
  }

  function paint() {
    const width = Math.max(plot.clientWidth, 280);
    screen = (view, i) => {
      const [x, y] = map.places[view].subarray(2 * i, 2 * i + 2);
      return [EDGE + ((x + 1) / 2) * (width - 2 * EDGE), HEIGHT - EDGE - ((y + 1) / 2) * (HEIGHT - 2 * EDGE)];
    };
    const label = `Map of the shared space: ${map.number} crystals, each with its ${VIEWS[from.value]} and its ${VIEWS[to.value]}. The list below says the same in words.`;
    const figure = svg("svg", { viewBox: `0 0 ${width} ${HEIGHT}`, width, height: HEIGHT, role: "img", "aria-label": label, class: "mv-plot" });
    for (const view of new Set([to.value, from.value])) {
      const group = svg("g", {});
      for (let i = 0; i < map.number; i++) group.append(mark(view, ...screen(view, i), 2.6));
      figure.append(group);
    }
    overlay = svg("g", {});
    figure.append(overlay);
    figure.addEventListener("pointermove", (event) => pick(event, figure));
    figure.addEventListener("pointerdown", (event) => pick(event, figure));
    plot.replaceChildren(figure);
    key.forEach((one, view) => (one.hidden = view !== from.value && view !== to.value));
  }

  /** The crystal whose point, of the view asked with, is nearest to the pointer. */
  function pick(event, figure) {
    const box = figure.getBoundingClientRect();
    const [x, y] = [event.clientX - box.left, event.clientY - box.top];
    let [best, distance] = [-1, NEAR];
    for (let i = 0; i < map.number; i++) {
      const [px, py] = screen(from.value, i);
      const here = Math.hypot(px - x, py - y);
      if (here < distance) [best, distance] = [i, here];
    }
    if (best < 0 || best === row) return;
    row = best;
    update();
  }

  function show() {
    const query = point(from.value, row);
    const best = nearest(query, map.points[to.value], map.width, SHOWN);
    const rank = rankOf(query, map.points[to.value], map.width, row);
    place.dataset.row = row;
    place.dataset.rank = rank;
    const [x, y] = screen(from.value, row);
    overlay.replaceChildren();
    for (const one of best) {
      const [u, v] = screen(to.value, one.row);
      overlay.append(svg("line", { x1: x, y1: y, x2: u, y2: v, class: "mv-link" }), mark(to.value, u, v, 5, { class: `mv-near mv-fill-${KINDS[to.value]}` }));
    }
    overlay.append(mark(from.value, x, y, 7, { class: `mv-asked mv-fill-${KINDS[from.value]}` }));
    const name = `${map.formulas[row]}, ${data.systems[systemOf(map.groups[row])]}`;
    const itself = from.value === to.value ? "" : ` Its own ${VIEWS[to.value]} is number ${rank} of ${map.number}.`;
    said.textContent = `Asked with the ${VIEWS[from.value]} of ${name}.${itself} ${overall}`;
    const rows = best.map((one, i) => [`${i + 1}`, formulaOf(map.formulas[one.row]), `${data.systems[systemOf(map.groups[one.row])]} (${map.groups[one.row]})`, one.cosine.toFixed(3), one.row === row ? "yes" : ""]);
    found.replaceChildren(table(`The ${SHOWN} nearest ${VIEWS[to.value]}s in the shared space`, ["rank", "crystal", "system (group)", "cosine", "own"], rows));
  }

  function seek() {
    const wanted = map.formulas.map((one, i) => [one, i]).filter(([one]) => one.toLowerCase() === formula.value.toLowerCase());
    if (!wanted.length) return;
    row = wanted[0][1];
    update();
  }

  function next() {
    row = (row + 1) % map.number;
    update();
  }

  /** The next crystal of the same formula, if there is one. */
  function other() {
    const same = map.formulas.map((one, i) => [one, i]).filter(([one]) => one === map.formulas[row]);
    row = same[(same.findIndex(([, i]) => i === row) + 1) % same.length][1];
    update();
  }

  function reset() {
    from.set(1);
    to.set(0);
    formula.set("");
    row = first;
    anew();
  }

  place.append(
    html("div", { class: "mv-row" }, from.element, to.element, formula.element, button("Next crystal", next), button("Same formula", other), button("Reset", reset, { class: "mv-button mv-reset" }), list),
    plot,
    html("p", { class: "mv-key" }, ...key),
    said,
    found,
    html("p", { class: "mv-note" }, data.dataset === "prototypes" ? "MP-20 was not on the machine that built these pages: these are the structure prototypes that come with the book." : "A sample of MP-20's test crystals (Materials Project, CC-BY-4.0): the model was not trained on them."),
  );
  anew();
  new ResizeObserver(() => {
    if (!plot.clientWidth) return;
    paint();
    show();
  }).observe(plot);
}
