"""The pieces that figures are drawn from: text, lines, discs, boxes, arrows and tidy axes."""

import textwrap
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch, Rectangle

from unimat_book.figures.narrow import LINE, is_narrow
from unimat_book.figures.style import INK, MUTED

Point = Sequence[float]


def row_axis(axes: Axes, labels: Sequence[str], room: float) -> None:
    """One labelled row per entry from the top down, `room` rows above the first."""
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 1 + room, -room)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x")


def named_rows(axes: Axes, labels: Sequence[str], room: float, *, letters: int) -> np.ndarray:
    """The places of rows with names: beside them, or on a narrow page above each.

    There an axis is as high as :func:`height_of_rows`; `letters` fit into a line, and of axes that
    share their rows only the first gets the names.
    """
    if not is_narrow():
        row_axis(axes, labels, room)
        return np.arange(len(labels), dtype=float)
    names = _lines(labels, letters)
    places = np.cumsum([_row_height(name) for name in names])
    first = axes.get_subplotspec().is_first_col()
    for place, name in zip(places, names, strict=True) if first else ():
        look = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points"}
        look["bbox"] = {"facecolor": "white", "alpha": 0.85, "edgecolor": "none", "pad": 0.5}
        text = axes.annotate(name, (0, place), (1, 6), va="bottom", fontsize=9, zorder=5, **look)
        text.set_in_layout(False)  # it may reach over the next panel
        axes.set_zorder(1)
        axes.patch.set_visible(False)
    axes.set_yticks([])
    axes.set_ylim(places[-1] + 0.13, 0)
    axes.grid(axis="x")
    return places


def height_of_rows(labels: Sequence[str], letters: int) -> float:
    """Inches that :func:`named_rows` takes on a narrow page."""
    return sum(_row_height(name) for name in _lines(labels, letters)) + 0.13


def _lines(labels: Sequence[str], letters: int) -> list[str]:
    return [textwrap.fill(" ".join(label.split()), letters) for label in labels]


def _row_height(name: str) -> float:
    return 0.2 + LINE * (name.count("\n") + 1)


def plain_log(axis: Any) -> None:
    """Ticks of a logarithmic axis at 1, 2, 5 (or at powers of ten), written as plain numbers."""
    low, high = axis.get_view_interval()
    wide = high / max(low, 1e-12) > 200
    axis.set_major_locator(mpl.ticker.LogLocator(subs=(1.0,) if wide else (1.0, 2.0, 5.0)))
    axis.set_major_formatter(mpl.ticker.FuncFormatter(lambda value, _: f"{value:,g}"))
    axis.set_minor_formatter(mpl.ticker.NullFormatter())


def text_color(rgba: Sequence[float]) -> str:
    """The colour of text that can be read on this background."""
    luminance = 0.299 * rgba[0] + 0.587 * rgba[1] + 0.114 * rgba[2]
    return "white" if luminance < 0.55 else INK


def text(axes: Axes, x: float, y: float, words: str, **look: Any) -> None:
    """Text centred on (x, y) unless `ha` and `va` say otherwise."""
    axes.text(x, y, words, **{"ha": "center", "va": "center", "size": 9.5, **look})


def text_right_of(axes: Axes, y: float, words: str, color: str = INK, va: str = "center") -> None:
    """Text beside the row `y`, right of the plotting area."""
    look = {"xycoords": ("axes fraction", "data"), "color": color, "fontsize": 9.5}
    axes.annotate(words, (1.01, y), va=va, ha="left", **look)


def segment(axes: Axes, start: Point, end: Point, **look: Any) -> None:
    """A straight line."""
    axes.plot([start[0], end[0]], [start[1], end[1]], **look)


def interval(axes: Axes, y: float, low: float, high: float, color: str) -> None:
    """A bar from `low` to `high`; nothing where one of them is missing."""
    if np.isfinite(low) and np.isfinite(high):
        look = {"linewidth": 2.4, "alpha": 0.55, "solid_capstyle": "round", "zorder": 3}
        axes.plot([low, high], [y, y], color=color, **look)


def disc(axes: Axes, centre: Point, radius: float, **look: Any) -> None:
    """A filled circle with a white rim."""
    axes.add_patch(Circle(centre, radius, **{"ec": "white", "zorder": 5, **look}))


def tile(axes: Axes, x: float, y: float, width: float, height: float, **look: Any) -> None:
    """A filled rectangle; (x, y) is its lower left corner."""
    axes.add_patch(Rectangle((x, y), width, height, **{"ec": "none", "zorder": 4, **look}))


def box(
    axes: Axes,
    x: float,
    y: float,
    width: float,
    height: float,
    words: str = "",
    *,
    face: Any = "white",
    edge: Any = MUTED,
    line: float = 1.0,
    color: str = INK,
    size: float = 8.6,
    zorder: float = 3,
) -> None:
    """Rounded box with centred text; (x, y) is its lower left corner in inches."""
    shape = FancyBboxPatch((x, y), width, height, "round,pad=0,rounding_size=0.07", zorder=zorder)
    shape.set(facecolor=face, edgecolor=edge, linewidth=line)
    axes.add_patch(shape)
    look = {"color": color, "size": size, "linespacing": 1.25, "zorder": zorder + 1}
    text(axes, x + width / 2, y + height / 2, words, **look)


def arrow(
    axes: Axes, start: Point, end: Point, *, color=MUTED, line=1.4, head="-|>", zorder=2.0
) -> None:
    """An arrow that begins and ends exactly at its two points."""
    look = {"color": color, "linewidth": line, "zorder": zorder, "mutation_scale": 9}
    ends = tuple(start), tuple(end)
    axes.add_patch(FancyArrowPatch(*ends, arrowstyle=head, shrinkA=0, shrinkB=0, **look))
