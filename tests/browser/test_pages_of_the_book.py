"""Every page of the built quick book in a browser: nothing is cut, and the small helps work."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HTML = ROOT / "_build/quick/book/_build/html"
PAGES = sorted(str(p.relative_to(HTML)) for k in ("*.html", "[ct]*/*.html") for p in HTML.glob(k))
CHAPTER = "chapters/04_alignment.html"
SHORT = "chapters/bibliography.html"  # loads quickly
WORD = ".bd-article a:has(> .std-term)"
TIP = "#term-tip:not([hidden])"
WIDTHS = (1280, 390)

in_chromium = pytest.mark.parametrize("browser", ["chromium"], indirect=True)

MEASURE = (Path(__file__).with_name("overflow.js")).read_text("utf-8")
"""Lists what is wider than the column without a box that scrolls, and boxes without a cue."""

TABLES = """tables => tables.map((table) => [
  table.id,
  [...table.querySelectorAll("th")].map((head) => head.textContent),
  table.querySelectorAll("tbody tr").length,
])"""


@pytest.fixture(scope="module")
def book(serve: Callable[[Path], str]) -> str:
    """Address of the built book."""
    if not (HTML / "_static/terms.js").is_file():
        pytest.skip("needs the built quick book: make book")
    return serve(HTML)


@pytest.fixture
def tab(browser, book: str) -> Iterator:
    """A page of 1280 pixels; at its end nothing may have been written to the console."""
    opened = browser.new_page(viewport={"width": 1280, "height": 900})
    wrong: list[str] = []
    opened.on("console", lambda m: m.type == "error" and wrong.append(m.text))
    opened.on("pageerror", lambda error: wrong.append(str(error)))
    yield opened
    opened.close()
    assert wrong == []


@in_chromium
def test_nothing_is_wider_than_its_column(tab, book: str) -> None:
    """Folded code is unfolded first; what scrolls on its own must show that it does."""
    wrong = []
    for page in PAGES:
        tab.goto(f"{book}/{page}")
        tab.evaluate("window.MathJax?.startup?.promise")
        for width in WIDTHS:
            tab.set_viewport_size({"width": width, "height": 900})
            wrong += [f"{page} at {width}: {found}" for found in tab.evaluate(MEASURE)]
    assert wrong == []


@in_chromium
@pytest.mark.parametrize(
    ("markup", "found"),
    [
        ("<div style='width: 2000px'>wide</div>", "wider than its column"),
        ("<div style='overflow: hidden; white-space: nowrap'>" + "cut " * 500, "cut"),
        ("<div style='overflow-x: auto; white-space: nowrap'>" + "far " * 500, "without a cue"),
        ("<pre>" + "far " * 500 + "</pre>", None),
    ],
    ids=["wide", "cut", "no cue", "with cue"],
)
def test_what_is_too_wide_is_found(tab, book: str, markup: str, found: str | None) -> None:
    tab.goto(f"{book}/{SHORT}")
    tab.evaluate("html => document.querySelector('.bd-article').innerHTML = html", markup)
    problems = tab.evaluate(MEASURE)
    assert any(found in problem for problem in problems) if found else problems == []


@in_chromium
def test_a_scroll_shadow_is_seen_until_the_end_is_reached(tab, book: str) -> None:
    tab.goto(f"{book}/{SHORT}")
    line = f"<pre style='color: transparent'>{'far ' * 500}</pre>"
    tab.evaluate("html => document.querySelector('.bd-article').innerHTML = html", line)
    pre = tab.locator(".bd-article pre")
    start = pre.screenshot()
    pre.evaluate("pre => pre.scrollLeft = pre.scrollWidth")
    end = pre.screenshot()
    pre.evaluate("pre => pre.textContent = 'near'")
    assert len({start, end, pre.screenshot()}) == 3


@pytest.mark.parametrize("sidebar", ["primary", "secondary"])
def test_a_sidebar_opens_on_a_phone(tab, book: str, sidebar: str) -> None:
    tab.set_viewport_size({"width": 390, "height": 800})
    tab.goto(f"{book}/{CHAPTER}")
    tab.locator(f"button.{sidebar}-toggle >> visible=true").click()
    tab.locator(f"#pst-{sidebar}-sidebar-modal a >> visible=true").first.wait_for()


def test_a_word_of_the_glossary_is_explained_on_hover_and_focus(tab, book: str) -> None:
    tab.goto(f"{book}/{CHAPTER}")
    word = tab.locator(WORD).first
    word.hover()
    definition = tab.wait_for_selector(TIP).inner_text()
    assert len(definition.split()) > 5
    assert word.get_attribute("aria-describedby") == "term-tip"
    tab.keyboard.press("Escape")
    tab.locator(TIP).wait_for(state="detached")
    assert word.get_attribute("aria-describedby") is None
    tab.mouse.move(0, 0)
    word.evaluate("word => word.focus({focusVisible: true})")
    assert tab.wait_for_selector(TIP).inner_text() == definition
    tab.keyboard.press("Tab")
    tab.locator(f"{TIP} >> text={definition[:20]}").wait_for(state="detached")


@in_chromium
def test_every_linked_word_has_its_definition(tab, book: str) -> None:
    tab.goto(f"{book}/{SHORT}")
    tab.add_script_tag(url=f"{book}/_static/terms.js")
    known = set(tab.evaluate("Object.keys(bookTerms)"))
    linked = {
        term
        for page in PAGES
        for term in re.findall(r'glossary\.html#(term-[^"]+)"', (HTML / page).read_text("utf-8"))
    }
    assert linked and linked <= known


@in_chromium
@pytest.mark.parametrize("width", WIDTHS)
def test_a_picture_is_enlarged_and_the_focus_returns(tab, book: str, width: int) -> None:
    tab.set_viewport_size({"width": width, "height": 800})
    tab.goto(f"{book}/{CHAPTER}")
    picture = tab.locator("figure img").nth(1)
    button = tab.locator("figure .zoom-button").nth(1)
    before = picture.bounding_box()["width"]
    button.focus()
    tab.keyboard.press("Enter")
    large = tab.locator("dialog.zoom[open] img")
    assert large.bounding_box()["width"] > 1.3 * before
    assert large.get_attribute("alt") == picture.get_attribute("alt") != ""
    tab.keyboard.press("Escape")
    tab.locator("dialog.zoom[open]").wait_for(state="detached")
    assert button.evaluate("button => button === document.activeElement")
    picture.click()
    tab.get_by_role("button", name="Close").click()
    tab.locator("dialog.zoom[open]").wait_for(state="detached")


@in_chromium
def test_numbered_tables_can_be_had_as_files(browser, book: str) -> None:
    """Every one, without JavaScript: the page's columns in their order, then what it merges."""
    tab = browser.new_page(java_script_enabled=False)
    for page in PAGES:
        tab.goto(f"{book}/{page}", wait_until="domcontentloaded")
        for label, heads, number in tab.locator("table[id^=tab-]").evaluate_all(TABLES):
            heads = [" ".join(head.split()).replace("’", "'") for head in heads]  # as recorded
            with (HTML / f"tables/{label}.csv").open(encoding="utf-8-sig", newline="") as file:
                rows = list(csv.reader(file))
            content = json.loads((HTML / f"tables/{label}.json").read_text("utf-8"))
            same = [head for head in heads if head in rows[0]]
            assert rows[0] == list(content["rows"][0])
            assert rows[0][: len(same)] == same
            assert same == heads or len(rows[0]) > len(heads)
            assert len(rows) - 1 == len(content["rows"]) == number
            assert content["table"] and content["caption"]
    tab.goto(f"{book}/{CHAPTER}")
    with tab.expect_download() as saved:
        tab.locator(".table-files a").first.click()
    assert saved.value.suggested_filename.endswith(".csv")
    tab.close()


def test_pages_work_from_a_folder_in_both_themes(browser, book: str) -> None:
    """Without a server, a network, a warning; each block of code has its button to copy."""
    for scheme in ("light", "dark"):
        tab = browser.new_page(color_scheme=scheme)
        wrong: list[str] = []
        tab.on("console", lambda m, wrong=wrong: m.type == "error" and wrong.append(m.text))
        tab.on("pageerror", lambda error, wrong=wrong: wrong.append(str(error)))
        tab.goto((HTML / CHAPTER).as_uri())
        tab.locator(WORD).first.hover()
        assert tab.wait_for_selector(TIP).inner_text()
        tab.locator("figure .zoom-button").first.click()
        tab.locator("dialog.zoom[open] img").wait_for()
        blocks = tab.locator(".bd-article div.highlight pre").count()
        tab.locator(".bd-article div.highlight .copybtn").nth(blocks - 1).wait_for(state="attached")
        assert tab.locator(".bd-article div.highlight .copybtn").count() == blocks > 0
        assert wrong == []
        tab.close()
