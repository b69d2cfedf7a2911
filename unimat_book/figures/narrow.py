"""A figure function drawn for a telephone: what changes with the width of the page.

`narrow_page()` says that the page is narrow; `is_narrow()` is asked by what draws. Panels side by
side then stand one below the other (`BookFigure.subplots`), and `fit` breaks what is too long.
"""

import contextlib
import itertools
import textwrap
from collections.abc import Iterator
from contextvars import ContextVar

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.category import StrCategoryFormatter
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import FixedLocator, FuncFormatter

WIDTH = 3.7  # inches, 355 pixels: the column of a telephone
STACKED = 0.8  # height of a panel below another, of its height beside it
LINE = 0.16  # inches; height of a line of text
LABELS = 0.45  # greatest share of the width for the names of rows

_NARROW: ContextVar[bool] = ContextVar("narrow", default=False)


@contextlib.contextmanager
def narrow_page() -> Iterator[None]:
    """Draw for a telephone."""
    token = _NARROW.set(True)
    try:
        yield
    finally:
        _NARROW.reset(token)


def is_narrow() -> bool:
    """Whether a figure is drawn for a telephone."""
    return _NARROW.get()


def fit(figure: Figure) -> None:
    """Break titles and labels that are too long, thin out ticks that overlap, name each panel."""
    panels = [axes for axes in figure.axes if axes.get_visible()]
    _share_labels(panels)
    figure.draw_without_rendering()
    missing = sum(_name_rows(figure, axes) for axes in panels if _named(axes.yaxis))
    figure.set_figheight(figure.get_figheight() + missing)
    figure.draw_without_rendering()
    width = figure.bbox.width
    for text in (figure._supxlabel, figure._suptitle):
        if text is not None:
            _wrap(text, 0.95 * width)
    for axes in panels:
        _wrap(axes._left_title, 0.97 * width - axes.bbox.x0)
        middle = (axes.bbox.x0 + axes.bbox.x1) / 2  # labels are centred there
        _wrap(axes.xaxis.label, 1.94 * min(middle, width - middle))
        _wrap(axes.yaxis.label, max(axes.bbox.height, 0.5 * figure.dpi), upright=True)
    # broken labels below an axis have taken room from the names beside it
    missing = sum(_name_rows(figure, axes) for axes in panels if _named(axes.yaxis))
    figure.set_figheight(figure.get_figheight() + missing)
    figure.draw_without_rendering()
    for axes in panels:
        _thin_out(axes.xaxis)


def _share_labels(panels: list[Axes]) -> None:
    """One label of an axis that stacked panels share, below the last; one beside each."""
    for above, below in itertools.pairwise(panels):
        if above.get_subplotspec() is None or below.get_subplotspec() is None:
            continue
        if above.get_subplotspec().get_gridspec() is not below.get_subplotspec().get_gridspec():
            continue
        if above.get_shared_x_axes().joined(above, below):
            above.set_xlabel("")
        if above.get_shared_y_axes().joined(above, below) and not below.get_ylabel():
            below.set_ylabel(above.get_ylabel())


def _extent(text: Text) -> float:
    return text.get_window_extent().width


def _wrap(text: Text, room: float, *, upright: bool = False) -> None:
    """Break a text that is longer than its room, in pixels."""
    box = text.get_window_extent()
    long, words = box.height if upright else box.width, text.get_text()
    if not words or long <= room:
        return
    longest = max(map(len, words.split("\n")))
    text.set_text(_broken(words, max(8, int(longest * room / long))))


def _broken(words: str, letters: int) -> str:
    """Lines of at most so many letters; formulas and words stay whole."""
    look = {"break_long_words": False, "break_on_hyphens": False}
    return "\n".join(textwrap.fill(line, letters, **look) for line in words.split("\n"))


def _named(axis: Axis) -> bool:
    """Whether ticks have names, not numbers."""
    formatter, fixed = (
        axis.get_major_formatter(),
        isinstance(axis.get_major_locator(), FixedLocator),
    )
    # matplotlib keeps names in a function
    return isinstance(formatter, StrCategoryFormatter) or (
        fixed and isinstance(formatter, FuncFormatter)
    )


def _name_rows(figure: Figure, axes: Axes) -> float:
    """Break the names of rows; inches of height that are missing for their lines."""
    labels = [label for label in axes.get_yticklabels() if label.get_visible()]
    room = LABELS * figure.bbox.width
    widest = max(map(_extent, labels), default=0)
    names = [label.get_text() for label in labels]
    if widest > room:
        longest = max(len(line) for name in names for line in name.split("\n"))
        letters = max(8, int(longest * room / widest))
        names = [_broken(name.replace("\n", " "), letters) for name in names]
        axes.set_yticks(axes.get_yticks(), names)
    lines = [name.count("\n") + 1 for name in names]
    pitch = axes.bbox.height / figure.dpi / max(abs(np.diff(axes.get_ylim())[0]), 1)
    needed = max((LINE * (a + b) / 2 for a, b in itertools.pairwise(lines)), default=0) + 0.03
    return max(0.0, needed - pitch) * len(lines)


def _thin_out(axis: Axis) -> None:
    """Every second tick only, or turned names, where labels would touch."""
    named = _named(axis)
    for _ in range(4):
        low, high = sorted(axis.get_view_interval())
        shown = [
            (tick.label1, tick.get_loc())
            for tick in axis.get_major_ticks()
            if tick.label1.get_visible()
            and tick.label1.get_text()
            and low <= tick.get_loc() <= high
        ]
        if any(label.get_rotation() for label, _ in shown) or not _touch([x for x, _ in shown]):
            return
        if named:
            for label, _ in shown:
                label.set(rotation=40, ha="right", rotation_mode="anchor")
            return
        axis.set_major_locator(FixedLocator([place for _, place in shown[::2]]))
        axis.get_figure().draw_without_rendering()


def _touch(labels: list[Text]) -> bool:
    boxes = [label.get_window_extent() for label in labels]
    return any(left.x1 + 3 > right.x0 for left, right in itertools.pairwise(boxes))
