/** A scene in, a canvas that is turned and enlarged with pointer, wheel, keys and buttons out. */

import { button, onceAFrame } from "./controls.mjs";
import { html } from "./dom.mjs";
import { clamp } from "./grid.mjs";
import { draw, rgb } from "./solid.mjs";

const START = { turn: 1.12, tilt: 0.23, zoom: 1 }; // radians; that of the figures in print
const [STEEPEST, NEAREST, FARTHEST] = [Math.PI / 2, 4, 0.4];
const STEP = 0.12; // radians a key press
const SPEED = 0.5; // radians a second, of its own accord
const KEYS = {
  ArrowLeft: (view) => (view.turn -= STEP),
  ArrowRight: (view) => (view.turn += STEP),
  ArrowUp: (view) => (view.tilt += STEP),
  ArrowDown: (view) => (view.tilt -= STEP),
  "+": (view) => (view.zoom *= 1.15),
  "=": (view) => (view.zoom *= 1.15),
  "-": (view) => (view.zoom /= 1.15),
};

/** Colours of the page, light or dark, as the canvas needs them. */
function coloursOf(element) {
  const style = getComputedStyle(element);
  const [paper] = [style.getPropertyValue("--mv-paper").trim() || "#ffffff"];
  return {
    ink: style.color,
    paper: rgb(paper),
    edge: style.getPropertyValue("--mv-structure").trim() || "#0072b2",
  };
}

const still = () => window.matchMedia("(prefers-reduced-motion: reduce)").matches;

/**
 * @param {{label: string, small?: boolean}} what The label says what is seen and how it is turned.
 * @returns {{element: HTMLElement, show: (scene: object, radius?: number) => void, reset: () => void}}
 */
export function viewer({ label, small = false }) {
  const canvas = html("canvas", { class: "mv-canvas", tabindex: "0", role: "img", "aria-label": `${label} Arrow keys turn it, plus and minus enlarge it.` });
  const view = { ...START };
  let [scene, held, spinning, last] = [null, null, false, 0];
  const paint = onceAFrame(() => {
    view.tilt = clamp(view.tilt, -STEEPEST, STEEPEST);
    view.zoom = clamp(view.zoom, FARTHEST, NEAREST);
    if (scene && canvas.clientWidth) draw(canvas, scene, view, coloursOf(canvas));
    canvas.dataset.view = [view.turn, view.tilt, view.zoom].map((x) => x.toFixed(3)).join(" ");
  });
  canvas.addEventListener("pointerdown", (event) => {
    held = [event.clientX, event.clientY];
    canvas.setPointerCapture(event.pointerId);
    stop();
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!held) return;
    view.turn -= (event.clientX - held[0]) * 0.01;
    view.tilt += (event.clientY - held[1]) * 0.01;
    held = [event.clientX, event.clientY];
    paint();
  });
  for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => (held = null));
  // Over a drawing that nobody has taken up, the wheel scrolls the page.
  const wheel = (event) => {
    if (!event.ctrlKey && document.activeElement !== canvas) return;
    event.preventDefault();
    view.zoom *= Math.exp(-event.deltaY * 0.0015);
    paint();
  };
  canvas.addEventListener("wheel", wheel, { passive: false });
  canvas.addEventListener("keydown", (event) => {
    if (!KEYS[event.key] || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    stop();
    KEYS[event.key](view);
    paint();
  });
  const turn = button("Turn", () => (spinning ? stop() : spin()), { "aria-pressed": "false" });
  function stop() {
    spinning = false;
    turn.setAttribute("aria-pressed", "false");
  }
  function spin() {
    spinning = true;
    last = performance.now();
    turn.setAttribute("aria-pressed", "true");
    requestAnimationFrame(step);
  }
  function step(now) {
    if (!spinning) return;
    view.turn += (SPEED * Math.min(now - last, 100)) / 1000;
    last = now;
    paint();
    requestAnimationFrame(step);
  }
  const zoom = (factor) => () => {
    view.zoom *= factor;
    paint();
  };
  const buttons = [button("+", zoom(1.25), { "aria-label": "Enlarge" }), button("−", zoom(0.8), { "aria-label": "Make smaller" })];
  if (!small && !still()) buttons.push(turn);
  const element = html("div", { class: small ? "mv-viewer mv-small" : "mv-viewer" }, canvas, html("div", { class: "mv-over" }, ...buttons));
  new ResizeObserver(paint).observe(canvas);
  new MutationObserver(paint).observe(document.documentElement, { attributeFilter: ["data-theme"] });
  return {
    element,
    show(next, radius) {
      scene = next;
      view.radius = radius;
      paint();
    },
    reset() {
      stop();
      Object.assign(view, START);
      paint();
    },
  };
}
