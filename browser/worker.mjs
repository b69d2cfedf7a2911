/**
 * Patterns in, answers out, beside the page, which stays quick meanwhile. Weights and index are
 * fetched once and kept by the browser under their version.
 */

import { answer } from "./answer.mjs";
import { Network } from "./network.mjs";
import { Index } from "./search.mjs";
import { readTensors } from "./tensors.mjs";

const KEPT = "unimat-browser";

async function fetched(name, version) {
  const address = new URL(`${name}?${version}`, import.meta.url).href;
  const store = self.caches && (await caches.open(KEPT).catch(() => null)); // secure pages only
  const kept = await store?.match(address);
  if (kept) return readTensors(await kept.arrayBuffer());
  const response = await fetch(address);
  if (!response.ok) throw new Error(`${name} could not be loaded (${response.status})`);
  if (store) {
    const old = (await store.keys()).filter(({ url }) => url.split("?")[0] === address.split("?")[0]);
    await Promise.all(old.map((request) => store.delete(request)));
    await store.put(address, response.clone()).catch(() => null); // no room: it is fetched again
  }
  return readTensors(await response.arrayBuffer());
}

async function witnesses() {
  const response = await fetch(new URL("facts.json", import.meta.url));
  const { bravais, calibration, versions } = await response.json();
  const names = ["reader.safetensors", "index.safetensors"];
  const [reader, index] = await Promise.all(names.map((name) => fetched(name, versions[name])));
  return { network: new Network(reader, bravais), index: new Index(index), calibration };
}

const ready = witnesses();
ready.then(
  () => postMessage({ ready: true }),
  (error) => postMessage({ error: error.message }),
);

self.onmessage = async ({ data: { number, pattern, symbols } }) => {
  try {
    const all = await ready;
    const start = performance.now();
    const result = answer(pattern, symbols, all);
    postMessage({ number, result, seconds: (performance.now() - start) / 1000 });
  } catch (error) {
    postMessage({ number, error: error.message });
  }
};
