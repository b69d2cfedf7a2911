// Links to words of the glossary in, their definitions as tooltips out: on hover and on focus.
// The definitions are a script, loaded when first needed: a page opened from a folder, without a
// server, may load nothing else. Without it, or without JavaScript, the links lead to the glossary.
(() => {
  const source = new URL("terms.js", document.currentScript.src);
  const tip = document.createElement("div");
  let loading;
  let link = null;
  let timer;

  const terms = () =>
    (loading ??= new Promise((resolve) => {
      const script = document.createElement("script");
      script.src = source;
      script.onload = () => resolve(window.bookTerms);
      script.onerror = () => resolve({});
      document.head.append(script);
    }));

  function hide() {
    clearTimeout(timer);
    link?.removeAttribute("aria-describedby");
    link = null;
    tip.hidden = true;
  }

  function place() {
    const at = link.getClientRects()[0]; // a link may go on in the next line
    const room = document.documentElement.clientWidth - tip.offsetWidth - 8;
    const above = at.bottom + tip.offsetHeight + 4 > window.innerHeight && at.top > tip.offsetHeight;
    tip.style.left = `${Math.max(8, Math.min(at.left, room))}px`;
    tip.style.top = `${above ? at.top - tip.offsetHeight - 4 : at.bottom + 4}px`;
  }

  async function show(next) {
    hide();
    link = next;
    const definition = (await terms())[decodeURIComponent(next.hash.slice(1))];
    if (!definition || link !== next) return;
    tip.innerHTML = definition;
    tip.hidden = false;
    link.setAttribute("aria-describedby", tip.id);
    place();
    await window.MathJax?.typesetPromise?.([tip]);
    if (link === next) place();
  }

  const after = (milliseconds, act) => {
    clearTimeout(timer);
    timer = setTimeout(act, milliseconds);
  };
  const wordOf = (event) => event.target.closest?.("a:has(> .std-term)");

  document.addEventListener("pointerover", (event) => {
    if (event.pointerType === "touch") return; // a tap follows the link
    const word = wordOf(event);
    if (word === link || tip.contains(event.target)) clearTimeout(timer);
    if (word && word !== link) after(120, () => show(word));
    else if (!word && !tip.contains(event.target)) after(250, hide);
  });
  document.addEventListener("focusin", (event) => {
    const word = wordOf(event);
    if (word?.matches(":focus-visible")) show(word);
    else hide();
  });
  document.addEventListener("focusout", hide);
  document.addEventListener("scroll", () => tip.hidden || hide(), { passive: true });
  document.addEventListener("keydown", (event) => event.key === "Escape" && hide());
  document.addEventListener("DOMContentLoaded", () => {
    Object.assign(tip, { id: "term-tip", className: "term-tip", hidden: true });
    tip.setAttribute("role", "tooltip");
    document.body.append(tip);
  });
})();
