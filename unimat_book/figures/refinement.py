"""Shares of cells that were found, peaks, lines and refined errors frames in, figures out."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

from unimat_book.figures import draw
from unimat_book.figures.style import (
    BLUE,
    INK,
    MUTED,
    ORANGE,
    PALETTE,
    RED,
    SKY,
    as_array,
    new_figure,
    require_columns,
    styled,
)

_MEASURES = {
    "the right cell": {
        "first": ("first", {"marker": "o", "color": BLUE}),
        "five": ("among five", {"marker": "o", "color": SKY}),
    },
    "a wrong one": {
        "wrong": ("of the accepted", {"marker": "s", "color": RED}),
        "random": ("random lists accepted", {"marker": "D", "color": ORANGE}),
    },
}


@styled
def plot_ways(found: pd.DataFrame) -> Figure:
    """Shares with their intervals, a row per way of searching: what is right, and what is wrong.

    Columns `way`, `measure` (first, five, wrong, random), `share`, `low`, `high`, in per cent.
    """
    require_columns(found, ["way", "measure", "share", "low", "high"])
    ways = list(dict.fromkeys(found["way"]))
    figure = new_figure(1.3 + 0.42 * len(ways))
    panels = figure.subplots(1, len(_MEASURES), sharey=True)
    handles = []
    for axes, (title, measures) in zip(panels, _MEASURES.items(), strict=True):
        for k, (measure, (name, look)) in enumerate(measures.items()):
            part = found[found["measure"] == measure].set_index("way")
            for y, way in enumerate(ways):
                at, row = y + (k - 0.5) * 0.3, part.loc[way]
                draw.interval(axes, at, row["low"], row["high"], look["color"])
                axes.plot(row["share"], at, ls="", ms=7, zorder=4, **look)
            handles.append(Line2D([], [], ls="", ms=7, label=name, **look))
        draw.row_axis(axes, ways, 0.55)
        axes.set(title=title, xlabel="per cent of the patterns", xlim=(-4, 104))
    panels[0].set_ylabel("what is known")
    panels[1].set_xlabel("per cent")
    figure.legend(handles=handles, loc="outside lower center", ncols=4)
    return figure


@styled
def plot_peaks_and_lines(
    q: np.ndarray, height: np.ndarray, lines: Mapping[str, np.ndarray]
) -> Figure:
    """Observed peaks over Q (1/angstrom^2), and below them the lines that cells would have.

    Of the heights the square root is drawn, so that weak ones show.
    """
    q, height = as_array(q), np.sqrt(as_array(height))
    figure = new_figure(2.2 + 0.3 * len(lines))
    axes = figure.add_subplot()
    axes.vlines(q, 0, height / height.max(), color=INK, linewidth=1.4)
    for k, places in enumerate(lines.values()):
        centre, color = -0.2 * (k + 1), PALETTE[k % len(PALETTE)]
        axes.vlines(as_array(places), centre - 0.06, centre + 0.06, color=color, linewidth=1.4)
    heights = [0.5, *(-0.2 * (k + 1) for k in range(len(lines)))]
    axes.set_yticks(heights, ["peaks", *lines], fontsize=9)
    axes.tick_params(axis="y", length=0)
    axes.axhline(0, color=MUTED, linewidth=0.6)
    axes.set(xlabel="Q = 1/d² (Å⁻²)", xlim=(0, 1.03 * q.max()))
    axes.spines[["left", "top", "right"]].set_visible(False)
    return figure


@styled
def plot_error_shares(frames: Mapping[str, tuple[pd.DataFrame, pd.DataFrame]]) -> Figure:
    """Share of the crystals whose three lengths are all within an error.

    `frames` has for each model its errors frames before and after the refinement.
    """
    figure = new_figure(3.4)
    axes = figure.add_subplot()
    columns = [f"relative_error_{name}" for name in "abc"]
    for k, (name, pair) in enumerate(frames.items()):
        for frame, dash, when in zip(pair, ("--", "-"), ("network", "refined"), strict=True):
            error = np.sort(frame[columns].abs().max(axis=1).to_numpy()).clip(1e-5)
            share = np.arange(1, len(error) + 1) / len(error)
            look = {"color": PALETTE[k % len(PALETTE)], "label": f"{name}, {when}"}
            axes.step(error, share, dash, where="post", **look)
    axes.axvline(0.01, color=MUTED, linewidth=0.8)
    axes.annotate(" 1 %", (0.01, 0.02), color=MUTED, fontsize=9)
    axes.set(xscale="log", xlim=(1e-5, 1), ylim=(0, 1.02), ylabel="share of crystals")
    axes.set_xlabel("largest relative error of a, b, c")
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.grid()
    figure.legend(loc="outside upper left", ncols=2)
    return figure
