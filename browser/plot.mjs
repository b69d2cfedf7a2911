/** A pattern and the lines of a crystal in, a drawing of both out. */

import { svg } from "./dom.mjs";

const HEIGHT = 300;
const [LEFT, RIGHT, TOP, BOTTOM] = [8, 8, 8, 74]; // margins; ticks and axis stand below the curve
const TICKS = 26; // height of the highest

/** A round distance of about eight labels. */
function roundStep(range, width) {
  const rough = (range * 70) / width;
  return [0.5, 1, 2, 5, 10, 20, 50].find((step) => step >= rough) ?? 100;
}

/**
 * @param {{twoTheta: number[], intensity: number[]}} pattern
 * @param {{ticks?: [number, number][], name?: string}} best Lines of the best match.
 * @param {number} width In pixels: text keeps its size on a telephone.
 * @returns {SVGElement}
 */
export function plotPattern({ twoTheta, intensity }, { ticks = [], name = "" }, width) {
  const [low, high] = [twoTheta[0], twoTheta.at(-1)];
  const most = intensity.reduce((a, b) => Math.max(a, b), -Infinity);
  const least = Math.min(intensity.reduce((a, b) => Math.min(a, b), Infinity), 0);
  const x = (angle) => LEFT + ((angle - low) / (high - low)) * (width - LEFT - RIGHT);
  const foot = HEIGHT - BOTTOM;
  const y = (value) => foot - ((value - least) / (most - least)) * (foot - TOP);
  const seen = ticks.filter(([angle]) => angle >= low && angle <= high);
  const label = `Measured pattern from ${low.toFixed(1)} to ${high.toFixed(1)} degrees` + (seen.length ? ` with ${seen.length} computed lines of ${name} below it` : "");
  const drawing = svg("svg", { viewBox: `0 0 ${width} ${HEIGHT}`, width, height: HEIGHT, role: "img", "aria-label": label, class: "yp-plot" });
  const path = twoTheta.map((angle, i) => `${i ? "L" : "M"}${x(angle).toFixed(1)} ${y(intensity[i]).toFixed(1)}`).join("");
  drawing.append(svg("path", { d: path, class: "yp-curve" }));
  for (const [angle, height] of seen) {
    const at = x(angle).toFixed(1);
    drawing.append(svg("line", { x1: at, x2: at, y1: foot + 6, y2: (foot + 6 + 4 + (TICKS - 4) * height).toFixed(1), class: "yp-tick" }));
  }
  const line = HEIGHT - 34;
  drawing.append(svg("line", { x1: LEFT, x2: width - RIGHT, y1: line, y2: line, class: "yp-axis" }));
  const step = roundStep(high - low, width);
  for (let angle = Math.ceil(low / step) * step; angle <= high; angle += step) {
    drawing.append(svg("line", { x1: x(angle), x2: x(angle), y1: line, y2: line + 4, class: "yp-axis" }));
    const anchor = x(angle) < LEFT + 10 ? "start" : x(angle) > width - RIGHT - 10 ? "end" : "middle";
    drawing.append(svg("text", { x: x(angle), y: line + 16, "text-anchor": anchor }, `${+angle.toFixed(1)}`));
  }
  drawing.append(svg("text", { x: width / 2, y: HEIGHT - 4, "text-anchor": "middle" }, "2θ (degrees)"));
  return drawing;
}
