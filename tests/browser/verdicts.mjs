// What the page answers to a pattern that no crystal of the index fits, for several opinions of the
// network; usage: node verdicts.mjs BROWSER FOLDER < {"pattern", "calibration", "chances"}
import { readFileSync } from "node:fs";

const [browser, folder] = process.argv.slice(2);
const { answer } = await import(`${browser}/answer.mjs`);
const { Index } = await import(`${browser}/search.mjs`);
const { readTensors } = await import(`${browser}/tensors.mjs`);
const index = new Index(readTensors(Uint8Array.from(readFileSync(`${folder}/index.safetensors`)).buffer));
const { pattern, calibration, chances } = JSON.parse(readFileSync(0, "utf8"));
const others = (chance) => Array(6).fill((1 - chance) / 6);
for (const chance of chances) {
  const said = { systems: [...others(chance), chance], groups: [], cells: [] };
  const network = { read: () => said, tempered: () => said };
  const { verdict, system, matches } = answer(pattern, ["He"], { network, index, calibration });
  console.log(JSON.stringify({ verdict, system, matches: matches.length }));
}
