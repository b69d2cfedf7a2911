"""Scores of the cells of a grid in, the figure that decides out."""

import textwrap
from collections.abc import Mapping

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from unimat_book.figures import draw
from unimat_book.figures.narrow import is_narrow
from unimat_book.figures.style import RED, SEQUENTIAL, new_figure, require_columns, styled


@styled
def plot_grid(
    panels: Mapping[str, pd.DataFrame],
    *,
    rows: Mapping[str, str],
    columns: Mapping[str, str],
    chosen: Mapping[str, tuple[str, str]],
    label: str,
) -> Figure:
    """A heat map for each kind of patterns: a row per fusion, a column per order.

    Each frame has a row per cell with `fusion`, `order`, `mean` and `std` (over seeds, may be NaN);
    dark marks small means, by the range of its own panel, and a red frame the `chosen` cell. `rows`
    and `columns` give the keys their names.
    """
    row, gap, size = (0.62, "\n", 7.2) if is_narrow() else (0.47, " ", 9.5)
    names = [textwrap.fill(x, 14) if is_narrow() else x for x in rows.values()]
    figure = new_figure(1.5 + row * len(rows) * len(panels))
    every = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (title, frame) in zip(every, panels.items(), strict=True):
        require_columns(frame, ["fusion", "order", "mean", "std"])
        by_cell = frame.set_index(["fusion", "order"])
        values = np.array([[by_cell.loc[(f, o), "mean"] for o in columns] for f in rows])
        spread = np.array([[by_cell.loc[(f, o), "std"] for o in columns] for f in rows])
        cmap, norm = SEQUENTIAL.reversed(), mpl.colors.Normalize(values.min(), values.max())
        axes.imshow(values, cmap=cmap, norm=norm, aspect="auto")
        for (i, j), value in np.ndenumerate(values):
            sd = "" if np.isnan(spread[i, j]) else f"{gap}± {spread[i, j]:.4f}"
            look = {"color": draw.text_color(cmap(norm(value))), "size": size}
            draw.text(axes, j, i, f"{value:.4f}{sd}", **look)
        fusion, order = chosen[title]
        corner = list(columns).index(order) - 0.48, list(rows).index(fusion) - 0.46
        axes.add_patch(Rectangle(corner, 0.96, 0.92, fill=False, edgecolor=RED, linewidth=2.2))
        axes.set_yticks(range(len(rows)), names)
        axes.set_xticks(range(len(columns)), [x.replace(", ", ",\n") for x in columns.values()])
        axes.set_title(f"{title}: {label}")
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
    return figure
