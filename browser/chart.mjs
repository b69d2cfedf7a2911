/** Curves, bars and axes in, an SVG drawing of them out; text keeps its size on a telephone. */

import { svg } from "./dom.mjs";

const MARGIN = { left: 46, right: 10, top: 10, bottom: 40 };

/** A round distance of labels that have about so many pixels each. */
function roundStep(range, pixels, room) {
  const rough = (range * room) / pixels;
  const power = 10 ** Math.floor(Math.log10(rough));
  return [1, 2, 5, 10].find((step) => step * power >= rough * 0.999) * power;
}

const decimals = (step) => Math.max(0, -Math.floor(Math.log10(step) + 1e-9));

/** Places in a drawing, for a range of values along each axis. */
export function frame({ width, height, x: [x0, x1], y: [y0, y1], margin = {} }) {
  const edge = { ...MARGIN, ...margin };
  return {
    width,
    height,
    edge,
    x: (value) => edge.left + ((value - x0) / (x1 - x0)) * (width - edge.left - edge.right),
    y: (value) => height - edge.bottom - ((value - y0) / (y1 - y0)) * (height - edge.bottom - edge.top),
    ranges: { x: [x0, x1], y: [y0, y1] },
  };
}

/** A drawing with a name; nothing in it yet. */
export function drawing(place, label) {
  const { width, height } = place;
  return svg("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": label, class: "mv-plot" });
}

/** The axes: lines, labels at round values, and what they mean. */
export function axes(place, { xName, yName = "", xTicks, yTicks }) {
  const { edge, width, height, ranges } = place;
  const group = svg("g", { class: "mv-axes" });
  const foot = height - edge.bottom;
  group.append(svg("line", { x1: edge.left, x2: width - edge.right, y1: foot, y2: foot }));
  let free = -Infinity; // where the last label ends
  for (const [value, text] of xTicks ?? rounds(ranges.x, width - edge.left - edge.right, 70)) {
    const at = place.x(value);
    group.append(svg("line", { x1: at, x2: at, y1: foot, y2: foot + 4 }));
    const anchor = at > width - edge.right - 14 ? "end" : at < edge.left + 6 ? "start" : "middle";
    const wide = 8 * text.length + 6;
    const begin = { start: at, middle: at - wide / 2, end: at - wide }[anchor];
    if (begin < free) continue;
    free = begin + wide;
    group.append(svg("text", { x: at, y: foot + 17, "text-anchor": anchor }, text));
  }
  group.append(svg("text", { x: (edge.left + width - edge.right) / 2, y: height - 5, "text-anchor": "middle" }, xName));
  if (!yName && !yTicks) return group;
  group.append(svg("line", { x1: edge.left, x2: edge.left, y1: edge.top, y2: foot }));
  for (const [value, text] of yTicks ?? rounds(ranges.y, foot - edge.top, 45)) {
    const at = place.y(value);
    group.append(svg("line", { x1: edge.left - 4, x2: edge.left, y1: at, y2: at }), svg("text", { x: edge.left - 7, y: at + 4, "text-anchor": "end" }, text));
  }
  if (yName) {
    const middle = (edge.top + foot) / 2;
    group.append(svg("text", { x: 12, y: middle, "text-anchor": "middle", transform: `rotate(-90 12 ${middle})` }, yName));
  }
  return group;
}

/** Round values of a range with their labels. */
function rounds([low, high], pixels, room) {
  const step = roundStep(high - low, pixels, room);
  const found = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high * (1 + 1e-9); i++) found.push([i * step, (i * step).toFixed(decimals(step))]);
  return found;
}

/** A curve: at most two points to a pixel, the highest and the lowest of it. */
export function curve(place, xs, ys, attributes) {
  const points = [];
  let [column, low, high] = [-1, 0, 0];
  const flush = () => {
    if (column < 0) return;
    const pair = low < high ? [low, high] : [high, low];
    for (const i of pair[0] === pair[1] ? [pair[0]] : pair) points.push(`${place.x(xs[i]).toFixed(1)} ${place.y(ys[i]).toFixed(1)}`);
  };
  for (let i = 0; i < xs.length; i++) {
    const here = Math.floor(place.x(xs[i]));
    if (here !== column) {
      flush();
      [column, low, high] = [here, i, i];
    } else {
      if (ys[i] < ys[low]) low = i;
      if (ys[i] > ys[high]) high = i;
    }
  }
  flush();
  return svg("path", { d: `M${points.join("L")}`, ...attributes });
}
