"""Pages of the quick book in a real browser, where it has been built: no error in the console."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HTML = ROOT / "_build/quick/book/_build/html"
READING = "chapters/your_pattern.html"
MOVING = "chapters/things_to_move.html"
MEASURE = Path(__file__).with_name("overflow.js").read_text("utf-8")


@pytest.fixture(scope="module")
def book(serve: Callable[[Path], str]) -> str:
    """Address of the built book."""
    if not (HTML / READING).is_file():
        pytest.skip("needs the built quick book: make book")
    return serve(HTML)


def test_pages_leave_no_error_and_one_reads_a_pattern(browser, book: str) -> None:
    tab = browser.new_page(viewport={"width": 1280, "height": 900})
    wrong: list[str] = []
    tab.on("console", lambda m: m.type == "error" and wrong.append(m.text))
    tab.on("pageerror", lambda error: wrong.append(str(error)))
    for page in ("index.html", "chapters/01_crystals_and_splits.html", READING):
        tab.goto(f"{book}/{page}")
        assert wrong == [], page
    tab.wait_for_selector("html[data-yp-ready=true]")
    tab.get_by_role("button", name="Rutile").click()
    tick = "#yp-result[data-file='rutile.xy'] svg .yp-tick"
    tab.wait_for_selector(tick, state="attached")
    for width in (1280, 390):
        tab.set_viewport_size({"width": width, "height": 900})
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
    assert wrong == []
    tab.close()


def test_what_moves_is_there_in_the_book(browser, book: str) -> None:
    if not (HTML / MOVING).is_file():
        pytest.skip("the built book is older than this page: make book")
    for width in (1280, 390):
        tab = browser.new_page(viewport={"width": width, "height": 900})
        wrong: list[str] = []
        tab.on("console", lambda m, wrong=wrong: m.type == "error" and wrong.append(m.text))
        tab.on("pageerror", lambda error, wrong=wrong: wrong.append(str(error)))
        tab.goto(f"{book}/{MOVING}")
        for part in tab.locator(".mv-live").all():
            part.scroll_into_view_if_needed()
            name = part.get_attribute("id")
            tab.wait_for_selector(f"#{name}[data-ready=true]")
        assert tab.locator("[data-ready=true]").count() == 6
        assert tab.evaluate(MEASURE) == []
        assert wrong == []
        tab.close()
