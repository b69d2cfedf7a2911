"""Measured curves and outcomes of a search in, the figures of the chapter on them out."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from unimat_book.figures import draw
from unimat_book.figures.style import (
    BLUE,
    GREY,
    INK,
    MUTED,
    ORANGE,
    RED,
    Array,
    as_array,
    new_figure,
    require_columns,
    styled,
)

_LOOKS = {
    "this book": {"marker": "o", "color": BLUE},
    "plain cosine": {"marker": "s", "color": ORANGE},
}


@styled
def plot_measured_summary(frame: pd.DataFrame, *, metrics: Mapping[str, str]) -> Figure:
    """Means with their intervals, a panel per setting, a row per metric.

    Columns `metric` (keys of `metrics`, which names them), `setting`, `variant` (this book or plain
    cosine), `mean`, `low`, `high`, in per cent.
    """
    require_columns(frame, ["metric", "setting", "variant", "mean", "low", "high"])
    settings = list(dict.fromkeys(frame["setting"]))
    figure = new_figure(1.1 + 0.5 * len(metrics))
    panels = figure.subplots(1, len(settings), sharey=True, squeeze=False)[0]
    for axes, setting in zip(panels, settings, strict=True):
        part = frame[frame["setting"] == setting]
        for y, metric in enumerate(metrics):
            axes.axhline(y, color="#EDEFF1", linewidth=1, zorder=0)
            for k, (variant, look) in enumerate(_LOOKS.items()):
                at = y + (k - 0.5) * 0.3
                rows = part[(part["metric"] == metric) & (part["variant"] == variant)]
                for row in rows.itertuples():
                    draw.interval(axes, at, row.low, row.high, look["color"])
                    axes.plot(row.mean, at, ls="", ms=7, zorder=4, **look)
        names = [name.replace(" (%)", "").replace(", ", ",\n") for name in metrics.values()]
        draw.row_axis(axes, names, 0.55)
        axes.set(title=setting, xlabel="per cent of the patterns", xlim=(-4, 104))
    handles = [Line2D([], [], ls="", ms=7, label=name, **look) for name, look in _LOOKS.items()]
    figure.legend(handles=handles, loc="outside upper right", ncols=2)
    return figure


@styled
def plot_effects(two_theta: Array, curves: Array, names: Mapping[str, str]) -> Figure:
    """Curves [N, P], each scaled to maximum 1, in small panels, the first one drawn behind all.

    `two_theta` [P] in degrees; `names` has a title for each and what it is in words.
    """
    x, rows = as_array(two_theta), as_array(curves)
    rows = rows / np.maximum(rows.max(axis=1, keepdims=True), 1e-12)
    figure = new_figure(1.55 * ((len(rows) + 1) // 2) + 0.3)
    panels = figure.subplots((len(rows) + 1) // 2, 2, sharex=True, sharey=True).flat
    for axes, values, (number, title) in zip(panels, rows, enumerate(names, start=1), strict=True):
        axes.plot(x, rows[0], color=GREY, linewidth=0.8)
        axes.plot(x, values, color=RED, linewidth=0.9)
        axes.set_title(f"{number}  {title}")
        axes.set(xlim=(x.min(), x.max()), ylim=(0, 1.08), yticks=[])
        axes.spines["left"].set_visible(False)
    figure.supxlabel("2θ (degrees)", fontsize=10.5)
    return figure


@styled
def plot_fits(fits: Mapping[str, Mapping[str, Array]]) -> Figure:
    """Measured and computed curves on a root scale, and their difference below, a panel each.

    Each of `fits` has `two_theta` [P] in degrees, `measured`, `computed` and `background` [P] in
    counts, and `ticks` [L], where the computed crystal's lines are.
    """
    figure = new_figure(2.1 * len(fits) + 0.3)
    panels = figure.subplots(len(fits), 1, squeeze=False)[:, 0]
    for axes, (name, fit) in zip(panels, fits.items(), strict=True):
        x = as_array(fit["two_theta"])
        curves = {k: as_array(fit[k]) for k in ("measured", "computed", "background")}
        top = max(float(curves["measured"].max()), 1e-12)
        root = {k: np.sqrt(np.clip(v, 0, None) / top) for k, v in curves.items()}
        axes.plot(x, root["measured"], color=INK, linewidth=0.7, label="measured")
        axes.plot(x, root["computed"], color=RED, linewidth=0.9, label="computed")
        axes.plot(x, root["background"], color=MUTED, linewidth=0.8, ls=":", label="background")
        axes.plot(x, root["measured"] - root["computed"] - 0.28, color=BLUE, linewidth=0.6)
        ticks = as_array(fit["ticks"])
        axes.plot(ticks, np.full(len(ticks), -0.06), "|", color=RED, ms=5, mew=0.8)
        axes.set(xlim=(x.min(), x.max()), ylim=(-0.62, 1.05), yticks=[], title=name)
        axes.spines["left"].set_visible(False)
    panels[-1].set_xlabel("2θ (degrees)")
    handles, labels = panels[0].get_legend_handles_labels()
    handles.append(Line2D([], [], color=BLUE, linewidth=0.9))
    figure.legend(handles, [*labels, "difference"], loc="outside upper center", ncols=4)
    return figure


@styled
def plot_reliability(panels: Mapping[str, pd.DataFrame]) -> Figure:
    """What was said against what happened, a panel each, a colour per setting.

    Columns `setting`, `said`, `happened`, `low`, `high`, in per cent, and `n`.
    """
    figure = new_figure(3.1)
    drawn = figure.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)[0]
    looks = {"markersize": 6, "elinewidth": 1.8, "linestyle": ""}
    for axes, (title, frame) in zip(drawn, panels.items(), strict=True):
        require_columns(frame, ["setting", "said", "happened", "low", "high", "n"])
        axes.plot([0, 100], [0, 100], color=GREY, linewidth=1, zorder=0)
        for number, setting in enumerate(dict.fromkeys(frame["setting"])):
            part = frame[frame["setting"] == setting]
            ends = np.stack([part["happened"] - part["low"], part["high"] - part["happened"]])
            look = looks | {"color": (BLUE, RED)[number], "marker": "os"[number], "label": setting}
            axes.errorbar(part["said"], part["happened"], yerr=np.clip(ends, 0, None), **look)
        axes.set(title=title, xlabel="said (%)", xlim=(-4, 104), ylim=(-4, 104), aspect="equal")
    drawn[0].set_ylabel("happened (%)")
    handles, labels = drawn[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=2)
    return figure


@styled
def plot_reader_training(curve: pd.DataFrame) -> Figure:
    """Crystal system right against the step of training, per cent, a line per kind of pattern.

    Columns `step`, `simulated`, `larger`, `measured`.
    """
    require_columns(curve, ["step", "simulated", "larger", "measured"])
    names = {
        "simulated": ("simulated, MP-20 validation", BLUE),
        "larger": ("simulated, larger crystals", MUTED),
        "measured": ("measured, first half", RED),
    }
    figure = new_figure(2.9)
    axes = figure.subplots()
    for column, (label, color) in names.items():
        axes.plot(curve["step"], curve[column], "o-", ms=4, color=color, label=label)
    axes.set(xlabel="step, 1,024 fresh patterns each", ylabel="crystal system right (%)")
    axes.set_ylim(50, 100)
    axes.legend(loc="lower right", frameon=False)
    return figure
