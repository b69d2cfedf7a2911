"""Measured speeds in, figures of growth, of efficiency and of goals out."""

import textwrap
from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from unimat_book.figures import draw
from unimat_book.figures.narrow import is_narrow
from unimat_book.figures.style import (
    BLUE,
    GREY,
    INK,
    MODALITY_COLORS,
    MODALITY_MARKERS,
    MUTED,
    PALETTE,
    PURPLE,
    RED,
    new_figure,
    styled,
)
from unimat_book.performance import format_number, growth_exponent
from unimat_book.several_gpus import SETTINGS

_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_LETTERS = 54  # across a narrow page


@styled
def plot_growth(series: Mapping[str, Iterable[Mapping[str, float]]]) -> Figure:
    """Time against amount of data, both logarithmic, with the fitted exponent of each series.

    A thin grey line of slope 1 runs through the largest point of each series: points that lie on it
    grow in proportion to the data.

    Points have ``crystals`` and ``seconds``; no series, or one of fewer than two sizes, is a
    ValueError.
    """
    if not series:
        raise ValueError("there is no series to draw: give at least one")
    figure = new_figure(4.3 + 0.16 * len(series))
    axes = figure.add_subplot()
    handles = []
    for k, (name, points) in enumerate(series.items()):
        points = sorted(points, key=lambda point: point["crystals"])
        size = np.array([point["crystals"] for point in points], dtype=float)
        seconds = np.array([point["seconds"] for point in points], dtype=float)
        ends = size[[0, -1]]
        axes.plot(ends, seconds[-1] * ends / size[-1], color=GREY, linewidth=0.8, zorder=1)
        color, marker = PALETTE[k % len(PALETTE)], _MARKERS[k % len(_MARKERS)]
        look = {"color": color, "marker": marker, "ms": 6, "mec": "white", "mew": 0.8}
        axes.plot(size, seconds, zorder=3, **look)
        handles.append(Line2D([], [], label=f"{name}: {growth_exponent(points):.2f}", **look))
    handles.append(Line2D([], [], color=GREY, linewidth=0.8, label="in proportion: 1"))
    axes.set(xscale="log", yscale="log", xlabel="crystals", ylabel="time (s)")
    axes.margins(x=0.06, y=0.08)
    draw.plain_log(axes.xaxis)
    draw.plain_log(axes.yaxis)
    axes.xaxis.set_major_formatter("{x:,.0f}")  # a million in full
    axes.grid()
    look = {"title": "exponent of the growth", "alignment": "left"}
    figure.legend(handles=handles, loc="outside upper left", ncols=2, **look)
    return figure


@styled
def plot_efficiency(
    frame: pd.DataFrame, *, goals: Mapping[int, float], predicted: Mapping[str, float]
) -> Figure:
    """Efficiency (%) over the number of GPUs: a line per setting, faint for the smallest batch.

    Args:
        frame: Columns ``setting``, ``gpus``, ``batch``, ``percent`` and ``best``, as of
            :func:`.speed_table`.
        goals: Least efficiency in percent by number of GPUs, drawn as open diamonds.
        predicted: Efficiency of eight GPUs by setting, drawn open at the end of a dotted line.

    Raises:
        ValueError: No row has the best batch, or a setting has no prediction.
    """
    names = list(dict.fromkeys(frame["setting"][frame["best"]]))
    if not names or set(names) - set(predicted):
        raise ValueError(f"expected rows that are best and a prediction for each of {names}")
    figure = new_figure(3.9)
    axes = figure.add_subplot()
    smallest = frame["batch"].min()
    handles = []
    for k, name in enumerate(names):
        own = frame[frame["setting"] == name].sort_values("gpus")
        best, small = own[own["best"]], own[own["batch"] == smallest]
        aside = 1.03 ** (k - (len(names) - 1) / 2)  # values lie close together
        color, marker = MODALITY_COLORS.get(name, PURPLE), MODALITY_MARKERS.get(name, "s")
        look = {"color": color, "marker": marker, "ms": 6.5}
        axes.plot(small["gpus"] * aside, small["percent"], alpha=0.3, zorder=2, **look)
        ends = best[["gpus", "percent"]].iloc[-1]
        end = [ends["percent"], predicted[name]]
        axes.plot([ends["gpus"] * aside, 8 * aside], end, ":", color=color, zorder=2)
        axes.plot(8 * aside, predicted[name], **look, mfc="white", zorder=3)
        axes.plot(best["gpus"] * aside, best["percent"], zorder=4, mec="white", mew=0.8, **look)
        words = f"{SETTINGS.get(name, name)}, {best['batch'].iloc[0]:,} crystals per GPU"
        handles.append(Line2D([], [], label=words, **look))
    axes.plot(list(goals), list(goals.values()), "D", color=INK, ms=8, mfc="white", zorder=3)
    faint = {"color": GREY, "marker": "o", "ms": 6.5}
    handles += [
        Line2D([], [], label=f"faint: {smallest:,} crystals per GPU", alpha=0.5, **faint),
        Line2D([], [], label="eight GPUs: predicted", ls=":", mfc="white", **faint),
        Line2D([], [], label="goal", color=INK, marker="D", ls="", ms=7, mfc="white"),
    ]
    axes.set(xscale="log", xlabel="GPUs", ylabel="efficiency (%)")
    axes.set_xticks([1, 2, 4, 8], ["1", "2", "4", "8"])
    axes.minorticks_off()
    axes.grid(axis="y")
    figure.legend(handles=handles, loc="outside upper left", ncols=2)
    return figure


@styled
def plot_against_targets(frame: pd.DataFrame) -> Figure:
    """Dots for what was measured, open diamonds for what was aimed at; logarithmic.

    Above, ratios to a baseline (more is better); below, use of a budget of time, memory or growth
    (less is better). Blue circles reach their target, red squares do not.

    The frame is that of :func:`.goal_table`; without rows or with a value that is not positive it
    is refused.
    """
    missing = [name for name in ("what", "kind", "value", "target") if name not in frame.columns]
    if missing or not len(frame):
        raise ValueError(f"expected rows with what, kind, value, target; missing: {missing}")
    if not (frame["value"] > 0).all():
        raise ValueError("ratios and used parts of a budget are positive")
    kinds = (
        ("ratio", "times as fast as the baseline (more is better)"),
        ("budget", "used part of the budget (less is better)"),
    )
    parts = [(kind, label, frame[frame["kind"] == kind]) for kind, label in kinds]
    parts = [entry for entry in parts if len(entry[2])]
    rows = [0.42 * len(part) for _, _, part in parts]
    if is_narrow():
        rows = [draw.height_of_rows(list(part["what"]), _LETTERS) for _, _, part in parts]
    figure = new_figure(1.0 + 0.75 * len(parts) + sum(rows))
    panels = figure.subplots(len(parts), 1, height_ratios=rows, squeeze=False)[:, 0]
    for axes, (kind, label, part) in zip(panels, parts, strict=True):
        _dots(axes, part, more_is_better=kind == "ratio")
        axes.set_xlabel(label)
    handles = [
        Line2D([], [], color=BLUE, marker="o", ls="", ms=7, label="reached, or no target"),
        Line2D([], [], color=RED, marker="s", ls="", ms=7, label="missed"),
        Line2D([], [], color=INK, marker="D", ls="", ms=7, mfc="white", label="target"),
    ]
    figure.legend(handles=handles, loc="outside upper left", ncols=3)
    return figure


def _dots(axes: Axes, part: pd.DataFrame, *, more_is_better: bool) -> None:
    axes.axvline(1, color=MUTED, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    look = {"break_long_words": False, "break_on_hyphens": False}
    names = [textwrap.fill(what, 34, **look) for what in part["what"]]
    places = draw.named_rows(axes, names, 0.5, letters=_LETTERS)
    for y, row in zip(places, part.itertuples(), strict=True):
        axes.axhline(y, color="#EDEFF1", linewidth=1, zorder=0)
        missed = row.value < row.target if more_is_better else row.value > row.target
        color, marker = (RED, "s") if missed else (BLUE, "o")
        if np.isfinite(row.target):
            axes.plot([row.value, row.target], [y, y], color=color, linewidth=2, alpha=0.4)
            axes.plot(row.target, y, "D", color=INK, markersize=8, markerfacecolor="white")
        axes.plot(row.value, y, marker, color=color, markersize=7, mec="white", zorder=4)
        text = f"{format_number(row.value)} ×" if more_is_better else f"{100 * row.value:.3g} %"
        draw.text_right_of(axes, y, text)
    axes.set_xscale("log")
    values = [*part["value"], *part["target"].dropna(), 1.0]
    room = max(1.3, (max(values) / min(values)) ** 0.06)  # on both sides of the data
    axes.set_xlim(min(values) / room, max(values) * room)
    draw.plain_log(axes.xaxis)
