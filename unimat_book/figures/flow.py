"""The name of a step in, the strip with the data flow of the book out."""

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Polygon

from unimat_book.figures import draw
from unimat_book.figures.narrow import is_narrow
from unimat_book.figures.style import (
    BLUE,
    INK,
    LIGHT,
    MODALITY_COLORS,
    MUTED,
    RED,
    new_canvas,
    soften,
    styled,
)

FLOW_STEPS = ("crystals", "views", "encoders", "alignment", "fusion", "heads", "evaluation")
WIDTH, GAP, BOTTOM, TALL = 0.92, 0.16, 0.12, 1.52  # inches, of each step's box
MIDDLE, PAIR = BOTTOM + TALL / 2, (BOTTOM + 1.12, BOTTOM + 0.40)
ROWS = [BOTTOM + TALL - 0.22 - k * 0.54 for k in range(3)]  # centres of three stacked boxes

_Places = Mapping[str, tuple[float, float]]


@styled
def plot_flow_strip(*, highlight: str | Sequence[str]) -> Figure:
    """The data flow of the book; `highlight` names one or more of `FLOW_STEPS`, one per chapter."""
    marked = {highlight} if isinstance(highlight, str) else set(highlight)
    unknown = marked - set(FLOW_STEPS)
    if unknown:
        raise ValueError(f"expected highlight from {FLOW_STEPS}, got {sorted(unknown)}")
    at, size = _places()
    figure, axes = new_canvas(*size)
    for number, name in enumerate(FLOW_STEPS, start=1):
        (x, y), look = at[name], {"color": MUTED, "weight": "normal"}
        if name in marked:
            look = {"color": BLUE, "weight": "bold"}
            corner, style = (x - 0.06, y + 0.04), "round,pad=0,rounding_size=0.09"
            shape = FancyBboxPatch(corner, WIDTH + 0.12, 2.07, style, zorder=0)
            shape.set(facecolor="#E3F0F8", edgecolor=BLUE, linewidth=1.6)
            axes.add_patch(shape)
        title = f"{number}  {name.capitalize()}"
        draw.text(axes, x + WIDTH / 2, y + 1.9, title, size=9.2, **look)
    _flow_views(axes, at)
    for name, icon in (
        ("crystals", _icon_crystal),
        ("alignment", _icon_alignment),
        ("fusion", _icon_fusion),
        ("evaluation", _icon_evaluation),
    ):
        x, y = at[name]
        draw.box(axes, x, y + BOTTOM, WIDTH, TALL)
        icon(axes, x + WIDTH / 2, y + MIDDLE)
    x, y = at["heads"]
    for row, text in zip(PAIR, ("unit cell\na b c  α β γ", "crystal\nsystem"), strict=True):
        draw.box(axes, x, y + row - 0.31, WIDTH, 0.62, text, size=8.8)
    _flow_arrows(axes, at)
    return figure


def _places() -> tuple[_Places, tuple[float, float]]:
    """Where each step stands, and the size of all; in two rows on a narrow page."""
    step = WIDTH + GAP
    if not is_narrow():
        return {name: (0.1 + k * step, 0.0) for k, name in enumerate(FLOW_STEPS)}, (7.6, 2.16)
    above = {name: (0.36 + k * step, 2.34) for k, name in enumerate(FLOW_STEPS[:3])}
    below = {name: (0.36 + k * step, 0.0) for k, name in enumerate(FLOW_STEPS[3:])}
    return above | below, (4.6, 4.5)


def _flow_arrows(axes: Axes, at: _Places) -> None:
    """From step to step; a step that begins a second row is reached around the first."""
    colors = MODALITY_COLORS.values()
    for k, (row, color) in enumerate(zip(ROWS, colors, strict=True)):
        (x, y), (to, _) = at["crystals"], at["views"]
        draw.arrow(axes, (x + WIDTH, y + MIDDLE + (row - MIDDLE) * 0.6), (to, y + row))
        for first, second in itertools.pairwise(("views", "encoders", "alignment", "fusion")):
            (x, y), (to, end) = at[first], at[second]
            start = x + WIDTH, y + row
            if end < y:
                turn, aside = 0.18 - 0.05 * k, 0.3 - 0.07 * k
                corners = np.array(
                    [
                        start,
                        (start[0] + turn, start[1]),
                        (start[0] + turn, y - 0.02 - 0.05 * (2 - k)),
                        (to - aside, y - 0.02 - 0.05 * (2 - k)),
                        (to - aside, end + row),
                    ]
                )
                axes.plot(*corners.T, color=color, linewidth=1.4)
                start = tuple(corners[-1])
            draw.arrow(axes, start, (to, end + row), color=color)
    for row in PAIR:
        (x, y), (to, _), (last, _) = (at[name] for name in ("fusion", "heads", "evaluation"))
        draw.arrow(axes, (x + WIDTH, y + MIDDLE + (row - MIDDLE) * 0.6), (to, y + row))
        end = last, y + MIDDLE + (row - MIDDLE) * 0.8
        draw.arrow(axes, (to + WIDTH, y + row), end)


def _flow_views(axes: Axes, at: _Places) -> None:
    icons = (_icon_graph, _icon_pattern, _icon_formula)
    encoders = ("DimeNet++", "1-D CNN", "MLP")
    colors = MODALITY_COLORS.values()
    for row, color, icon, encoder in zip(ROWS, colors, icons, encoders, strict=True):
        x, y = at["views"]
        draw.box(axes, x, y + row - 0.22, WIDTH, 0.44, edge=color, line=1.4)
        icon(axes, x + WIDTH / 2, y + row)
        x, y = at["encoders"]
        look = {"edge": color, "face": soften(color, 0.88), "size": 8.8}
        draw.box(axes, x, y + row - 0.22, WIDTH, 0.44, encoder, **look)


def _icon_crystal(axes: Axes, x: float, y: float) -> None:
    front = np.array([[-0.3, -0.34], [0.12, -0.34], [0.12, 0.1], [-0.3, 0.1]]) + np.array([x, y])
    back = front + np.array([0.2, 0.22])
    for square, tone in ((back, LIGHT), (front, INK)):
        axes.add_patch(Polygon(square, closed=True, fill=False, ec=tone, linewidth=1, zorder=4))
    for p, q in zip(front, back, strict=True):
        draw.segment(axes, p, q, color=MUTED, linewidth=1, zorder=4)
    for p in (*front, *back):
        draw.disc(axes, p, 0.055, fc=MODALITY_COLORS["structure"])
    draw.disc(axes, np.mean([*front, *back], axis=0), 0.085, fc=RED, zorder=6)


def _icon_graph(axes: Axes, x: float, y: float) -> None:
    nodes = np.array([[-0.24, -0.1], [-0.06, 0.12], [0.16, 0.1], [0.26, -0.11], [0.02, -0.08]])
    nodes = nodes + np.array([x, y])
    for i, j in ((0, 1), (1, 2), (2, 3), (3, 4), (4, 0), (1, 4), (2, 4)):
        draw.segment(axes, nodes[i], nodes[j], color=MUTED, linewidth=1, zorder=4)
    for node in nodes:
        draw.disc(axes, node, 0.045, fc=MODALITY_COLORS["structure"])


def _icon_pattern(axes: Axes, x: float, y: float) -> None:
    grid = np.linspace(0, 1, 200)
    peaks = ((0.15, 0.95), (0.33, 0.4), (0.42, 0.75), (0.6, 0.3), (0.74, 0.5), (0.87, 0.22))
    signal = sum(h * np.exp(-(((grid - p) / 0.018) ** 2)) for p, h in peaks)
    look = {"color": MODALITY_COLORS["xrd"], "linewidth": 1.1, "zorder": 4}
    axes.plot(x - 0.36 + 0.72 * grid, y - 0.13 + 0.27 * signal, **look)


def _icon_formula(axes: Axes, x: float, y: float) -> None:
    look = {"color": MODALITY_COLORS["composition"], "size": 10.5, "weight": "bold", "zorder": 4}
    draw.text(axes, x, y - 0.01, "TiO$_2$", **look)


def _icon_alignment(axes: Axes, x: float, y: float) -> None:
    size = 0.13
    for i, j in np.ndindex(5, 5):
        face = BLUE if i == j else soften(BLUE, 0.86)
        corner = (x - 2.5 * size + j * size, y + 1.5 * size - i * size)
        draw.tile(axes, *corner, size * 0.9, size * 0.9, fc=face)
    draw.text(axes, x, y - 0.54, "contrast", color=MUTED, zorder=4, size=8.8)


def _icon_fusion(axes: Axes, x: float, y: float) -> None:
    for offset, color in zip((0.3, 0.0, -0.3), MODALITY_COLORS.values(), strict=True):
        draw.tile(axes, x - 0.34, y + offset - 0.1, 0.2, 0.2, fc=color)
        draw.arrow(axes, (x - 0.12, y + offset), (x + 0.11, y + offset * 0.35), line=1, zorder=4)
    draw.tile(axes, x + 0.14, y - 0.2, 0.2, 0.4, fc=INK)
    draw.text(axes, x, y - 0.6, "one vector", color=MUTED, zorder=4, size=8.8)


def _icon_evaluation(axes: Axes, x: float, y: float) -> None:
    frame = [x - 0.3, x - 0.3, x + 0.33], [y + 0.38, y - 0.3, y - 0.3]
    axes.plot(*frame, color=MUTED, linewidth=1, zorder=4)
    axes.plot([x - 0.3, x + 0.3], [y - 0.3, y + 0.34], color=LIGHT, linewidth=1.2, zorder=4)
    across = np.array([-0.2, -0.12, -0.03, 0.04, 0.13, 0.22])
    up = np.array([-0.15, -0.12, -0.04, 0.1, 0.1, 0.26])
    axes.scatter(x + across, y + up, s=14, color=BLUE, zorder=5)
    draw.text(axes, x, y - 0.54, "ledger", color=MUTED, zorder=4, size=8.8)
