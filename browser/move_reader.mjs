/** An instrument's settings in, the scan it would give and what network and search say of it out. */

import { axes, curve, drawing, frame } from "./chart.mjs";
import { button, choice, onceAFrame, slider, tick } from "./controls.mjs";
import { largestG, latticeOf, linesOf, patternOf, poisson, randomFrom, reflectionsOf, seenLines } from "./crystal.mjs";
import { formulaOf, html, svg } from "./dom.mjs";

const RANGE = [10, 90];
const STEP = 0.02;
const POINTS = Math.round((RANGE[1] - RANGE[0]) / STEP) + 1;
const BACKGROUND = 0.04; // of the highest line
const LORENTZ = 0.4; // share of the profile, as laboratory lines have
const HEIGHT = 260;
const PAUSE = 150; // milliseconds after the last change until the models are asked
const START = { fwhm: 0.12, shift: 0, counts: 4, doublet: true, elements: false };
const SETTINGS = Object.keys(START);

// Space groups of left-handed crystals, and those of their mirror images.
const HANDS = { 78: 76, 95: 91, 96: 92, 145: 144, 153: 151, 154: 152, 170: 169, 172: 171, 179: 178, 181: 180, 213: 212 };

const percent = (p) => (p > 0.995 ? "over 99 %" : p < 0.005 ? "under 1 %" : `${Math.round(100 * p)} %`);
const grouped = (x) => Math.round(x).toLocaleString("en");

/** Counts of a scan: lines, a flat background and the noise of counting, the same for one seed. */
export function scanOf(lines, { fwhm, shift, counts, doublet }, wavelengths, seed = 1) {
  const { CuKa, CuKa1, CuKa2 } = wavelengths;
  const waves = doublet ? [[CuKa1, 2 / 3], [CuKa2, 1 / 3]] : [[CuKa, 1]];
  const clean = patternOf(lines, { from: RANGE[0], step: STEP, points: POINTS }, { fwhm, eta: LORENTZ, shift, waves });
  const random = randomFrom(seed);
  return { clean, counts: Array.from(clean, (y) => poisson(10 ** counts * (y + BACKGROUND), random)) };
}

export function start(place, data, { worker }) {
  const titles = data.crystals.map(({ title, formula }) => `${title}, ${formula}`);
  const chosen = choice({ name: "Crystal", titles }, () => update());
  const update = onceAFrame(show);
  const controls = {
    fwhm: slider({ name: "Peak width", min: 0.04, max: 1.2, step: 0.02, value: START.fwhm, say: (x) => `${x.toFixed(2)}°` }, update),
    shift: slider({ name: "Zero shift", min: -0.5, max: 0.5, step: 0.02, value: START.shift, say: (x) => `${x > 0 ? "+" : x < 0 ? "−" : ""}${Math.abs(x).toFixed(2)}°` }, update),
    counts: slider({ name: "Counts at the top", min: 1, max: 5, step: 0.1, value: START.counts, say: (x) => grouped(10 ** x) }, update),
    doublet: tick({ name: "Kα₁ and Kα₂, as a tube has them", value: START.doublet }, update),
    elements: tick({ name: "Tell the models the elements", value: START.elements }, update),
  };
  const plot = html("div", { class: "mv-drawing", style: `min-height: ${HEIGHT}px` });
  const status = html("p", { class: "mv-said", role: "status" }, "Loading the network and the index, some megabytes, once …");
  const bars = html("div", { class: "mv-bars", role: "group", "aria-label": "Crystal system, by the network" });
  const verdict = html("p", { class: "mv-verdict" }, "…");
  const x = Array.from({ length: POINTS }, (_, i) => RANGE[0] + i * STEP);
  let [asked, waiting, busy, next] = [0, 0, false, null];

  const rows = data.systems.map((name) => {
    const fill = html("span", { class: "mv-fill" });
    const value = html("span", { class: "mv-share" }, "–");
    const title = html("span", { class: "mv-name" }, name);
    bars.append(html("div", { class: "mv-bar" }, title, html("span", { class: "mv-track" }, fill), value));
    return { fill, value, title };
  });

  function reset() {
    for (const name of SETTINGS) controls[name].set(START[name]);
    update();
  }

  let drawn = null;
  function show() {
    const crystal = data.crystals[chosen.value];
    const settings = Object.fromEntries(SETTINGS.map((name) => [name, controls[name].value]));
    const lines = linesOf(reflectionsOf(crystal, latticeOf(crystal.cell), data.elements, largestG(RANGE[1] + 1, data.wavelengths.CuKa1)));
    const { counts } = scanOf(lines, settings, data.wavelengths);
    drawn = { counts, crystal, seen: seenLines(lines, data.wavelengths.CuKa, RANGE) };
    rows.forEach(({ title }, i) => {
      title.textContent = data.systems[i] + (i === crystal.system ? " (true)" : "");
      title.classList.toggle("mv-true", i === crystal.system);
    });
    paint();
    const symbols = settings.elements ? [...new Set(crystal.atoms.map(([z]) => data.elements[z].symbol))] : [];
    next = { number: ++asked, symbols, pattern: { twoTheta: x, intensity: counts, wavelength: data.wavelengths.CuKa } };
    place.dataset.asked = asked;
    clearTimeout(waiting);
    waiting = setTimeout(send, PAUSE);
  }

  function paint() {
    const { counts, crystal, seen } = drawn;
    const width = Math.max(plot.clientWidth, 280);
    const most = counts.reduce((a, b) => Math.max(a, b), 1);
    const box = frame({ width, height: HEIGHT, x: RANGE, y: [0, 1.05 * most], margin: { left: 10, bottom: 66 } });
    const figure = drawing(box, `Simulated scan of ${crystal.title}; its highest point has ${grouped(most)} counts.`);
    figure.append(curve(box, x, counts, { class: "mv-pattern" }));
    const foot = HEIGHT - box.edge.bottom;
    for (const { twoTheta } of seen) figure.append(svg("line", { x1: box.x(twoTheta), x2: box.x(twoTheta), y1: foot + 5, y2: foot + 18, class: "mv-line" }));
    const below = frame({ width, height: HEIGHT, x: RANGE, y: [0, 1], margin: { left: 10 } });
    figure.append(axes(below, { xName: "2θ (degrees); marks: where the lines truly are" }));
    plot.replaceChildren(figure);
  }

  /** One question at a time; of those that come meanwhile the last one counts. */
  function send() {
    if (busy || !next || !worker.ready) return;
    busy = true;
    worker.ask(next, answered);
    status.textContent = "The models are reading …";
    next = null;
  }

  function answered({ number, result, error, seconds }) {
    busy = false;
    if (error) return void (status.textContent = error);
    if (number === asked) tell(result, seconds);
    send();
  }

  function tell(result, seconds) {
    const crystal = data.crystals[chosen.value];
    rows.forEach(({ fill, value }, i) => {
      const share = result.systems ? result.systems[i][1] : 0;
      fill.style.width = `${100 * share}%`;
      value.textContent = result.systems ? percent(share) : "–";
    });
    verdict.replaceChildren(...sentence(result, crystal));
    verdict.dataset.verdict = result.verdict;
    status.textContent = `Answered in ${seconds.toFixed(1)} s on this machine.`;
    place.dataset.answered = asked;
  }

  worker.whenReady(
    () => {
      status.textContent = "Ready.";
      send();
    },
    (text) => (status.textContent = text),
  );
  place.append(
    html("div", { class: "mv-row" }, chosen.element, button("Reset", reset, { class: "mv-button mv-reset" })),
    html("div", { class: "mv-sliders" }, ...["fwhm", "shift", "counts"].map((name) => controls[name].element)),
    html("div", { class: "mv-row" }, controls.doublet.element, controls.elements.element),
    plot,
    verdict,
    bars,
    status,
  );
  show();
  new ResizeObserver(() => drawn && plot.clientWidth && paint()).observe(plot);
}

/** The verdict of search and network together, as the page that reads patterns states it. */
function sentence({ verdict, reason, crystal: p, cell, system, matches: [first] }, crystal) {
  const right = first && alike(first, crystal);
  if (verdict === "match") return ["Search and network: probably ", formulaOf(first.formula), ` (${first.systemName}), ${percent(p)}. ${right ? "That is right." : "That is wrong."}`];
  if (verdict === "cell") return ["Search and network: the cell of ", formulaOf(first.formula), ` (${first.systemName}), ${percent(cell)}; which crystal it is stays open.`];
  if (verdict === "system") return [`Search: no crystal is named. Network: ${system.name}, ${percent(system.probability)}.`];
  return [reason ? `No answer: ${reason}.` : "No confident answer: no crystal fits well enough, and the network is not sure."];
}

/** The same formula and group; a powder cannot tell a left hand from a right one. */
const alike = (found, crystal) => found.formula === crystal.formula && unhanded(found.group) === unhanded(crystal.group);
const unhanded = (group) => HANDS[group] ?? group;
