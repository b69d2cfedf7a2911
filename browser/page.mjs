/** The page: a dropped file, elements and a wavelength in; the answer in words, tables and a drawing out. */

import { parseElements } from "./answer.mjs";
import { formulaOf, html, table } from "./dom.mjs";
import { plotPattern } from "./plot.mjs";
import { readPattern, wavelengthOfTube } from "./reading.mjs";
import { NoAnswer } from "./signal.mjs";

const SHOWN = 5; // matches
const FAINT = 0.01; // probability; what is less likely is not listed
const NAMES = ["file", "drop", "form", "elements", "wavelength", "status", "result", "examples", "source"];
const [file, drop, form, elements, wavelength, status, result, examples, source] = NAMES.map((name) => document.getElementById(`yp-${name}`));

let [pattern, asked, chosen, facts] = [null, 0, 0, null];
let draw = () => {}; // again, when the page has got another width

const percent = (p) => (p > 0.99 ? "over 99 %" : p < 0.01 ? "under 1 %" : `${Math.round(100 * p)} %`);

/** Text that is not broken. */
const whole = (text) => html("span", { class: "yp-whole" }, text);

/** Lengths and angles, which go to two lines where there is no room for both. */
const cellText = (cell) => [cell.slice(0, 3).map((x) => x.toFixed(3)).join(", ") + " Å", cell.slice(3).map((x) => x.toFixed(1)).join(", ") + "°"].map(whole);

function say(text, kind = "") {
  status.textContent = text;
  status.dataset.kind = kind;
}

const groupName = (group) => `${facts.symbols[group - 1]} (${group})`;

/** The answer in one sentence, and one on what it rests on. */
function verdictOf({ verdict, reason, crystal, cell, system, matches: [first] }) {
  if (verdict === "match") return [["Probably ", formulaOf(first.formula), `, ${first.systemName}, ${groupName(first.group)}: ${percent(crystal)}`], ""];
  const not = "No known crystal of this index fits well enough to be named.";
  if (verdict === "cell") return [[`Probably ${first.systemName}, with the cell of `, formulaOf(first.formula), `: ${percent(cell)}`], `Which crystal it is stays open: ${percent(crystal)} for this one.`];
  if (verdict === "system") return [[`Probably ${system.name}: ${percent(system.probability)}, says the network alone`], not];
  return [["No confident answer"], reason ? `${reason[0].toUpperCase()}${reason.slice(1)}.` : `${not} The network is not sure enough of a crystal system either.`];
}

function matchRows(matches) {
  return matches.slice(0, SHOWN).map((one) => {
    const id = /^mp-\d+$/.test(one.id) ? html("a", { href: `https://materialsproject.org/materials/${one.id}`, class: "yp-whole" }, one.id) : one.id;
    const group = [whole(facts.symbols[one.group - 1]), whole(`(${one.group})`)];
    return [formulaOf(one.formula), group, cellText(one.cell), one.cosine.toFixed(3), percent(one.met), id];
  });
}

function systemRows(systems) {
  const likely = systems.filter(([, p]) => p >= FAINT).sort((a, b) => b[1] - a[1]);
  return likely.map(([name, p]) => [name, html("span", { class: "yp-bar", style: `--share: ${p}` }, percent(p))]);
}

function cellRows(cells) {
  const likely = cells.filter(({ probability: p }) => p >= FAINT);
  return likely.map(({ bravais, probability, lengths, angles, error }) => {
    const mean = error.reduce((a, b) => a + b) / error.length;
    return [bravais, percent(probability), cellText([...lengths, ...angles]), `${Math.round(100 * mean)} %`];
  });
}

function show(answer, seconds) {
  result.hidden = false; // before its width is asked for
  const [sentence, more] = verdictOf(answer);
  const [first] = answer.matches;
  const named = answer.verdict === "match" || answer.verdict === "cell";
  const best = first ? { ticks: answer.ticks, name: `${first.formula}, ${first.id}` } : {};
  const figure = html("figure", { class: "yp-figure" });
  const shown = pattern;
  draw = () => {
    figure.querySelector("svg")?.remove();
    figure.prepend(plotPattern(shown, best, Math.max(result.clientWidth, 280)));
  };
  draw();
  const doubts = (answer.doubts ?? []).map((text) => html("p", { class: "yp-doubt" }, text));
  if (first) figure.append(html("figcaption", {}, `Measured curve; below it the strongest lines of ${named ? "the first match" : "what fits least badly"}, `, formulaOf(first.formula), "."));
  result.replaceChildren(html("p", { class: "yp-verdict", "data-verdict": answer.verdict }, ...sentence), html("p", {}, more), ...doubts, figure);
  if (first) result.append(table("Best matches, each with its cell strained to fit", ["crystal", "space group", "Niggli cell", "cosine", "explained", "id"], matchRows(answer.matches)));
  else if (!answer.reason) result.append(html("p", {}, "The index has no crystal of exactly these elements."));
  if (answer.systems) {
    result.append(table("Crystal system, by the network", ["system", "probability"], systemRows(answer.systems)));
    result.append(table("Niggli cell, by the network", ["Bravais lattice", "probability", "cell", "error of lengths"], cellRows(answer.cells)));
  }
  say(`Answered in ${seconds.toFixed(1)} s on this machine: ${pattern.name}. ${pattern.said}`);
  result.dataset.file = pattern.name;
}

const worker = new Worker(new URL("worker.mjs", import.meta.url), { type: "module" });
worker.onerror = () => say("The reader could not be started: this page needs a browser of 2023 or newer.", "error");
worker.onmessage = ({ data }) => {
  if (data.ready && !pattern) say("Ready. Nothing that you open here leaves this machine.");
  if (data.ready) document.documentElement.dataset.ypReady = "true";
  if (data.error && (data.number ?? asked) === asked) {
    result.hidden = true;
    say(data.error, "error");
  }
  if (data.result && data.number === asked) show(data.result, data.seconds);
};

/** Ask again, with what stands in the fields now. */
function ask() {
  try {
    const symbols = parseElements(elements.value);
    const written = wavelength.value.trim().replace(",", ".");
    const length = wavelengthOfTube(written) ?? written;
    if (length && !(Number(length) >= 0.1 && Number(length) <= 5)) throw new NoAnswer(`expected a wavelength of 0.1 to 5 Å, or the anode of the tube, such as Co, but came “${written.slice(0, 20)}”`);
    const used = length ? Number(length) : pattern.wavelength;
    const from = length ? "as given" : pattern.from === "file" ? "from the file" : "Cu Kα, since the file states none";
    const told = symbols.length ? `Elements ${symbols.join(", ")}` : "No elements given";
    pattern.said = [`${told}. Wavelength ${used.toFixed(5)} Å, ${from}.`, ...pattern.notes.map((note) => `Note: ${note}.`)].join(" ");
    result.hidden = true; // what it shows is the answer to something else
    say(`${pattern.name}: reading …`);
    worker.postMessage({ number: ++asked, symbols, pattern: { ...pattern, wavelength: used } });
  } catch (error) {
    refuse(error);
  }
}

function refuse(error) {
  if (!(error instanceof NoAnswer)) throw error;
  asked++; // an answer that is on its way is none to this
  result.hidden = true;
  say(error.message, "error");
}

/** A pattern of a file's bytes, asked about at once. */
function open(bytes, name) {
  try {
    pattern = null;
    pattern = { ...readPattern(bytes, name), name };
    ask();
  } catch (error) {
    refuse(error);
  }
}

/** What was chosen last, when it is there: a large file may arrive after a small one that was chosen later. */
async function openLast(name, bytes, before = () => {}) {
  const number = ++chosen;
  result.hidden = true;
  const content = await bytes();
  if (number !== chosen) return;
  before();
  open(content, name);
}

async function openExample({ file: name, elements: known }) {
  const bytes = async () => (await fetch(new URL(`examples/${name}`, import.meta.url))).arrayBuffer();
  await openLast(name, bytes, () => {
    elements.value = known;
    wavelength.value = "";
  });
}

async function openFile(one) {
  if (one) await openLast(one.name, () => one.arrayBuffer());
}

window.addEventListener("resize", () => draw());
file.addEventListener("click", () => { file.value = ""; }); // the same file may be chosen again
file.addEventListener("change", () => openFile(file.files[0]));
for (const field of [elements, wavelength]) {
  field.addEventListener("input", () => {
    if (!pattern) return;
    asked++; // an answer that is on its way is none to this either
    result.hidden = true; // what it shows is the answer to something else
    say("Elements or wavelength have changed: ask again.");
  });
}
form.addEventListener("submit", (event) => {
  event.preventDefault();
  if (pattern) ask();
  else say("Choose a file first, or one of the simulated scans.", "error");
});
for (const kind of ["dragover", "dragleave", "drop"]) {
  drop.addEventListener(kind, (event) => {
    event.preventDefault();
    drop.classList.toggle("yp-over", kind === "dragover");
    if (kind === "drop") openFile(event.dataTransfer.files[0]);
  });
}

facts = await (await fetch(new URL("facts.json", import.meta.url))).json();
source.textContent = `The index holds ${facts.crystals.toLocaleString("en")} crystals (${facts.attribution}).`;
for (const one of facts.examples) {
  const button = html("button", { type: "button", class: "yp-button yp-example" }, one.title);
  button.addEventListener("click", () => openExample(one));
  examples.append(button);
}
