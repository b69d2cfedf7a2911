"""The name of a step in, the strip with the data flow of the book out."""

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Polygon

from unimat_book.figures import draw
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


@styled
def plot_flow_strip(*, highlight: str | Sequence[str]) -> Figure:
    """The data flow of the book; `highlight` names one or more of `FLOW_STEPS`, one per chapter."""
    marked = {highlight} if isinstance(highlight, str) else set(highlight)
    unknown = marked - set(FLOW_STEPS)
    if unknown:
        raise ValueError(f"expected highlight from {FLOW_STEPS}, got {sorted(unknown)}")
    figure, axes = new_canvas(7.6, 2.16)
    width, gap, left, bottom, tall = 0.92, 0.16, 0.1, 0.12, 1.52
    x = {name: left + i * (width + gap) for i, name in enumerate(FLOW_STEPS)}
    rows = [bottom + tall - 0.22 - i * 0.54 for i in range(3)]  # centres of three stacked boxes
    middle, pair = bottom + tall / 2, (bottom + 1.12, bottom + 0.40)
    for number, name in enumerate(FLOW_STEPS, start=1):
        look = {"color": MUTED, "weight": "normal"}
        if name in marked:
            look = {"color": BLUE, "weight": "bold"}
            corner, style = (x[name] - 0.06, 0.04), "round,pad=0,rounding_size=0.09"
            shape = FancyBboxPatch(corner, width + 0.12, 2.07, style, zorder=0)
            shape.set(facecolor="#E3F0F8", edgecolor=BLUE, linewidth=1.6)
            axes.add_patch(shape)
        title = f"{number}  {name.capitalize()}"
        draw.text(axes, x[name] + width / 2, 1.9, title, size=9.2, **look)
    _flow_views(axes, x, rows, width)
    for name, icon in (
        ("crystals", _icon_crystal),
        ("alignment", _icon_alignment),
        ("fusion", _icon_fusion),
        ("evaluation", _icon_evaluation),
    ):
        draw.box(axes, x[name], bottom, width, tall)
        icon(axes, x[name] + width / 2, middle)
    for y, text in zip(pair, ("unit cell\na b c  α β γ", "crystal\nsystem"), strict=True):
        draw.box(axes, x["heads"], y - 0.31, width, 0.62, text)
    for y, color in zip(rows, MODALITY_COLORS.values(), strict=True):
        draw.arrow(axes, (x["crystals"] + width, middle + (y - middle) * 0.6), (x["views"], y))
        for first, second in itertools.pairwise(("views", "encoders", "alignment", "fusion")):
            draw.arrow(axes, (x[first] + width, y), (x[second], y), color=color)
    for y in pair:
        draw.arrow(axes, (x["fusion"] + width, middle + (y - middle) * 0.6), (x["heads"], y))
        draw.arrow(axes, (x["heads"] + width, y), (x["evaluation"], middle + (y - middle) * 0.8))
    return figure


def _flow_views(axes: Axes, x: Mapping[str, float], rows: Sequence[float], width: float) -> None:
    icons = (_icon_graph, _icon_pattern, _icon_formula)
    encoders = ("DimeNet++", "1-D CNN", "MLP")
    colors = MODALITY_COLORS.values()
    for y, color, icon, encoder in zip(rows, colors, icons, encoders, strict=True):
        draw.box(axes, x["views"], y - 0.22, width, 0.44, edge=color, line=1.4)
        icon(axes, x["views"] + width / 2, y)
        look = {"edge": color, "face": soften(color, 0.88), "size": 8.8}
        draw.box(axes, x["encoders"], y - 0.22, width, 0.44, encoder, **look)


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
    draw.text(axes, x, y - 0.54, "contrast", color=MUTED, zorder=4, size=8.6)


def _icon_fusion(axes: Axes, x: float, y: float) -> None:
    for offset, color in zip((0.3, 0.0, -0.3), MODALITY_COLORS.values(), strict=True):
        draw.tile(axes, x - 0.34, y + offset - 0.1, 0.2, 0.2, fc=color)
        draw.arrow(axes, (x - 0.12, y + offset), (x + 0.11, y + offset * 0.35), line=1, zorder=4)
    draw.tile(axes, x + 0.14, y - 0.2, 0.2, 0.4, fc=INK)
    draw.text(axes, x, y - 0.6, "one vector", color=MUTED, zorder=4, size=8.6)


def _icon_evaluation(axes: Axes, x: float, y: float) -> None:
    frame = [x - 0.3, x - 0.3, x + 0.33], [y + 0.38, y - 0.3, y - 0.3]
    axes.plot(*frame, color=MUTED, linewidth=1, zorder=4)
    axes.plot([x - 0.3, x + 0.3], [y - 0.3, y + 0.34], color=LIGHT, linewidth=1.2, zorder=4)
    across = np.array([-0.2, -0.12, -0.03, 0.04, 0.13, 0.22])
    up = np.array([-0.15, -0.12, -0.04, 0.1, 0.1, 0.26])
    axes.scatter(x + across, y + up, s=14, color=BLUE, zorder=5)
    draw.text(axes, x, y - 0.54, "ledger", color=MUTED, zorder=4, size=8.6)
