"""Powder patterns in, curves with peaks and labels out."""

import re
from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from unimat_book.figures import draw
from unimat_book.figures.crystals import draw_crystal, draw_graph, edge_handles
from unimat_book.figures.narrow import is_narrow
from unimat_book.figures.style import (
    BLUE,
    INK,
    RED,
    Array,
    as_array,
    label_colors,
    modality_text,
    new_figure,
    styled,
)


def _draw_pattern(axes: Axes, two_theta: Array, intensity: Array) -> None:
    x, y = as_array(two_theta), as_array(intensity)
    top = max(float(y.max()), 1e-12)
    axes.plot(x, y / top, color=RED, linewidth=1.2)
    axes.fill_between(x, y / top, color=RED, alpha=0.12, linewidth=0)
    axes.set(xlabel="2θ (degrees)", ylabel="intensity (max = 1)", xlim=(x.min(), x.max()))


@styled
def plot_pattern(
    two_theta: Array,
    intensity: Array,
    *,
    reference: tuple[Array, Array],
    labels: tuple[str, str] = ("this pattern", "reference"),
) -> Figure:
    """Two powder patterns [P], each scaled to maximum 1, the second mirrored below zero.

    `reference` holds the 2theta (degrees) and the intensity of the second.
    """
    figure = new_figure(3.6)
    axes = figure.add_subplot()
    _draw_pattern(axes, two_theta, intensity)
    x, y = as_array(reference[0]), as_array(reference[1])
    axes.plot(x, -0.14 - y / max(float(y.max()), 1e-12), color=BLUE, linewidth=1.2)
    axes.set(ylim=(-1.2, 1.12), yticks=[0, 0.5, 1])
    handles = [Line2D([], [], color=color) for color in (RED, BLUE)]
    axes.legend(handles, labels, loc="upper right")
    return figure


@styled
def plot_patterns_stack(two_theta: Array, patterns: Mapping[str, Array]) -> Figure:
    """Several patterns [P] by name, each scaled to maximum 1 and shifted up, the first on top."""
    x = as_array(two_theta)
    palette = label_colors(list(patterns))
    figure = new_figure(1.2 + 0.72 * len(patterns))
    axes = figure.add_subplot()
    for level, (name, values) in enumerate(reversed(patterns.items())):
        y, base, color = as_array(values), 1.15 * level, palette[name]
        y = base + y / max(float(y.max()), 1e-12)
        axes.plot(x, y, color=color, linewidth=1.1)
        axes.fill_between(x, base, y, color=color, alpha=0.12, linewidth=0)
        if is_narrow():
            place = {"transform": axes.get_yaxis_transform(), "ha": "right", "va": "top"}
            draw.text(axes, 1.0, base + 1.08, modality_text(name), color=color, **place)
        else:
            draw.text_right_of(axes, base + 0.12, modality_text(name), color=color, va="baseline")
    axes.set(xlabel="2θ (degrees)", ylabel="intensity (shifted)", xlim=(x.min(), x.max()))
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    return figure


@styled
def plot_three_views(
    table: Any, graph: Any, two_theta: Array, intensity: Array, *, peaks: Array
) -> Figure:
    """The first crystal of a table in its cell, its periodic graph beside it, its pattern below.

    `peaks` are positions of the Bragg peaks (degrees), drawn as ticks under the pattern.
    """
    if is_narrow():
        figure = new_figure(9.4)
        left, right, below = figure.subplots(3, 1, height_ratios=(1.3, 1.5, 1))
    else:
        figure = new_figure(6.2)
        grid = figure.add_gridspec(2, 2, height_ratios=(1.55, 1), width_ratios=(1, 1.1))
        cells = grid[0, 0], grid[0, 1], grid[1, :]
        left, right, below = (figure.add_subplot(cell) for cell in cells)
    draw_crystal(left, table)
    left.set_title(f"crystal: {formula_text(str(table.info['formula'].iloc[0]))}")
    draw_graph(right, table, graph)
    right.set_title("structure graph")
    place = {"loc": "upper center", "bbox_to_anchor": (0.5, 0.02), "fontsize": 8.5}
    right.legend(handles=edge_handles(), **place)
    _draw_pattern(below, two_theta, intensity)
    position, (low, high) = as_array(peaks), below.get_xlim()
    position = position[(position >= low) & (position <= high)]
    below.vlines(position, -0.075, -0.03, color=INK, linewidth=0.9)
    below.set(ylim=(-0.09, 1.14), title="powder pattern")
    return figure


def formula_text(formula: str) -> str:
    """'TiO2' -> 'TiO$_{2}$' for matplotlib's math text."""
    return re.sub(r"(?<=[^\d.])[\d.]+", lambda match: f"$_{{{match[0]}}}$", formula)


@styled
def plot_measurement_effects(
    two_theta: Array, rows: Mapping[str, Array], *, reference: Array, window: tuple[float, float]
) -> Figure:
    """What each measurement effect does to one pattern [P], the undisturbed one in grey.

    Keys of `rows` name the effect with its size; `window` is the part of the axis to show, degrees.
    """
    x, clean = as_array(two_theta), as_array(reference)
    inside = (x >= window[0]) & (x <= window[1])
    clean = clean / max(float(clean.max()), 1e-12)
    figure = new_figure(0.7 + 0.82 * len(rows))
    panels = figure.subplots(len(rows), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (name, values) in zip(panels, rows.items(), strict=True):
        y = as_array(values)
        axes.fill_between(x[inside], clean[inside], color="#C9CED3", linewidth=0)
        axes.plot(x[inside], y[inside] / max(float(y.max()), 1e-12), color=RED, linewidth=1.1)
        draw.text(axes, 0.995, 0.96, name, transform=axes.transAxes, ha="right", va="top")
        axes.set(xlim=window, ylim=(-0.05, 1.12), yticks=[])
        axes.spines["left"].set_visible(False)
    panels[-1].set_xlabel("2θ (degrees)")
    figure.supylabel("intensity (max = 1)", fontsize=10.5)
    handles = [Rectangle((0, 0), 1, 1, color="#C9CED3"), Line2D([], [], color=RED)]
    figure.legend(handles, ["undisturbed", "with the effect"], loc="outside upper right", ncols=2)
    return figure
