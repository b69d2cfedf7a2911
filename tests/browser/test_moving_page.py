"""The page of things to move in real browsers: each control changes what it should."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest
from bare_page import HEAD, ROOT, BarePage, opened

from unimat_book.ledger.predictions import load_predictions

# Firefox's WebDriver BiDi knows no downloads, reduced motion or pages without JavaScript.
in_chromium = pytest.mark.parametrize("browser", ["chromium"], indirect=True)
PARTS = ("cell", "reader", "solid", "softmax", "map", "errors")
MEASURE = Path(__file__).with_name("overflow.js").read_text("utf-8")
TEXT = (ROOT / "chapters/things_to_move.md").read_text("utf-8")

SET = """(input, value) => {
  input.value = value;
  for (const kind of ["input", "change"]) input.dispatchEvent(new Event(kind));
}"""

TIMES = """async (input) => {
  const times = [];
  for (let i = 0; i < 9; i++) {
    input.value = Number(input.min) + (i / 8) * (input.max - input.min) * 0.5;
    const start = performance.now();
    input.dispatchEvent(new Event("input"));
    await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
    times.push(performance.now() - start);
  }
  return times.sort((a, b) => a - b)[4];
}"""

SHIFTS = """() => {
  window.shifted = 0;
  new PerformanceObserver((list) => {
    for (const one of list.getEntries()) if (!one.hadRecentInput) window.shifted += one.value;
  }).observe({ type: "layout-shift", buffered: true });
}"""


class Page(BarePage):
    """A tab that shows the page."""

    def part(self, name: str):
        """A part, once it is there."""
        place = self.tab.locator(f"#mv-{name}")
        place.scroll_into_view_if_needed()
        self.tab.wait_for_selector(f"#mv-{name}[data-ready=true]")
        return place

    def set(self, name: str, label: str, value: object) -> None:
        self.part(name).get_by_label(label, exact=True).evaluate(SET, str(value))
        self.settle()

    def settle(self) -> None:
        self.tab.evaluate("new Promise((done) => requestAnimationFrame(() => setTimeout(done)))")

    def data(self, name: str, key: str) -> str | None:
        return self.part(name).get_attribute(f"data-{key}")

    def press(self, name: str, button: str) -> None:
        self.part(name).get_by_role("button", name=button, exact=True).press("Enter")
        self.settle()


@pytest.fixture(scope="module")
def moving_site(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page without the book around it: its raw blocks, and the folder that they load."""
    folder = tmp_path_factory.mktemp("moving")
    blocks = "\n".join(re.findall(r"```\{raw\} html\n(.*?)```", TEXT, re.DOTALL))
    (folder / "chapters").mkdir()
    (folder / "book.css").write_text((ROOT / "_static/book.css").read_text("utf-8"), "utf-8")
    theme = ":root { --pst-color-text-base: #222; --pst-color-background: #fff }"
    style = f'<link rel="stylesheet" href="../book.css"><style>{theme}</style>'
    main = f'<main class="bd-article" style="max-width: 700px">{blocks}</main>'
    page = f"{HEAD}{style}<body>{main}</body></html>"
    (folder / "chapters/things_to_move.html").write_text(page, "utf-8")
    (folder / "browser").symlink_to(exported, target_is_directory=True)
    return folder


@pytest.fixture(scope="module")
def moving_address(moving_site: Path, serve: Callable[[Path], str]) -> str:
    return f"{serve(moving_site)}/chapters/things_to_move.html"


@pytest.fixture(scope="module")
def page(browser, moving_address: str) -> Iterator[Page]:
    yield from opened(Page, browser, moving_address, width=1000, height=900)


def splits(page: Page) -> dict[str, str]:
    rows = page.part("cell").locator("tbody tr")
    cells = [row.locator("td").all_inner_texts() for row in rows.all()]
    return {planes.strip("{}"): lines for planes, lines, _ in cells}


def test_one_edge_splits_lines_and_a_diagonal_splits_others(page: Page) -> None:
    page.press("cell", "Reset")
    assert splits(page) == dict.fromkeys(("100", "110", "111", "200"), "1")
    assert page.data("cell", "shape") == "cubic"
    cubic = int(page.data("cell", "lines"))
    page.set("cell", "c", 4.0)
    assert page.data("cell", "shape") == "tetragonal"
    assert splits(page) == {"100": "2", "110": "2", "111": "1", "200": "2"}
    assert int(page.data("cell", "lines")) > cubic
    page.press("cell", "rhombohedral")
    assert page.data("cell", "shape") == "trigonal"
    assert splits(page) == {"100": "1", "110": "2", "111": "2", "200": "1"}
    page.press("cell", "triclinic")
    assert splits(page) == {"100": "3", "110": "6", "111": "4", "200": "3"}
    page.press("cell", "Reset")
    assert page.data("cell", "shape") == "cubic"


def test_a_larger_cell_has_lines_at_smaller_angles(page: Page) -> None:
    place = page.part("cell")
    angle = re.compile(r"\d+\.\d+")
    before = float(angle.search(place.locator("tbody tr td").nth(2).inner_text())[0])
    for name in "abc":
        page.set("cell", name, 4.2)
    assert page.data("cell", "shape") == "cubic"
    after = float(angle.search(place.locator("tbody tr td").nth(2).inner_text())[0])
    assert after == pytest.approx(21.15, abs=0.02) and after < before
    page.press("cell", "Reset")


def test_impossible_angles_are_explained(page: Page) -> None:
    page.set("cell", "α", 60)
    page.set("cell", "β", 60)
    page.set("cell", "γ", 128)
    assert page.data("cell", "shape") == "none"
    assert "No cell has these three angles" in page.part("cell").inner_text()
    page.press("cell", "Reset")


@pytest.mark.parametrize(("name", "label"), [("cell", "a"), ("reader", "Peak width")])
def test_a_step_of_a_slider_is_quick(page: Page, name: str, label: str) -> None:
    slider = page.part(name).get_by_label(label, exact=True)
    before = page.pace()
    step = slider.evaluate(TIMES) / 1000
    assert step < 0.85 * max(before, page.pace())  # 0.4 s on a quiet computer
    page.press(name, "Reset")


def test_sliders_obey_the_arrow_keys_and_say_their_value(page: Page) -> None:
    slider = page.part("cell").get_by_label("b", exact=True)
    before = float(slider.input_value())
    slider.focus()
    page.tab.keyboard.press("ArrowRight")
    assert float(slider.input_value()) == pytest.approx(before + 0.01)
    assert slider.get_attribute("aria-valuetext") == f"{before + 0.01:.2f} Å"
    page.press("cell", "Reset")


def answered(page: Page) -> str:
    place = "document.querySelector('#mv-reader').dataset"
    page.tab.wait_for_function(f"{place}.answered === {place}.asked")
    return page.part("reader").locator(".mv-verdict").inner_text().replace("\n", "")


def test_the_models_answer_and_broad_lines_take_the_answer_away(page: Page) -> None:
    page.part("reader")
    assert "probably TiO2" in answered(page)
    true = page.part("reader").locator(".mv-true")
    assert true.inner_text() == "tetragonal (true)"
    page.set("reader", "Peak width", 1.2)
    assert "TiO2" not in answered(page)
    page.press("reader", "Reset")
    page.set("reader", "Zero shift", 0.5)
    assert "orthorhombic" in answered(page)
    page.press("reader", "Reset")
    assert "probably TiO2" in answered(page)


def test_elements_name_halite(page: Page) -> None:
    page.part("reader").get_by_label("Crystal", exact=True).select_option(index=1)
    page.part("reader").get_by_label("Tell the models the elements").check()
    page.settle()
    assert "probably NaCl" in answered(page)
    page.part("reader").get_by_label("Crystal", exact=True).select_option(index=0)
    page.press("reader", "Reset")
    answered(page)


def test_crystals_are_turned_repeated_and_bonded(page: Page) -> None:
    place = page.part("solid")
    canvas = place.locator("canvas")
    seen = {canvas.screenshot()}
    assert (page.data("solid", "atoms"), page.data("solid", "bonds")) == ("15", "14")  # rutile
    view = canvas.get_attribute("data-view")
    canvas.focus()
    for key in ("ArrowLeft", "ArrowUp", "+"):
        page.tab.keyboard.press(key)
    page.settle()
    turned = zip(canvas.get_attribute("data-view").split(), view.split(), strict=True)
    assert all(now != before for now, before in turned)
    seen.add(canvas.screenshot())
    box = canvas.bounding_box()
    page.tab.mouse.move(box["x"] + 100, box["y"] + 100)
    page.tab.mouse.down()
    page.tab.mouse.move(box["x"] + 160, box["y"] + 120)
    page.tab.mouse.up()
    page.settle()
    seen.add(canvas.screenshot())
    page.set("solid", "Cells along each edge", 2)
    assert int(page.data("solid", "atoms")) > 50
    place.get_by_label("Bonds", exact=True).uncheck()
    assert page.data("solid", "bonds") == "0"
    page.settle()
    seen.add(canvas.screenshot())
    assert len(seen) == 4
    place.get_by_label("Crystal", exact=True).select_option(label="Baddeleyite, ZrO2")
    assert "monoclinic, P21/c (14)" in place.inner_text()
    page.press("solid", "Reset")
    assert canvas.get_attribute("data-view") == view


def test_the_temperature_sharpens_and_flattens(page: Page) -> None:
    loss, diagonal = [], []
    for power in (-2.5, -1, 0.3):
        page.set("softmax", "Temperature", power)
        loss.append(float(page.data("softmax", "loss")))
        diagonal.append(float(page.data("softmax", "diagonal")))
    assert loss == sorted(loss) and diagonal == sorted(diagonal, reverse=True)
    assert loss[0] < 0.01 and loss[2] == pytest.approx(2.08, abs=0.2)
    page.part("softmax").get_by_label("Batch").select_option(index=1)
    cold = []
    for power in (-2.5, -2, 0):
        page.set("softmax", "Temperature", power)
        cold.append(float(page.data("softmax", "loss")))
    assert cold[1] < min(cold[0], cold[2])  # look-alikes: there is a best temperature
    page.press("softmax", "Reset")


def test_the_map_finds_what_is_pointed_at_and_what_is_asked_for(page: Page) -> None:
    place = page.part("map")
    page.set("map", "Formula", "NaCl")
    row = page.data("map", "row")
    assert "NaCl" in place.locator(".mv-said").inner_text()
    assert place.locator("tbody tr").count() == 5
    cosines = [float(x) for x in place.locator("tbody tr td:nth-child(4)").all_inner_texts()]
    assert cosines == sorted(cosines, reverse=True)
    box = place.locator("svg.mv-plot").bounding_box()
    found = set()
    for part in (0.3, 0.4, 0.5, 0.6, 0.7):
        page.tab.mouse.move(box["x"] + part * box["width"], box["y"] + part * box["height"])
        page.settle()
        found.add(page.data("map", "row"))
    assert len(found | {row}) > 2
    place.get_by_label("Ask with").select_option(label="its structure")
    assert "number 1 of" in place.locator(".mv-said").inner_text() or page.data("map", "rank")
    page.press("map", "Next crystal")
    page.press("map", "Reset")
    assert "Asked with the pattern of TiO2" in place.locator(".mv-said").inner_text()


def published_errors() -> pd.DataFrame:
    """What the first XRD model of our recipe said of the test crystals, and the truth."""
    folder, made_by = ROOT / "data/results/predictions", "unimat-book run 03"
    return load_predictions(folder, setting="xrd", variant="ours", made_by=made_by)[0]


def test_errors_are_filtered_and_are_those_on_file(page: Page) -> None:
    truth = published_errors()
    lengths = truth[["error_a", "error_b", "error_c"]].abs().mean(axis=1)
    place = page.part("errors")
    place.get_by_label("Model").select_option(label="XRD")
    place.get_by_label("Crystal system").select_option(label="monoclinic")
    page.set("errors", "Atoms, at least", 10)
    page.set("errors", "Atoms, at most", 12)
    keep = (truth["crystal_system"] == 1) & truth["num_atoms"].between(10, 12)
    assert int(page.data("errors", "number")) == keep.sum() > 50
    assert float(page.data("errors", "mean")) == pytest.approx(lengths[keep].mean(), abs=1e-5)
    first = place.locator("tbody tr").first
    assert truth["material_id"][lengths[keep].idxmax()] in first.inner_text()
    before = first.inner_text()
    page.press("errors", "Next ten")
    assert place.locator("tbody tr").first.inner_text() != before
    page.set("errors", "Atoms, at most", 2)
    assert page.data("errors", "number") == "0"
    assert "No test crystal fits" in place.inner_text()
    page.press("errors", "Reset")
    assert int(page.data("errors", "number")) == len(truth)


@in_chromium
def test_the_selected_errors_can_be_had_as_a_file(
    browser, moving_address: str, tmp_path: Path
) -> None:
    truth = published_errors()
    tab = browser.new_page()
    page = Page(tab, moving_address)
    page.part("errors").get_by_label("Crystal system").select_option(label="triclinic")
    page.settle()
    with tab.expect_download() as saved:
        page.press("errors", "CSV of the selection")
    saved.value.save_as(tmp_path / "errors.csv")
    with (tmp_path / "errors.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    wanted = truth["material_id"][truth["crystal_system"] == 0]
    assert {row["material_id"] for row in rows} == set(wanted) and len(rows) == len(wanted)
    assert {row["crystal_system"] for row in rows} == {"triclinic"}
    tab.close()


@pytest.mark.parametrize("width", [1000, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_moves_by_itself_or_sticks_out(
    browser, moving_address: str, width: int, scheme: str
) -> None:
    tab = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    if "chromium" in browser.browser_type.name:
        tab.add_init_script(f"({SHIFTS})()")
    page = Page(tab, moving_address)
    for name in PARTS:
        page.part(name)
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    assert tab.evaluate(MEASURE) == []
    assert (tab.evaluate("window.shifted") or 0) < 0.1
    names = tab.locator("main :is(input, select, button, canvas)").evaluate_all(
        "all => all.map((x) => x.getAttribute('aria-label') || x.labels?.[0]?.textContent"
        " || x.textContent)"
    )
    assert len(names) > 30 and all(name.strip() for name in names)
    assert page.wrong == []
    tab.close()


@in_chromium
def test_who_wants_little_motion_gets_no_turning(browser, moving_address: str) -> None:
    for motion, number in (("reduce", 0), ("no-preference", 1)):
        tab = browser.new_page(reduced_motion=motion)
        place = Page(tab, moving_address).part("solid")
        assert place.get_by_role("button", name="Turn").count() == number
        tab.close()


STILLS = re.findall(r'<img class="mv-still" src="\.\./browser/(stills/(\w+)\.png)"(.*?)>', TEXT)


def test_each_thing_has_a_still_with_its_size_and_words(exported: Path) -> None:
    from PIL import Image

    assert [name for _, name, _ in STILLS] == list(PARTS)
    for path, name, rest in STILLS:
        found = dict(re.findall(r'(\w+)="([^"]*)"', rest))
        with Image.open(exported / path) as picture:
            assert picture.size == (int(found["width"]), int(found["height"])), name
        assert len(found["alt"]) > 80 and not found["alt"].startswith("Picture")


@in_chromium
def test_stills_stand_in_without_javascript_and_on_paper(browser, moving_address: str) -> None:
    tab = browser.new_page(java_script_enabled=False)
    tab.goto(moving_address)
    for _, name, _ in STILLS:
        still = tab.locator(f"#mv-{name} + .mv-still")
        still.scroll_into_view_if_needed()
        assert still.is_visible() and tab.locator(f"#mv-{name}").is_hidden()
    tab.close()
    tab = browser.new_page()
    page = Page(tab, moving_address)
    page.part("cell")
    assert tab.locator("#mv-cell + .mv-still").is_hidden()
    tab.emulate_media(media="print")
    assert tab.locator("#mv-cell + .mv-still").is_visible()
    assert tab.locator("#mv-cell").is_hidden()
    tab.close()


@in_chromium
def test_from_a_folder_stills_stand_in_without_an_error(browser, moving_site: Path) -> None:
    tab = browser.new_page()
    page = Page(tab, (moving_site / "chapters/things_to_move.html").as_uri())
    assert tab.locator(".mv-still").first.is_visible() and tab.locator(".mv-file").is_visible()
    assert tab.locator(".mv-live").first.is_hidden() and page.wrong == []
    tab.close()


@in_chromium
def test_stills_are_printed(browser, moving_address: str, tmp_path: Path) -> None:
    tab = browser.new_page()
    asked: list[str] = []
    tab.on("request", lambda request: asked.append(request.url))
    Page(tab, moving_address).part("cell")
    assert not [url for url in asked if "/stills/" in url]  # who does not print loads none
    tab.pdf(path=tmp_path / "page.pdf")
    assert len({url for url in asked if "/stills/" in url}) == len(PARTS)
    tab.close()


def test_works_without_a_network_once_loaded(browser, moving_address: str) -> None:
    tab = browser.new_page()
    page = Page(tab, moving_address)
    asked: list[str] = []
    for name in PARTS:
        page.part(name)
    answered(page)
    tab.on("request", lambda request: asked.append(request.url))
    page.set("cell", "c", 4.0)
    page.set("reader", "Peak width", 0.4)
    answered(page)
    page.set("softmax", "Temperature", 0)
    page.press("map", "Next crystal")
    page.set("errors", "Atoms, at least", 9)
    assert asked == [] and page.wrong == []
    tab.close()
