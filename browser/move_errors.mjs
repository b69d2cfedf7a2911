/** A model and a selection of test crystals in, their errors as numbers, histogram and table out. */

import { axes, drawing, frame } from "./chart.mjs";
import { button, choice, field, onceAFrame, slider } from "./controls.mjs";
import { formulaOf, html, svg, table } from "./dom.mjs";
import { filtered, summaryOf, wantedOf } from "./filters.mjs";
import { NoAnswer } from "./signal.mjs";
import { readTensors } from "./tensors.mjs";

const SMALLEST = 1e-4; // angstrom: errors are on file to that
const PAGE = 10;
const HEIGHT = 200;
const BINS = [-4, 1, 40]; // powers of ten of an angstrom, and how many between them
const TICKS = [0.0001, 0.001, 0.01, 0.1, 1, 10];
const ORDERS = ["largest length errors", "smallest length errors", "largest angle errors", "most atoms"];

async function load() {
  const response = await fetch(new URL("errors.safetensors", import.meta.url));
  if (!response.ok) throw new Error(`errors.safetensors could not be loaded (${response.status})`);
  const { lengths, angles, said, system, num_atoms: atoms, names } = readTensors(await response.arrayBuffer());
  const [models, number] = lengths.shape;
  const of = (tensor) => Array.from({ length: models }, (_, m) => tensor.data.subarray(m * number, (m + 1) * number));
  const lines = new TextDecoder().decode(names.data).split("\n").map((line) => line.split("\t"));
  const rows = lines.map(([formula, id], i) => ({ formula, id, system: system.data[i], atoms: atoms.data[i] }));
  return { rows, lengths: of(lengths), angles: of(angles), said: of(said), systems: system.data };
}

/** Shares of values in bins of their logarithm. */
function histogram(values) {
  const [low, high, number] = BINS;
  const counts = new Array(number).fill(0);
  for (const value of values) {
    const place = ((Math.log10(Math.max(value, 1e-9)) - low) / (high - low)) * number;
    counts[Math.min(Math.max(Math.floor(place), 0), number - 1)]++;
  }
  return counts.map((count) => count / Math.max(values.length, 1));
}

const small = (x) => (!Number.isFinite(x) ? "–" : x < SMALLEST ? "under 0.0001" : x.toPrecision(3));

export async function start(place, data) {
  const all = await load();
  const known = all.rows.some(({ formula }) => formula);
  const most = all.rows.reduce((a, { atoms }) => Math.max(a, atoms), 1);
  const update = onceAFrame(() => show());
  const again = () => {
    page = 0;
    update();
  };
  const model = choice({ name: "Model", titles: data.models.map(({ title }) => title), value: 3 }, again);
  const system = choice({ name: "Crystal system", titles: ["all", ...data.systems] }, again);
  const order = choice({ name: "Order", titles: ORDERS }, again);
  const formula = field({ name: "Formula or elements", placeholder: "TiO2 or Ti-O or Ti, O" }, again);
  const least = slider({ name: "Atoms, at least", min: 1, max: most, step: 1, value: 1, say: (x) => `${x}` }, again);
  const highest = slider({ name: "Atoms, at most", min: 1, max: most, step: 1, value: most, say: (x) => `${x}` }, again);
  const said = html("p", { class: "mv-said mv-short", role: "status" });
  const facts = html("dl", { class: "mv-facts" });
  const plot = html("div", { class: "mv-drawing", style: `min-height: ${HEIGHT}px` });
  const listed = html("div", { class: "mv-listed" });
  const count = html("span", { class: "mv-page" });
  const turn = (by) => () => {
    page = Math.min(Math.max(page + by, 0), Math.max(Math.ceil(chosen.length / PAGE) - 1, 0));
    list();
  };
  const [back, on] = [button("Previous ten", turn(-1)), button("Next ten", turn(1))];
  let [page, chosen] = [0, []];

  function show() {
    let wanted = {};
    formula.input.setAttribute("aria-invalid", "false");
    try {
      if (known) wanted = wantedOf(formula.value);
    } catch (error) {
      if (!(error instanceof NoAnswer)) throw error;
      formula.input.setAttribute("aria-invalid", "true");
      said.textContent = `${error.message[0].toUpperCase()}${error.message.slice(1)}.`;
      return;
    }
    const m = model.value;
    const places = filtered(all.rows, { ...wanted, system: system.value - 1, least: least.value, most: highest.value });
    const [lengths, angles] = [all.lengths[m], all.angles[m]];
    const by = [(i, k) => lengths[k] - lengths[i], (i, k) => lengths[i] - lengths[k], (i, k) => angles[k] - angles[i], (i, k) => all.rows[k].atoms - all.rows[i].atoms];
    chosen = places.sort(by[order.value]);
    const sum = summaryOf(chosen, lengths, angles, all.said[m], all.systems);
    place.dataset.number = sum.number;
    place.dataset.mean = sum.lengths;
    said.textContent = sum.number ? `${sum.number.toLocaleString("en")} of ${all.rows.length.toLocaleString("en")} test crystals.` : "No test crystal fits. Widen the selection.";
    const rows = [
      ["Error of a, b, c", `mean ${small(sum.lengths)} Å, median ${small(sum.median)} Å`],
      ["Error of the angles", `mean ${small(sum.angles)}°`],
      ["System right", sum.number ? `${(100 * sum.right).toFixed(1)} %` : "–"],
    ];
    facts.replaceChildren(...rows.flatMap(([name, value]) => [html("dt", {}, name), html("dd", {}, value)]));
    paint();
    list();
  }

  function paint() {
    const lengths = all.lengths[model.value];
    const [mine, whole] = [histogram(chosen.map((i) => lengths[i])), histogram(Array.from(lengths))];
    const width = Math.max(plot.clientWidth, 280);
    const top = 1.08 * Math.max(...mine, ...whole);
    const box = frame({ width, height: HEIGHT, x: BINS.slice(0, 2), y: [0, 100 * top] });
    const figure = drawing(box, "Histogram of the mean error of a, b, c: the selection as bars, all test crystals as a line.");
    const step = (BINS[1] - BINS[0]) / BINS[2];
    mine.forEach((share, i) => {
      const x = box.x(BINS[0] + i * step);
      figure.append(svg("rect", { x: x + 0.5, y: box.y(100 * share), width: Math.max(box.x(BINS[0] + (i + 1) * step) - x - 1, 1), height: box.y(0) - box.y(100 * share), class: "mv-block" }));
    });
    const line = whole.map((share, i) => `${i ? "" : `M${box.x(BINS[0])} `}${i ? "V" : ""}${box.y(100 * share).toFixed(1)}H${box.x(BINS[0] + (i + 1) * step).toFixed(1)}`).join("");
    figure.append(svg("path", { d: line, class: "mv-outline" }));
    figure.append(axes(box, { xName: "mean error of a, b, c (Å)", yName: "crystals (%)", xTicks: TICKS.map((t) => [Math.log10(t), `${t}`]) }));
    plot.replaceChildren(figure);
  }

  function list() {
    const m = model.value;
    const rows = chosen.slice(page * PAGE, (page + 1) * PAGE).map((i) => {
      const { id, formula: name, system: own, atoms } = all.rows[i];
      const link = html("a", { href: `https://materialsproject.org/materials/${id}`, class: "mv-whole" }, known ? formulaOf(name) : id);
      const answer = all.said[m][i];
      return [link, `${atoms}`, data.systems[own], answer === own ? "right" : data.systems[answer], all.lengths[m][i].toFixed(4), all.angles[m][i].toFixed(2)];
    });
    listed.replaceChildren(table("Test crystals with the mean absolute errors of their lengths and angles", ["crystal", "atoms", "system", "answered", "lengths (Å)", "angles (°)"], rows));
    const pages = Math.max(Math.ceil(chosen.length / PAGE), 1);
    count.textContent = `page ${page + 1} of ${pages.toLocaleString("en")}`;
    back.disabled = page === 0;
    on.disabled = page >= pages - 1;
  }

  function save() {
    const m = model.value;
    const quoted = (text) => `"${text}"`;
    const lines = chosen.map((i) => {
      const { id, formula: name, system: own, atoms } = all.rows[i];
      return [id, quoted(name), atoms, data.systems[own], data.systems[all.said[m][i]], all.lengths[m][i].toFixed(4), all.angles[m][i].toFixed(2)].join(",");
    });
    const text = ["material_id,formula,num_atoms,crystal_system,predicted_system,mean_length_error_angstrom,mean_angle_error_degrees", ...lines].join("\n");
    const link = html("a", { href: URL.createObjectURL(new Blob([`${text}\n`], { type: "text/csv" })), download: "errors.csv" });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }

  function reset() {
    model.set(3);
    for (const one of [system, order]) one.set(0);
    formula.set("");
    least.set(1);
    highest.set(most);
    again();
  }

  place.append(html("div", { class: "mv-row" }, model.element, system.element, order.element));
  if (known) place.append(html("div", { class: "mv-row" }, formula.element));
  else place.append(html("p", { class: "mv-note" }, "MP-20 was not on the machine that built these pages: the published errors are all here, but without formulas. Filter them by system and size; each id leads to its crystal."));
  place.append(
    html("div", { class: "mv-sliders" }, least.element, highest.element),
    said,
    facts,
    plot,
    html("p", { class: "mv-key" }, html("span", { class: "mv-swatch mv-swatch-block" }), "selection ", html("span", { class: "mv-swatch mv-swatch-outline" }), "all test crystals"),
    listed,
    html("div", { class: "mv-row mv-pages" }, back, on, count, button("CSV of the selection", save), button("Reset", reset, { class: "mv-button mv-reset" })),
  );
  show();
  new ResizeObserver(() => plot.clientWidth && paint()).observe(plot);
}
