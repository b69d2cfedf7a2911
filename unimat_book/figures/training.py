"""Learning curves, features and embeddings in, figures out."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from unimat_book.figures import draw
from unimat_book.figures.patterns import formula_text
from unimat_book.figures.style import (
    BLUE,
    GREEN,
    GREY,
    INK,
    LIGHT,
    MODALITY_MARKERS,
    MUTED,
    RED,
    SYSTEM_COLORS,
    Array,
    as_array,
    label_colors,
    modality_text,
    new_figure,
    require_columns,
    styled,
    system_names,
)


@styled
def plot_magpie_features(values: Array, names: Sequence[str]) -> Figure:
    """The fourteen most unusual composition features of one crystal.

    `values` [F] are in standard deviations from the training mean, `names` are Magpie's.
    """
    values = as_array(values).astype(float)
    if len(values) != len(names):
        raise ValueError(
            f"expected one name per feature, got {len(values)} features and {len(names)} names"
        )
    order = np.argsort(-np.abs(values))[:14][::-1]
    figure = new_figure(0.9 + 0.27 * len(order))
    axes = figure.add_subplot()
    labels = [names[k].replace("MagpieData ", "") for k in order]
    colors = [BLUE if values[k] > 0 else RED for k in order]
    axes.barh(labels, values[order], color=colors, height=0.68)
    axes.axvline(0, color=MUTED, linewidth=0.9)
    axes.set_xlabel("value (standard deviations from the training mean)")
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x")
    return figure


@styled
def plot_learning_curves(
    histories: Mapping[str, pd.DataFrame],
    *,
    metrics: Mapping[str, str],
    best_epoch: Mapping[str, int],
) -> Figure:
    """Training histories, one panel per metric (column -> axis label) and one line per run.

    A history has a column `epoch` and metric columns, any may be missing; a dot marks `best_epoch`.
    """
    figure = new_figure(0.55 + 2.6)
    panels = figure.subplots(1, len(metrics), squeeze=False)[0]
    palette = label_colors(list(histories))
    for axes, (column, label) in zip(panels, metrics.items(), strict=True):
        for name, history in histories.items():
            if column not in history.columns:
                continue
            curve, color = history[["epoch", column]].dropna(), palette[name]
            axes.plot(curve["epoch"], curve[column], color=color, linewidth=1.6)
            best = curve[curve["epoch"] == best_epoch[name]]
            axes.plot(best["epoch"], best[column], "o", color=color, ms=6, mec="white")
        axes.set(xlabel="epoch", ylabel=label)
        axes.grid(axis="y")
    handles = [Line2D([], [], color=palette[name], label=modality_text(name)) for name in histories]
    figure.legend(handles=handles, loc="outside upper center", ncols=min(len(handles), 4))
    return figure


@styled
def plot_data_curve(curve: pd.DataFrame, *, ylabel: str) -> Figure:
    """Error against the number of training crystals, both axes logarithmic.

    On such axes a power law is a straight line: its slope says what more data buys. Columns are
    `crystals`, `error` and `label` (one line each); rows that share label and crystals are seeds:
    dots, with the line through their mean.
    """
    require_columns(curve, ["crystals", "error", "label"])
    numbers = curve[["crystals", "error"]].to_numpy(dtype=float)
    if not len(curve) or not (np.isfinite(numbers).all() and (numbers > 0).all()):
        raise ValueError(
            f"expected positive crystals and errors, got {len(curve)} rows with "
            f"{int((~(numbers > 0)).any(axis=1).sum())} that are not; leave those out"
        )
    labels = [str(label) for label in dict.fromkeys(curve["label"])]
    palette = label_colors(labels)
    figure = new_figure(4.2)
    axes = figure.add_subplot()
    for k, label in enumerate(labels):
        part, color = curve[curve["label"].astype(str) == label], palette[label]
        mean = part.groupby("crystals")["error"].mean()
        axes.plot(mean.index, mean, color=color, linestyle=("-", "--", ":")[k % 3], label=label)
        axes.plot(part["crystals"], part["error"], "o", color=color, ms=5, mec="white")
        shift = (0, 8 if k % 2 == 0 else -15)  # points; neighbouring lines write on other sides
        look = {"textcoords": "offset points", "ha": "center", "fontsize": 9.5, "color": color}
        for x, y in mean.items():
            axes.annotate(f"{y:.3g}", (x, y), shift, **look)
    axes.set(xscale="log", yscale="log", xlabel="training crystals", ylabel=ylabel)
    axes.margins(x=0.1, y=0.15)
    for axis in (axes.xaxis, axes.yaxis):
        draw.plain_log(axis)
    axes.grid()
    axes.legend(loc="best")
    return figure


@styled
def plot_retrieval_examples(two_theta: Array, examples: Sequence[Mapping[str, Any]]) -> Figure:
    """Queries and their five best candidates, the right one marked.

    An example has `query` [P], `candidates` [K, P] (best first), `labels` (K names), `scores` [K],
    `correct` (position of the right one in the list or None) and `title`.
    """
    x = as_array(two_theta)
    figure = new_figure(4.7)
    panels = figure.subplots(1, len(examples), sharey=True, squeeze=False)[0]
    for axes, example in zip(panels, examples, strict=True):
        curves = [as_array(example["query"]), *as_array(example["candidates"])]
        for row, values in enumerate(curves):
            text, base = "query", -1.5 * row - (0.25 if row else 0)
            color, look = INK, {"color": INK, "weight": "bold"}
            if row:
                name, score = (example[key][row - 1] for key in ("labels", "scores"))
                text = f"{row}  {formula_text(name)}   {float(score):.2f}"
                color, look = GREY, {"color": MUTED, "weight": "normal"}
            if row and example["correct"] == row - 1:
                text += "  ✓"
                color, look = GREEN, {"color": GREEN, "weight": "bold"}
            y = 0.92 * values / max(float(values.max()), 1e-12) + base
            axes.plot(x, y, color=color, linewidth=1.0)
            draw.text(axes, x.min(), base + 1.0, text, va="bottom", ha="left", size=9, **look)
        axes.axhline(-0.28, color=LIGHT, linewidth=1)
        axes.set(xlim=(x.min(), x.max()), yticks=[], xlabel="2θ (degrees)", title=example["title"])
        axes.spines["left"].set_visible(False)
    panels[0].set_ylabel("intensity (shifted); candidates by rank")
    return figure


@styled
def plot_embedding_map(xy: Array, system: Array, *, modality: Array) -> Figure:
    """Map [N, 2] of the shared space, from t-SNE: colour is crystal system, marker is modality."""
    xy, names, kinds = as_array(xy), system_names(system), as_array(modality).astype(object)
    figure = new_figure(5.0)
    axes = figure.add_subplot()
    area = float(np.clip(16000 / max(len(xy), 1), 5, 28))
    order = np.random.default_rng(0).permutation(len(xy))  # no system hides another
    look = {"s": area, "alpha": 0.75, "linewidths": 0, "rasterized": True}
    for kind in dict.fromkeys(kinds):
        pick = order[kinds[order] == kind]
        colors = [SYSTEM_COLORS[name] for name in names[pick]]
        axes.scatter(*xy[pick].T, c=colors, marker=MODALITY_MARKERS[kind], **look)
    axes.set(xlabel="t-SNE 1 (arbitrary units)", ylabel="t-SNE 2 (arbitrary units)")
    axes.set(xticks=[], yticks=[])
    dot = {"ls": "", "ms": 7}
    handles = [
        Line2D([], [], marker="o", color=color, label=name, **dot)
        for name, color in SYSTEM_COLORS.items()
        if name in set(names)
    ]
    for kind in dict.fromkeys(kinds):
        look = {"marker": MODALITY_MARKERS[kind], "mfc": "white", "mec": INK, **dot}
        handles.append(Line2D([], [], label=modality_text(kind), **look))
    figure.legend(handles=handles, loc="outside right upper", handletextpad=0.2)
    return figure
