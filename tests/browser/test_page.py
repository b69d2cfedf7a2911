"""The page in real browsers: files in three formats, examples, noise, what is no pattern."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from bare_page import BarePage, opened

ANSWER = 12
"""Times the fixed work: an answer takes three to four times as long, however busy the computer."""


class Page(BarePage):
    """A tab that has loaded the page."""

    def __init__(self, tab, address: str) -> None:
        super().__init__(tab, address)
        tab.wait_for_selector("html[data-yp-ready=true]")
        tab.wait_for_selector(".yp-example")

    def note(self, text: str) -> None:
        if "no root element" not in text:  # Firefox itself writes down that a file is no XML
            super().note(text)

    def choose(self, name: str, content: str | bytes) -> None:
        data = content.encode() if isinstance(content, str) else content
        buffer = {"name": name, "mimeType": "text/plain", "buffer": data}
        self.tab.set_input_files("#yp-file", buffer)

    def answered(self, name: str) -> str:
        """The verdict on a file, when it is there."""
        found = f"#yp-result[data-file='{name}'] .yp-verdict"
        self.tab.wait_for_selector(found)
        return self.tab.locator(found).inner_text()

    def enter(self, field: str, text: str) -> None:
        """Write into ``elements`` or ``wavelength`` and press Enter."""
        self.tab.locator(f"#yp-{field}").fill(text)
        self.tab.locator(f"#yp-{field}").press("Enter")

    def answers_at(self, wavelength: str) -> None:
        """Wait until the status says that the answer is one at a wavelength."""
        said = "document.querySelector('#yp-status').innerText"
        words = f"{said}.includes('{wavelength}') && {said}.startsWith('Answered')"
        self.tab.wait_for_function(words)

    def refused(self) -> str:
        self.tab.wait_for_selector("#yp-status[data-kind=error]")
        assert self.tab.locator("#yp-result").is_hidden()
        return self.tab.locator("#yp-status").inner_text()


@pytest.fixture(scope="module")
def page(browser, address: str) -> Iterator[Page]:
    yield from opened(Page, browser, address, width=390, height=844)


@pytest.mark.parametrize(
    ("title", "file", "formula"),
    [("Rutile", "rutile.xy", "TiO2"), ("Corundum", "corundum.xrdml", "Al2O3")],
)
def test_examples_are_named(page: Page, title: str, file: str, formula: str) -> None:
    before = page.pace()
    page.tab.get_by_role("button", name=title).press("Enter")  # with the keyboard
    verdict = page.answered(file)
    assert "Probably" in verdict and formula in verdict.replace("\n", "")
    drawing = page.tab.locator("#yp-result svg")
    assert f"computed lines of {formula}" in drawing.get_attribute("aria-label")
    assert page.tab.locator("#yp-result svg .yp-tick").count() > 5
    said = page.tab.locator("#yp-status").inner_text()
    seconds = float(said.split(" s on")[0].removeprefix("Answered in "))
    assert seconds < ANSWER * max(before, page.pace())
    width = page.tab.evaluate("document.documentElement.scrollWidth")
    assert width <= 390, "something is wider than the telephone"


def test_dropped_files_of_three_formats_are_read(page: Page, exported: Path) -> None:
    for name in ("rutile.xy", "corundum.xrdml", "perovskite.ras"):
        given = f"mine_{name}"
        page.tab.locator("#yp-elements").fill("")
        page.choose(given, (exported / "examples" / name).read_bytes())
        assert page.answered(given)
        assert "from the file" in page.tab.locator("#yp-status").inner_text()


def test_wavelength_and_elements_change_the_answer(page: Page, exported: Path) -> None:
    page.choose("a.csv", (exported / "examples/quartz.csv").read_bytes())
    page.answered("a.csv")
    assert "since the file states none" in page.tab.locator("#yp-status").inner_text()
    assert "No elements given" in page.tab.locator("#yp-status").inner_text()
    page.tab.locator("#yp-elements").fill("Si")  # not asked yet: the old answer is none to it
    page.tab.locator("#yp-result").wait_for(state="hidden")
    assert "ask again" in page.tab.locator("#yp-status").inner_text()
    page.enter("elements", "SiO2")
    said = "document.querySelector('#yp-status').innerText.includes('Elements Si, O. ')"
    page.tab.wait_for_function(said)
    assert "SiO" in page.tab.locator("#yp-result").inner_text()
    page.enter("wavelength", "0.7107")
    page.answers_at("0.71070")
    page.tab.locator("#yp-wavelength").fill("")
    page.enter("elements", "Xx")
    assert "expected element symbols" in page.refused()
    page.tab.locator("#yp-elements").fill("")


def test_a_tube_names_its_wavelength(page: Page, exported: Path) -> None:
    page.choose("tube.xy", (exported / "examples/rutile.xy").read_bytes())
    page.answered("tube.xy")
    page.enter("wavelength", "Co")
    page.answers_at("1.79028")
    page.enter("wavelength", "toString")
    assert "such as Co" in page.refused()
    page.tab.locator("#yp-wavelength").fill("")


def test_a_short_scan_with_few_peaks_is_doubted(page: Page, exported: Path) -> None:
    whole = (exported / "examples/rutile.xy").read_text().splitlines(keepends=True)
    page.choose("whole.xy", "".join(whole))
    page.answered("whole.xy")
    assert page.tab.locator(".yp-doubt").count() == 0
    short = [x for x in whole if x.startswith("#") or 20 <= float(x.split()[0]) <= 38]
    page.choose("short.xy", "".join(short))
    page.answered("short.xy")
    said = page.tab.locator(".yp-doubt").all_inner_texts()
    assert [text.split()[0] for text in said] == ["Short", "Few"]
    assert "20.0 to 38.0 degrees" in said[0] and "3 stand out of the noise" in said[1]


def test_an_answer_is_gone_while_another_file_is_read(page: Page, exported: Path) -> None:
    page.choose("first.xy", (exported / "examples/rutile.xy").read_bytes())
    page.answered("first.xy")
    assert "first.xy" in page.tab.locator("#yp-status").inner_text()
    seen = """() => new Promise((done) => {
      const status = document.querySelector('#yp-status');
      new MutationObserver(() => {
        if (!status.innerText.includes('reading')) return;
        done(document.querySelector('#yp-result').hidden);
      }).observe(status, { childList: true });
    })"""
    page.tab.evaluate(f"() => {{ window.hiddenThen = ({seen})(); }}")  # not waited for
    page.choose("second.xrdml", (exported / "examples/corundum.xrdml").read_bytes())
    page.answered("second.xrdml")
    assert page.tab.evaluate("window.hiddenThen")


@pytest.mark.parametrize("kind", ["noise", "hump", "flat"])
def test_what_has_no_lines_has_no_answer(page: Page, kind: str) -> None:
    x = np.arange(10, 80, 0.02)
    rate = {"noise": 100 + 0 * x, "hump": 100 + 900 * np.exp(-(((x - 25) / 7) ** 2)), "flat": None}
    draw = np.random.default_rng(3)
    y = np.full(len(x), 7) if kind == "flat" else draw.poisson(rate[kind])
    page.choose(f"{kind}.xy", "".join(f"{a:.2f} {b}\n" for a, b in zip(x, y, strict=True)))
    assert page.answered(f"{kind}.xy") == "No confident answer"


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("letter.txt", "Dear editor,\nhere is a pattern.\n", "no line with two numbers"),
        ("picture.xy", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "binary file"),
        ("empty.xy", "", "is empty"),
        ("broken.xrdml", "<xrdMeasurements><scan>", "not a readable XML"),
        ("other.xrdml", "<html><body/></html>", "a <scan>"),
        ("short.xy", "10 1\n11 2\n12 3\n", "at least 50 points"),
        ("back.xy", "".join(f"{20 + (i * 7) % 60} 5\n" for i in range(60)), "must increase"),
        ("half.csv", "Theta,I\n" + "10.0,5\n10.1,6\n" * 30, "theta or 2theta"),
        ("zero.xy", "".join(f"{20 + i / 10} 0\n" for i in range(60)), "no intensity is positive"),
    ],
)
def test_what_is_no_pattern_is_refused(page: Page, name: str, content: str, words: str) -> None:
    page.choose(name, content)
    assert words in page.refused()


def test_works_without_a_network_once_loaded(browser, address: str) -> None:
    context = browser.new_context()
    page = Page(context.new_page(), address)
    asked: list[str] = []
    page.tab.on("request", lambda request: asked.append(request.url))
    rows = "".join(
        f"{x:.2f} {100 + 900 * (abs(x % 10 - 5) < 0.1):.0f}\n" for x in np.arange(10, 80, 0.02)
    )
    page.choose("mine.xy", rows)
    page.answered("mine.xy")
    assert not [url for url in asked if not url.startswith("blob:")]  # nothing is fetched or sent
    page.tab.reload()
    page.tab.wait_for_selector("html[data-yp-ready=true]")
    assert not [url for url in asked if "safetensors" in url]  # the weights are kept
    assert not page.wrong
    context.close()
