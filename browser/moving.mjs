/** The page of things to move: each is started when it comes near to what is seen. */

import { html } from "./dom.mjs";

const PARTS = ["cell", "reader", "solid", "softmax", "map", "errors"];
const NEAR = "250px 0px"; // around what is seen: who does not come near the network does not load it

const address = (name) => new URL(name, import.meta.url);

const data = fetch(address("moving.json")).then((response) => {
  if (!response.ok) throw new Error(`moving.json could not be loaded (${response.status})`);
  return response.json();
});

/** The worker of the page that reads patterns, started when it is first needed. */
function reading() {
  const worker = new Worker(address("worker.mjs"), { type: "module" });
  let tell = () => {};
  const all = { ready: false, whenReady: null, ask: null };
  let [done, failed] = [() => {}, () => {}];
  worker.onmessage = ({ data: said }) => {
    if (said.ready) {
      all.ready = true;
      done();
    } else if (said.number === undefined) failed(said.error);
    else tell(said);
  };
  worker.onerror = () => failed("The reader could not be started: this needs a browser of 2023 or newer.");
  all.whenReady = (one, other) => ([done, failed] = [one, other]);
  all.ask = (question, answered) => {
    tell = answered;
    worker.postMessage(question);
  };
  return all;
}

async function begin(name) {
  const place = document.getElementById(`mv-${name}`);
  try {
    const [{ start }, known] = await Promise.all([import(`./move_${name}.mjs`), data]);
    await start(place, known, name === "reader" ? { worker: reading() } : {});
    place.dataset.ready = "true";
  } catch (error) {
    place.replaceChildren(html("p", { role: "alert" }, `This part could not be started: ${error.message}.`));
    throw error;
  }
}

const watch = new IntersectionObserver(
  (entries) => {
    for (const { target, isIntersecting } of entries) {
      if (!isIntersecting) continue;
      watch.unobserve(target);
      begin(target.id.slice(3));
    }
  },
  { rootMargin: NEAR },
);
for (const name of PARTS) watch.observe(document.getElementById(`mv-${name}`));
