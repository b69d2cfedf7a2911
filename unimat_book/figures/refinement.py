"""Peaks, lines and refined errors frames in, figures out."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from unimat_book.figures.style import INK, MUTED, PALETTE, as_array, new_figure, styled


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
