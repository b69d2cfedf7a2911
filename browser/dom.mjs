/** Names, attributes and children in, elements of HTML and SVG out. */

/** An element of HTML with attributes and children. */
export function html(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** An element of SVG. */
export function svg(tag, attributes = {}, text = "") {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.textContent = text;
  return element;
}

/** A formula with its numbers below the line. */
export const formulaOf = (formula) => html("span", {}, ...formula.split(/(\d+\.?\d*)/).map((part, i) => (i % 2 ? html("sub", {}, part) : part)));
