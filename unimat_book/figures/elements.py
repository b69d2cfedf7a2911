"""Element counts in, a periodic table out; symbols, colours and radii of elements."""

from bisect import bisect
from collections.abc import Mapping

import gemmi
import matplotlib as mpl
import pandas as pd
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from unimat_book.figures import draw
from unimat_book.figures.narrow import is_narrow
from unimat_book.figures.style import LIGHT, SEQUENTIAL, new_figure, styled

_JMOL_TEXT = """
E8E8E8 D9FFFF CC80FF C2FF00 FFB5B5 909090 3050F8 FF0D0D 90E050 B3E3F5 AB5CF2 8AFF00 BFA6A6 F0C8A0
FF8000 FFFF30 1FF01F 80D1E3 8F40D4 3DFF00 E6E6E6 BFC2C7 A6A6AB 8A99C7 9C7AC7 E06633 F090A0 50D050
C88033 7D80B0 C28F8F 668F8F BD80E3 FFA100 A62929 5CB8D1 702EB0 00FF00 94FFFF 94E0E0 73C2C9 54B5B5
3B9E9E 248F8F 0A7D8C 006985 C0C0C0 FFD98F A67573 668080 9E63B5 D47A00 940094 429EB0 57178F 00C900
70D4FF FFFFC7 D9FFC7 C7FFC7 A3FFC7 8FFFC7 61FFC7 45FFC7 30FFC7 1FFFC7 00FF9C 00E675 00D452 00BF38
00AB24 4DC2FF 4DA6FF 2194D6 267DAB 266696 175487 D0D0E0 FFD123 B8B8D0 A6544D 575961 9E4FB5 AB5C00
754F45 428296 420066 007D00 70ABFA 00BAFF 00A1FF 008FFF 0080FF 006BFF 545CF2 785CE3
"""
_JMOL = _JMOL_TEXT.split()
_PERIODS = (1, 3, 11, 19, 37, 55, 87, 119)  # first elements


def element_color(atomic_number: int) -> str:
    """Colour of an element as '#RRGGBB' (Jmol's table; grey beyond curium)."""
    return "#" + (_JMOL[atomic_number - 1] if atomic_number <= len(_JMOL) else "B0B0B0")


def _element_cell(atomic_number: int) -> tuple[float, float]:
    """Column 1..18 and row of an element; lanthanides and actinides in rows 8.4 and 9.4."""
    period = bisect(_PERIODS, atomic_number)
    left = atomic_number - _PERIODS[period - 1] + 1
    right = 19 - _PERIODS[period] + atomic_number
    if left <= min(period, 2):
        return left, period
    return (right, period) if right >= 3 else (left, period + 2.4)  # column 3 holds Lu and Lr


@styled
def plot_periodic_table_coverage(counts: Mapping[str, int] | pd.Series) -> Figure:
    """Periodic table coloured by `counts` (symbol -> number), logarithmic; blank where none."""
    counts = {str(symbol): int(n) for symbol, n in dict(counts).items() if n > 0}
    if not counts:
        raise ValueError("expected at least one element with a count above 0, got none")
    size = 7.2 if is_narrow() else 9.5
    figure = new_figure(3.0 if is_narrow() else 4.1)
    axes = figure.add_subplot()
    norm = LogNorm(vmin=1, vmax=max(10, *counts.values()))
    for number in range(1, 104):
        symbol, (column, row) = gemmi.Element(number).name, _element_cell(number)
        rgba = SEQUENTIAL(norm(counts[symbol])) if symbol in counts else (1, 1, 1, 1)
        draw.tile(axes, column, row, 0.94, 0.94, fc=rgba, ec=LIGHT, linewidth=0.7, zorder=1)
        color = draw.text_color(rgba) if symbol in counts else "#A9AFB5"
        draw.text(axes, column + 0.47, row + 0.49, symbol, color=color, size=size)
    axes.set(xlim=(0.9, 19.05), ylim=(10.5, 0.9), aspect="equal")
    axes.axis("off")
    scale = mpl.cm.ScalarMappable(norm=norm, cmap=SEQUENTIAL)
    if is_narrow():
        place = {"ax": axes, "shrink": 0.7, "aspect": 26, "pad": 0.02}
    else:
        place = {"cax": axes.inset_axes((0.2, 0.82, 0.42, 0.035))}
    bar = figure.colorbar(scale, orientation="horizontal", format="{x:,.0f}", **place)
    bar.set_label("number of crystals with the element", fontsize=9.5)
    bar.outline.set_visible(False)
    bar.ax.minorticks_off()
    return figure
