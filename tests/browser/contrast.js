// An open page in; one element marked of each kind that contrast depends on, their number out:
// letters and paper, size and weight. To measure every word of a page takes half a minute.
() => {
  const papers = new Map([[null, ""]]);
  const paper = (element) => {
    if (!papers.has(element)) {
      const { backgroundColor, opacity } = getComputedStyle(element);
      const own = backgroundColor === "rgba(0, 0, 0, 0)" ? "" : backgroundColor;
      const faint = opacity === "1" ? "" : `at ${opacity}`;
      papers.set(element, `${paper(element.parentElement)} ${own} ${faint}`.trim());
    }
    return papers.get(element);
  };
  const seen = new Set();
  for (const element of document.querySelectorAll("body *")) {
    element.removeAttribute("data-contrast");
    const words = [...element.childNodes].some(
      (node) => node.nodeType === Node.TEXT_NODE && node.textContent.trim(),
    );
    if (!words && !element.matches("input, select, textarea")) continue;
    if (!element.checkVisibility({ visibilityProperty: true, opacityProperty: true })) continue;
    const { color, fill, fontSize, fontWeight, textShadow } = getComputedStyle(element);
    const drawn = element.closest("svg") ? fill : "";
    const kind = [color, drawn, fontSize, fontWeight, textShadow, paper(element)].join("|");
    if (seen.has(kind)) continue;
    seen.add(kind);
    element.setAttribute("data-contrast", "");
  }
  return seen.size;
};
