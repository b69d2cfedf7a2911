/** What can be set in, labelled controls that a keyboard works, and their values, out. */

import { html } from "./dom.mjs";

let number = 0;

/** Every control has a label of its own, so each is found by its name. */
function labelled(text, control, ...more) {
  control.id = `mv-${number++}`;
  return html("div", { class: "mv-control" }, html("label", { for: control.id }, text), ...more, control);
}

/**
 * A slider with its value in words beside its name.
 *
 * @param {{name: string, min: number, max: number, step: number, value: number,
 *   say: (value: number) => string}} what
 * @returns {{element: HTMLElement, value: number, set: (value: number) => void, input: HTMLInputElement}}
 */
export function slider({ name, min, max, step, value, say }, changed) {
  const input = html("input", { type: "range", min, max, step, value });
  const output = html("output", { class: "mv-value" });
  const show = () => {
    output.textContent = say(Number(input.value));
    input.setAttribute("aria-valuetext", output.textContent);
  };
  input.addEventListener("input", () => {
    show();
    changed();
  });
  const element = labelled(name, input, output);
  output.setAttribute("for", input.id);
  show();
  return {
    element,
    input,
    get value() {
      return Number(input.value);
    },
    set(next) {
      input.value = next;
      show();
    },
  };
}

/** A box to tick. */
export function tick({ name, value }, changed) {
  const input = html("input", { type: "checkbox" });
  input.checked = value;
  input.addEventListener("change", changed);
  input.id = `mv-${number++}`;
  const element = html("div", { class: "mv-tick" }, input, html("label", { for: input.id }, name));
  return {
    element,
    input,
    get value() {
      return input.checked;
    },
    set(next) {
      input.checked = next;
    },
  };
}

/** A choice of titles; its value is a place in the list. */
export function choice({ name, titles, value = 0 }, changed) {
  const input = html("select", {}, ...titles.map((title, i) => html("option", { value: i }, title)));
  input.value = value;
  input.addEventListener("change", changed);
  return {
    element: labelled(name, input),
    input,
    get value() {
      return Number(input.value);
    },
    set(next) {
      input.value = next;
    },
  };
}

/** A line of text. */
export function field({ name, placeholder = "", value = "", mode = "text", list }, changed) {
  const input = html("input", { type: "text", placeholder, inputmode: mode, autocomplete: "off", spellcheck: "false" });
  input.value = value;
  if (list) input.setAttribute("list", list);
  input.addEventListener("input", changed);
  return {
    element: labelled(name, input),
    input,
    get value() {
      return input.value.trim();
    },
    set(next) {
      input.value = next;
    },
  };
}

export function button(text, pressed, attributes = {}) {
  const element = html("button", { type: "button", class: "mv-button", ...attributes }, text);
  element.addEventListener("click", pressed);
  return element;
}

/** At most one call per frame, with the latest state. */
export function onceAFrame(work) {
  let waiting = false;
  return () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      work();
    });
  };
}
