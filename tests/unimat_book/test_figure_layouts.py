"""Both layouts of each figure: small, the same each time, readable on a telephone, in dark too."""

from __future__ import annotations

import hashlib
import itertools
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import nbformat
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from test_figures import PLOTS, SKETCHES

from unimat_book.figures import NARROW_MIME
from unimat_book.figures.narrow import is_narrow, narrow_page
from unimat_book.figures.performance import plot_against_targets
from unimat_book.figures.questions import plot_effects
from unimat_book.figures.style import (
    PALETTE,
    BookFigure,
    luminance,
    new_figure,
    readable,
    style,
    styled,
)
from unimat_book.figures.svg import MAX_BYTES, _relative, compact_svg
from unimat_book.performance import goal_table, read_results, read_targets
from unimat_book.run.telephones import add_narrow, set_aside

DRAWN = {**SKETCHES, **PLOTS}
ROOT = Path(__file__).resolve().parents[2]
COLUMN = 342  # pixels; the article of a page in a window of 390
SMALLEST = 9  # pixels
SIDE_BY_SIDE = (
    "basis_functions",
    "cell_histograms",
    "confusion",
    "error_against",
    "learning_curves",
    "niggli_cells",
    "parity",
    "retrieval_examples",
    "three_views",
)


def texts(figure: Figure) -> list[Text]:
    """What can be read in a figure."""
    hidden = {t for axes in figure.axes if not axes.get_visible() for t in axes.findobj(Text)}
    off = {
        text
        for axes in figure.axes
        if not axes.axison
        for axis in (axes.xaxis, axes.yaxis)
        for text in axis.findobj(Text)
    }
    found = figure.findobj(lambda part: isinstance(part, Text) and part.get_visible())
    return [text for text in found if text.get_text().strip() and text not in hidden | off]


def inside(text: Text) -> bool:
    """Whether a text lies in its figure; a label of a tick that is not shown may be anywhere."""
    box, paper = text.get_window_extent(), text.get_figure().bbox
    return (
        box.x0 > paper.x0 - 1
        and box.x1 < paper.x1 + 1
        and box.y0 > paper.y0 - 1
        and box.y1 < paper.y1 + 1
    )


def shown_ticks(figure: Figure) -> set[Text]:
    """Labels of ticks within the limits of their axes."""
    return {
        label
        for axes in figure.axes
        for axis in (axes.xaxis, axes.yaxis)
        for tick in [*axis.get_major_ticks(), *axis.get_minor_ticks()]
        for label in (tick.label1, tick.label2)
        if not min(axis.get_view_interval()) <= tick.get_loc() <= max(axis.get_view_interval())
    }


@pytest.mark.parametrize("name", DRAWN)
def test_two_layouts(name: str) -> None:
    figure = DRAWN[name]()
    narrow = figure.narrow()
    for text in map(compact_svg, (figure, narrow)):
        assert text and len(text) <= MAX_BYTES
        assert ElementTree.fromstring(text).tag == "{http://www.w3.org/2000/svg}svg"
    assert not is_narrow()
    width = 96 * narrow.get_figwidth()
    assert width < 96 * figure.get_figwidth() and width <= 96 * 4.6
    scale = min(1, COLUMN / width)
    small = {
        text.get_text(): round(pixels, 2)
        for text in texts(narrow)
        if (pixels := text.get_fontsize() * 96 / 72 * scale) < SMALLEST
    }
    assert small == {}
    with style():
        narrow.draw_without_rendering()
    off = shown_ticks(narrow)
    cut = [t.get_text() for t in texts(narrow) if t not in off and not inside(t)]
    assert cut == []


@pytest.mark.parametrize("name", SIDE_BY_SIDE)
def test_panels_side_by_side_are_stacked(name: str) -> None:
    wide = DRAWN[name]()
    narrow = wide.narrow()

    def columns(figure: Figure) -> int:
        shown = [x for x in figure.axes if x.get_visible() and x.get_label() != "<colorbar>"]
        panels = [axes for axes in shown if axes.get_xlabel() or axes.get_title("left")]
        return len({round(axes.get_position().x0, 1) for axes in panels})

    assert columns(wide) > 1
    assert columns(narrow) == 1
    labels = {axes.get_title("left").replace("\n", " ") for axes in wide.axes}
    assert {axes.get_title("left").replace("\n", " ") for axes in narrow.axes} == labels


def test_a_notebook_gets_both() -> None:
    assert list(PLOTS["pattern"]()._repr_mimebundle_()) == ["image/svg+xml", NARROW_MIME]


def test_bytes_do_not_depend_on_the_process() -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]);"
        "from test_figures import PLOTS; import hashlib;"
        "both = PLOTS['cell_histograms']()._repr_mimebundle_();"
        "print(*(hashlib.sha256(text.encode()).hexdigest() for text in both.values()))"
    )
    printed = {
        subprocess.run(
            [sys.executable, "-c", code, str(Path(__file__).parent)],
            check=True,
            timeout=120,
            capture_output=True,
            text=True,
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(filter(None, sys.path))},
        ).stdout
        for seed in ("1", "2")
    }
    assert len(printed) == 1 and len(printed.pop().split()) == 2


def test_dense_figures_hold_a_picture_and_too_dense_ones_are_one() -> None:
    draw = np.random.default_rng(0)
    dots = new_figure(3.0)
    dots.add_subplot().plot(*draw.normal(size=(2, 12_000)), ".", ms=1)
    text = compact_svg(dots)
    assert "data:image/png" in text and len(text) <= MAX_BYTES
    assert not any(line.get_rasterized() for line in dots.axes[0].lines)
    noise = new_figure(3.0)
    noise.add_subplot().imshow(draw.normal(size=(400, 400)))
    assert list(noise._repr_mimebundle_()) == ["image/png"]


def test_a_figure_that_no_function_drew_has_one_layout() -> None:
    assert list(BookFigure()._repr_mimebundle_()) == ["image/svg+xml"]


def test_a_path_counts_from_the_point_before() -> None:
    assert _relative("M 1 2 \nL 3 2 \nL 3 5.004 \nL 2 4 \nz\n") == "M1 2h2v3l-1-1z"
    curve = "M 0.5 0 \nC 1 1 2 2 3 3 \nC 4 4 5 5 6 6 \nQ 7 7 8 6 \n"
    assert _relative(curve) == "M.5 0c.5 1 1.5 2 2.5 3 1 1 2 2 3 3q1 1 2 0"
    steps = "M 0 0 " + "L 0.004 1 L 0.008 2 L 0.012 3 "  # rounded places, so no error adds up
    assert _relative(steps) == "M0 0v1l.01 1v1"


def test_arguments_are_there_for_the_second_drawing() -> None:
    seen = []

    @styled
    def plot(values: list[int], *, height: float) -> Figure:
        seen.append((list(values), height, is_narrow()))
        return new_figure(height)

    figure = plot([1, 2], height=2.0)
    assert figure.narrow().get_figwidth() < figure.get_figwidth()
    assert seen == [([1, 2], 2.0, False), ([1, 2], 2.0, True)]
    with pytest.raises(RuntimeError), narrow_page():
        raise RuntimeError
    assert not is_narrow()


@pytest.mark.parametrize("color", [*PALETTE, "#9AA3AB", "#6B6B6B"])
def test_texts_can_be_read_in_both_modes(color: str) -> None:
    """In dark mode pages apply `invert(1) hue-rotate(180deg)`, then blend by `screen`."""
    turned = np.array([[-0.574, 1.43, 0.144], [0.426, 0.43, 0.144], [0.426, 1.43, -0.856]])
    page = np.array([0x14, 0x18, 0x1E]) / 255
    ink = np.array(readable(color))
    dark = 1 - (1 - np.clip(turned @ (1 - ink), 0, 1)) * (1 - page)
    assert 1.05 / (luminance(ink) + 0.05) >= 4.5
    assert (luminance(dark) + 0.05) / (luminance(page) + 0.05) >= 4.5
    if np.ptp(ink) > 0.2:  # the hue stays: the channels keep their order
        assert list(np.argsort(dark)) == list(np.argsort(ink))


def test_telephones_get_the_narrow_layout(tmp_path: Path) -> None:
    wide, narrow = "<svg>wide</svg>\n", "<svg>narrow</svg>\n"
    output = nbformat.v4.new_output("display_data", {"image/svg+xml": wide, NARROW_MIME: narrow})
    cell = nbformat.v4.new_code_cell("x", outputs=[output])
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / "page.ipynb")
    name = hashlib.sha256(b"<svg>wide</svg>").hexdigest()
    pages = tmp_path / "html"
    for folder in ("_images", "_static", "chapters"):
        (pages / folder).mkdir(parents=True)
    (pages / "_static/flow-narrow.svg").write_text("<svg>flow</svg>")
    image = f'<a href="x"><img alt="what" src="../_images/{name}.svg" /></a>'
    page = pages / "chapters/page.html"
    page.write_text(f'{image}<img src="../_images/flow.svg"><img src="../_images/other.svg">')
    set_aside(tmp_path / "page.ipynb", tmp_path / "aside")
    assert NARROW_MIME not in (tmp_path / "page.ipynb").read_text()
    assert add_narrow(tmp_path / "aside", pages) == 2
    text = page.read_text()
    found = re.findall(r'<source media="screen and \(max-width: 600px\)" srcset="([^"]+)">', text)
    assert [(page.parent / path).read_text() for path in found] == [narrow, "<svg>flow</svg>"]
    assert f"{name}-narrow.svg" in found[0] and image.split(">", 1)[1][:-4] in text
    assert text.count("<picture>") == 2


def test_tall_figures_are_no_taller_than_two_screens() -> None:
    results, targets = (ROOT / "benchmarks" / name for name in ("results.json", "targets.yml"))
    goals = goal_table(read_results(results), read_targets(targets))
    names = [f"a cure of {n} words that is told in one line" for n in range(14)]
    frame = pd.DataFrame({"effect": names, "change": 1.0, "low": 0.5, "high": 1.5})
    frame = frame.assign(verdict="better")
    frame.attrs["margin"] = 0.2
    effects = plot_effects({"a": frame, "b": frame, "c": frame}, unit=dict.fromkeys("abc", "Å"))
    for figure in (plot_against_targets(goals), effects):
        narrow = figure.narrow()
        assert len(narrow.axes) == len(figure.axes)
        assert 96 * narrow.get_figheight() < 1700
        told = [
            text for text in narrow.axes[0].texts if text.get_text() in (*names, *goals["what"])
        ]
        assert len(told) > 5
        with style():
            narrow.draw_without_rendering()
        boxes = [text.get_window_extent() for text in told]
        assert max(box.x1 for box in boxes) < narrow.bbox.width
        assert all(a.y0 > b.y1 for a, b in itertools.pairwise(boxes))
