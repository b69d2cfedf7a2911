// An open page in; what is cut or wider than the article, and what scrolls without a cue, out.
() => {
  const article = document.querySelector(".bd-article");
  if (!article) return [];
  for (const fold of article.querySelectorAll("details")) fold.open = true;
  const style = getComputedStyle(article);
  const box = article.getBoundingClientRect();
  const left = box.left + parseFloat(style.paddingLeft) - 3; // three pixels are not seen
  const right = box.right - parseFloat(style.paddingRight) + 3;
  const name = (element) => {
    const words = element.textContent.trim().replace(/\s+/g, " ").slice(0, 60);
    return `<${element.tagName.toLowerCase()} class="${element.className}"> ${words}`;
  };
  const overflows = (element) => element.scrollWidth > element.clientWidth + 1;
  const scrolls = (element) =>
    /auto|scroll/.test(getComputedStyle(element).overflowX) && overflows(element);
  const wrong = [];
  const root = document.documentElement;
  if (overflows(root)) wrong.push(`the page itself scrolls: ${root.scrollWidth} px`);

  // From the outside in; what lies in a box that scrolls, or is for screen readers, is left out.
  const look = (element) => {
    if (element.matches("mjx-assistive-mml, .visually-hidden, .sr-only")) return;
    if (!element.checkVisibility({ visibilityProperty: true })) return;
    const formula = element.matches("mjx-container");
    const { overflowX, backgroundAttachment, maskImage } = getComputedStyle(element);
    const place = element.getBoundingClientRect();
    if (place.width && (place.left < left || place.right > right))
      wrong.push(`wider than its column: ${name(element)}`);
    else if (scrolls(element)) {
      if (!backgroundAttachment.includes("local") && maskImage === "none")
        wrong.push(`scrolls without a cue: ${name(element)}`);
    } else if (overflowX !== "visible" && element.clientWidth && overflows(element))
      wrong.push(`cut: ${name(element)}`);
    else if (!formula) for (const child of element.children) look(child);
  };
  for (const child of article.children) look(child);
  return wrong;
};
