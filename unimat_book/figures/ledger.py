"""Published and own values in, the figure that compares them out."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from unimat_book.figures import draw
from unimat_book.figures.narrow import is_narrow
from unimat_book.figures.style import (
    BLUE,
    GREEN,
    INK,
    MUTED,
    ORANGE,
    modality_text,
    new_figure,
    require_columns,
    styled,
)


@styled
def plot_paper_vs_ours(frame: pd.DataFrame, *, xlabel: str) -> Figure:
    """Published value, our reproduction, our value and its refinement, a row per claim.

    Columns `claim`, `paper`, `reproduction`, `ours` and `ours_refined`, and of the last three the
    intervals (`ours_low`, `ours_high`, ...); NaN where there is no value.
    """
    hollow = {"mfc": "white", "mew": 1.6}
    looks = {
        "paper": {"marker": "D", "color": INK, "label": "paper", **hollow},
        "reproduction": {"marker": "s", "color": ORANGE, "label": "reproduction"},
        "ours": {"marker": "o", "color": BLUE, "label": "this book"},
        "ours_refined": {"marker": "^", "color": GREEN, "label": "this book, refined"},
    }
    require_columns(frame, ["claim", *looks])
    narrow = is_narrow()
    figure = new_figure(1.15 + len(frame) * (0.8 if narrow else 0.52))
    axes = figure.add_subplot()
    for y, (_, row) in enumerate(frame.iterrows()):
        axes.axhline(y, color="#EDEFF1", linewidth=1, zorder=0)
        for k, (name, look) in enumerate(looks.items()):
            at, ends = y + (k - 1.5) * 0.2, (f"{name}_low", f"{name}_high")
            draw.interval(axes, at, *(row.get(end, np.nan) for end in ends), look["color"])
            axes.plot(row[name], at, ls="", ms=7, zorder=4, **look)
        points = ["–" if pd.isna(row[name]) else f"{row[name]:.2f}" for name in looks]
        if narrow:
            place = {"transform": axes.get_yaxis_transform(), "ha": "right", "va": "bottom"}
            draw.text(axes, 1.0, y - 0.43, " / ".join(points), color=MUTED, size=9, **place)
        else:
            draw.text_right_of(axes, y, " / ".join(points))
    room = 0.85 if narrow else 0.55
    draw.row_axis(axes, [modality_text(claim) for claim in frame["claim"]], room)
    axes.set_xlabel(xlabel)
    axes.margins(x=0.08)
    handles = [Line2D([], [], ls="", ms=7, **look) for look in looks.values()]
    figure.legend(handles=handles, loc="outside upper center", ncols=3)
    return figure
