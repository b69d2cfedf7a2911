// Built pages in, one document for paper out: called in an empty page at the root of the book.
//
// Answers are unfolded and folded code is left out; links between pages lead to places of the
// document, all others to the public address; what is wider than the paper is made smaller.
// Returns what is wrong: pictures that do not load, and what is still too wide.
async ({ pages, cover, licence, logo }) => {
  const smallest = 0.55; // of its size, for a table or a formula
  const shortTable = 300; // pixels of height; a longer one goes on over pages
  const unwanted = "script, style, link, .headerlink, button, .table-files, details.hide, picture > source, " +
    ".tag_hide-cell, .tag_hide-input > .cell_input, .tag_hide-output > .cell_output";
  const slugs = new Map(pages.map(({ file }) => [
    new URL(file, document.baseURI).href,
    file.replace(/\.html$/, "").replace(/\W+/g, "-"),
  ]));
  const make = (tag, properties = {}, ...children) => {
    const element = Object.assign(document.createElement(tag), properties);
    element.append(...children);
    return element;
  };
  const heads = new Map();

  const collectHead = (page, address) => {
    for (const part of page.querySelectorAll("link[rel=stylesheet], style, head script")) {
      const place = part.getAttribute("href") ?? part.getAttribute("src");
      const math = part.tagName !== "SCRIPT" || /mathjax/i.test(place ?? part.textContent);
      const key = place === null ? part.textContent : new URL(place, address).href;
      if (math && !heads.has(key)) heads.set(key, { tag: part.tagName, file: place !== null });
    }
  };

  const addHead = (tag) => Promise.all([...heads].filter(([, head]) => head.tag === tag).map(
    ([key, { file }]) => new Promise((done) => {
      const name = tag === "LINK" ? "href" : "src";
      const content = file ? { [name]: key, onload: done, onerror: done } : { textContent: key };
      const kind = tag === "LINK" ? { rel: "stylesheet" } : tag === "SCRIPT" ? { async: false } : {};
      document.head.append(make(tag, { ...kind, ...content }));
      if (!file) done();
    }),
  ));

  const simplify = (article, address) => {
    article.querySelectorAll(unwanted).forEach((part) => part.remove());
    for (const cell of article.querySelectorAll(".cell")) {
      if (!cell.textContent.trim() && !cell.querySelector("img, svg")) cell.remove();
    }
    for (const part of article.querySelectorAll("noscript, .mv-file")) { // what needs a browser
      const online = make("a", { href: address }, address);
      part.replaceWith(make("p", {}, "To move and try things, open this page in a browser: ", online));
    }
    for (const part of article.querySelectorAll("a:has(> img, > picture)")) part.replaceWith(...part.childNodes);
    article.querySelectorAll("details").forEach((part) => { part.open = true; });
    article.querySelectorAll("[loading]").forEach((part) => part.removeAttribute("loading"));
  };

  const lead = (article, address, slug) => {
    for (const part of article.querySelectorAll("[id]")) part.id = `${slug}--${part.id}`;
    for (const part of article.querySelectorAll("[src]")) {
      part.setAttribute("src", new URL(part.getAttribute("src"), address).href);
    }
    for (const part of article.querySelectorAll("a[href]")) {
      const url = new URL(part.getAttribute("href"), address);
      const { hash } = url;
      url.hash = "";
      const target = slugs.get(url.href);
      const inside = hash ? `#${target}--${decodeURIComponent(hash.slice(1))}` : `#${target}`;
      part.setAttribute("href", target ? inside : url.href + hash);
    }
  };

  // A part is a heading above its pages, in the outline too.
  const lower = (article) => {
    for (const old of [...article.querySelectorAll("h1, h2, h3, h4, h5")]) {
      const lowered = make(`h${Number(old.tagName[1]) + 1}`, {}, ...old.childNodes);
      for (const { name, value } of old.attributes) lowered.setAttribute(name, value);
      old.replaceWith(lowered);
    }
  };

  const contents = make("ol");
  const sections = [];
  const style = [];
  let before = null;
  for (const { file, part } of pages) {
    const address = new URL(file, document.baseURI).href;
    const slug = slugs.get(address);
    const page = new DOMParser().parseFromString(await (await fetch(address)).text(), "text/html");
    collectHead(page, address);
    const article = document.adoptNode(page.querySelector("article"));
    lead(article, address, slug);
    simplify(article, address);
    const heading = article.querySelector("h1");
    const title = heading.textContent.trim();
    heading.classList.add("paper-title");
    if (part) lower(article);
    const section = make("section", { className: "paper-page", id: slug }, article);
    if (part && part !== before) {
      section.prepend(make("h1", { className: "paper-part" }, part));
      contents.append(make("li", { className: "paper-part" }, part));
    }
    before = part;
    section.style.page = slug;
    style.push(`@page ${slug} { @top-left { content: ${JSON.stringify(title)}; } }`);
    sections.push(section);
    const number = make("span", { className: "paper-number" });
    number.dataset.place = slug;
    const link = make("a", { href: `#${slug}` }, make("span", {}, title), number);
    contents.append(make("li", {}, link));
  }

  const front = make("section", { className: "paper-cover" });
  if (logo) front.append(make("img", { src: new URL(logo, document.baseURI).href, alt: "" }));
  cover.forEach((line, k) => front.append(make("p", { className: k ? "" : "paper-name" }, line)));
  const rights = make("section", { className: "paper-licence" });
  for (const text of licence.split(/\n{2,}/)) rights.append(make("p", {}, text));
  const listed = make("nav", { className: "paper-contents" }, make("h1", {}, "Contents"), contents);
  document.body.append(front, rights, listed, ...sections);

  for (const link of document.querySelectorAll('a[href^="#"]')) {
    const place = link.getAttribute("href").slice(1);
    if (!document.getElementById(place)) link.setAttribute("href", `#${place.split("--")[0]}`);
  }

  document.documentElement.dataset.theme = "light";
  await addHead("LINK");
  await addHead("STYLE");
  document.head.append(make("style", {}, style.join("\n")));
  await addHead("SCRIPT");
  await window.MathJax?.startup?.promise;
  await document.fonts.ready;

  const wrong = [];
  await Promise.all([...document.images].map((image) => image.decode().catch(
    () => wrong.push(`${image.src} is no picture that loads`),
  )));

  const column = (part) => {
    const box = part.parentElement.closest("p, li, dd, div, td, section, article, figure");
    const { paddingLeft, paddingRight } = getComputedStyle(box);
    return box.clientWidth - parseFloat(paddingLeft) - parseFloat(paddingRight);
  };
  const share = (part) => {
    const width = Math.max(part.scrollWidth, part.getBoundingClientRect().width);
    return width ? Math.min(1, column(part) / width) : 1;
  };
  for (const part of document.querySelectorAll(".paper-page :is(table, mjx-container)")) {
    if (part.closest("table table, td mjx-container")) continue;
    part.classList.toggle("paper-short", part.offsetHeight < shortTable);
    if (share(part) < smallest) part.classList.add("paper-wrap");
    const fits = share(part);
    if (fits < 1) part.style.zoom = Math.max(smallest, 0.995 * fits);
  }
  const edge = document.body.getBoundingClientRect().right + 1;
  for (const part of document.querySelectorAll(".paper-page :is(table, mjx-container, pre, img, p)")) {
    if (part.getBoundingClientRect().right > edge && !part.closest("mjx-assistive-mml")) {
      const page = part.closest(".paper-page").id;
      wrong.push(`${page}: ${part.tagName} wider than the paper: ${part.textContent.slice(0, 60)}`);
    }
  }
  return wrong;
};
