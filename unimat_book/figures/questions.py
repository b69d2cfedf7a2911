"""Tables of studies in, the figures that answer an open question each out."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from unimat_book.figures import draw
from unimat_book.figures.narrow import is_narrow
from unimat_book.figures.style import (
    BLUE,
    DARK,
    GREY,
    LIGHT,
    PALETTE,
    RED,
    new_figure,
    require_columns,
    styled,
)

_MARKERS = "os^Dv<>P"
_LETTERS = 54  # across a narrow page


@styled
def plot_effects(panels: Mapping[str, pd.DataFrame], *, unit: Mapping[str, str]) -> Figure:
    """Changes against a base with 95 % intervals, a panel for each metric, the same rows in all.

    Frames are of :func:`unimat_book.studies.analysis.effects`, with the rows named by `effect`;
    the grey band is the margin (`attrs`) within which a change does not matter. Blue is confirmed
    to be better, red to be worse, grey is everything else. `unit` labels each panel's axis.
    """
    first = next(iter(panels.values()))
    names = list(first["effect"]) if is_narrow() else _wrapped(first["effect"])
    if is_narrow():  # side by side here too, with the names above their rows
        figure = new_figure(0.9 + draw.height_of_rows(names, _LETTERS))
        every = figure.add_gridspec(1, len(panels)).subplots(sharey=True, squeeze=False)[0]
    else:
        figure = new_figure(1.1 + 0.33 * len(first))
        every = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (title, frame) in zip(every, panels.items(), strict=True):
        require_columns(frame, ["effect", "change", "low", "high", "verdict"])
        if list(frame["effect"]) != list(first["effect"]):
            raise ValueError(f"{title} has other effects than the first panel")
        margin = frame.attrs["margin"]
        axes.axvspan(-margin, margin, color=LIGHT, alpha=0.6, zorder=0)
        axes.axvline(0, color=DARK, linewidth=0.9)
        places = draw.named_rows(axes, names, 0.6, letters=_LETTERS)
        for row, one in zip(places, frame.itertuples(), strict=True):
            color = BLUE if "better" in one.verdict else RED if "worse" in one.verdict else GREY
            draw.interval(axes, row, one.low, one.high, color)
            hollow = {"markerfacecolor": "white"} if "open" in one.verdict else {}
            look = {"markersize": 6, "markeredgewidth": 1.4, "zorder": 4}
            axes.plot(one.change, row, "o", color=color, **look, **hollow)
        axes.set(title=title, xlabel=unit[title])
        axes.locator_params(axis="x", nbins=3)
    return figure


def _wrapped(names: Iterable[str]) -> list[str]:
    """Names of rows on two lines, to leave room for the panels."""
    return [textwrap.fill(name, 26, break_on_hyphens=False) for name in names]


@styled
def plot_reach(frame: pd.DataFrame, *, label: str) -> Figure:
    """Errors by domain (rows) and model (markers), on a logarithmic axis.

    The frame has a row per domain and model with `domain`, `model`, `mean`, `low` and `high`.
    """
    require_columns(frame, ["domain", "model", "mean", "low", "high"])
    domains, models = (list(dict.fromkeys(frame[name])) for name in ("domain", "model"))
    figure = new_figure(1.3 + 0.62 * len(domains))
    axes = figure.add_subplot()
    for k, model in enumerate(models):
        here = frame[frame["model"] == model]
        rows = np.array([domains.index(name) for name in here["domain"]], dtype=float)
        rows += (k - (len(models) - 1) / 2) * 0.68 / len(models)
        color, marker = PALETTE[k % len(PALETTE)], _MARKERS[k % len(_MARKERS)]
        for y, low, high in zip(rows, here["low"], here["high"], strict=True):
            draw.interval(axes, y, low, high, color)
        look = {"markeredgecolor": "white", "markeredgewidth": 0.8, "zorder": 4, "markersize": 7}
        axes.plot(here["mean"], rows, marker, color=color, label=model, **look)
    draw.row_axis(axes, domains, 0.6)
    axes.set(xlabel=label, xscale="log")
    draw.plain_log(axes.xaxis)
    figure.legend(loc="outside upper center", ncols=3)
    return figure


@styled
def plot_recall(
    panels: Mapping[str, Mapping[str, Sequence[float]]], *, strains: Sequence[float]
) -> Figure:
    """Shares of queries that find their crystal first (per cent) along strains (per cent).

    A panel for each gallery and kind of strain; in it a line for each way to search. Panels are
    filled row by row, two in a row.
    """
    rows = -(-len(panels) // 2)
    figure = new_figure(0.9 + 2.35 * rows)
    every = figure.subplots(rows, 2, sharex=True, sharey=True, squeeze=False)
    for axes, (title, lines) in zip(every.flat, panels.items(), strict=False):
        for k, (name, values) in enumerate(lines.items()):
            color, marker = PALETTE[k % len(PALETTE)], _MARKERS[k % len(_MARKERS)]
            axes.plot(strains, values, marker=marker, color=color, markersize=5.5, label=name)
        axes.set_title(title, fontsize=10.5)
        axes.set(ylim=(-3, 104), xticks=list(strains))
        axes.grid(axis="y")
    for axes in every[-1]:
        axes.set_xlabel("strain of the query (%)")
    for axes in every[:, 0]:
        axes.set_ylabel("found first (%)")
    handles, names = every.flat[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=2)
    return figure


@styled
def plot_by_distance(panels: Mapping[str, pd.DataFrame], *, label: str) -> Figure:
    """Means with 95 % intervals by distance to training, a line for each domain.

    Frames have `distance` (in words, nearest first), `crystals`, `mean`, `low` and `high`.
    """
    words = list(dict.fromkeys(word for frame in panels.values() for word in frame["distance"]))
    order = sorted(words, key=lambda word: float(word.split()[0]) + 0.001 * (" to " in word))
    figure = new_figure(3.4)
    axes = figure.add_subplot()
    for k, (name, frame) in enumerate(panels.items()):
        require_columns(frame, ["distance", "crystals", "mean", "low", "high"])
        x = np.array([order.index(word) for word in frame["distance"]], dtype=float)
        x += (k - (len(panels) - 1) / 2) * 0.09
        ends = np.abs(frame[["low", "high"]].to_numpy().T - frame["mean"].to_numpy())
        look = {"marker": _MARKERS[k % len(_MARKERS)], "capsize": 2.5, "label": name}
        axes.errorbar(x, frame["mean"], yerr=ends, color=PALETTE[k % len(PALETTE)], **look)
    axes.set_xticks(range(len(order)), order)
    axes.set(xlabel="share of atoms to replace to reach a training composition", ylabel=label)
    axes.set(yscale="log")
    draw.plain_log(axes.yaxis)
    axes.grid(axis="y")
    figure.legend(loc="outside upper center", ncols=3)
    return figure
