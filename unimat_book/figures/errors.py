"""Errors frames in, figures of what goes wrong, and for whom, out."""

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from unimat_book.calibration import expected_calibration_error, reliability
from unimat_book.figures import draw
from unimat_book.figures.narrow import is_narrow
from unimat_book.figures.style import (
    BLUE,
    DARK,
    GREY,
    INK,
    MUTED,
    RED,
    SEQUENTIAL,
    Array,
    as_array,
    label_colors,
    modality_text,
    new_figure,
    require_columns,
    styled,
    system_names,
)
from unimat_lib.crystals.table import CRYSTAL_SYSTEMS


@styled
def plot_confusion(matrices: Mapping[str, Array]) -> Figure:
    """Confusion matrices [7, 7] by title: true systems in rows, percent of the row in the cells.

    Rows must count the same crystals: their numbers are written once, at the left.
    """
    counts = {name: as_array(matrix).astype(float) for name, matrix in matrices.items()}
    if {x.shape for x in counts.values()} != {(7, 7)}:
        raise ValueError(f"expected matrices of 7 x 7, got {[x.shape for x in counts.values()]}")
    narrow = is_narrow()
    rows, columns = (len(counts), 1) if narrow else (-(-len(counts) // 2), 2)
    figure = new_figure((1.5 + 2.6 * rows) if narrow else (0.4 + 2.9 * rows), layout="compressed")
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    look = {"cmap": SEQUENTIAL, "vmin": 0, "vmax": 1, "square": True, "cbar": False, "fmt": ""}
    for axes, (name, matrix) in zip(panels.flat, counts.items(), strict=False):
        number = matrix.sum(axis=1)
        share = matrix / np.maximum(number[:, None], 1)
        text = np.where(share < 0.005, "<1", np.char.mod("%.0f", 100 * share))
        text = np.where(matrix > 0, text, "")
        labels = [f"{n} ({int(c):,})" for n, c in zip(CRYSTAL_SYSTEMS, number, strict=True)]
        look |= {"annot": text, "annot_kws": {"size": 8.6}, "yticklabels": labels}
        sns.heatmap(share, ax=axes, **look)
        axes.tick_params(labelsize=8.8, length=0)
        turned = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"}
        axes.set_xticks(axes.get_xticks(), CRYSTAL_SYSTEMS, **turned)
        axes.set_title(name, fontsize=10.5)
    for axes in panels[-1]:
        axes.set_xlabel("predicted")
    for axes in panels[:, 0]:
        axes.set_ylabel("true (crystals)")
    for axes in panels.flat[len(counts) :]:
        axes.set_visible(False)
    look = {"shrink": 0.6, "pad": 0.02, "label": "share of the true class"}
    look |= {"location": "bottom", "aspect": 32} if narrow else {}
    figure.colorbar(panels.flat[0].collections[0], ax=panels, **look).outline.set_visible(False)
    return figure


@styled
def plot_parity(true: Array, predicted: Array, *, columns: Sequence[str]) -> Figure:
    """Predicted against true lengths [N, K], angstrom: a density and the mean error per column."""
    true, predicted = as_array(true).astype(float), as_array(predicted).astype(float)
    height = 4.3 if is_narrow() else 1.2 + 6.6 / max(len(columns), 2)
    figure = new_figure(height, layout="compressed")
    panels = figure.subplots(1, len(columns), squeeze=False)[0]
    low, high = np.quantile([true, predicted], [0.001, 0.999])
    pad = 0.04 * (high - low) + 1e-9
    low, high = low - pad, high + pad
    tones = mpl.colors.ListedColormap(SEQUENTIAL(np.linspace(0.28, 1, 128)))
    look = {"gridsize": 42, "extent": (low, high) * 2, "bins": "log", "mincnt": 1, "cmap": tones}
    for x, y, axes, name in zip(true.T, predicted.T, panels, columns, strict=True):
        image = axes.hexbin(x, y, linewidths=0.1, **look)
        axes.plot([low, high], [low, high], color=RED, linewidth=1.0)
        axes.set_title(f"{name}\nMAE {float(np.abs(x - y).mean()):.2f} Å", fontsize=10.5)
        axes.set(xlim=(low, high), ylim=(low, high), aspect="equal", xlabel="true (Å)")
        axes.yaxis.set_major_locator(mpl.ticker.MaxNLocator(5))
        axes.xaxis.set_major_locator(mpl.ticker.MaxNLocator(5))
        axes.tick_params(labelleft=axes is panels[0] or is_narrow())
    for axes in panels if is_narrow() else panels[:1]:
        axes.set_ylabel("predicted (Å)")
    place = {"orientation": "horizontal", "shrink": 0.45, "aspect": 32, "pad": 0.04}
    bar = figure.colorbar(image, ax=panels, format="{x:,.0f}", **place)
    bar.set_label("crystals in a hexagon (log scale)", fontsize=9.5)
    bar.outline.set_visible(False)
    bar.ax.minorticks_off()
    return figure


@styled
def plot_error_by_symmetry(frame: pd.DataFrame, *, column: str, label: str, hue: str) -> Figure:
    """Distribution of an error in each crystal system: median, middle half and middle 90 %.

    The frame has a row per crystal and model with `crystal_system`, `column` (the error, named by
    `label` with its unit) and `hue`, which tells the models apart.
    """
    require_columns(frame, ["crystal_system", column, hue])
    names = system_names(frame["crystal_system"])
    groups = list(dict.fromkeys(frame[hue]))
    palette = label_colors(groups)
    figure = new_figure(1.1 + len(CRYSTAL_SYSTEMS) * (0.26 + 0.14 * len(groups)))
    axes = figure.add_subplot()
    wide = {"linewidth": 8 if len(groups) < 3 else 5, "solid_capstyle": "butt", "alpha": 0.55}
    dot = {"markersize": 6, "markeredgecolor": "white", "markeredgewidth": 0.9, "zorder": 4}
    ticks = []
    for row, system in enumerate(CRYSTAL_SYSTEMS):
        number = 0
        for k, group in enumerate(groups):
            pick = (names == system) & (frame[hue] == group).to_numpy()
            values = frame.loc[pick, column].to_numpy(dtype=float)
            number = max(number, len(values))
            if not len(values):
                continue
            y, color = row + (k - (len(groups) - 1) / 2) * 0.72 / len(groups), palette[group]
            p5, p25, p50, p75, p95 = np.quantile(values, [0.05, 0.25, 0.5, 0.75, 0.95])
            axes.plot([p5, p95], [y, y], color=color, linewidth=1.3)
            axes.plot([p25, p75], [y, y], color=color, **wide)
            axes.plot(p50, y, "o", color=color, **dot)
        ticks.append(f"{system} ({number:,})")
    draw.row_axis(axes, ticks, 0.6)
    axes.set(xlabel=label, ylabel="crystal system (crystals)", xscale="log")
    draw.plain_log(axes.xaxis)
    handles = [
        Line2D([], [], marker="o", ls="", color=DARK, ms=6, label="median"),
        Line2D([], [], color=DARK, label="middle half", **{**wide, "linewidth": 8}),
        Line2D([], [], color=DARK, linewidth=1.3, label="middle 90 %"),
        *(Line2D([], [], color=palette[g], linewidth=4, label=modality_text(g)) for g in groups),
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=3)
    return figure


@styled
def plot_error_against(quantities: Mapping[str, Array], error: Array, *, ylabel: str) -> Figure:
    """Median and quantile bands of an error [N] along quantities [N], a panel for each.

    The crystals are cut into eight equally filled bins (fewer where many have one value); bins
    with fewer than five crystals are not drawn. Keys and `ylabel` are axis labels with units.
    """
    error = as_array(error).astype(float)
    figure = new_figure(3.5)
    panels = figure.subplots(1, len(quantities), sharey=True, squeeze=False)[0]
    for axes, (label, values) in zip(panels, quantities.items(), strict=True):
        x = as_array(values).astype(float)
        edges = np.unique(np.quantile(x, np.linspace(0, 1, 9)))
        which = np.clip(np.digitize(x, edges[1:-1]), 0, max(len(edges) - 2, 0))
        groups = [which == k for k in np.unique(which) if (which == k).sum() >= 5]
        if not groups:
            raise ValueError(f"no bin holds 5 or more of the {len(x)} crystals")
        centre = [np.median(x[pick]) for pick in groups]
        bands = [np.quantile(error[pick], [0.05, 0.25, 0.5, 0.75, 0.95]) for pick in groups]
        p5, p25, p50, p75, p95 = np.transpose(bands)
        axes.fill_between(centre, p5, p95, color=BLUE, alpha=0.13, lw=0, label="middle 90 %")
        axes.fill_between(centre, p25, p75, color=BLUE, alpha=0.28, lw=0, label="middle half")
        axes.plot(centre, p50, "o-", color=BLUE, markersize=4.5, label="median")
        axes.set_xlabel(label)
        if min(centre) > 0 and max(centre) > 8 * min(centre):
            axes.set_xscale("log")
            draw.plain_log(axes.xaxis)
        axes.grid(axis="y")
    panels[0].set_ylabel(ylabel)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return figure


@styled
def plot_fusion_comparison(
    frame: pd.DataFrame,
    *,
    xlabel: str,
    hue: str,
    label: str = "fusion",
    reference: float | None = None,
    reference_label: str = "",
) -> Figure:
    """Dot plot with intervals, one row per method.

    The frame has a row per dot with `value`, `low` and `high` (the interval, may be NaN), the
    column `label` with the row names, and `hue`, which tells the dots of one row apart. A vertical
    line marks the `reference`.
    """
    require_columns(frame, [label, hue, "value", "low", "high"])
    names, groups = list(dict.fromkeys(frame[label])), list(dict.fromkeys(frame[hue]))
    palette = label_colors(groups)
    figure = new_figure(0.95 + len(names) * (0.34 + 0.12 * (len(groups) - 1)) + 0.3)
    axes = figure.add_subplot()
    for _, row in frame.iterrows():
        shift = (groups.index(row[hue]) - (len(groups) - 1) / 2) * 0.62 / len(groups)
        y, color = names.index(row[label]) + shift, palette[row[hue]]
        draw.interval(axes, y, row["low"], row["high"], color)
        axes.plot(row["value"], y, "o", color=color, ms=7, mec="white", zorder=4)
    if reference is not None:
        axes.axvline(reference, color=INK, linewidth=1.1, linestyle=(0, (4, 3)), zorder=1)
        look = {"xycoords": ("data", "axes fraction"), "va": "bottom", "ha": "center"}
        text = f" {reference_label} {reference:g}"
        axes.annotate(text, (reference, 1.0), fontsize=9.5, **look)
    draw.row_axis(axes, [modality_text(name) for name in names], 0.55)
    axes.set_xlabel(xlabel)
    axes.margins(x=0.14)
    handles = [
        Line2D([], [], marker="o", color=palette[g], ms=6, label=modality_text(g)) for g in groups
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=min(4, len(groups)))
    return figure


@styled
def plot_missing_modality(frame: pd.DataFrame, *, label: str) -> Figure:
    """Heat map of an error: rows are models, columns the modalities given (NaN: cannot run).

    Index and columns are the tick labels; dark marks small values.
    """
    values = frame.to_numpy(dtype=float)
    figure = new_figure(1.6 + 0.5 * len(frame))
    axes = figure.add_subplot()
    axes.set_facecolor("#ECEEF0")
    cmap, norm = SEQUENTIAL.reversed(), mpl.colors.Normalize(np.nanmin(values), np.nanmax(values))
    image = axes.imshow(np.ma.masked_invalid(values), cmap=cmap, norm=norm, aspect="auto")
    for (i, j), value in np.ndenumerate(values):
        known = bool(np.isfinite(value))
        color = draw.text_color(cmap(norm(value))) if known else MUTED
        draw.text(axes, j, i, f"{value:.3f}" if known else "n/a", color=color)
    given = [modality_text(name).replace(" + ", "\n+ ") for name in frame.columns]
    axes.set_xticks(range(len(given)), given)
    axes.set_yticks(range(len(frame)), [modality_text(name) for name in frame.index])
    axes.set(xlabel="available at test time", ylabel="trained as")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    figure.colorbar(image, ax=axes, label=label, pad=0.02).outline.set_visible(False)
    return figure


@styled
def plot_calibration(errors: pd.DataFrame) -> Figure:
    """Reliability of the crystal system in an errors frame, and the crystals in each bin."""
    bins = reliability(errors)
    stated, found = bins["confidence"], bins["accuracy"]
    figure = new_figure(5.0, width=5.2)
    axes, below = figure.subplots(2, 1, sharex=True, height_ratios=(3.4, 1))
    look = {"color": MUTED, "linewidth": 1, "linestyle": (0, (4, 3))}
    axes.plot([0, 1], [0, 1], label="perfect calibration", **look)
    axes.vlines(stated, stated, found, color=RED, linewidth=5, alpha=0.35, label="gap")
    axes.plot(stated, found, "o-", color=BLUE, markersize=6, label="model")
    axes.set(ylabel="accuracy", xlim=(0, 1), ylim=(0, 1.02))
    ece = 100 * expected_calibration_error(errors)
    axes.set_title(f"expected calibration error {ece:.1f} %")
    axes.legend(loc="upper left")
    axes.grid()
    width = 1 / 15  # as in reliability
    middle, number = (np.floor(stated / width) + 0.5) * width, bins["share"] * len(errors)
    below.bar(middle, number, width=0.9 * width, color=GREY)
    below.set(xlabel="stated confidence", ylabel="crystals")
    below.yaxis.set_major_formatter("{x:,.0f}")
    figure.align_ylabels([axes, below])
    return figure
