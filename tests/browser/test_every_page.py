"""Every page of the built book: no error, links that lead somewhere, pictures told, axe content."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

import pytest
from bare_page import ROOT

from unimat_book.record import MAX_COLUMNS

HTML = ROOT / "_build/quick/book/_build/html"
PAGES = sorted(str(p.relative_to(HTML)) for k in ("*.html", "[ct]*/*.html") for p in HTML.glob(k))
READING = "chapters/your_pattern.html"
MOVING = "chapters/things_to_move.html"
NARROW = ("index.html", "chapters/05_fusion.html")

in_chromium = pytest.mark.parametrize("browser", ["chromium"], indirect=True)

CONTRAST = Path(__file__).with_name("contrast.js").read_text("utf-8")
"""Marks one element of each kind, and says how many."""

# Shadows that show that a box scrolls are gradients, through which axe cannot look.
BARE = "*, *::before, *::after { background-image: none !important; transition: none !important }"
OPEN = """() => {
  for (const fold of document.querySelectorAll("details, details.toggle-details")) fold.open = true;
  for (const hidden of document.querySelectorAll(".toggle-hidden, .toggle-button-hidden"))
    hidden.classList.remove("toggle-hidden", "toggle-button-hidden");
}"""
# Words of coloured code have a class and nothing else, and are most of a page: one of each stays.
PLAIN = """() => {
  const seen = new Set();
  for (const word of document.querySelectorAll("pre span:not(:has(*))")) {
    let kind = word.className;
    for (let box = word.parentElement; box; box = box.parentElement) kind += `<${box.className}`;
    if (seen.has(kind)) word.replaceWith(word.textContent);
    seen.add(kind);
  }
}"""

AXE = """async (options) => {
  const { violations } = await axe.run(options.context, options.rules);
  return violations.flatMap(({ id, nodes }) => nodes.map(
    ({ target, html, any, all, none }) =>
      `${id}: ${target} ${html.slice(0, 150)}: ${[...any, ...all, ...none].map((c) => c.message)}`,
  ));
}"""
COLOURS = ["color-contrast", "link-in-text-block"]
RULES = {
    "resultTypes": ["violations"],
    "rules": {
        **{name: {"enabled": False} for name in COLOURS},  # measured apart, in both themes
    },
}

LINKS = "all => all.map(a => a.getAttribute('href'))"
ALTS = "all => all.map(i => [i.getAttribute('src'), i.getAttribute('alt')])"


@pytest.fixture(scope="module")
def book(serve: Callable[[Path], str]) -> str:
    """Address of the built book."""
    if not (HTML / "_static/scrolling.js").is_file():
        pytest.skip("needs the built quick book: make book")
    return serve(HTML)


@pytest.fixture(scope="module")
def axe() -> str:
    """The script of axe-core."""
    package = pytest.importorskip("axe_playwright_python.base", reason="pip install -e .[dev]")
    return package.AXE_SCRIPT


@cache
def anchors(page: Path) -> frozenset[str]:
    return frozenset(re.findall(r'\b(?:id|name)="([^"]+)"', page.read_text("utf-8")))


def leads_nowhere(page: str, link: str | None) -> bool:
    """Whether a link of a page names a file or an anchor that is not there."""
    if not link or urlsplit(link).scheme in ("http", "https", "mailto", "javascript", "data"):
        return not link
    target, anchor = urldefrag(link)
    path = (HTML / page).parent / unquote(urlsplit(target).path) if target else HTML / page
    if path.is_dir():
        path /= "index.html"
    if not path.is_file():
        return True
    return bool(anchor) and path.suffix == ".html" and unquote(anchor) not in anchors(path)


def untold(source: str, alt: str | None) -> bool:
    """Whether a picture has no words, or only the name of its file."""
    stem = Path(unquote(urlsplit(source or "").path)).stem
    return not alt or not alt.strip() or alt.strip() in (stem, Path(source).name)


def show(tab, page: str) -> None:
    """All that a page has: what moves, an answer, what is folded."""
    if page == MOVING:
        for part in tab.locator(".mv-live").all():
            part.scroll_into_view_if_needed()
            tab.wait_for_selector(f"#{part.get_attribute('id')}[data-ready=true]")
    if page == READING:
        tab.wait_for_selector("html[data-yp-ready=true]")
        tab.get_by_role("button", name="Rutile").click()
        tab.wait_for_selector("#yp-result[data-file='rutile.xy'] .yp-verdict")
    tab.evaluate(OPEN)
    tab.evaluate(PLAIN)


def test_pages_are_without_error_and_lead_somewhere(browser, book: str) -> None:
    """In both browsers: the console, each link and its anchor, the words of each picture."""
    tab = browser.new_page(viewport={"width": 1280, "height": 900})
    page, wrong = "", []
    tab.on("console", lambda m: m.type == "error" and wrong.append(f"{page}: {m.text}"))
    tab.on("pageerror", lambda error: wrong.append(f"{page}: {error}"))
    for page in PAGES:
        tab.goto(f"{book}/{page}")
        show(tab, page)  # left while it loads, a page would write that into the console
        for link in set(tab.locator("a[href]").evaluate_all(LINKS)):
            if leads_nowhere(page, link):
                wrong.append(f"{page}: leads nowhere: {link}")
        for source, alt in tab.locator("img:not([role=presentation])").evaluate_all(ALTS):
            if untold(source, alt):
                wrong.append(f"{page}: a picture without words: {source} {alt!r}")
    tab.close()
    assert wrong == []


@pytest.mark.parametrize("page", PAGES)
def test_no_table_has_more_than_six_columns(page: str) -> None:
    text = (HTML / page).read_text("utf-8")
    for table in re.findall(r"<table\b.*?</table>", text, re.DOTALL):
        rows = re.findall(r"<tr\b.*?</tr>", table, re.DOTALL)
        widest = max((len(re.findall(r"<t[hd]\b", row)) for row in rows), default=0)
        assert widest <= MAX_COLUMNS, f"{page}: {widest} columns: {table[:300]}"


@in_chromium
@pytest.mark.parametrize("page", PAGES)
def test_axe_finds_nothing(browser, book: str, axe: str, page: str) -> None:
    """Colours in both themes, all other rules once; two pages on a telephone too."""
    tab = browser.new_page(color_scheme="light", reduced_motion="reduce")
    tab.route(
        re.compile(r"mathjax|tex-(svg|chtml|mml)", re.IGNORECASE), lambda route: route.abort()
    )
    wrong = []
    for width in (1280, 390) if page in NARROW else (1280,):
        tab.set_viewport_size({"width": width, "height": 900})
        tab.goto(f"{book}/{page}")
        show(tab, page)
        tab.add_style_tag(content=BARE)
        tab.evaluate(axe)
        for scheme in ("light", "dark"):
            tab.emulate_media(color_scheme=scheme)
            tab.wait_for_selector(f"html[data-theme={scheme}]")
            assert tab.evaluate(CONTRAST) > 5
            rules = {"resultTypes": ["violations"], "runOnly": COLOURS}
            options = {"context": {"include": [["[data-contrast]"]]}, "rules": rules}
            wrong += [f"{width} {scheme}: {found}" for found in tab.evaluate(AXE, options)]
        options = {"context": {"include": [["html"]]}, "rules": RULES}
        wrong += [f"{width}: {found}" for found in tab.evaluate(AXE, options)]
    tab.close()
    assert wrong == []


@in_chromium
@pytest.mark.parametrize(
    ("markup", "rule"),
    [
        ("<p style='color: #aaa; background: #fff'>faint</p>", "color-contrast"),
        ("<input type='text'>", "label"),
        ("<img src='../_static/logo.svg'>", "image-alt"),
        ("<h5>a level left out</h5>", "heading-order"),
    ],
)
def test_what_is_wrong_is_found(browser, book: str, axe: str, markup: str, rule: str) -> None:
    tab = browser.new_page(color_scheme="light")
    tab.goto(f"{book}/chapters/bibliography.html")
    add = "html => document.querySelector('.bd-article h1').insertAdjacentHTML('afterend', html)"
    tab.evaluate(add, markup)
    tab.evaluate(CONTRAST)
    tab.evaluate(axe)
    mark = "[data-contrast]" if rule in COLOURS else "html"
    rules = {"runOnly": COLOURS} if rule in COLOURS else RULES
    found = tab.evaluate(AXE, {"context": {"include": [[mark]]}, "rules": rules})
    tab.close()
    assert any(line.startswith(f"{rule}:") for line in found)


def test_links_and_words_are_judged() -> None:
    if "index.html" not in PAGES:
        pytest.skip("needs the built quick book: make book")
    assert leads_nowhere("index.html", "chapters/none.html")
    assert leads_nowhere("index.html", "chapters/glossary.html#none")
    assert not leads_nowhere("chapters/glossary.html", "../index.html")
    assert untold("../a/flow.svg", "flow.svg") and untold("../a/flow.svg", " ")
    assert not untold("../a/flow.svg", "What flows where")
