"""Figures of the built quick book on telephones and in dark mode."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unimat_book.figures import svg
from unimat_book.figures.flow import plot_flow_strip
from unimat_book.figures.patterns import plot_pattern

ROOT = Path(__file__).resolve().parents[2]
HTML = ROOT / "_build/quick/book/_build/html"
PAGES = ("index.html", *(f"chapters/{p.name}" for p in sorted(HTML.glob("chapters/[0-9A]*.html"))))
CHAPTER = "chapters/02_three_views.html"

in_chromium = pytest.mark.parametrize("browser", ["chromium"], indirect=True)

# matplotlib scales glyphs to a hundredth of the size in points; 96 pixels are 72 points.
MEASURE = """async () => {
  const found = [];
  for (const image of document.querySelectorAll(".bd-article :is(figure, .cell_output) img")) {
    image.loading = "eager";
    image.scrollIntoView();
    await image.decode();
    let smallest = null;
    if (image.currentSrc.endsWith(".svg")) {
      const text = await (await fetch(image.currentSrc)).text();
      const sizes = [...text.matchAll(/scale\\(([\\d.]+) -[\\d.]+\\)/g)].map((m) => 100 * m[1]);
      const natural = parseFloat(text.match(/<svg[^>]* width="([\\d.]+)pt"/)[1]);
      if (sizes.length) smallest = Math.min(...sizes) * image.clientWidth / natural;
    }
    found.push([image.currentSrc.split("/").at(-1), image.closest("picture") !== null, smallest]);
  }
  return found;
}"""


@pytest.fixture(scope="module")
def book(serve: Callable[[Path], str]) -> str:
    """Address of the built book, where its figures have two layouts."""
    page = HTML / CHAPTER
    if not page.is_file() or "<picture>" not in page.read_text("utf-8"):
        pytest.skip("needs the built quick book: make book")
    return serve(HTML)


@in_chromium
def test_texts_of_figures_can_be_read_on_a_telephone(browser, book: str) -> None:
    tab = browser.new_page(viewport={"width": 390, "height": 844})
    number, wrong = 0, []
    for page in PAGES:
        tab.goto(f"{book}/{page}", wait_until="domcontentloaded")
        for name, two, smallest in tab.evaluate(MEASURE):
            number += two
            if two and (not name.endswith("-narrow.svg") or smallest < 9):
                wrong.append(f"{page}: {name} has letters of {smallest} pixels")
    tab.close()
    assert wrong == []
    assert number > 5


@in_chromium
def test_wide_windows_and_paper_get_the_wide_layout(browser, book: str) -> None:
    tab = browser.new_page(viewport={"width": 1280, "height": 900})
    tab.goto(f"{book}/{CHAPTER}", wait_until="domcontentloaded")
    assert not any("-narrow" in name for name, *_ in tab.evaluate(MEASURE))
    tab.set_viewport_size({"width": 390, "height": 844})
    tab.emulate_media(media="print")
    assert not any("-narrow" in name for name, *_ in tab.evaluate(MEASURE))
    tab.close()


def pixels(shot: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(shot)).convert("RGB")).astype(int)


@pytest.mark.parametrize("width", [1280, 390])
def test_figures_are_dark_in_dark_mode(browser, book: str, width: int) -> None:
    """The paper of a figure is that of the page, in the page and enlarged."""
    tab = browser.new_page(viewport={"width": width, "height": 900})
    tab.goto(f"{book}/{CHAPTER}", wait_until="domcontentloaded")
    tab.evaluate("document.documentElement.dataset.theme = 'dark'")
    tab.add_style_tag(content="* { transition: none !important }")
    paper = tab.evaluate(
        "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)"
    )
    for number in range(3):
        image = tab.locator(".bd-article figure img").nth(number)
        image.scroll_into_view_if_needed()
        image.evaluate("image => image.decode()")
        shown = pixels(image.screenshot())
        assert np.abs(shown[2:5, 2:5] - paper).max() <= 6
        assert shown.mean() < 70
        assert shown.max() > 150, "something is drawn"
    tab.locator("figure .zoom-button").first.click()
    large = tab.locator("dialog.zoom[open] img")
    large.evaluate("image => image.decode()")
    assert pixels(large.screenshot()).mean() < 70
    tab.close()


@in_chromium
@pytest.mark.parametrize("name", ["pattern", "flow"])
def test_a_compact_svg_looks_as_matplotlib_wrote_it(browser, name: str) -> None:
    x = np.linspace(5, 90, 800)
    curve = np.exp(-(((x[:, None] - (20, 45, 60)) / 0.4) ** 2)).sum(axis=1)
    if name == "pattern":
        figure = plot_pattern(x, curve, reference=(x, curve[::-1]))
    else:
        figure = plot_flow_strip(highlight="fusion")
    tab = browser.new_page(viewport={"width": 800, "height": 500})
    shots = []
    for text in (svg._written(figure, 180), svg.compact_svg(figure)):
        tab.set_content(text[text.index("<svg") :])
        shots.append(pixels(tab.screenshot()))
    tab.close()
    assert len(svg.compact_svg(figure)) < 0.6 * len(svg._written(figure, 180))
    gap = np.abs(shots[0] - shots[1])
    assert gap.mean() < 0.5 and (gap > 100).mean() < 0.001
    assert np.ptp(shots[0]) > 150, "something is drawn"
