/** A choice of crystal in, its cell in three dimensions out. */

import { button, choice, slider, tick } from "./controls.mjs";
import { formulaOf, html } from "./dom.mjs";
import { sceneOf } from "./solid.mjs";
import { viewer } from "./viewer.mjs";

const length = (x) => `${x.toFixed(3)} Å`;
const angle = (x) => `${+x.toFixed(2)}°`;

/** Numbers of atoms in the cell, by element. */
function contentOf({ atoms }, elements) {
  const counts = new Map();
  for (const [z] of atoms) counts.set(z, (counts.get(z) ?? 0) + 1);
  return [...counts].map(([z, number]) => `${number} ${elements[z].symbol}`).join(", ");
}

export function start(place, data) {
  const solid = viewer({ label: "A crystal: its cell, atoms and bonds." });
  const facts = html("dl", { class: "mv-facts" });
  const legend = html("p", { class: "mv-key" });
  const chosen = choice({ name: "Crystal", titles: data.crystals.map(({ title, formula }) => `${title}, ${formula}`) }, () => show(true));
  const repeat = slider({ name: "Cells along each edge", min: 1, max: 3, step: 1, value: 1, say: (x) => `${x}` }, () => show());
  const bonds = tick({ name: "Bonds", value: true }, () => show());

  function show(anew = false) {
    const crystal = data.crystals[chosen.value];
    if (anew) {
      repeat.set(1);
      solid.reset();
    }
    const scene = sceneOf(crystal, data.elements, { repeat: repeat.value, bonds: bonds.value });
    solid.show(scene);
    place.dataset.atoms = scene.atoms.length;
    place.dataset.bonds = scene.bonds.length;
    const [a, b, c, ...angles] = crystal.cell;
    const rows = [
      ["Formula", formulaOf(crystal.formula)],
      ["Symmetry", `${data.systems[crystal.system]}, ${crystal.symbol} (${crystal.group})`],
      ["Edges a, b, c", [a, b, c].map(length).join(", ")],
      ["Angles α, β, γ", angles.map(angle).join(", ")],
      ["In one cell", contentOf(crystal, data.elements)],
    ];
    facts.replaceChildren(...rows.flatMap(([name, value]) => [html("dt", {}, name), html("dd", {}, value)]));
    const kinds = [...new Set(crystal.atoms.map(([z]) => z))].map((z) => data.elements[z]);
    legend.replaceChildren(...kinds.flatMap(({ symbol, color }) => [html("span", { class: "mv-atom", style: `--atom: ${color}` }), `${symbol} `]));
  }

  function reset() {
    chosen.set(0);
    bonds.set(true);
    show(true);
  }

  place.append(
    html("div", { class: "mv-row" }, chosen.element, repeat.element, bonds.element, button("Reset", reset, { class: "mv-button mv-reset" })),
    solid.element,
    legend,
    facts,
  );
  show();
}
