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

/** A table with a caption, heads and rows of texts or elements, in a box that scrolls where it is wide. */
export function table(caption, heads, rows, attributes = {}) {
  const head = html("tr", {}, ...heads.map((one) => html("th", { scope: "col" }, one)));
  const body = rows.map((row) => html("tr", {}, ...row.map((one) => html("td", {}, ...[one].flat()))));
  const whole = html("table", { class: "table", ...attributes }, html("caption", {}, caption), html("thead", {}, head), html("tbody", {}, ...body));
  return html("div", { class: "table-box", tabindex: "0", role: "region", "aria-label": caption }, whole);
}

/** A formula with its numbers below the line. */
export const formulaOf = (formula) => html("span", {}, ...formula.split(/(\d+\.?\d*)/).map((part, i) => (i % 2 ? html("sub", {}, part) : part)));
