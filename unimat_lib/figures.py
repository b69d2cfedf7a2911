"""Every figure of the book: one visual style, one function per figure.

Each function takes plain data (tables, tensors, arrays, frames), returns a `Figure` of matplotlib
and touches no global state: no pyplot, no settings at import. A returned figure draws itself in a
notebook as a compact PNG. Colours are those of Okabe and Ito, chosen to be told apart with any kind
of colour vision; a crystal system and a modality keep their colour through the whole book.
"""

from __future__ import annotations

import contextlib
import functools
import io
import itertools
import re
from bisect import bisect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import gemmi
import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, LogNorm, to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Arc, Circle, FancyArrowPatch, FancyBboxPatch, Polygon, Rectangle

from unimat_lib.crystals import CRYSTAL_SYSTEMS

Array = Any  # torch.Tensor, numpy.ndarray or a sequence of numbers

INK, DARK, MUTED, GREY, LIGHT = "#222222", "#4D4D4D", "#6B6B6B", "#9AA3AB", "#D5D9DD"
BLUE, ORANGE, GREEN, SKY, RED, PURPLE = (
    f"#{code}" for code in ("0072B2", "E69F00", "009E73", "56B4E9", "D55E00", "CC79A7")
)
PALETTE = (BLUE, RED, GREEN, ORANGE, PURPLE, SKY, DARK)

SYSTEM_COLORS: dict[str, str] = dict(
    zip(CRYSTAL_SYSTEMS, (DARK, RED, ORANGE, GREEN, SKY, BLUE, PURPLE), strict=True)
)
MODALITY_COLORS: dict[str, str] = {"structure": BLUE, "xrd": RED, "composition": GREEN}
MODALITY_NAMES = {"structure": "structure", "xrd": "XRD", "composition": "composition"}
MODALITY_MARKERS = {"structure": "o", "xrd": "^", "composition": "s"}

SEQUENTIAL = LinearSegmentedColormap.from_list(
    "unimat_blue", ["#F3F7FB", "#B5D3E8", "#5CA3CF", "#0072B2", "#063A66"]
)

PAGE_WIDTH = 7.2  # inches; 11 pt text stays readable when a phone shows this at half size
MAX_PNG_BYTES = 110_000
AZIMUTH, ELEVATION = 64.0, 13.0  # degrees; the direction crystals are seen from

_STYLE: dict[str, Any] = {
    "figure.dpi": 120,
    "savefig.dpi": 120,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "font.family": ["sans-serif"],
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 10.5,
    "mathtext.fontset": "dejavusans",
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 10.5,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.prop_cycle": mpl.cycler(color=PALETTE),
    "axes.grid": False,
    "grid.color": "#E4E7EA",
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 9.5,
    "ytick.labelsize": 9.5,
    "legend.fontsize": 9.5,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "lines.solid_capstyle": "round",
}


# -------------------------------------------------------------------------------------------------
# Style and the figure class
# -------------------------------------------------------------------------------------------------
@contextlib.contextmanager
def style() -> Iterator[None]:
    """Context manager with the book's look; the previous settings come back on exit.

    The functions of this module use it themselves. Use it for a figure of your own:

        with figures.style():
            fig = Figure(...)
    """
    with mpl.rc_context(_STYLE):
        yield


class BookFigure(Figure):
    """A figure that shows itself in a notebook without pyplot, as a PNG below about 120 kB."""

    def savefig(self, *args: Any, **kwargs: Any) -> None:
        """Save in the book's style (see `matplotlib.figure.Figure.savefig`)."""
        with style():
            super().savefig(*args, **kwargs)

    def png(self) -> bytes:
        """PNG bytes of the figure, without time stamps; reduced to 256 colours when large."""
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", metadata={"Software": None})
        if buffer.tell() <= MAX_PNG_BYTES:
            return buffer.getvalue()
        from PIL import Image

        image = Image.open(buffer).convert("RGB").quantize(256, dither=Image.Dither.NONE)
        small = io.BytesIO()
        image.save(small, format="png", optimize=True)
        return min(buffer.getvalue(), small.getvalue(), key=len)

    def _repr_png_(self) -> bytes:
        return self.png()


def _styled(function: Callable[..., Figure]) -> Callable[..., Figure]:
    """Run a figure function inside `style()`, ticks included (made when first drawn)."""

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Figure:
        with style():
            figure = function(*args, **kwargs)
            for _ in range(2):  # the second pass settles the layout
                figure.draw_without_rendering()
        return figure

    return wrapper


def _figure(height: float, width: float = PAGE_WIDTH, layout: str = "constrained") -> BookFigure:
    figure = BookFigure(figsize=(width, height), layout=layout)
    figure.get_layout_engine().set(w_pad=0.06, h_pad=0.05)
    return figure


def _canvas(width: float, height: float) -> tuple[BookFigure, Axes]:
    """A blank drawing board whose data coordinates are inches."""
    figure = BookFigure(figsize=(width, height))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(0, height), aspect="equal")
    axes.axis("off")
    return figure, axes


def _array(values: Array) -> np.ndarray:
    """NumPy view of a tensor on any device, an array, a Series or a sequence."""
    if hasattr(values, "detach"):
        values = values.detach().cpu().numpy()
    return np.asarray(values)


def _system_names(values: Array) -> np.ndarray:
    """Crystal-system names from names or from indices 0..6."""
    values = _array(values)
    if values.dtype.kind in "iu":
        return np.asarray(CRYSTAL_SYSTEMS, dtype=object)[values]
    unknown = sorted(set(values.astype(str)) - set(CRYSTAL_SYSTEMS))
    if unknown:
        raise ValueError(f"expected crystal systems from {CRYSTAL_SYSTEMS}, got {unknown}")
    return values.astype(object)


def _require(frame: pd.DataFrame, columns: Sequence[str]) -> None:
    missing = [name for name in columns if name not in frame.columns]
    if missing:
        raise ValueError(f"the frame lacks {missing}; it has {list(frame.columns)}")


def _colors(labels: Sequence[str]) -> dict[str, str]:
    """Fixed colour for a modality or a crystal system, the palette in order for anything else."""
    fixed = {**SYSTEM_COLORS, **MODALITY_COLORS}
    taken = {fixed[label] for label in labels if label in fixed}
    rest = itertools.cycle([color for color in PALETTE if color not in taken])
    return {label: fixed[label] if label in fixed else next(rest) for label in labels}


def _soften(color: Any, amount: float) -> tuple[float, ...]:
    """Mix a colour with white."""
    return tuple(channel + (1 - channel) * amount for channel in to_rgb(color))


def _darken(color: str, amount: float) -> tuple[float, ...]:
    """Mix a colour with black: 1 keeps it."""
    return tuple(channel * amount for channel in to_rgb(color))


def _pretty(label: Any) -> str:
    """Names of modalities as the book prints them: 'xrd+composition' -> 'XRD + composition'."""
    parts = [part.strip() for part in str(label).split("+")]
    if not all(part in MODALITY_NAMES for part in parts):
        return str(label)
    return " + ".join(MODALITY_NAMES[part] for part in parts)


def _plain_log(axis: Any) -> None:
    """Ticks of a logarithmic axis at 1, 2, 5 (or at powers of ten), written as plain numbers."""
    low, high = axis.get_view_interval()
    wide = high / max(low, 1e-12) > 200
    axis.set_major_locator(mpl.ticker.LogLocator(subs=(1.0,) if wide else (1.0, 2.0, 5.0)))
    axis.set_major_formatter(mpl.ticker.FuncFormatter(lambda value, _: f"{value:,g}"))
    axis.set_minor_formatter(mpl.ticker.NullFormatter())


def _text_color(rgba: Sequence[float]) -> str:
    luminance = 0.299 * rgba[0] + 0.587 * rgba[1] + 0.114 * rgba[2]
    return "white" if luminance < 0.55 else INK


def _write(axes: Axes, x: float, y: float, text: str, **kwargs: Any) -> None:
    """Text centred on (x, y) unless `ha` and `va` say otherwise."""
    axes.text(x, y, text, **{"ha": "center", "va": "center", "size": 9.5, **kwargs})


def _segment(axes: Axes, start: Sequence[float], end: Sequence[float], **kwargs: Any) -> None:
    axes.plot([start[0], end[0]], [start[1], end[1]], **kwargs)


def _disc(axes: Axes, centre: Sequence[float], radius: float, **kwargs: Any) -> None:
    axes.add_patch(Circle(centre, radius, **{"ec": "white", "zorder": 5, **kwargs}))


def _tile(axes: Axes, x: float, y: float, width: float, height: float, **kwargs: Any) -> None:
    axes.add_patch(Rectangle((x, y), width, height, **{"ec": "none", "zorder": 4, **kwargs}))


def _box(
    axes: Axes,
    x: float,
    y: float,
    width: float,
    height: float,
    text: str = "",
    *,
    face: Any = "white",
    edge: Any = MUTED,
    line: float = 1.0,
    color: str = INK,
    size: float = 8.6,
    zorder: float = 3,
) -> None:
    """Rounded box with centred text; (x, y) is its lower left corner in inches."""
    shape = FancyBboxPatch((x, y), width, height, "round,pad=0,rounding_size=0.07", zorder=zorder)
    shape.set(facecolor=face, edgecolor=edge, linewidth=line)
    axes.add_patch(shape)
    look = {"color": color, "size": size, "linespacing": 1.25, "zorder": zorder + 1}
    _write(axes, x + width / 2, y + height / 2, text, **look)


def _arrow(
    axes: Axes,
    start: Sequence[float],
    end: Sequence[float],
    *,
    color: Any = MUTED,
    line: float = 1.4,
    head: str = "-|>",
    zorder: float = 2,
) -> None:
    look = {"color": color, "linewidth": line, "zorder": zorder, "mutation_scale": 9}
    ends = tuple(start), tuple(end)
    axes.add_patch(FancyArrowPatch(*ends, arrowstyle=head, shrinkA=0, shrinkB=0, **look))


# -------------------------------------------------------------------------------------------------
# The data flow of the book
# -------------------------------------------------------------------------------------------------
FLOW_STEPS = ("crystals", "views", "encoders", "alignment", "fusion", "heads", "evaluation")


@_styled
def flow_strip(*, highlight: str | Sequence[str]) -> Figure:
    """The data flow of the book; `highlight` names one or more of `FLOW_STEPS`, one per chapter."""
    marked = {highlight} if isinstance(highlight, str) else set(highlight)
    unknown = marked - set(FLOW_STEPS)
    if unknown:
        raise ValueError(f"expected highlight from {FLOW_STEPS}, got {sorted(unknown)}")
    figure, axes = _canvas(7.6, 2.16)
    width, gap, left, bottom, tall = 0.92, 0.16, 0.1, 0.12, 1.52
    x = {name: left + i * (width + gap) for i, name in enumerate(FLOW_STEPS)}
    rows = [bottom + tall - 0.22 - i * 0.54 for i in range(3)]  # centres of three stacked boxes
    middle, pair = bottom + tall / 2, (bottom + 1.12, bottom + 0.40)
    for number, name in enumerate(FLOW_STEPS, start=1):
        look = {"color": MUTED, "weight": "normal"}
        if name in marked:
            look = {"color": BLUE, "weight": "bold"}
            corner, style = (x[name] - 0.06, 0.04), "round,pad=0,rounding_size=0.09"
            shape = FancyBboxPatch(corner, width + 0.12, 2.07, style, zorder=0)
            shape.set(facecolor="#E3F0F8", edgecolor=BLUE, linewidth=1.6)
            axes.add_patch(shape)
        title = f"{number}  {name.capitalize()}"
        _write(axes, x[name] + width / 2, 1.9, title, size=9.2, **look)
    _flow_views(axes, x, rows, width)
    for name, draw in (
        ("crystals", _icon_crystal),
        ("alignment", _icon_alignment),
        ("fusion", _icon_fusion),
        ("evaluation", _icon_evaluation),
    ):
        _box(axes, x[name], bottom, width, tall)
        draw(axes, x[name] + width / 2, middle)
    for y, text in zip(pair, ("unit cell\na b c  α β γ", "crystal\nsystem"), strict=True):
        _box(axes, x["heads"], y - 0.31, width, 0.62, text)
    for y, color in zip(rows, MODALITY_COLORS.values(), strict=True):
        _arrow(axes, (x["crystals"] + width, middle + (y - middle) * 0.6), (x["views"], y))
        for first, second in itertools.pairwise(("views", "encoders", "alignment", "fusion")):
            _arrow(axes, (x[first] + width, y), (x[second], y), color=color)
    for y in pair:
        _arrow(axes, (x["fusion"] + width, middle + (y - middle) * 0.6), (x["heads"], y))
        _arrow(axes, (x["heads"] + width, y), (x["evaluation"], middle + (y - middle) * 0.8))
    return figure


def _flow_views(axes: Axes, x: Mapping[str, float], rows: Sequence[float], width: float) -> None:
    icons = (_icon_graph, _icon_pattern, _icon_formula)
    encoders = ("DimeNet++", "1-D CNN", "MLP")
    colors = MODALITY_COLORS.values()
    for y, color, icon, encoder in zip(rows, colors, icons, encoders, strict=True):
        _box(axes, x["views"], y - 0.22, width, 0.44, edge=color, line=1.4)
        icon(axes, x["views"] + width / 2, y)
        look = {"edge": color, "face": _soften(color, 0.88), "size": 8.8}
        _box(axes, x["encoders"], y - 0.22, width, 0.44, encoder, **look)


def _icon_crystal(axes: Axes, x: float, y: float) -> None:
    front = np.array([[-0.3, -0.34], [0.12, -0.34], [0.12, 0.1], [-0.3, 0.1]]) + np.array([x, y])
    back = front + np.array([0.2, 0.22])
    for square, tone in ((back, LIGHT), (front, INK)):
        axes.add_patch(Polygon(square, closed=True, fill=False, ec=tone, linewidth=1, zorder=4))
    for p, q in zip(front, back, strict=True):
        _segment(axes, p, q, color=MUTED, linewidth=1, zorder=4)
    for p in (*front, *back):
        _disc(axes, p, 0.055, fc=MODALITY_COLORS["structure"])
    _disc(axes, np.mean([*front, *back], axis=0), 0.085, fc=RED, zorder=6)


def _icon_graph(axes: Axes, x: float, y: float) -> None:
    nodes = np.array([[-0.24, -0.1], [-0.06, 0.12], [0.16, 0.1], [0.26, -0.11], [0.02, -0.08]])
    nodes = nodes + np.array([x, y])
    for i, j in ((0, 1), (1, 2), (2, 3), (3, 4), (4, 0), (1, 4), (2, 4)):
        _segment(axes, nodes[i], nodes[j], color=MUTED, linewidth=1, zorder=4)
    for node in nodes:
        _disc(axes, node, 0.045, fc=MODALITY_COLORS["structure"])


def _icon_pattern(axes: Axes, x: float, y: float) -> None:
    grid = np.linspace(0, 1, 200)
    peaks = ((0.15, 0.95), (0.33, 0.4), (0.42, 0.75), (0.6, 0.3), (0.74, 0.5), (0.87, 0.22))
    signal = sum(h * np.exp(-(((grid - p) / 0.018) ** 2)) for p, h in peaks)
    look = {"color": MODALITY_COLORS["xrd"], "linewidth": 1.1, "zorder": 4}
    axes.plot(x - 0.36 + 0.72 * grid, y - 0.13 + 0.27 * signal, **look)


def _icon_formula(axes: Axes, x: float, y: float) -> None:
    look = {"color": MODALITY_COLORS["composition"], "size": 10.5, "weight": "bold", "zorder": 4}
    _write(axes, x, y - 0.01, "TiO$_2$", **look)


def _icon_alignment(axes: Axes, x: float, y: float) -> None:
    size = 0.13
    for i, j in np.ndindex(5, 5):
        face = BLUE if i == j else _soften(BLUE, 0.86)
        corner = (x - 2.5 * size + j * size, y + 1.5 * size - i * size)
        _tile(axes, *corner, size * 0.9, size * 0.9, fc=face)
    _write(axes, x, y - 0.54, "contrast", color=MUTED, zorder=4, size=8.6)


def _icon_fusion(axes: Axes, x: float, y: float) -> None:
    for offset, color in zip((0.3, 0.0, -0.3), MODALITY_COLORS.values(), strict=True):
        _tile(axes, x - 0.34, y + offset - 0.1, 0.2, 0.2, fc=color)
        _arrow(axes, (x - 0.12, y + offset), (x + 0.11, y + offset * 0.35), line=1, zorder=4)
    _tile(axes, x + 0.14, y - 0.2, 0.2, 0.4, fc=INK)
    _write(axes, x, y - 0.6, "one vector", color=MUTED, zorder=4, size=8.6)


def _icon_evaluation(axes: Axes, x: float, y: float) -> None:
    frame = [x - 0.3, x - 0.3, x + 0.33], [y + 0.38, y - 0.3, y - 0.3]
    axes.plot(*frame, color=MUTED, linewidth=1, zorder=4)
    axes.plot([x - 0.3, x + 0.3], [y - 0.3, y + 0.34], color=LIGHT, linewidth=1.2, zorder=4)
    across = np.array([-0.2, -0.12, -0.03, 0.04, 0.13, 0.22])
    up = np.array([-0.15, -0.12, -0.04, 0.1, 0.1, 0.26])
    axes.scatter(x + across, y + up, s=14, color=BLUE, zorder=5)
    _write(axes, x, y - 0.54, "ledger", color=MUTED, zorder=4, size=8.6)


# -------------------------------------------------------------------------------------------------
# Elements
# -------------------------------------------------------------------------------------------------
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


# -------------------------------------------------------------------------------------------------
# Data sets
# -------------------------------------------------------------------------------------------------
@_styled
def periodic_table_coverage(counts: Mapping[str, int] | pd.Series) -> Figure:
    """Periodic table coloured by `counts` (symbol -> number), logarithmic; blank where none."""
    counts = {str(symbol): int(n) for symbol, n in dict(counts).items() if n > 0}
    if not counts:
        raise ValueError("expected at least one element with a count above 0, got none")
    figure = _figure(4.1)
    axes = figure.add_subplot()
    norm = LogNorm(vmin=1, vmax=max(10, *counts.values()))
    for number in range(1, 104):
        symbol, (column, row) = gemmi.Element(number).name, _element_cell(number)
        rgba = SEQUENTIAL(norm(counts[symbol])) if symbol in counts else (1, 1, 1, 1)
        _tile(axes, column, row, 0.94, 0.94, fc=rgba, ec=LIGHT, linewidth=0.7, zorder=1)
        color = _text_color(rgba) if symbol in counts else "#A9AFB5"
        _write(axes, column + 0.47, row + 0.49, symbol, color=color)
    axes.set(xlim=(0.9, 19.05), ylim=(10.5, 0.9), aspect="equal")
    axes.axis("off")
    scale = mpl.cm.ScalarMappable(norm=norm, cmap=SEQUENTIAL)
    place = axes.inset_axes((0.2, 0.82, 0.42, 0.035))
    bar = figure.colorbar(scale, cax=place, orientation="horizontal", format="{x:,.0f}")
    bar.set_label("number of crystals with the element", fontsize=9.5)
    bar.outline.set_visible(False)
    bar.ax.minorticks_off()
    return figure


@_styled
def crystal_system_counts(frame: pd.DataFrame) -> Figure:
    """Crystals per crystal system and split.

    Args:
        frame: one row per crystal with `crystal_system` (name or 0..6) and `split`.
    """
    _require(frame, ["crystal_system", "split"])
    counts = pd.crosstab(_system_names(frame["crystal_system"]), _array(frame["split"]))
    counts = counts.reindex(CRYSTAL_SYSTEMS, fill_value=0)
    order = [name for name in ("train", "val", "test") if name in counts.columns]
    order += [name for name in counts.columns if name not in order]
    figure = _figure(3.3)
    axes = figure.add_subplot()
    left = np.zeros(len(counts))
    shade = {name: 0.78 * i / max(len(order) - 1, 1) for i, name in enumerate(order)}
    for name in order:
        width = counts[name].to_numpy(dtype=float)
        look = {"color": [_soften(color, shade[name]) for color in SYSTEM_COLORS.values()]}
        look |= {"edgecolor": "white", "linewidth": 0.8, "height": 0.74}
        axes.barh(CRYSTAL_SYSTEMS, width, left=left, **look)
        left += width
    beside = {"xytext": (5, 0), "textcoords": "offset points", "va": "center", "fontsize": 9.5}
    for y, total in enumerate(left):
        share = 100 * total / max(left.sum(), 1)
        axes.annotate(f"{int(total):,}  ({share:.0f} %)", (total, y), **beside)
    axes.invert_yaxis()
    axes.set(xlabel="number of crystals", xlim=(0, max(left.max(), 1) * 1.2))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.tick_params(axis="y", length=0)
    handles = [Rectangle((0, 0), 1, 1, color=_soften(DARK, shade[name])) for name in order]
    figure.legend(handles, order, loc="outside upper right", ncols=len(order))
    return figure


@_styled
def cell_histograms(lengths: Array, angles: Array, num_atoms: Array) -> Figure:
    """Distributions of a, b, c (angstrom), alpha, beta, gamma (degrees) and atoms per cell.

    Args:
        lengths: [C, 3] in angstrom.
        angles: [C, 3] in degrees.
        num_atoms: [C].
    """
    lengths, angles, num_atoms = _array(lengths), _array(angles), _array(num_atoms)
    figure = _figure(3.1)
    panels = figure.subplots(1, 3)
    top = float(np.quantile(lengths, 0.997))
    for values, names, axes, edges in (
        (lengths, "abc", panels[0], np.linspace(lengths.min(), top, 60)),
        (angles, "αβγ", panels[1], np.linspace(angles.min() - 1, angles.max() + 1, 60)),
    ):
        for column, (name, color) in enumerate(zip(names, (BLUE, RED, GREEN), strict=True)):
            axes.hist(values[:, column], edges, histtype="stepfilled", color=color, alpha=0.14)
            axes.hist(values[:, column], edges, histtype="step", color=color, linewidth=1.5)
            axes.plot([], [], color=color, label=name)
        axes.legend(handlelength=1.0, borderaxespad=0)
    panels[0].set(xlabel="cell length (Å)", ylabel="number of crystals", title="lengths")
    panels[1].set(xlabel="cell angle (degrees)", ylabel="number (log scale)", title="angles")
    panels[1].set_yscale("log")
    _plain_log(panels[1].yaxis)
    panels[2].hist(num_atoms, np.arange(0.5, num_atoms.max() + 1.5), color=MUTED, rwidth=0.86)
    panels[2].set(xlabel="atoms in the cell", ylabel="number of crystals", title="size")
    return figure


# -------------------------------------------------------------------------------------------------
# One crystal: drawing, graph, pattern
# -------------------------------------------------------------------------------------------------
def _crystal_arrays(table: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lattice, fractional coordinates and atomic numbers of the first crystal."""
    stop = int(table.offsets[1])
    return (
        _array(table.lattice)[0].astype(float),
        _array(table.frac_coords)[:stop].astype(float),
        _array(table.atomic_numbers)[:stop].astype(int),
    )


def _view_matrix(lattice: np.ndarray) -> np.ndarray:
    """Rotation whose rows are right, up and towards the reader, with c near the vertical."""
    up = lattice[2] / np.linalg.norm(lattice[2])
    right = lattice[0] - up * (lattice[0] @ up)
    right /= np.linalg.norm(right)
    frame = np.stack([right, np.cross(up, right), up])  # x right, y away, z up
    phi, theta = np.radians(AZIMUTH), np.radians(ELEVATION)
    turn = np.array([[np.cos(phi), np.sin(phi), 0], [-np.sin(phi), np.cos(phi), 0], [0, 0, 1]])
    tilt = np.array(
        [[1, 0, 0], [0, np.cos(theta), -np.sin(theta)], [0, np.sin(theta), np.cos(theta)]]
    )
    x, y, z = tilt @ turn @ frame
    return np.stack([x, z, -y])


def _with_boundary(frac: np.ndarray, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Repeat atoms that lie on a face, an edge or a corner, so that the drawn cell is closed."""
    tol, coords, species = 1e-3, [], []
    for f, z in zip(frac % 1.0, numbers, strict=True):
        f = np.where(f > 1 - tol, f - 1, f)
        for shift in itertools.product(*[(0, 1) if abs(value) < tol else (0,) for value in f]):
            coords.append(f + shift)
            species.append(z)
    return np.array(coords), np.array(species)


def _draw_sphere(axes: Axes, xy: np.ndarray, radius: float, color: str, zorder: float) -> None:
    """A shaded ball: rim, body and two highlights, all vector shapes."""
    _disc(axes, xy, radius, fc=color, ec=_darken(color, 0.55), linewidth=0.7, zorder=zorder)
    for shift, size, amount in ((0.18, 0.70, 0.22), (0.30, 0.38, 0.50), (0.36, 0.16, 0.85)):
        centre = xy + radius * shift * np.array([-1, 1])
        look = {"fc": _soften(color, amount), "ec": "none", "zorder": zorder + 1e-4}
        _disc(axes, centre, radius * size, alpha=0.8, **look)


def _draw_cell(axes: Axes, lattice: np.ndarray, view: np.ndarray) -> None:
    """The twelve cell edges, in short pieces so that each can hide behind an atom."""
    for axis in range(3):
        others = [k for k in range(3) if k != axis]
        for i, j in np.ndindex(2, 2):
            origin = i * lattice[others[0]] + j * lattice[others[1]]
            line = origin + np.linspace(0, 1, 13)[:, None] * lattice[axis]
            for p, q in itertools.pairwise(line @ view.T):
                depth = 10 + (p[2] + q[2]) / 2
                _segment(axes, p, q, color="#7A828A", linewidth=1.1, zorder=depth)


def _draw_axes_triad(
    axes: Axes, lattice: np.ndarray, view: np.ndarray, origin: np.ndarray, size: float
) -> None:
    """Small arrows along a, b and c beside the drawing; the longest has the length `size`."""
    tips = lattice / np.linalg.norm(lattice, axis=1, keepdims=True) @ view.T[:, :2]
    tips *= size / np.linalg.norm(tips, axis=1).max()
    for name, tip in zip("abc", tips, strict=True):
        _arrow(axes, origin, origin + tip, color=INK, line=1.3, zorder=60)
        reach = max(float(np.linalg.norm(tip)), 1e-9)
        spot = origin + tip * (1 + 0.30 * size / reach)
        _write(axes, *spot, name, size=10.5, style="italic", zorder=60)


def _draw_bond(axes: Axes, p: np.ndarray, q: np.ndarray, colors: Sequence[str]) -> None:
    middle = (p + q) / 2
    for start, end, color in ((p, middle, colors[0]), (middle, q, colors[1])):
        depth = 10 + (start[2] + end[2]) / 2 - 0.05
        for tone, line, lift in ((_darken(color, 0.6), 3.8, 0), (color, 2.6, 1e-3)):
            look = {"color": tone, "linewidth": line, "zorder": depth + lift}
            _segment(axes, start, end, solid_capstyle="butt", **look)


def _finish_crystal_axes(
    axes: Axes, points: np.ndarray, margin: float, lattice: np.ndarray, view: np.ndarray
) -> None:
    """The cell, limits around it and the points, scale bar and the directions of a, b, c."""
    _draw_cell(axes, lattice, view)
    corners = np.array(list(itertools.product((0, 1), repeat=3))) @ lattice @ view.T
    points = np.concatenate([points, corners])[:, :2]
    low, high = points.min(axis=0) - margin, points.max(axis=0) + margin
    size = 0.13 * float((high - low).max())
    axes.set(xlim=(low[0], high[0] + 2.2 * size), ylim=(low[1] - 0.55, high[1]), aspect="equal")
    origin = np.array([high[0] + 0.75 * size, low[1] + 0.5 * size])
    _draw_axes_triad(axes, lattice, view, origin, size)
    axes.axis("off")
    length = max(1, round((high[0] - low[0]) / 6))
    x, y = low[0] + 0.05 * (high[0] - low[0]), low[1] - 0.3
    axes.plot([x, x + length], [y, y], color=INK, linewidth=2, solid_capstyle="butt", zorder=70)
    _write(axes, x + length + 0.15, y, f"{length} Å", ha="left", zorder=70)


def _element_legend(axes: Axes, numbers: np.ndarray) -> None:
    handles = []
    for z in sorted({int(z) for z in numbers}, reverse=True):
        look = {"mfc": element_color(z), "mec": _darken(element_color(z), 0.55)}
        name = gemmi.Element(z).name
        handles.append(Line2D([], [], marker="o", ls="", ms=9, label=name, **look))
    place = {"loc": "upper right", "bbox_to_anchor": (1.0, 0.98), "borderaxespad": 0.1}
    axes.legend(handles=handles, handletextpad=0.1, **place)


def _draw_crystal(axes: Axes, table: Any) -> None:
    lattice, frac, numbers = _crystal_arrays(table)
    view = _view_matrix(lattice)
    coords, species = _with_boundary(frac, numbers)
    positions = coords @ lattice
    points = positions @ view.T
    reach = np.array([round(gemmi.Element(int(z)).covalent_r, 2) for z in species])  # angstrom
    radii = 0.42 * reach**0.6
    distance = np.linalg.norm(positions[:, None] - positions[None], axis=-1)
    close = (distance > 0.4) & (distance < 1.12 * (reach[:, None] + reach[None]))
    close &= species[:, None] != species[None]  # in salts and oxides unlike atoms are bonded
    for i, j in zip(*np.nonzero(np.triu(close)), strict=True):
        along = (points[j] - points[i]) / distance[i, j]  # from surface to surface
        ends = points[i] + 0.9 * radii[i] * along, points[j] - 0.9 * radii[j] * along
        _draw_bond(axes, *ends, [element_color(species[k]) for k in (i, j)])
    for point, radius, z in zip(points, radii, species, strict=True):
        _draw_sphere(axes, point[:2], radius, element_color(z), 10 + point[2] + 0.35)
    _finish_crystal_axes(axes, points, 0.85, lattice, view)
    _element_legend(axes, species)


@_styled
def crystal_3d(table: Any) -> Figure:
    """The first crystal of a `CrystalTable` in its cell, with a scale bar in angstrom.

    The projection is parallel and sorted by depth. Atoms on a face, an edge or a corner are
    repeated, which closes the cell. Unlike atoms closer than 1.12 times the sum of their covalent
    radii are joined.
    """
    figure = _figure(4.4, width=5.2)
    _draw_crystal(figure.add_subplot(), table)
    return figure


def _graph_edges(graph: Any) -> tuple[np.ndarray, ...]:
    """Sources, targets, vectors [E, 3] and "in another cell" of the first crystal's edges.

    Of every atom the six nearest neighbours are kept, ties included.
    """
    end = int(graph.edge_offsets[1])
    source, target = _array(graph.edge_index)[:, :end]
    image, vector = _array(graph.image)[:end], _array(graph.vector)[:end].astype(float)
    distance = _array(graph.distance)[:end].astype(float)
    keep = np.zeros(end, dtype=bool)
    for atom in np.unique(target):
        mine = np.nonzero(target == atom)[0]
        limit = np.sort(distance[mine])[min(6, len(mine)) - 1]
        keep[mine[distance[mine] <= limit + 1e-4]] = True
    return source[keep], target[keep], vector[keep], (image[keep] != 0).any(axis=1)


def _draw_graph(axes: Axes, table: Any, graph: Any) -> None:
    lattice, frac, numbers = _crystal_arrays(table)
    view = _view_matrix(lattice)
    positions = frac @ lattice
    source, target, vector, outside = _graph_edges(graph)
    points = positions @ view.T
    ghosts = (positions[target] + vector) @ view.T
    inner = {"color": BLUE, "linewidth": 1.9, "alpha": 0.95}
    outer = {"color": RED, "linewidth": 1.0, "alpha": 0.65, "dashes": (4, 2)}
    for s, t, ghost, out in zip(source, target, ghosts, outside, strict=True):
        depth = 10 + (points[t][2] + ghost[2]) / 2
        _segment(axes, points[t], ghost, zorder=depth, **(outer if out else inner))
        if out:
            color = element_color(int(numbers[s]))
            rim = _soften(mpl.colors.to_hex(_darken(color, 0.55)), 0.3)
            look = {"fc": _soften(color, 0.55), "ec": rim, "linewidth": 0.7}
            _disc(axes, ghost[:2], 0.2, zorder=10 + ghost[2], **look)
    for point, z in zip(points, numbers, strict=True):
        _draw_sphere(axes, point[:2], 0.34, element_color(int(z)), 12 + point[2])
    _finish_crystal_axes(axes, np.concatenate([points, ghosts]), 0.4, lattice, view)


def _edge_handles() -> list[Line2D]:
    return [
        Line2D([], [], color=BLUE, linewidth=1.9, label="neighbour in the same cell"),
        Line2D([], [], color=RED, linewidth=1.2, linestyle="--", label="image in another cell"),
    ]


@_styled
def crystal_graph(table: Any, graph: Any) -> Figure:
    """The periodic graph of one crystal: edges inside the cell and edges to images in other cells.

    Of every atom the six nearest neighbours are drawn, ties included.

    Args:
        table: `CrystalTable` the graph was built from (it holds the positions); its first crystal
            is drawn.
        graph: `PeriodicGraph`.
    """
    figure = _figure(4.8, width=5.6)
    axes = figure.add_subplot()
    _draw_graph(axes, table, graph)
    _element_legend(axes, _crystal_arrays(table)[2])
    figure.legend(handles=_edge_handles(), loc="outside lower center", ncols=2)
    return figure


def _draw_pattern(axes: Axes, two_theta: Array, intensity: Array) -> None:
    x, y = _array(two_theta), _array(intensity)
    top = max(float(y.max()), 1e-12)
    axes.plot(x, y / top, color=RED, linewidth=1.2)
    axes.fill_between(x, y / top, color=RED, alpha=0.12, linewidth=0)
    axes.set(xlabel="2θ (degrees)", ylabel="intensity (max = 1)", xlim=(x.min(), x.max()))


@_styled
def pattern(
    two_theta: Array,
    intensity: Array,
    *,
    reference: tuple[Array, Array],
    labels: tuple[str, str] = ("this pattern", "reference"),
) -> Figure:
    """Two powder patterns, each scaled to maximum 1, the second mirrored below zero.

    Args:
        two_theta: [P] degrees.
        intensity: [P], any scale.
        reference: two_theta and intensity of the second pattern.
        labels: names in the legend.
    """
    figure = _figure(3.6)
    axes = figure.add_subplot()
    _draw_pattern(axes, two_theta, intensity)
    x, y = _array(reference[0]), _array(reference[1])
    axes.plot(x, -0.14 - y / max(float(y.max()), 1e-12), color=BLUE, linewidth=1.2)
    axes.set(ylim=(-1.2, 1.12), yticks=[0, 0.5, 1])
    handles = [Line2D([], [], color=color) for color in (RED, BLUE)]
    axes.legend(handles, labels, loc="upper right")
    return figure


@_styled
def patterns_stack(two_theta: Array, patterns: Mapping[str, Array]) -> Figure:
    """Several patterns on the same grid, each scaled to maximum 1 and shifted up.

    Args:
        two_theta: [P] degrees.
        patterns: name -> [P]; the first one is drawn on top.
    """
    x = _array(two_theta)
    palette = _colors(list(patterns))
    figure = _figure(1.2 + 0.72 * len(patterns))
    axes = figure.add_subplot()
    for level, (name, values) in enumerate(reversed(patterns.items())):
        y, base, color = _array(values), 1.15 * level, palette[name]
        y = base + y / max(float(y.max()), 1e-12)
        axes.plot(x, y, color=color, linewidth=1.1)
        axes.fill_between(x, base, y, color=color, alpha=0.12, linewidth=0)
        _right_of(axes, base + 0.12, _pretty(name), color=color, va="baseline")
    axes.set(xlabel="2θ (degrees)", ylabel="intensity (shifted)", xlim=(x.min(), x.max()))
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    return figure


@_styled
def three_views(
    table: Any, graph: Any, two_theta: Array, intensity: Array, *, peaks: Array
) -> Figure:
    """One crystal drawn in its cell, its periodic graph beside it and its powder pattern below.

    Args:
        table: `CrystalTable`; its first crystal is drawn.
        graph: `PeriodicGraph` of the same table.
        two_theta: [P] degrees.
        intensity: [P].
        peaks: positions of the Bragg peaks (degrees), drawn as ticks under the pattern.
    """
    figure = _figure(6.2)
    grid = figure.add_gridspec(2, 2, height_ratios=(1.55, 1), width_ratios=(1, 1.1))
    left, right, below = (figure.add_subplot(cell) for cell in (grid[0, 0], grid[0, 1], grid[1, :]))
    _draw_crystal(left, table)
    left.set_title(f"crystal: {_subscript(str(table.info['formula'].iloc[0]))}")
    _draw_graph(right, table, graph)
    right.set_title("structure graph")
    place = {"loc": "upper center", "bbox_to_anchor": (0.5, 0.02), "fontsize": 8.5}
    right.legend(handles=_edge_handles(), **place)
    _draw_pattern(below, two_theta, intensity)
    position, (low, high) = _array(peaks), below.get_xlim()
    position = position[(position >= low) & (position <= high)]
    below.vlines(position, -0.075, -0.03, color=INK, linewidth=0.9)
    below.set(ylim=(-0.09, 1.14), title="powder pattern")
    return figure


def _subscript(formula: str) -> str:
    """'TiO2' -> 'TiO$_{2}$' for matplotlib's math text."""
    return re.sub(r"(?<=[^\d.])[\d.]+", lambda match: f"$_{{{match[0]}}}$", formula)


# -------------------------------------------------------------------------------------------------
# Theory sketches
# -------------------------------------------------------------------------------------------------
@_styled
def bragg_law() -> Figure:
    """Two lattice planes, two rays and their path difference 2 d sin(theta)."""
    figure, axes = _canvas(PAGE_WIDTH, 3.55)
    theta, d = 32.0, 1.15  # degrees, inches
    t = np.radians(theta)
    into, out = np.array([np.cos(t), -np.sin(t)]), np.array([np.cos(t), np.sin(t)])
    top = np.array([3.3, 2.05])
    low = top - (0, d)
    for y in (top[1], low[1]):
        axes.plot([0.5, 6.1], [y, y], color=LIGHT, linewidth=1.4, zorder=1)
        across = top[0] + np.arange(-3, 4) * 0.86
        axes.scatter(across, np.full(7, y), s=70, color=GREY, edgecolor="white", zorder=4)
    for point, reach in ((top, 2.55), (low, 2.9)):
        _arrow(axes, point - into * reach, point, color=BLUE, line=1.7, zorder=3)
        _arrow(axes, point, point + out * reach, color=BLUE, line=1.7, zorder=3)
    for foot, side in ((low - into * d * np.sin(t), -1), (low + out * d * np.sin(t), 1)):
        _segment(axes, top, foot, color=MUTED, linewidth=1.1, linestyle=(0, (4, 2)), zorder=2)
        _segment(axes, low, foot, color=RED, linewidth=4, zorder=5, solid_capstyle="butt")
        spot = np.array([low[0] + side * 0.43, low[1] - 0.26])
        _arrow(axes, (spot[0], spot[1] + 0.1), (foot + low) / 2, color=RED, line=0.8, head="-")
        _write(axes, *spot, "$d\\,\\sin\\theta$", color=RED, size=11)
    _arrow(axes, (6.3, low[1]), (6.3, top[1]), color=INK, head="<|-|>", line=1.1)
    _write(axes, 6.42, (top[1] + low[1]) / 2, "$d_{hkl}$", ha="left", size=13)
    for start, label in ((180 - theta, 180 - theta / 2), (0, theta / 2)):
        look = {"color": INK, "linewidth": 1.1, "zorder": 3}
        axes.add_patch(Arc(top, 1.5, 1.5, theta1=start, theta2=start + theta, **look))
        at = top + 0.92 * np.array([np.cos(np.radians(label)), np.sin(np.radians(label))])
        _write(axes, *at, "θ", size=12)
    condition = "in phase when  $2\\,d_{hkl}\\,\\sin\\theta = \\lambda$"
    _write(axes, top[0], 0.26, condition, size=13)
    _write(axes, 0.42, 2.95, "X-rays,\nwavelength λ", color=BLUE, ha="left", size=10)
    _write(axes, 6.15, 2.95, "reflected", color=BLUE, ha="left", size=10)
    return figure


@_styled
def niggli_cells() -> Figure:
    """One two-dimensional lattice with a skewed primitive cell and with its reduced cell."""
    figure = _figure(2.5)
    panels = figure.subplots(1, 2)
    a, b = np.array([2.0, 0.0]), np.array([0.55, 1.7])
    choices = (
        ("a cell, but an arbitrary one", a + b, 2 * a + b, RED, 1),
        ("the reduced cell", a, b, BLUE, -1),
    )
    points = np.array([i * a + j * b for i, j in itertools.product(range(-4, 8), range(-3, 6))])
    points = points[(abs(points - (3.4, 1.6)) < (4.6, 2.6)).all(axis=1)]
    for axes, (title, u, v, color, side) in zip(panels, choices, strict=True):
        axes.scatter(*points.T, s=26, color=GREY, zorder=2)
        look = {"facecolor": _soften(color, 0.8), "edgecolor": color, "zorder": 1}
        axes.add_patch(Polygon(np.array([[0, 0], u, u + v, v]), closed=True, **look))
        for name, vector, way in (("a", u, side), ("b", v, -side)):
            _arrow(axes, (0, 0), vector, color=color, line=2.2, zorder=3)
            normal = np.array([-vector[1], vector[0]]) / np.linalg.norm(vector) * 0.42 * way
            _write(axes, *vector * 0.55 + normal, name, color=color, size=13, style="italic")
        lengths = sorted((float(np.linalg.norm(u)), float(np.linalg.norm(v))))
        angle = np.degrees(np.arccos(u @ v / np.linalg.norm(u) / np.linalg.norm(v)))
        area = abs(u[0] * v[1] - u[1] * v[0])
        sides = f"{lengths[0]:.1f} Å, {lengths[1]:.1f} Å, {angle:.0f}°"
        axes.set(xlim=(-1.4, 8.2), ylim=(-0.8, 4.0), aspect="equal", xticks=[], yticks=[])
        axes.set(title=title, xlabel=f"{sides};  area {area:.1f} Å²")
        axes.spines[:].set_visible(False)
    return figure


@_styled
def contrastive_diagram() -> Figure:
    """Schematic of the symmetric InfoNCE loss: five pairs, matches on the diagonal."""
    figure, axes = _canvas(PAGE_WIDTH, 4.1)
    size, cell, left, top = 5, 0.5, 2.15, 3.1
    for i, j in np.ndindex(size, size):
        look = {"face": _soften(BLUE, 0.87), "color": MUTED}
        if i == j:
            look = {"face": BLUE, "color": "white"}
        corner = left + j * cell + 0.03, top - (i + 1) * cell + 0.03
        text = f"$s_{{{i + 1}{j + 1}}}$"
        _box(axes, *corner, cell - 0.06, cell - 0.06, text, edge="none", size=10, **look)
    for k in range(size):
        y, x = top - (k + 0.5) * cell, left + (k + 0.5) * cell
        look = {"face": _soften(RED, 0.8), "edge": RED, "size": 10.5}
        _box(axes, left - 0.62, y - 0.18, 0.46, 0.36, f"$p_{k + 1}$", **look)
        look = {"face": _soften(BLUE, 0.9), "edge": BLUE, "size": 10.5}
        _box(axes, x - 0.2, top + 0.14, 0.4, 0.36, f"$g_{k + 1}$", **look)
    right, bottom, middle = left + size * cell + 0.14, top - size * cell, top - size * cell / 2
    _write(axes, 0.12, middle, "pattern\nembeddings", color=RED, ha="left", size=10.5)
    _write(axes, left + size * cell / 2, top + 0.74, "structure embeddings", color=BLUE, size=10.5)
    row, column = top - 0.5 * cell, left + 0.5 * cell
    _arrow(axes, (right, row), (right + 0.5, row), color=RED)
    text = "softmax of a row:\nwhich structure\nbelongs to $p_1$?"
    _write(axes, right + 0.58, row, text, ha="left")
    _arrow(axes, (column, bottom - 0.05), (column, bottom - 0.36), color=BLUE)
    text = "softmax of a column: which pattern belongs to $g_1$?"
    _write(axes, left + 0.78 * cell, bottom - 0.24, text, ha="left")
    _tile(axes, right + 0.58, bottom + 0.78, 0.16, 0.16, fc=BLUE)
    _write(axes, right + 0.84, bottom + 0.86, "pull together", ha="left")
    _tile(axes, right + 0.58, bottom + 0.46, 0.16, 0.16, fc=_soften(BLUE, 0.82))
    _write(axes, right + 0.84, bottom + 0.54, "push apart", ha="left")
    text = "$s_{ij} = p_i \\cdot g_j\\,/\\,\\tau$"
    _write(axes, right + 0.58, bottom + 0.14, text, ha="left", size=11)
    return figure


@_styled
def message_passing_diagram() -> Figure:
    """Directed messages of DimeNet++: k -> j updates j -> i through the angle between them."""
    figure, axes = _canvas(PAGE_WIDTH, 3.3)
    i, j, k = np.array([1.1, 0.85]), np.array([2.75, 1.35]), np.array([3.35, 2.75])
    for atom, radius, ball, color in (
        (k, 0.24, "#E8A0A0", RED),
        (np.array([4.35, 0.75]), 0.2, "#E9D3D3", _soften(RED, 0.6)),
        (np.array([2.15, 2.8]), 0.2, "#E9D3D3", _soften(RED, 0.6)),
    ):
        unit = (j - atom) / np.linalg.norm(j - atom)
        _arrow(axes, atom + unit * 0.27, j - unit * 0.31, color=color, line=2.2)
        _draw_sphere(axes, atom, radius, ball, 5)
    unit = (i - j) / np.linalg.norm(i - j)
    _arrow(axes, j + unit * 0.31, i - unit * 0.31, color=BLUE, line=2.6)
    _draw_sphere(axes, i, 0.28, "#8FB8D6", 5)
    _draw_sphere(axes, j, 0.28, "#BFC2C7", 5)
    for point, name in ((i, "i"), (j, "j"), (k, "k")):
        _write(axes, *point, f"${name}$", zorder=8, size=13)
    angle_i = np.degrees(np.arctan2(*(i - j)[::-1])) % 360
    angle_k = np.degrees(np.arctan2(*(k - j)[::-1])) % 360
    look = {"color": INK, "linewidth": 1.3, "zorder": 6}
    axes.add_patch(Arc(j, 0.98, 0.98, theta1=angle_k, theta2=angle_i, **look))
    _write(axes, *j + np.array([-0.42, 0.42]), "α", size=13)
    _write(axes, 1.98, 0.86, "$m_{ji}$, $d_{ji}$", color=BLUE, ha="left", size=12)
    _write(axes, 3.16, 2.1, "$m_{kj}$, $d_{kj}$", color=RED, ha="left", size=12)
    _write(axes, 4.62, 0.75, "image of an atom\nin another cell", color=MUTED, ha="left")
    _write(axes, 4.85, 2.62, "for every pair of edges", color=MUTED, ha="left")
    _write(axes, 4.85, 2.25, "$k \\rightarrow j \\rightarrow i$:", ha="left", size=12)
    _write(axes, 4.85, 1.86, "$m_{ji} \\leftarrow m_{ji} + $", ha="left", size=12)
    _write(axes, 4.85, 1.44, "$\\sum_k f(m_{kj},\\, d_{kj},\\, \\alpha)$", ha="left", size=12)
    return figure


@_styled
def fusion_diagram() -> Figure:
    """Four ways to make one prediction from several embeddings."""
    figure, axes = _canvas(PAGE_WIDTH, 4.7)
    for draw, (x, y), title, note in (
        (_fusion_concat, (0.12, 2.5), "concatenation + MLP (the paper's)", ""),
        (_fusion_gated, (3.74, 2.5), "gated sum", "weights depend on all inputs, sum to 1"),
        (_fusion_attention, (0.12, 0.12), "cross-attention", "one learned query reads the tokens"),
        (_fusion_late, (3.74, 0.12), "late fusion", "predictions are averaged"),
    ):
        _box(axes, x, y, 3.36, 2.1, face="#F4F6F8", edge="none", zorder=0)
        _write(axes, x + 0.14, y + 1.88, title, ha="left", size=10.5, weight="bold")
        tokens = []
        for row, (name, color) in enumerate(MODALITY_COLORS.items()):
            centre, look = y + 1.42 - row * 0.52, {"face": _soften(color, 0.82), "edge": color}
            _box(axes, x + 0.14, centre - 0.17, 0.98, 0.34, MODALITY_NAMES[name], **look)
            tokens.append((x + 1.12, centre, color))
        draw(axes, x, y, tokens)
        _write(axes, x + 1.78, y + 0.1, note, color=MUTED, size=8.4)
        _arrow(axes, (x + 2.62, y + 0.92), (x + 2.88, y + 0.92))
        _tile(axes, x + 2.9, y + 0.62, 0.24, 0.6, fc=INK)
    return figure


_Tokens = Sequence[tuple[float, float, str]]  # right end, centre and colour of three boxes


def _fusion_concat(axes: Axes, x: float, y: float, tokens: _Tokens) -> None:
    for row, (start, centre, color) in enumerate(tokens):
        slot = y + 1.1 - row * 0.36
        _tile(axes, x + 1.5, slot, 0.26, 0.36, fc=_soften(color, 0.35), ec="white", zorder=3)
        _arrow(axes, (start, centre), (x + 1.49, slot + 0.18), color=color)
    _box(axes, x + 2.06, y + 0.64, 0.56, 0.56, "MLP", size=9.5)
    _arrow(axes, (x + 1.77, y + 0.92), (x + 2.05, y + 0.92))


def _fusion_gated(axes: Axes, x: float, y: float, tokens: _Tokens) -> None:
    for row, (start, centre, color) in enumerate(tokens):
        _disc(axes, (x + 1.5, centre), 0.16, fc="white", ec=color, zorder=4)
        _write(axes, x + 1.5, centre, f"$w_{row + 1}$", zorder=5)
        _arrow(axes, (start, centre), (x + 1.34, centre), color=color)
        _arrow(axes, (x + 1.66, centre), (x + 2.12, y + 0.9 + (1 - row) * 0.14), color=color)
    _disc(axes, (x + 2.34, y + 0.9), 0.24, fc="white", ec=MUTED, zorder=4)
    _write(axes, x + 2.34, y + 0.9, "$\\Sigma$", zorder=5, size=14)


def _fusion_attention(axes: Axes, x: float, y: float, tokens: _Tokens) -> None:
    for row, (start, centre, color) in enumerate(tokens):
        _arrow(axes, (start, centre), (x + 1.86, y + 0.92 + (1 - row) * 0.14), color=color)
        spot = (start + x + 1.86) / 2, (centre + y + 0.92 + (1 - row) * 0.14) / 2
        _disc(axes, spot, 0.13, fc="#F4F6F8", ec="none", zorder=4)
        _write(axes, *spot, f"$\\alpha_{row + 1}$", zorder=5)
    _box(axes, x + 1.86, y + 0.66, 0.76, 0.52, "query $q$")


def _fusion_late(axes: Axes, x: float, y: float, tokens: _Tokens) -> None:
    for start, centre, color in tokens:
        _box(axes, x + 1.36, centre - 0.15, 0.52, 0.3, "head", edge=color)
        _arrow(axes, (start, centre), (x + 1.35, centre), color=color)
        end = x + 2.1, y + 0.9 + (centre - y - 0.9) * 0.35
        _arrow(axes, (x + 1.89, centre), end, color=color)
    _box(axes, x + 2.1, y + 0.58, 0.52, 0.64, "mean")


# -------------------------------------------------------------------------------------------------
# Inputs and training
# -------------------------------------------------------------------------------------------------
@_styled
def magpie_features(values: Array, names: Sequence[str]) -> Figure:
    """The fourteen most unusual composition features of one crystal.

    Args:
        values: [F] features, in standard deviations from the training mean.
        names: F names ("MagpieData mean Electronegativity", ...).
    """
    values = _array(values).astype(float)
    if len(values) != len(names):
        raise ValueError(
            f"expected one name per feature, got {len(values)} features and {len(names)} names"
        )
    order = np.argsort(-np.abs(values))[:14][::-1]
    figure = _figure(0.9 + 0.27 * len(order))
    axes = figure.add_subplot()
    labels = [names[k].replace("MagpieData ", "") for k in order]
    colors = [BLUE if values[k] > 0 else RED for k in order]
    axes.barh(labels, values[order], color=colors, height=0.68)
    axes.axvline(0, color=MUTED, linewidth=0.9)
    axes.set_xlabel("value (standard deviations from the training mean)")
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x")
    return figure


@_styled
def measurement_effects(
    two_theta: Array, rows: Mapping[str, Array], *, reference: Array, window: tuple[float, float]
) -> Figure:
    """What each measurement effect does to one pattern, the undisturbed one in grey.

    Args:
        two_theta: [P] degrees.
        rows: effect with its size ("zero shift 0.2°") -> pattern [P].
        reference: [P] undisturbed pattern.
        window: part of the 2theta axis to show, degrees.
    """
    x, clean = _array(two_theta), _array(reference)
    inside = (x >= window[0]) & (x <= window[1])
    clean = clean / max(float(clean.max()), 1e-12)
    figure = _figure(0.7 + 0.82 * len(rows))
    panels = figure.subplots(len(rows), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (name, values) in zip(panels, rows.items(), strict=True):
        y = _array(values)
        axes.fill_between(x[inside], clean[inside], color="#C9CED3", linewidth=0)
        axes.plot(x[inside], y[inside] / max(float(y.max()), 1e-12), color=RED, linewidth=1.1)
        _write(axes, 0.995, 0.96, name, transform=axes.transAxes, ha="right", va="top")
        axes.set(xlim=window, ylim=(-0.05, 1.12), yticks=[])
        axes.spines["left"].set_visible(False)
    panels[-1].set_xlabel("2θ (degrees)")
    figure.supylabel("intensity (max = 1)", fontsize=10.5)
    handles = [Rectangle((0, 0), 1, 1, color="#C9CED3"), Line2D([], [], color=RED)]
    figure.legend(handles, ["undisturbed", "with the effect"], loc="outside upper right", ncols=2)
    return figure


@_styled
def learning_curves(
    histories: Mapping[str, pd.DataFrame],
    *,
    metrics: Mapping[str, str],
    best_epoch: Mapping[str, int],
) -> Figure:
    """Training histories, one panel per metric and one line per run.

    Args:
        histories: label -> history with a column `epoch` and metric columns (any may be missing).
        metrics: column -> axis label with its unit.
        best_epoch: label -> epoch to mark with a dot.
    """
    figure = _figure(0.55 + 2.6)
    panels = figure.subplots(1, len(metrics), squeeze=False)[0]
    palette = _colors(list(histories))
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
    handles = [Line2D([], [], color=palette[name], label=_pretty(name)) for name in histories]
    figure.legend(handles=handles, loc="outside upper center", ncols=min(len(handles), 4))
    return figure


@_styled
def data_curve(curve: pd.DataFrame, *, ylabel: str) -> Figure:
    """Error against the number of training crystals, both axes logarithmic.

    On such axes a power law is a straight line: its slope says what more data buys.

    Args:
        curve: columns `crystals` (training crystals), `error` and `label` (one line each). Rows
            that share label and crystals are seeds: dots, with the line through their mean.
        ylabel: the error, with its unit.

    Raises:
        ValueError: If a column is missing, or a number cannot stand on a logarithmic axis.
    """
    _require(curve, ["crystals", "error", "label"])
    numbers = curve[["crystals", "error"]].to_numpy(dtype=float)
    if not len(curve) or not (np.isfinite(numbers).all() and (numbers > 0).all()):
        raise ValueError(
            f"expected positive crystals and errors, got {len(curve)} rows with "
            f"{int((~(numbers > 0)).any(axis=1).sum())} that are not; leave those out"
        )
    labels = [str(label) for label in dict.fromkeys(curve["label"])]
    palette = _colors(labels)
    figure = _figure(4.2)
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
        _plain_log(axis)
    axes.grid()
    axes.legend(loc="best")
    return figure


# -------------------------------------------------------------------------------------------------
# Alignment
# -------------------------------------------------------------------------------------------------
@_styled
def retrieval_examples(two_theta: Array, examples: Sequence[Mapping[str, Any]]) -> Figure:
    """Queries and their five best candidates, the right one marked.

    Args:
        two_theta: [P] degrees.
        examples: up to three mappings with `query` [P], `candidates` [K, P] (best first), `labels`
            (K names), `scores` [K], `correct` (position of the right one in the list or None) and
            `title`.
    """
    x = _array(two_theta)
    figure = _figure(4.7)
    panels = figure.subplots(1, len(examples), sharey=True, squeeze=False)[0]
    for axes, example in zip(panels, examples, strict=True):
        curves = [_array(example["query"]), *_array(example["candidates"])]
        for row, values in enumerate(curves):
            text, base = "query", -1.5 * row - (0.25 if row else 0)
            color, look = INK, {"color": INK, "weight": "bold"}
            if row:
                name, score = (example[key][row - 1] for key in ("labels", "scores"))
                text = f"{row}  {_subscript(name)}   {float(score):.2f}"
                color, look = GREY, {"color": MUTED, "weight": "normal"}
            if row and example["correct"] == row - 1:
                text += "  ✓"
                color, look = GREEN, {"color": GREEN, "weight": "bold"}
            y = 0.92 * values / max(float(values.max()), 1e-12) + base
            axes.plot(x, y, color=color, linewidth=1.0)
            _write(axes, x.min(), base + 1.0, text, va="bottom", ha="left", size=9, **look)
        axes.axhline(-0.28, color=LIGHT, linewidth=1)
        axes.set(xlim=(x.min(), x.max()), yticks=[], xlabel="2θ (degrees)", title=example["title"])
        axes.spines["left"].set_visible(False)
    panels[0].set_ylabel("intensity (shifted); candidates by rank")
    return figure


@_styled
def embedding_map(xy: Array, system: Array, *, modality: Array) -> Figure:
    """Two-dimensional map of the shared space: colour is crystal system, marker is modality.

    Args:
        xy: [N, 2] coordinates, of t-SNE.
        system: [N] crystal-system names or indices.
        modality: [N] names from `MODALITY_MARKERS`.
    """
    xy, names, kinds = _array(xy), _system_names(system), _array(modality).astype(object)
    figure = _figure(5.0)
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
        handles.append(Line2D([], [], label=_pretty(kind), **look))
    figure.legend(handles=handles, loc="outside right upper", handletextpad=0.2)
    return figure


# -------------------------------------------------------------------------------------------------
# Results
# -------------------------------------------------------------------------------------------------
@_styled
def confusion(matrices: Mapping[str, Array]) -> Figure:
    """Confusion matrices in two columns: true systems in rows, percent of the row in the cells.

    Args:
        matrices: title -> [7, 7] counts, row = true system, column = predicted system. Rows must
            count the same crystals: their numbers are written once, at the left.
    """
    counts = {name: _array(matrix).astype(float) for name, matrix in matrices.items()}
    wrong = {name: x.shape for name, x in counts.items() if x.shape != (7, 7)}
    if wrong or not counts:
        raise ValueError(f"expected square matrices for 7 systems, got {wrong or 'none'}")
    rows = -(-len(counts) // 2)
    figure = _figure(0.4 + 2.9 * rows, layout="compressed")
    panels = figure.subplots(rows, 2, squeeze=False, sharex=True, sharey=True)
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
    image = panels.flat[0].collections[0]
    bar = figure.colorbar(image, ax=panels, shrink=0.6, pad=0.02, label="share of the true class")
    bar.outline.set_visible(False)
    return figure


@_styled
def parity(true: Array, predicted: Array, *, columns: Sequence[str]) -> Figure:
    """Predicted against true lengths: one density per column, its mean absolute error above.

    Args:
        true: [N, K] in angstrom.
        predicted: [N, K] in angstrom.
        columns: K names.
    """
    true, predicted = _array(true).astype(float), _array(predicted).astype(float)
    figure = _figure(1.2 + 6.6 / max(len(columns), 2), layout="compressed")
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
        axes.tick_params(labelleft=axes is panels[0])
    panels[0].set_ylabel("predicted (Å)")
    place = {"orientation": "horizontal", "shrink": 0.45, "aspect": 32, "pad": 0.04}
    bar = figure.colorbar(image, ax=panels, format="{x:,.0f}", **place)
    bar.set_label("crystals in a hexagon (log scale)", fontsize=9.5)
    bar.outline.set_visible(False)
    bar.ax.minorticks_off()
    return figure


def _row_axis(axes: Axes, labels: Sequence[str], room: float) -> None:
    """One labelled row per entry from the top down, `room` rows above the first."""
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 1 + room, -room)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x")


@_styled
def error_by_symmetry(frame: pd.DataFrame, *, column: str, label: str, hue: str) -> Figure:
    """Distribution of an error in each crystal system: median, middle half and middle 90 %.

    Args:
        frame: one row per crystal and model with `crystal_system`, `column` and `hue`.
        column: the error.
        label: axis label with its unit; the axis is logarithmic.
        hue: column that tells the models apart.
    """
    _require(frame, ["crystal_system", column, hue])
    names = _system_names(frame["crystal_system"])
    groups = list(dict.fromkeys(frame[hue]))
    palette = _colors(groups)
    figure = _figure(1.1 + len(CRYSTAL_SYSTEMS) * (0.26 + 0.14 * len(groups)))
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
    _row_axis(axes, ticks, 0.6)
    axes.set(xlabel=label, ylabel="crystal system (crystals)", xscale="log")
    _plain_log(axes.xaxis)
    handles = [
        Line2D([], [], marker="o", ls="", color=DARK, ms=6, label="median"),
        Line2D([], [], color=DARK, label="middle half", **{**wide, "linewidth": 8}),
        Line2D([], [], color=DARK, linewidth=1.3, label="middle 90 %"),
        *(Line2D([], [], color=palette[g], linewidth=4, label=_pretty(g)) for g in groups),
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=3)
    return figure


@_styled
def error_against(quantities: Mapping[str, Array], error: Array, *, ylabel: str) -> Figure:
    """Median and quantile bands of an error along quantities such as the cell volume.

    The crystals are cut into eight equally filled bins (fewer where many have one value); bins
    with fewer than five crystals are not drawn.

    Args:
        quantities: axis label with unit -> [N], one panel each.
        error: [N].
        ylabel: with unit.
    """
    error = _array(error).astype(float)
    figure = _figure(3.5)
    panels = figure.subplots(1, len(quantities), sharey=True, squeeze=False)[0]
    for axes, (label, values) in zip(panels, quantities.items(), strict=True):
        x = _array(values).astype(float)
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
            _plain_log(axes.xaxis)
        axes.grid(axis="y")
    panels[0].set_ylabel(ylabel)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return figure


def _right_of(axes: Axes, y: float, text: str, color: str = INK, va: str = "center") -> None:
    """Text beside the row `y`, right of the plotting area."""
    look = {"xycoords": ("axes fraction", "data"), "color": color, "fontsize": 9.5}
    axes.annotate(text, (1.01, y), va=va, ha="left", **look)


def _interval(axes: Axes, y: float, low: float, high: float, color: str) -> None:
    if np.isfinite(low) and np.isfinite(high):
        look = {"linewidth": 2.4, "alpha": 0.55, "solid_capstyle": "round", "zorder": 3}
        axes.plot([low, high], [y, y], color=color, **look)


@_styled
def fusion_comparison(
    frame: pd.DataFrame,
    *,
    xlabel: str,
    hue: str,
    label: str = "fusion",
    reference: float | None = None,
    reference_label: str = "",
) -> Figure:
    """Dot plot with intervals, one row per method.

    Args:
        frame: one row per dot with `value`, the interval `low` and `high` (it may be NaN) and the
            columns named below.
        xlabel: with unit.
        hue: column that tells the dots of one row apart.
        label: column with the row names.
        reference: value marked by a vertical line.
        reference_label: its name.
    """
    _require(frame, [label, hue, "value", "low", "high"])
    names, groups = list(dict.fromkeys(frame[label])), list(dict.fromkeys(frame[hue]))
    palette = _colors(groups)
    figure = _figure(0.95 + len(names) * (0.34 + 0.12 * (len(groups) - 1)) + 0.3)
    axes = figure.add_subplot()
    for _, row in frame.iterrows():
        shift = (groups.index(row[hue]) - (len(groups) - 1) / 2) * 0.62 / len(groups)
        y, color = names.index(row[label]) + shift, palette[row[hue]]
        _interval(axes, y, row["low"], row["high"], color)
        axes.plot(row["value"], y, "o", color=color, ms=7, mec="white", zorder=4)
    if reference is not None:
        axes.axvline(reference, color=INK, linewidth=1.1, linestyle=(0, (4, 3)), zorder=1)
        look = {"xycoords": ("data", "axes fraction"), "va": "bottom", "ha": "center"}
        text = f" {reference_label} {reference:g}"
        axes.annotate(text, (reference, 1.0), fontsize=9.5, **look)
    _row_axis(axes, [_pretty(name) for name in names], 0.55)
    axes.set_xlabel(xlabel)
    axes.margins(x=0.14)
    handles = [Line2D([], [], marker="o", color=palette[g], ms=6, label=_pretty(g)) for g in groups]
    figure.legend(handles=handles, loc="outside upper center", ncols=min(4, len(groups)))
    return figure


@_styled
def missing_modality(frame: pd.DataFrame, *, label: str) -> Figure:
    """Heat map of an error: rows are models, columns the modalities given (NaN: cannot run).

    Args:
        frame: values; index and columns are the tick labels.
        label: metric with its unit; dark marks small values.
    """
    values = frame.to_numpy(dtype=float)
    figure = _figure(1.6 + 0.5 * len(frame))
    axes = figure.add_subplot()
    axes.set_facecolor("#ECEEF0")
    cmap, norm = SEQUENTIAL.reversed(), mpl.colors.Normalize(np.nanmin(values), np.nanmax(values))
    image = axes.imshow(np.ma.masked_invalid(values), cmap=cmap, norm=norm, aspect="auto")
    for (i, j), value in np.ndenumerate(values):
        known = bool(np.isfinite(value))
        color = _text_color(cmap(norm(value))) if known else MUTED
        _write(axes, j, i, f"{value:.3f}" if known else "n/a", color=color)
    given = [_pretty(name).replace(" + ", "\n+ ") for name in frame.columns]
    axes.set_xticks(range(len(given)), given)
    axes.set_yticks(range(len(frame)), [_pretty(name) for name in frame.index])
    axes.set(xlabel="available at test time", ylabel="trained as")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    bar = figure.colorbar(image, ax=axes, label=label, pad=0.02)
    bar.outline.set_visible(False)
    return figure


@_styled
def calibration(confidence: Array, correct: Array) -> Figure:
    """Reliability diagram: accuracy against stated confidence, and the crystals in each bin.

    Args:
        confidence: [N] largest predicted probability, 0..1.
        correct: [N] bool.
    """
    confidence, correct = _array(confidence).astype(float), _array(correct).astype(float)
    bins = 15  # of equal width
    edges = np.linspace(0, 1, bins + 1)
    which = np.clip(np.digitize(confidence, edges[1:-1]), 0, bins - 1)
    number = np.bincount(which, minlength=bins)
    filled = number > 0
    stated = np.bincount(which, confidence, bins)[filled] / number[filled]
    found = np.bincount(which, correct, bins)[filled] / number[filled]
    ece = float(np.sum(number[filled] * np.abs(stated - found)) / max(number.sum(), 1))
    figure = _figure(5.0, width=5.2)
    axes, below = figure.subplots(2, 1, sharex=True, height_ratios=(3.4, 1))
    look = {"color": MUTED, "linewidth": 1, "linestyle": (0, (4, 3))}
    axes.plot([0, 1], [0, 1], label="perfect calibration", **look)
    axes.vlines(stated, stated, found, color=RED, linewidth=5, alpha=0.35, label="gap")
    axes.plot(stated, found, "o-", color=BLUE, markersize=6, label="model")
    axes.set(ylabel="accuracy", xlim=(0, 1), ylim=(0, 1.02))
    axes.set_title(f"expected calibration error {100 * ece:.1f} %")
    axes.legend(loc="upper left")
    axes.grid()
    below.bar((edges[:-1] + edges[1:]) / 2, number, width=0.9 / bins, color=GREY)
    below.set(xlabel="stated confidence", ylabel="crystals")
    below.yaxis.set_major_formatter("{x:,.0f}")
    figure.align_ylabels([axes, below])
    return figure


@_styled
def paper_vs_ours(frame: pd.DataFrame, *, xlabel: str) -> Figure:
    """Published value, our reproduction, our value and its refinement, a row per claim.

    Args:
        frame: columns `claim`, `paper`, `reproduction`, `ours` and `ours_refined`, and of the last
            three the intervals (`ours_low`, `ours_high`, ...); NaN where there is no value.
        xlabel: with unit.
    """
    hollow = {"mfc": "white", "mew": 1.6}
    looks = {
        "paper": {"marker": "D", "color": INK, "label": "paper", **hollow},
        "reproduction": {"marker": "s", "color": ORANGE, "label": "reproduction"},
        "ours": {"marker": "o", "color": BLUE, "label": "this book"},
        "ours_refined": {"marker": "^", "color": GREEN, "label": "this book, refined"},
    }
    _require(frame, ["claim", *looks])
    figure = _figure(1.15 + len(frame) * 0.52)
    axes = figure.add_subplot()
    for y, (_, row) in enumerate(frame.iterrows()):
        axes.axhline(y, color="#EDEFF1", linewidth=1, zorder=0)
        for k, (name, look) in enumerate(looks.items()):
            at, ends = y + (k - 1.5) * 0.2, (f"{name}_low", f"{name}_high")
            _interval(axes, at, *(row.get(end, np.nan) for end in ends), look["color"])
            axes.plot(row[name], at, ls="", ms=7, zorder=4, **look)
        points = ["–" if pd.isna(row[name]) else f"{row[name]:.2f}" for name in looks]
        _right_of(axes, y, " / ".join(points))
    _row_axis(axes, [_pretty(claim) for claim in frame["claim"]], 0.55)
    axes.set_xlabel(xlabel)
    axes.margins(x=0.08)
    handles = [Line2D([], [], ls="", ms=7, **look) for look in looks.values()]
    figure.legend(handles=handles, loc="outside upper center", ncols=3)
    return figure
