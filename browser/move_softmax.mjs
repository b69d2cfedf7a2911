/** A temperature in, the softmax of a batch's cosines and its loss out. */

import { axes, curve, drawing, frame } from "./chart.mjs";
import { button, choice, onceAFrame, slider } from "./controls.mjs";
import { html, svg } from "./dom.mjs";
import { lossOf, softmax } from "./softmax.mjs";

const TEMPERATURES = [-2.5, 0.3]; // powers of ten
const START = Math.log10(0.07); // where CLIP begins
const HEIGHT = 230;
const [LEFT, TOP, RIGHT] = [92, 80, 34];
const LARGEST = 40; // pixels of a square // of the matrix
const TICKS = [0.003, 0.01, 0.03, 0.1, 0.3, 1];

export function start(place, data) {
  const chosen = choice({ name: "Batch", titles: data.batches.map(({ title }) => title) }, () => update());
  const update = onceAFrame(show);
  const learned = Math.log10(1 / data.scale);
  const temperature = slider({ name: "Temperature", min: TEMPERATURES[0], max: TEMPERATURES[1], step: 0.02, value: START, say: (x) => (10 ** x).toPrecision(2) }, update);
  const matrix = html("div", { class: "mv-matrix" });
  const plot = html("div", { class: "mv-drawing", style: `min-height: ${HEIGHT}px` });
  const said = html("p", { class: "mv-said", role: "status" });

  function show() {
    const { cosines, labels } = data.batches[chosen.value];
    const scale = 10 ** -temperature.value;
    const shares = softmax(cosines, scale);
    const loss = lossOf(cosines, scale);
    const right = shares.filter((row, i) => row.every((share, k) => k === i || share < row[i])).length;
    const diagonal = shares.reduce((sum, row, i) => sum + row[i] / shares.length, 0);
    place.dataset.loss = loss.toFixed(6);
    place.dataset.diagonal = diagonal.toFixed(6);
    said.textContent = `Loss ${loss.toFixed(2)} nats (guessing: ${Math.log(cosines.length).toFixed(2)}). The right structure gets ${Math.round(100 * diagonal)} % on average; it is first for ${right} of ${cosines.length} patterns, at any temperature.`;
    matrix.replaceChildren(matrixOf(shares, labels));
    paint(cosines, loss);
  }

  function matrixOf(shares, labels) {
    const size = shares.length;
    const side = Math.min(LARGEST, Math.max(matrix.clientWidth - LEFT - RIGHT, 160) / size);
    const [width, height] = [LEFT + size * side + RIGHT, TOP + size * side + 24];
    const label = `Each row is a pattern, each column a structure: shares of the softmax, on the diagonal ${shares.map((row, i) => `${labels[i]} ${Math.round(100 * row[i])} %`).join(", ")}.`;
    const figure = svg("svg", { viewBox: `0 0 ${width} ${height}`, width, role: "img", "aria-label": label, class: "mv-plot" });
    figure.append(svg("text", { x: LEFT + (size * side) / 2, y: 13, "text-anchor": "middle", class: "mv-structure" }, "structures"));
    figure.append(svg("text", { x: LEFT + (size * side) / 2, y: height - 5, "text-anchor": "middle" }, "share of each row in %"));
    const middle = TOP + (size * side) / 2;
    figure.append(svg("text", { x: 12, y: middle, "text-anchor": "middle", transform: `rotate(-90 12 ${middle})`, class: "mv-xrd" }, "patterns"));
    shares.forEach((row, i) => {
      figure.append(svg("text", { "text-anchor": "start", transform: `translate(${LEFT + (i + 0.55) * side} ${TOP - 6}) rotate(-42)`, class: "mv-tiny" }, labels[i]));
      figure.append(svg("text", { x: LEFT - 6, y: TOP + (i + 0.5) * side + 4, "text-anchor": "end", class: "mv-tiny" }, labels[i]));
      row.forEach((share, k) => {
        const [x, y] = [LEFT + k * side, TOP + i * side];
        figure.append(svg("rect", { x: x + 1, y: y + 1, width: side - 2, height: side - 2, class: i === k ? "mv-cell mv-own" : "mv-cell", style: `--share: ${share.toFixed(4)}` }));
        figure.append(svg("text", { x: x + side / 2, y: y + side / 2 + 5, "text-anchor": "middle" }, share < 0.005 ? "·" : `${Math.round(100 * share)}`));
      });
    });
    return figure;
  }

  let drawn = null;
  function paint(cosines, loss) {
    drawn = [cosines, loss];
    const width = Math.max(plot.clientWidth, 280);
    const x = Array.from({ length: 120 }, (_, i) => TEMPERATURES[0] + (i / 119) * (TEMPERATURES[1] - TEMPERATURES[0]));
    const y = x.map((power) => Math.min(lossOf(cosines, 10 ** -power), 3.4));
    const box = frame({ width, height: HEIGHT, x: TEMPERATURES, y: [0, 3.4] });
    const figure = drawing(box, `Loss against temperature; here it is ${loss.toFixed(2)} nats.`);
    figure.append(axes(box, { xName: "temperature", yName: "loss (nats)", xTicks: TICKS.map((t) => [Math.log10(t), `${t}`]) }));
    figure.append(svg("line", { x1: box.x(learned), x2: box.x(learned), y1: box.y(0), y2: box.y(3.2), class: "mv-mark" }));
    figure.append(svg("text", { x: box.x(learned) + 5, y: box.y(3.15) + 4 }, `learned: ${(10 ** learned).toPrecision(2)}`));
    figure.append(curve(box, x, y, { class: "mv-plain" }));
    figure.append(svg("circle", { cx: box.x(temperature.value), cy: box.y(Math.min(loss, 3.4)), r: 6, class: "mv-here" }));
    plot.replaceChildren(figure);
  }

  function reset() {
    chosen.set(0);
    temperature.set(START);
    update();
  }

  place.append(
    html("div", { class: "mv-row" }, chosen.element, button("Reset", reset, { class: "mv-button mv-reset" })),
    html("div", { class: "mv-sliders mv-one" }, temperature.element),
    matrix,
    said,
    plot,
  );
  show();
  new ResizeObserver(() => plot.clientWidth && show()).observe(plot);
}
