// Names of text files on standard input, what the page reads in them on standard output.
import { readFileSync } from "node:fs";

const { readPattern } = await import(process.argv[2]);
const said = JSON.parse(readFileSync(0, "utf8")).map((name) => {
  try {
    return readPattern(Uint8Array.from(readFileSync(name)).buffer, name.split("/").at(-1));
  } catch (error) {
    return { error: error.message, kind: error.constructor.name };
  }
});
console.log(JSON.stringify(said));
