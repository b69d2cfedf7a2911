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
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

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

INK, MUTED, LIGHT, PANEL = "#222222", "#6B6B6B", "#D5D9DD", "#F4F6F8"
BLUE, ORANGE, GREEN, SKY, RED, PURPLE = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#56B4E9",
    "#D55E00",
    "#CC79A7",
)
PALETTE = (BLUE, RED, GREEN, ORANGE, PURPLE, SKY, "#4D4D4D")

SYSTEM_COLORS: dict[str, str] = dict(
    zip(CRYSTAL_SYSTEMS, ("#4D4D4D", RED, ORANGE, GREEN, SKY, BLUE, PURPLE), strict=True)
)
MODALITY_COLORS: dict[str, str] = {"structure": BLUE, "xrd": RED, "composition": GREEN}
MODALITY_NAMES: dict[str, str] = {
    "structure": "structure",
    "xrd": "XRD",
    "composition": "composition",
}
MODALITY_MARKERS: dict[str, str] = {"structure": "o", "xrd": "^", "composition": "s"}

SEQUENTIAL = LinearSegmentedColormap.from_list(
    "unimat_blue", ["#F3F7FB", "#B5D3E8", "#5CA3CF", "#0072B2", "#063A66"]
)
DIVERGING = LinearSegmentedColormap.from_list(
    "unimat_diverging", ["#A64400", "#EBA978", "#F7F7F7", "#86BBDC", "#005A8D"]
)

PAGE_WIDTH = 7.2  # inches; 11 pt text stays readable when a phone shows this at half size
MAX_PNG_BYTES = 110_000
AZIMUTH, ELEVATION = 64.0, 13.0  # degrees; the direction crystals are seen from

_STYLE: dict[str, Any] = {
    "figure.dpi": 120,
    "savefig.dpi": 120,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "figure.constrained_layout.use": False,
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
    "image.cmap": "viridis",
    "svg.fonttype": "path",
    "svg.hashsalt": "unimat",
    "pdf.fonttype": 42,
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


def _figure(
    width: float = PAGE_WIDTH, height: float = 3.6, layout: str = "constrained"
) -> BookFigure:
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


def _soften(color: str, amount: float = 0.75) -> tuple[float, ...]:
    """Mix a colour with white."""
    return tuple(channel + (1 - channel) * amount for channel in to_rgb(color))


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
    size: float = 9,
    weight: str = "normal",
    line: float = 1.0,
    color: str = INK,
    zorder: float = 3,
) -> None:
    """Rounded box with centred text; (x, y) is its lower left corner in inches."""
    axes.add_patch(
        FancyBboxPatch(
            (x, y),
            width,
            height,
            boxstyle="round,pad=0,rounding_size=0.07",
            facecolor=face,
            edgecolor=edge,
            linewidth=line,
            zorder=zorder,
        )
    )
    _write(
        axes,
        x + width / 2,
        y + height / 2,
        text,
        color=color,
        zorder=zorder + 1,
        linespacing=1.25,
        size=size,
        weight=weight,
    )


def _arrow(
    axes: Axes,
    start: Sequence[float],
    end: Sequence[float],
    *,
    color: Any = MUTED,
    line: float = 1.4,
    bend: float = 0.0,
    head: str = "-|>",
    zorder: float = 2,
    dashed: bool = False,
) -> None:
    axes.add_patch(
        FancyArrowPatch(
            tuple(start),
            tuple(end),
            arrowstyle=head,
            mutation_scale=9,
            shrinkA=0,
            shrinkB=0,
            color=color,
            linewidth=line,
            connectionstyle=f"arc3,rad={bend}",
            zorder=zorder,
            linestyle="--" if dashed else "-",
        )
    )


# -------------------------------------------------------------------------------------------------
# The data flow of the book
# -------------------------------------------------------------------------------------------------
FLOW_STEPS = ("crystals", "views", "encoders", "alignment", "fusion", "heads", "evaluation")


@_styled
def flow_strip(*, highlight: str | Sequence[str] | None = None) -> Figure:
    """The data flow of the book; `highlight` names one or more of `FLOW_STEPS`, one per chapter."""
    marked = {highlight} if isinstance(highlight, str) else set(highlight or ())
    unknown = marked - set(FLOW_STEPS)
    if unknown:
        raise ValueError(f"expected highlight from {FLOW_STEPS}, got {sorted(unknown)}")
    figure, axes = _canvas(7.6, 2.16)
    width, gap, left, bottom, tall = 0.92, 0.16, 0.1, 0.12, 1.52
    x = {name: left + i * (width + gap) for i, name in enumerate(FLOW_STEPS)}
    rows = [bottom + tall - 0.22 - i * 0.54 for i in range(3)]  # centres of three stacked boxes
    middle, pair = bottom + tall / 2, (bottom + 1.12, bottom + 0.40)
    for number, name in enumerate(FLOW_STEPS, start=1):
        on = name in marked
        if on:
            axes.add_patch(
                FancyBboxPatch(
                    (x[name] - 0.06, 0.04),
                    width + 0.12,
                    2.07,
                    boxstyle="round,pad=0,rounding_size=0.09",
                    facecolor="#E3F0F8",
                    edgecolor=BLUE,
                    linewidth=1.6,
                    zorder=0,
                )
            )
        _write(
            axes,
            x[name] + width / 2,
            1.9,
            f"{number}  {name.capitalize()}",
            color=BLUE if on else MUTED,
            size=9.2,
            weight="bold" if on else "normal",
        )
    _flow_views(axes, x, rows, width)
    for name, draw in (
        ("crystals", _icon_crystal),
        ("alignment", _icon_alignment),
        ("fusion", _icon_fusion),
    ):
        _box(axes, x[name], bottom, width, tall, edge=MUTED)
        draw(axes, x[name] + width / 2, middle)
    for y, text in zip(pair, ("unit cell\na b c  α β γ", "crystal\nsystem"), strict=True):
        _box(axes, x["heads"], y - 0.31, width, 0.62, text, size=8.6)
    _box(axes, x["evaluation"], bottom, width, tall)
    _icon_evaluation(axes, x["evaluation"] + width / 2, middle)
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
    for y, color, icon, encoder in zip(
        rows, MODALITY_COLORS.values(), icons, encoders, strict=True
    ):
        _box(axes, x["views"], y - 0.22, width, 0.44, edge=color, line=1.4)
        icon(axes, x["views"] + width / 2, y)
        _box(
            axes,
            x["encoders"],
            y - 0.22,
            width,
            0.44,
            encoder,
            edge=color,
            face=_soften(color, 0.88),
            size=8.8,
        )


def _icon_crystal(axes: Axes, x: float, y: float) -> None:
    front = np.array([[-0.3, -0.34], [0.12, -0.34], [0.12, 0.1], [-0.3, 0.1]]) + np.array([x, y])
    back = front + np.array([0.2, 0.22])
    for square, tone in ((back, LIGHT), (front, INK)):
        axes.add_patch(
            Polygon(square, closed=True, fill=False, edgecolor=tone, linewidth=1, zorder=4)
        )
    for p, q in zip(front, back, strict=True):
        axes.plot(*zip(p, q, strict=True), color=MUTED, linewidth=1, zorder=4)
    for p in (*front, *back):
        axes.add_patch(
            Circle(p, 0.055, facecolor=MODALITY_COLORS["structure"], edgecolor="white", zorder=5)
        )
    axes.add_patch(
        Circle(np.mean([*front, *back], axis=0), 0.085, facecolor=RED, edgecolor="white", zorder=6)
    )


def _icon_graph(axes: Axes, x: float, y: float) -> None:
    nodes = np.array([[-0.24, -0.1], [-0.06, 0.12], [0.16, 0.1], [0.26, -0.11], [0.02, -0.08]])
    nodes = nodes + np.array([x, y])
    for i, j in ((0, 1), (1, 2), (2, 3), (3, 4), (4, 0), (1, 4), (2, 4)):
        axes.plot(*zip(nodes[i], nodes[j], strict=True), color=MUTED, linewidth=1, zorder=4)
    for node in nodes:
        axes.add_patch(
            Circle(node, 0.045, facecolor=MODALITY_COLORS["structure"], edgecolor="white", zorder=5)
        )


def _icon_pattern(axes: Axes, x: float, y: float) -> None:
    grid = np.linspace(0, 1, 200)
    peaks = ((0.15, 0.95), (0.33, 0.4), (0.42, 0.75), (0.6, 0.3), (0.74, 0.5), (0.87, 0.22))
    signal = sum(h * np.exp(-(((grid - p) / 0.018) ** 2)) for p, h in peaks)
    axes.plot(
        x - 0.36 + 0.72 * grid,
        y - 0.13 + 0.27 * signal,
        color=MODALITY_COLORS["xrd"],
        linewidth=1.1,
        zorder=4,
    )


def _icon_formula(axes: Axes, x: float, y: float) -> None:
    _write(
        axes,
        x,
        y - 0.01,
        "TiO$_2$",
        zorder=4,
        color=MODALITY_COLORS["composition"],
        size=10.5,
        weight="bold",
    )


def _icon_alignment(axes: Axes, x: float, y: float) -> None:
    size = 0.13
    for i, j in itertools.product(range(5), range(5)):
        face = BLUE if i == j else _soften(BLUE, 0.86)
        corner = (x - 2.5 * size + j * size, y + 1.5 * size - i * size)
        axes.add_patch(
            Rectangle(corner, size * 0.9, size * 0.9, facecolor=face, edgecolor="none", zorder=4)
        )
    _write(axes, x, y - 0.54, "contrast", color=MUTED, zorder=4, size=8.6)


def _icon_fusion(axes: Axes, x: float, y: float) -> None:
    for offset, color in zip((0.3, 0.0, -0.3), MODALITY_COLORS.values(), strict=True):
        axes.add_patch(
            Rectangle(
                (x - 0.34, y + offset - 0.1), 0.2, 0.2, facecolor=color, edgecolor="none", zorder=4
            )
        )
        _arrow(
            axes,
            (x - 0.12, y + offset),
            (x + 0.11, y + offset * 0.35),
            color=MUTED,
            line=1,
            zorder=4,
        )
    axes.add_patch(
        Rectangle((x + 0.14, y - 0.2), 0.2, 0.4, facecolor=INK, edgecolor="none", zorder=4)
    )
    _write(axes, x, y - 0.6, "one vector", color=MUTED, zorder=4, size=8.6)


def _icon_evaluation(axes: Axes, x: float, y: float) -> None:
    axes.plot(
        [x - 0.3, x - 0.3, x + 0.33],
        [y + 0.38, y - 0.3, y - 0.3],
        color=MUTED,
        linewidth=1,
        zorder=4,
    )
    axes.plot([x - 0.3, x + 0.3], [y - 0.3, y + 0.34], color=LIGHT, linewidth=1.2, zorder=4)
    points = np.array(
        [[-0.2, -0.15], [-0.12, -0.12], [-0.03, -0.04], [0.04, 0.1], [0.13, 0.1], [0.22, 0.26]]
    )
    axes.scatter(points[:, 0] + x, points[:, 1] + y, s=14, color=BLUE, zorder=5)
    _write(axes, x, y - 0.54, "ledger", color=MUTED, zorder=4, size=8.6)


# -------------------------------------------------------------------------------------------------
# Elements (colours as in Jmol, radii: covalent, Cordero et al. 2008, angstrom)
# -------------------------------------------------------------------------------------------------
_SYMBOL_TEXT = """
H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se Br Kr
Rb Sr Y Zr Nb Mo Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm
Yb Lu Hf Ta W Re Os Ir Pt Au Hg Tl Pb Bi Po At Rn Fr Ra Ac Th Pa U Np Pu Am Cm Bk Cf Es Fm Md No
Lr Rf Db Sg Bh Hs Mt Ds Rg Cn Nh Fl Mc Lv Ts Og
"""
_JMOL_TEXT = """
E8E8E8 D9FFFF CC80FF C2FF00 FFB5B5 909090 3050F8 FF0D0D 90E050 B3E3F5 AB5CF2 8AFF00 BFA6A6 F0C8A0
FF8000 FFFF30 1FF01F 80D1E3 8F40D4 3DFF00 E6E6E6 BFC2C7 A6A6AB 8A99C7 9C7AC7 E06633 F090A0 50D050
C88033 7D80B0 C28F8F 668F8F BD80E3 FFA100 A62929 5CB8D1 702EB0 00FF00 94FFFF 94E0E0 73C2C9 54B5B5
3B9E9E 248F8F 0A7D8C 006985 C0C0C0 FFD98F A67573 668080 9E63B5 D47A00 940094 429EB0 57178F 00C900
70D4FF FFFFC7 D9FFC7 C7FFC7 A3FFC7 8FFFC7 61FFC7 45FFC7 30FFC7 1FFFC7 00FF9C 00E675 00D452 00BF38
00AB24 4DC2FF 4DA6FF 2194D6 267DAB 266696 175487 D0D0E0 FFD123 B8B8D0 A6544D 575961 9E4FB5 AB5C00
754F45 428296 420066 007D00 70ABFA 00BAFF 00A1FF 008FFF 0080FF 006BFF 545CF2 785CE3
"""
_RADIUS_TEXT = """
31 28 128 96 84 76 71 66 57 58 166 141 121 111 107 105 102 106 203 176 170 160 153 139 139 132 126
124 132 122 122 120 119 120 120 116 220 195 190 175 164 154 147 146 142 139 145 144 142 139 139
138 139 140 244 215 207 204 203 201 199 198 198 196 194 192 192 189 190 187 187 175 170 162 151
144 141 136 136 132 145 146 148 140 150 150 260 221 215 206 200 196 190 187 180 169
"""
_SYMBOLS, _JMOL, _RADII = (text.split() for text in (_SYMBOL_TEXT, _JMOL_TEXT, _RADIUS_TEXT))


def element_symbol(atomic_number: int) -> str:
    """Chemical symbol of an atomic number 1..118."""
    if not 1 <= atomic_number <= len(_SYMBOLS):
        raise ValueError(f"expected an atomic number 1..{len(_SYMBOLS)}, got {atomic_number}")
    return _SYMBOLS[atomic_number - 1]


def element_color(atomic_number: int) -> str:
    """Colour of an element as '#RRGGBB' (Jmol's table; grey beyond curium)."""
    return "#" + (_JMOL[atomic_number - 1] if atomic_number <= len(_JMOL) else "B0B0B0")


def element_radius(atomic_number: int) -> float:
    """Covalent radius in angstrom (1.7 beyond curium)."""
    return float(_RADII[atomic_number - 1]) / 100 if atomic_number <= len(_RADII) else 1.7


def _element_cells() -> dict[str, tuple[float, float]]:
    """Column 1..18 and row of every element; lanthanides and actinides in rows 8.5 and 9.5."""
    cells: dict[str, tuple[float, float]] = {}
    first = {1: 1, 2: 3, 3: 11, 4: 19, 5: 37, 6: 55, 7: 87}
    for period, start in first.items():
        columns = (
            [1, 18] if period == 1 else [1, 2, *range(13, 19)] if period < 4 else list(range(1, 19))
        )
        number = start
        for column in columns:
            if period > 5 and column == 3:  # the f block is drawn below; column 3 holds Lu and Lr
                for offset in range(14):
                    cells[_SYMBOLS[number - 1]] = (3 + offset, period + 2.4)
                    number += 1
            cells[_SYMBOLS[number - 1]] = (column, period)
            number += 1
    return cells


# -------------------------------------------------------------------------------------------------
# Data sets
# -------------------------------------------------------------------------------------------------
@_styled
def periodic_table_coverage(
    counts: Mapping[str, int] | pd.Series, *, label: str = "crystals with the element"
) -> Figure:
    """Periodic table coloured by `counts` (symbol -> number), logarithmic; blank where none."""
    counts = {str(symbol): int(n) for symbol, n in dict(counts).items() if n > 0}
    if not counts:
        raise ValueError("expected at least one element with a count above 0, got none")
    figure = _figure(height=4.1)
    axes = figure.add_subplot()
    norm = LogNorm(vmin=1, vmax=max(10, *counts.values()))
    for number, (symbol, (column, row)) in enumerate(
        sorted(_element_cells().items(), key=lambda item: _SYMBOLS.index(item[0])), start=1
    ):
        if number > 103:
            continue
        rgba = SEQUENTIAL(norm(counts[symbol])) if symbol in counts else (1, 1, 1, 1)
        axes.add_patch(
            Rectangle((column, row), 0.94, 0.94, facecolor=rgba, edgecolor=LIGHT, linewidth=0.7)
        )
        color = _text_color(rgba) if symbol in counts else "#A9AFB5"
        _write(axes, column + 0.47, row + 0.49, symbol, color=color)
    axes.set(xlim=(0.9, 19.05), ylim=(10.5, 0.9), aspect="equal")
    axes.axis("off")
    bar = figure.colorbar(
        mpl.cm.ScalarMappable(norm=norm, cmap=SEQUENTIAL),
        cax=axes.inset_axes((0.2, 0.82, 0.42, 0.035)),
        orientation="horizontal",
        format="{x:,.0f}",
    )
    bar.set_label(f"number of {label}", fontsize=9.5)
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
    figure = _figure(height=3.3)
    axes = figure.add_subplot()
    left = np.zeros(len(counts))
    shade = {name: 0.78 * i / max(len(order) - 1, 1) for i, name in enumerate(order)}
    for name in order:
        width = counts[name].to_numpy(dtype=float)
        colors = [_soften(SYSTEM_COLORS[system], shade[name]) for system in CRYSTAL_SYSTEMS]
        axes.barh(
            CRYSTAL_SYSTEMS,
            width,
            left=left,
            color=colors,
            edgecolor="white",
            linewidth=0.8,
            height=0.74,
        )
        left += width
    for y, total in enumerate(left):
        axes.annotate(
            f"{int(total):,}  ({100 * total / max(left.sum(), 1):.0f} %)",
            (total, y),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            fontsize=9.5,
        )
    axes.invert_yaxis()
    axes.set(xlabel="number of crystals", xlim=(0, max(left.max(), 1) * 1.2))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.tick_params(axis="y", length=0)
    handles = [Rectangle((0, 0), 1, 1, color=_soften("#4D4D4D", shade[name])) for name in order]
    figure.legend(handles, order, loc="outside upper right", ncols=len(order), title=None)
    return figure


@_styled
def cell_histograms(lengths: Array, angles: Array, num_atoms: Array, *, bins: int = 60) -> Figure:
    """Distributions of a, b, c (angstrom), alpha, beta, gamma (degrees) and atoms per cell.

    Args:
        lengths: [C, 3] in angstrom.
        angles: [C, 3] in degrees.
        num_atoms: [C].
        bins: bins of the length and angle histograms.
    """
    lengths, angles, num_atoms = _array(lengths), _array(angles), _array(num_atoms)
    figure = _figure(height=3.1)
    panels = figure.subplots(1, 3)
    top = float(np.quantile(lengths, 0.997))
    for values, names, axes, edges in (
        (lengths, "abc", panels[0], np.linspace(lengths.min(), top, bins)),
        (angles, "αβγ", panels[1], np.linspace(angles.min() - 1, angles.max() + 1, bins)),
    ):
        for column, name in enumerate(names):
            color = (BLUE, RED, GREEN)[column]
            axes.hist(values[:, column], edges, histtype="stepfilled", color=color, alpha=0.14)
            axes.hist(values[:, column], edges, histtype="step", color=color, linewidth=1.5)
            axes.plot([], [], color=color, label=name)
        axes.legend(handlelength=1.0, borderaxespad=0)
    panels[0].set(xlabel="cell length (Å)", ylabel="number of crystals", title="lengths")
    panels[1].set(xlabel="cell angle (degrees)", title="angles")
    panels[1].set_yscale("log")
    _plain_log(panels[1].yaxis)
    panels[1].set_ylabel("number (log scale)")
    panels[2].hist(num_atoms, np.arange(0.5, num_atoms.max() + 1.5), color=MUTED, rwidth=0.86)
    panels[2].set(xlabel="atoms in the cell", title="size")
    panels[2].set_ylabel("number of crystals")
    return figure


# -------------------------------------------------------------------------------------------------
# One crystal: drawing, graph, pattern
# -------------------------------------------------------------------------------------------------
def _crystal_arrays(table: Any, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    start, stop = (int(value) for value in _array(table.offsets)[index : index + 2])
    return (
        _array(table.lattice)[index].astype(float),
        _array(table.frac_coords)[start:stop].astype(float),
        _array(table.atomic_numbers)[start:stop].astype(int),
    )


def _view_matrix(lattice: np.ndarray, azimuth: float, elevation: float) -> np.ndarray:
    """Rotation whose rows are right, up and towards the reader, with c near the vertical."""
    up = lattice[2] / np.linalg.norm(lattice[2])
    right = lattice[0] - up * (lattice[0] @ up)
    right /= np.linalg.norm(right)
    frame = np.stack([right, np.cross(up, right), up])  # x right, y away, z up
    phi, theta = np.radians(azimuth), np.radians(elevation)
    turn = np.array([[np.cos(phi), np.sin(phi), 0], [-np.sin(phi), np.cos(phi), 0], [0, 0, 1]])
    tilt = np.array(
        [[1, 0, 0], [0, np.cos(theta), np.sin(theta)], [0, -np.sin(theta), np.cos(theta)]]
    )
    x, y, z = tilt.T @ turn @ frame
    return np.stack([x, z, -y])


def _with_boundary(
    frac: np.ndarray, numbers: np.ndarray, tol: float = 1e-3
) -> tuple[np.ndarray, np.ndarray]:
    """Repeat atoms that lie on a face, an edge or a corner, so that the drawn cell is closed."""
    coords, species = [], []
    for f, z in zip(frac % 1.0, numbers, strict=True):
        f = np.where(f > 1 - tol, f - 1, f)
        for shift in itertools.product(*[(0, 1) if abs(value) < tol else (0,) for value in f]):
            coords.append(f + shift)
            species.append(z)
    return np.array(coords), np.array(species)


def _draw_sphere(
    axes: Axes, xy: np.ndarray, radius: float, color: str, zorder: float, alpha: float = 1.0
) -> None:
    """A shaded ball: rim, body and two highlights, all vector shapes."""
    axes.add_patch(
        Circle(
            xy,
            radius,
            facecolor=color,
            edgecolor=_mix(color, 0.55),
            linewidth=0.7,
            zorder=zorder,
            alpha=alpha,
        )
    )
    for shift, size, amount in ((0.18, 0.70, 0.22), (0.30, 0.38, 0.50), (0.36, 0.16, 0.85)):
        axes.add_patch(
            Circle(
                xy + radius * shift * np.array([-1, 1]),
                radius * size,
                facecolor=_soften(color, amount),
                edgecolor="none",
                zorder=zorder + 1e-4,
                alpha=alpha * 0.8,
            )
        )


def _mix(color: str, amount: float) -> tuple[float, ...]:
    """Darken a colour: 1 keeps it, 0 is black."""
    return tuple(channel * amount for channel in to_rgb(color))


def _draw_cell(axes: Axes, lattice: np.ndarray, view: np.ndarray, pieces: int = 12) -> None:
    """The twelve cell edges, in short pieces so that each can hide behind an atom."""
    for axis in range(3):
        others = [k for k in range(3) if k != axis]
        for i, j in itertools.product((0, 1), (0, 1)):
            origin = i * lattice[others[0]] + j * lattice[others[1]]
            line = origin + np.linspace(0, 1, pieces + 1)[:, None] * lattice[axis]
            points = line @ view.T
            for p, q in itertools.pairwise(points):
                axes.plot(
                    [p[0], q[0]],
                    [p[1], q[1]],
                    color="#7A828A",
                    linewidth=1.1,
                    zorder=10 + (p[2] + q[2]) / 2,
                )


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


def _draw_bond(
    axes: Axes, p: np.ndarray, q: np.ndarray, colors: Sequence[str], width: float
) -> None:
    middle = (p + q) / 2
    for start, end, color in ((p, middle, colors[0]), (middle, q, colors[1])):
        depth = 10 + (start[2] + end[2]) / 2 - 0.05
        for tone, line in ((_mix(color, 0.6), width + 1.2), (color, width)):
            axes.plot(
                [start[0], end[0]],
                [start[1], end[1]],
                color=tone,
                linewidth=line,
                zorder=depth,
                solid_capstyle="butt",
            )
            depth += 1e-3


def _finish_crystal_axes(
    axes: Axes, points: np.ndarray, margin: float, lattice: np.ndarray, view: np.ndarray
) -> None:
    """Limits, scale bar and the directions of a, b, c."""
    low, high = points[:, :2].min(axis=0) - margin, points[:, :2].max(axis=0) + margin
    size = 0.13 * float((high - low).max())
    axes.set(xlim=(low[0], high[0] + 2.2 * size), ylim=(low[1] - 0.55, high[1]), aspect="equal")
    origin = np.array([high[0] + 0.75 * size, low[1] + 0.5 * size])
    _draw_axes_triad(axes, lattice, view, origin, size)
    axes.axis("off")
    length = max(1, round((high[0] - low[0]) / 6))
    x, y = low[0] + 0.05 * (high[0] - low[0]), low[1] - 0.3
    axes.plot([x, x + length], [y, y], color=INK, linewidth=2, solid_capstyle="butt", zorder=70)
    _write(axes, x + length + 0.15, y, f"{length} Å", ha="left", zorder=70)


def _element_legend(axes: Axes, numbers: np.ndarray, **kwargs: Any) -> None:
    handles = [
        Line2D(
            [],
            [],
            marker="o",
            linestyle="",
            markersize=9,
            markerfacecolor=element_color(z),
            markeredgecolor=_mix(element_color(z), 0.55),
            label=element_symbol(z),
        )
        for z in sorted({int(z) for z in numbers}, reverse=True)
    ]
    axes.legend(handles=handles, handletextpad=0.1, borderaxespad=0.1, **kwargs)


def _draw_crystal(
    axes: Axes, table: Any, index: int, azimuth: float, elevation: float, bonds: bool = True
) -> None:
    lattice, frac, numbers = _crystal_arrays(table, index)
    view = _view_matrix(lattice, azimuth, elevation)
    coords, species = _with_boundary(frac, numbers)
    positions = coords @ lattice
    points = positions @ view.T
    radii = np.array([0.42 * element_radius(z) ** 0.6 for z in species])
    if bonds:
        distance = np.linalg.norm(positions[:, None] - positions[None], axis=-1)
        reach = np.array([element_radius(z) for z in species])
        close = (distance > 0.4) & (distance < 1.12 * (reach[:, None] + reach[None]))
        close &= species[:, None] != species[None]  # in salts and oxides unlike atoms are bonded
        for i, j in zip(*np.nonzero(np.triu(close)), strict=True):
            along = (points[j] - points[i]) / distance[i, j]  # from surface to surface
            ends = points[i] + 0.9 * radii[i] * along, points[j] - 0.9 * radii[j] * along
            _draw_bond(axes, *ends, [element_color(species[k]) for k in (i, j)], 2.6)
    for point, radius, z in zip(points, radii, species, strict=True):
        _draw_sphere(axes, point[:2], radius, element_color(z), 10 + point[2] + 0.35)
    _draw_cell(axes, lattice, view)
    corners = np.array(list(itertools.product((0, 1), repeat=3))) @ lattice @ view.T
    _finish_crystal_axes(axes, np.concatenate([points, corners]), 0.85, lattice, view)
    _element_legend(axes, species, loc="upper right", bbox_to_anchor=(1.0, 0.98))


@_styled
def crystal_3d(
    table: Any,
    *,
    index: int = 0,
    title: str | None = None,
    azimuth: float = AZIMUTH,
    elevation: float = ELEVATION,
    bonds: bool = True,
) -> Figure:
    """One crystal in its cell, with a scale bar in angstrom.

    The projection is parallel and sorted by depth. Atoms on a face, an edge or a corner are
    repeated, which closes the cell.

    Args:
        table: `CrystalTable`.
        index: which crystal of the table.
        title: text above the drawing.
        azimuth: turn around c, degrees.
        elevation: tilt towards the reader, degrees.
        bonds: join unlike atoms closer than 1.12 times the sum of their covalent radii.
    """
    figure = _figure(width=5.2, height=4.4)
    axes = figure.add_subplot()
    _draw_crystal(axes, table, index, azimuth, elevation, bonds)
    if title:
        axes.set_title(title)
    return figure


def _graph_edges(graph: Any, crystal: int, nearest: int | None) -> tuple[np.ndarray, ...]:
    """Sources, targets, vectors [E, 3] and "in another cell" of one crystal."""
    first, last = (int(value) for value in _array(graph.edge_offsets)[crystal : crystal + 2])
    base = int(_array(graph.atom_offsets)[crystal])
    edges = _array(graph.edge_index)[:, first:last] - base
    image, vector = _array(graph.image)[first:last], _array(graph.vector)[first:last].astype(float)
    distance = _array(graph.distance)[first:last].astype(float)
    keep = np.zeros(len(distance), dtype=bool)
    for target in np.unique(edges[1]):
        mine = np.nonzero(edges[1] == target)[0]
        limit = np.sort(distance[mine])[min(nearest or len(mine), len(mine)) - 1]
        keep[mine[distance[mine] <= limit + 1e-4]] = True
    return edges[0][keep], edges[1][keep], vector[keep], (image[keep] != 0).any(axis=1)


def _draw_graph(
    axes: Axes,
    table: Any,
    graph: Any,
    index: int,
    nearest: int | None,
    azimuth: float,
    elevation: float,
) -> None:
    lattice, frac, numbers = _crystal_arrays(table, index)
    view = _view_matrix(lattice, azimuth, elevation)
    positions = frac @ lattice
    source, target, vector, outside = _graph_edges(graph, index, nearest)
    points = positions @ view.T
    ghosts = (positions[target] + vector) @ view.T
    for s, t, ghost, out in zip(source, target, ghosts, outside, strict=True):
        p = points[t]
        axes.plot(
            [p[0], ghost[0]],
            [p[1], ghost[1]],
            color=RED if out else BLUE,
            linewidth=1.0 if out else 1.9,
            alpha=0.65 if out else 0.95,
            zorder=10 + (p[2] + ghost[2]) / 2,
            dashes=(4, 2) if out else (None, None),
        )
        if out:
            color = element_color(int(numbers[s]))
            axes.add_patch(
                Circle(
                    ghost[:2],
                    0.2,
                    facecolor=_soften(color, 0.55),
                    edgecolor=_soften(_hex(_mix(color, 0.55)), 0.3),
                    linewidth=0.7,
                    zorder=10 + ghost[2],
                )
            )
    for point, z in zip(points, numbers, strict=True):
        _draw_sphere(axes, point[:2], 0.34, element_color(int(z)), 12 + point[2])
    _draw_cell(axes, lattice, view)
    corners = np.array(list(itertools.product((0, 1), repeat=3))) @ lattice @ view.T
    _finish_crystal_axes(axes, np.concatenate([points, ghosts, corners]), 0.4, lattice, view)


def _hex(rgb: Sequence[float]) -> str:
    return mpl.colors.to_hex(rgb)


def _edge_handles() -> list[Line2D]:
    return [
        Line2D([], [], color=BLUE, linewidth=1.9, label="neighbour in the same cell"),
        Line2D([], [], color=RED, linewidth=1.2, linestyle="--", label="image in another cell"),
    ]


@_styled
def crystal_graph(
    table: Any,
    graph: Any,
    *,
    index: int = 0,
    nearest: int | None = 6,
    title: str | None = None,
    azimuth: float = AZIMUTH,
    elevation: float = ELEVATION,
) -> Figure:
    """The periodic graph of one crystal: edges inside the cell and edges to images in other cells.

    Args:
        table: `CrystalTable` the graph was built from (it holds the positions).
        graph: `PeriodicGraph`.
        index: which crystal, the same in both.
        nearest: neighbours drawn per atom, ties included; None draws every edge.
        title: text above the drawing.
        azimuth: turn around c, degrees.
        elevation: tilt towards the reader, degrees.
    """
    figure = _figure(width=5.6, height=4.8)
    axes = figure.add_subplot()
    _draw_graph(axes, table, graph, index, nearest, azimuth, elevation)
    _element_legend(
        axes, _crystal_arrays(table, index)[2], loc="upper right", bbox_to_anchor=(1.0, 0.98)
    )
    figure.legend(handles=_edge_handles(), loc="outside lower center", ncols=2)
    if title:
        axes.set_title(title)
    return figure


def _draw_pattern(
    axes: Axes,
    two_theta: Array,
    intensity: Array,
    *,
    peaks: tuple[Array, Array] | None,
    hkl: Sequence[str] | None,
    num_labels: int,
    color: str = RED,
) -> None:
    x, y = _array(two_theta), _array(intensity)
    top = max(float(y.max()), 1e-12)
    axes.plot(x, y / top, color=color, linewidth=1.2)
    axes.fill_between(x, y / top, color=color, alpha=0.12, linewidth=0)
    axes.set(
        xlabel="2θ (degrees)",
        ylabel="intensity (max = 1)",
        xlim=(x.min(), x.max()),
        ylim=(-0.02, 1.12),
    )
    if peaks is None:
        return
    position, height = _array(peaks[0]).astype(float), _array(peaks[1]).astype(float)
    shown = (position >= x.min()) & (position <= x.max())
    axes.vlines(position[shown], -0.075, -0.03, color=INK, linewidth=0.9)
    axes.set_ylim(-0.09, 1.14 if hkl is None else 1.22)
    if hkl is None:
        return
    placed: list[float] = []
    for k in np.argsort(-np.where(shown, height, -np.inf)):
        if len(placed) >= num_labels or not shown[k]:
            break
        if any(abs(position[k] - other) < 0.05 * np.ptp(x) for other in placed):
            continue  # a stronger neighbour already carries a label here
        placed.append(float(position[k]))
        level = float(np.interp(position[k], x, y / top))
        axes.annotate(
            hkl[k],
            (position[k], level),
            xytext=(0, 4),
            textcoords="offset points",
            ha="center",
            va="bottom",
            fontsize=9,
        )


@_styled
def pattern(
    two_theta: Array,
    intensity: Array,
    *,
    peaks: tuple[Array, Array] | None = None,
    hkl: Sequence[str] | None = None,
    num_labels: int = 7,
    reference: tuple[Array, Array] | None = None,
    title: str | None = None,
    labels: tuple[str, str] = ("this pattern", "reference"),
) -> Figure:
    """One powder pattern, scaled to maximum 1.

    Args:
        two_theta: [P] degrees.
        intensity: [P], any scale.
        peaks: positions (degrees) and heights of the Bragg peaks, drawn as ticks under the pattern.
        hkl: one label per peak; the strongest ones that do not crowd each other are written.
        num_labels: how many labels.
        reference: two_theta and intensity of a second pattern, drawn mirrored below zero.
        title: text above the pattern.
        labels: names in the legend when there is a reference.
    """
    figure = _figure(height=3.2 if reference is None else 3.6)
    axes = figure.add_subplot()
    _draw_pattern(axes, two_theta, intensity, peaks=peaks, hkl=hkl, num_labels=num_labels)
    if reference is not None:
        x, y = _array(reference[0]), _array(reference[1])
        axes.plot(x, -0.14 - y / max(float(y.max()), 1e-12), color=BLUE, linewidth=1.2)
        axes.set_ylim(-1.2, axes.get_ylim()[1])
        axes.set_yticks([0, 0.5, 1])
        handles = [Line2D([], [], color=color) for color in (RED, BLUE)]
        axes.legend(handles, labels, loc="upper right")
    if title:
        axes.set_title(title)
    return figure


@_styled
def patterns_stack(
    two_theta: Array,
    patterns: Mapping[str, Array],
    *,
    offset: float = 1.15,
    colors: Mapping[str, str] | None = None,
) -> Figure:
    """Several patterns on the same grid, each scaled to maximum 1 and shifted up by `offset`.

    Args:
        two_theta: [P] degrees.
        patterns: name -> [P]; the first one is drawn on top.
        offset: distance between base lines in units of the maximum.
        colors: name -> colour; crystal systems and modalities have theirs already.
    """
    x = _array(two_theta)
    palette = {**_colors(list(patterns)), **(colors or {})}
    figure = _figure(height=1.2 + 0.72 * len(patterns))
    axes = figure.add_subplot()
    for level, (name, values) in enumerate(reversed(patterns.items())):
        y = _array(values) / max(float(_array(values).max()), 1e-12)
        base = level * offset
        axes.plot(x, y + base, color=palette[name], linewidth=1.1)
        axes.fill_between(x, base, y + base, color=palette[name], alpha=0.12, linewidth=0)
        axes.annotate(
            _pretty(name),
            (1.01, base + 0.12),
            xycoords=("axes fraction", "data"),
            color=palette[name],
            fontsize=9.5,
        )
    axes.set(
        xlabel="2θ (degrees)", ylabel="intensity (shifted)", xlim=(x.min(), x.max()), yticks=[]
    )
    axes.spines["left"].set_visible(False)
    return figure


@_styled
def three_views(
    table: Any,
    graph: Any,
    two_theta: Array,
    intensity: Array,
    *,
    index: int = 0,
    nearest: int | None = 6,
    formula: str | None = None,
    peaks: tuple[Array, Array] | None = None,
    hkl: Sequence[str] | None = None,
) -> Figure:
    """One crystal drawn in its cell, its periodic graph beside it and its powder pattern below.

    Args:
        table: `CrystalTable`.
        graph: `PeriodicGraph` of the same table.
        two_theta: [P] degrees.
        intensity: [P].
        index: which crystal.
        nearest: neighbours drawn per atom.
        formula: written over the crystal; the table's own formula when None.
        peaks: positions and heights of Bragg peaks.
        hkl: labels of the peaks.
    """
    figure = _figure(height=6.2)
    grid = figure.add_gridspec(2, 2, height_ratios=(1.55, 1), width_ratios=(1, 1.1))
    left, right, below = (figure.add_subplot(cell) for cell in (grid[0, 0], grid[0, 1], grid[1, :]))
    _draw_crystal(left, table, index, AZIMUTH, ELEVATION)
    _draw_graph(right, table, graph, index, nearest, AZIMUTH, ELEVATION)
    _draw_pattern(below, two_theta, intensity, peaks=peaks, hkl=hkl, num_labels=8)
    name = formula if formula is not None else str(table.info["formula"].iloc[index])
    left.set_title(f"crystal: {_subscript(name)}")
    right.set_title("structure graph")
    right.legend(
        handles=_edge_handles(), loc="upper center", bbox_to_anchor=(0.5, 0.02), fontsize=8.5
    )
    below.set_title("powder pattern")
    return figure


def _subscript(formula: str) -> str:
    """'TiO2' -> 'TiO$_{2}$' for matplotlib's math text."""
    out, digits = "", ""
    for char in formula + " ":
        if (char.isdigit() or char == ".") and out:
            digits += char
            continue
        if digits:
            out, digits = f"{out}$_{{{digits}}}$", ""
        out += char
    return out.strip()


# -------------------------------------------------------------------------------------------------
# Theory sketches
# -------------------------------------------------------------------------------------------------
@_styled
def bragg_law(*, theta: float = 32.0) -> Figure:
    """Two lattice planes, two rays and their path difference 2 d sin(theta); `theta` in degrees."""
    figure, axes = _canvas(PAGE_WIDTH, 3.55)
    t, d = np.radians(theta), 1.15
    into, out = np.array([np.cos(t), -np.sin(t)]), np.array([np.cos(t), np.sin(t)])
    top = np.array([3.3, 2.05])
    low = top - (0, d)
    for y in (top[1], low[1]):
        axes.plot([0.5, 6.1], [y, y], color=LIGHT, linewidth=1.4, zorder=1)
        axes.scatter(
            top[0] + np.arange(-3, 4) * 0.86,
            np.full(7, y),
            s=70,
            color="#9AA3AB",
            edgecolor="white",
            zorder=4,
        )
    for point, reach in ((top, 2.55), (low, 2.9)):
        _arrow(axes, point - into * reach, point, color=BLUE, line=1.7, zorder=3)
        _arrow(axes, point, point + out * reach, color=BLUE, line=1.7, zorder=3)
    feet = [low - into * d * np.sin(t), low + out * d * np.sin(t)]
    for foot in feet:
        axes.plot(
            *zip(top, foot, strict=True),
            color=MUTED,
            linewidth=1.1,
            linestyle=(0, (4, 2)),
            zorder=2,
        )
        axes.plot(
            *zip(low, foot, strict=True), color=RED, linewidth=4, zorder=5, solid_capstyle="butt"
        )
    for foot, side in zip(feet, (-1, 1), strict=True):
        spot = np.array([low[0] + side * 0.43, low[1] - 0.26])
        _arrow(axes, (spot[0], spot[1] + 0.1), (foot + low) / 2, color=RED, line=0.8, head="-")
        _write(axes, spot[0], spot[1], "$d\\,\\sin\\theta$", color=RED, size=11)
    _arrow(axes, (6.3, low[1]), (6.3, top[1]), color=INK, head="<|-|>", line=1.1)
    _write(axes, 6.42, (top[1] + low[1]) / 2, "$d_{hkl}$", ha="left", size=13)
    for start, label in ((180 - theta, 180 - theta / 2), (0, theta / 2)):
        axes.add_patch(
            Arc(
                top,
                1.5,
                1.5,
                theta1=start,
                theta2=start + theta,
                color=INK,
                linewidth=1.1,
                zorder=3,
            )
        )
        at = top + 0.92 * np.array([np.cos(np.radians(label)), np.sin(np.radians(label))])
        _write(axes, *at, "θ", size=12)
    _write(
        axes,
        top[0],
        0.26,
        "in phase when  $2\\,d_{hkl}\\,\\sin\\theta = \\lambda$",
        size=13,
    )
    _write(axes, 0.42, 2.95, "X-rays,\nwavelength λ", color=BLUE, ha="left", size=10)
    _write(axes, 6.15, 2.95, "reflected", color=BLUE, ha="left", size=10)
    return figure


@_styled
def niggli_cells() -> Figure:
    """One two-dimensional lattice with a skewed primitive cell and with its reduced cell."""
    figure = _figure(height=2.5)
    panels = figure.subplots(1, 2)
    a, b = np.array([2.0, 0.0]), np.array([0.55, 1.7])
    choices = (
        ("a cell, but an arbitrary one", a + b, 2 * a + b, RED),
        ("the reduced cell", a, b, BLUE),
    )
    points = np.array([i * a + j * b for i, j in itertools.product(range(-4, 8), range(-3, 6))])
    points = points[(abs(points - (3.4, 1.6)) < (4.6, 2.6)).all(axis=1)]
    for axes, (title, u, v, color) in zip(panels, choices, strict=True):
        axes.scatter(*points.T, s=26, color="#9AA3AB", zorder=2)
        corners = np.array([[0, 0], u, u + v, v])
        axes.add_patch(
            Polygon(corners, closed=True, facecolor=_soften(color, 0.8), edgecolor=color, zorder=1)
        )
        for name, vector, side in (
            ("a", u, 1 if color == RED else -1),
            ("b", v, -1 if color == RED else 1),
        ):
            _arrow(axes, (0, 0), vector, color=color, line=2.2, zorder=3)
            normal = np.array([-vector[1], vector[0]]) / np.linalg.norm(vector) * 0.42 * side
            _write(axes, *vector * 0.55 + normal, name, color=color, size=13, style="italic")
        lengths = sorted((float(np.linalg.norm(u)), float(np.linalg.norm(v))))
        angle = np.degrees(np.arccos(u @ v / np.linalg.norm(u) / np.linalg.norm(v)))
        axes.set(
            xlim=(-1.4, 8.2), ylim=(-0.8, 4.0), aspect="equal", title=title, xticks=[], yticks=[]
        )
        area = abs(u[0] * v[1] - u[1] * v[0])
        sides = f"{lengths[0]:.1f} Å, {lengths[1]:.1f} Å, {angle:.0f}°"
        axes.set_xlabel(f"{sides};  area {area:.1f} Å²")
        for spine in axes.spines.values():
            spine.set_visible(False)
    return figure


@_styled
def contrastive_diagram(*, size: int = 5) -> Figure:
    """Schematic of the symmetric InfoNCE loss: `size` pairs, matches on the diagonal."""
    figure, axes = _canvas(PAGE_WIDTH, 4.1)
    cell, left, top = 0.5, 2.15, 3.1
    for i, j in itertools.product(range(size), range(size)):
        match = i == j
        _box(
            axes,
            left + j * cell + 0.03,
            top - (i + 1) * cell + 0.03,
            cell - 0.06,
            cell - 0.06,
            f"$s_{{{i + 1}{j + 1}}}$",
            face=BLUE if match else _soften(BLUE, 0.87),
            edge="none",
            color="white" if match else MUTED,
            size=10,
        )
    for k in range(size):
        y, x = top - (k + 0.5) * cell, left + (k + 0.5) * cell
        _box(
            axes,
            left - 0.62,
            y - 0.18,
            0.46,
            0.36,
            f"$p_{k + 1}$",
            face=_soften(RED, 0.8),
            edge=RED,
            size=10.5,
        )
        _box(
            axes,
            x - 0.2,
            top + 0.14,
            0.4,
            0.36,
            f"$g_{k + 1}$",
            face=_soften(BLUE, 0.9),
            edge=BLUE,
            size=10.5,
        )
    _write(
        axes, 0.12, top - size * cell / 2, "pattern\nembeddings", color=RED, ha="left", size=10.5
    )
    _write(axes, left + size * cell / 2, top + 0.74, "structure embeddings", color=BLUE, size=10.5)
    right = left + size * cell + 0.14
    _arrow(axes, (right, top - 0.5 * cell), (right + 0.5, top - 0.5 * cell), color=RED)
    _write(
        axes,
        right + 0.58,
        top - 0.5 * cell,
        "softmax of a row:\nwhich structure\nbelongs to $p_1$?",
        ha="left",
    )
    bottom = top - size * cell
    _arrow(axes, (left + 0.5 * cell, bottom - 0.05), (left + 0.5 * cell, bottom - 0.36), color=BLUE)
    _write(
        axes,
        left + 0.78 * cell,
        bottom - 0.24,
        "softmax of a column: which pattern belongs to $g_1$?",
        ha="left",
    )
    axes.add_patch(Rectangle((right + 0.58, bottom + 0.78), 0.16, 0.16, facecolor=BLUE))
    _write(axes, right + 0.84, bottom + 0.86, "pull together", ha="left")
    axes.add_patch(
        Rectangle((right + 0.58, bottom + 0.46), 0.16, 0.16, facecolor=_soften(BLUE, 0.82))
    )
    _write(axes, right + 0.84, bottom + 0.54, "push apart", ha="left")
    _write(
        axes,
        right + 0.58,
        bottom + 0.14,
        "$s_{ij} = p_i \\cdot g_j\\,/\\,\\tau$",
        ha="left",
        size=11,
    )
    return figure


@_styled
def message_passing_diagram() -> Figure:
    """Directed messages of DimeNet++: k -> j updates j -> i through the angle between them."""
    figure, axes = _canvas(PAGE_WIDTH, 3.3)
    i, j = np.array([1.1, 0.85]), np.array([2.75, 1.35])
    others = [np.array([3.35, 2.75]), np.array([4.35, 0.75]), np.array([2.15, 2.8])]
    for index, k in enumerate(others):
        unit = (j - k) / np.linalg.norm(j - k)
        _arrow(
            axes,
            k + unit * 0.27,
            j - unit * 0.31,
            color=RED if index == 0 else _soften(RED, 0.6),
            line=2.2,
        )
        _draw_sphere(
            axes, k, 0.24 if index == 0 else 0.2, "#E8A0A0" if index == 0 else "#E9D3D3", 5
        )
    unit = (i - j) / np.linalg.norm(i - j)
    _arrow(axes, j + unit * 0.31, i - unit * 0.31, color=BLUE, line=2.6)
    for point, color, name in ((i, "#8FB8D6", "i"), (j, "#BFC2C7", "j")):
        _draw_sphere(axes, point, 0.28, color, 5)
        _write(axes, *point, f"${name}$", zorder=8, size=13)
    _write(axes, *others[0], "$k$", zorder=8, size=13)
    angle_i = np.degrees(np.arctan2(*(i - j)[::-1])) % 360
    angle_k = np.degrees(np.arctan2(*(others[0] - j)[::-1])) % 360
    axes.add_patch(
        Arc(j, 0.98, 0.98, theta1=angle_k, theta2=angle_i, color=INK, linewidth=1.3, zorder=6)
    )
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
    for draw, (x, y), title in (
        (_fusion_concat, (0.12, 2.5), "concatenation + MLP (the paper's)"),
        (_fusion_gated, (3.74, 2.5), "gated sum"),
        (_fusion_attention, (0.12, 0.12), "cross-attention"),
        (_fusion_late, (3.74, 0.12), "late fusion"),
    ):
        _box(axes, x, y, 3.36, 2.1, face=PANEL, edge="none", zorder=0)
        _write(axes, x + 0.14, y + 1.88, title, ha="left", size=10.5, weight="bold")
        draw(axes, x, y)
    return figure


def _fusion_tokens(axes: Axes, x: float, y: float) -> list[tuple[float, float, str]]:
    tokens = []
    for row, (name, color) in enumerate(MODALITY_COLORS.items()):
        centre = y + 1.42 - row * 0.52
        _box(
            axes,
            x + 0.14,
            centre - 0.17,
            0.98,
            0.34,
            MODALITY_NAMES[name],
            face=_soften(color, 0.82),
            edge=color,
            size=8.6,
        )
        tokens.append((x + 1.12, centre, color))
    return tokens


def _fusion_concat(axes: Axes, x: float, y: float) -> None:
    for (start, centre, color), row in zip(_fusion_tokens(axes, x, y), range(3), strict=True):
        slot = y + 1.1 - row * 0.36
        axes.add_patch(
            Rectangle(
                (x + 1.5, slot),
                0.26,
                0.36,
                facecolor=_soften(color, 0.35),
                edgecolor="white",
                zorder=3,
            )
        )
        _arrow(axes, (start, centre), (x + 1.49, slot + 0.18), color=color)
    _box(axes, x + 2.06, y + 0.64, 0.56, 0.56, "MLP", size=9.5)
    _arrow(axes, (x + 1.77, y + 0.92), (x + 2.05, y + 0.92))
    _fusion_output(axes, x, y)


def _fusion_gated(axes: Axes, x: float, y: float) -> None:
    for row, (start, centre, color) in enumerate(_fusion_tokens(axes, x, y)):
        axes.add_patch(
            Circle((x + 1.5, centre), 0.16, facecolor="white", edgecolor=color, zorder=4)
        )
        _write(axes, x + 1.5, centre, f"$w_{row + 1}$", zorder=5)
        _arrow(axes, (start, centre), (x + 1.34, centre), color=color)
        _arrow(axes, (x + 1.66, centre), (x + 2.12, y + 0.9 + (1 - row) * 0.14), color=color)
    axes.add_patch(Circle((x + 2.34, y + 0.9), 0.24, facecolor="white", edgecolor=MUTED, zorder=4))
    _write(axes, x + 2.34, y + 0.9, "$\\Sigma$", zorder=5, size=14)
    _write(axes, x + 1.78, y + 0.1, "weights depend on all inputs, sum to 1", color=MUTED, size=8.4)
    _fusion_output(axes, x, y)


def _fusion_attention(axes: Axes, x: float, y: float) -> None:
    queries = [y + 1.3 - k * 0.42 for k in range(3)]
    for start, centre, color in _fusion_tokens(axes, x, y):
        for query in queries:
            _arrow(axes, (start, centre), (x + 1.86, query), color=color, line=0.9, head="-")
    for k, query in enumerate(queries):
        _box(axes, x + 1.86, query - 0.15, 0.7, 0.3, f"query {k + 1}", size=8.4)
    _write(axes, x + 1.78, y + 0.1, "learned queries read the tokens", color=MUTED, size=8.4)
    _fusion_output(axes, x, y)


def _fusion_late(axes: Axes, x: float, y: float) -> None:
    for start, centre, color in _fusion_tokens(axes, x, y):
        _box(axes, x + 1.36, centre - 0.15, 0.52, 0.3, "head", edge=color, size=8.6)
        _arrow(axes, (start, centre), (x + 1.35, centre), color=color)
        _arrow(
            axes, (x + 1.89, centre), (x + 2.1, y + 0.9 + (centre - y - 0.9) * 0.35), color=color
        )
    _box(axes, x + 2.1, y + 0.58, 0.52, 0.64, "mean", size=8.6)
    _write(axes, x + 1.78, y + 0.1, "predictions are averaged", color=MUTED, size=8.4)
    _fusion_output(axes, x, y)


def _fusion_output(axes: Axes, x: float, y: float) -> None:
    _arrow(axes, (x + 2.62, y + 0.92), (x + 2.88, y + 0.92))
    axes.add_patch(
        Rectangle((x + 2.9, y + 0.62), 0.24, 0.6, facecolor=INK, edgecolor="none", zorder=3)
    )


# -------------------------------------------------------------------------------------------------
# Inputs and training
# -------------------------------------------------------------------------------------------------
@_styled
def magpie_features(
    values: Array, names: Sequence[str], *, top: int = 14, title: str | None = None
) -> Figure:
    """The `top` most unusual composition features of one crystal.

    Args:
        values: [F] features, in standard deviations from the training mean.
        names: F names ("MagpieData mean Electronegativity", ...).
        top: how many bars.
        title: text above the bars.
    """
    values = _array(values).astype(float)
    if len(values) != len(names):
        raise ValueError(
            f"expected one name per feature, got {len(values)} features and {len(names)} names"
        )
    order = np.argsort(-np.abs(values))[:top][::-1]
    figure = _figure(height=0.9 + 0.27 * len(order))
    axes = figure.add_subplot()
    labels = [names[k].replace("MagpieData ", "") for k in order]
    axes.barh(
        labels, values[order], color=[BLUE if values[k] > 0 else RED for k in order], height=0.68
    )
    axes.axvline(0, color=MUTED, linewidth=0.9)
    axes.set_xlabel("value (standard deviations from the training mean)")
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x")
    if title:
        axes.set_title(title)
    return figure


@_styled
def measurement_effects(
    two_theta: Array,
    rows: Mapping[str, Array],
    *,
    reference: Array,
    window: tuple[float, float] | None = None,
) -> Figure:
    """What each measurement effect does to one pattern, the undisturbed one in grey.

    Args:
        two_theta: [P] degrees.
        rows: effect with its size ("zero shift 0.2°") -> pattern [P].
        reference: [P] undisturbed pattern.
        window: part of the 2theta axis to show, degrees.
    """
    x, clean = _array(two_theta), _array(reference)
    low, high = window or (float(x.min()), float(x.max()))
    inside = (x >= low) & (x <= high)
    figure = _figure(height=0.7 + 0.82 * len(rows))
    panels = np.atleast_1d(figure.subplots(len(rows), 1, sharex=True))
    for axes, (name, values) in zip(panels, rows.items(), strict=True):
        y = _array(values)
        axes.fill_between(
            x[inside], clean[inside] / max(float(clean.max()), 1e-12), color="#C9CED3", linewidth=0
        )
        axes.plot(x[inside], y[inside] / max(float(y.max()), 1e-12), color=RED, linewidth=1.1)
        _write(axes, 0.995, 0.96, name, transform=axes.transAxes, ha="right", va="top")
        axes.set(xlim=(low, high), ylim=(-0.05, 1.12), yticks=[])
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
    metrics: Mapping[str, str] | Sequence[str],
    x: str = "epoch",
    log: bool = False,
    best_epoch: Mapping[str, int] | None = None,
) -> Figure:
    """Training histories, one panel per metric and one line per run.

    Args:
        histories: label -> history with a column `x` and metric columns (any may be missing).
        metrics: column -> axis label with its unit, or just the columns.
        x: column of the horizontal axis.
        log: logarithmic vertical axes.
        best_epoch: label -> value of `x` to mark with a dot.
    """
    titles = (
        dict(metrics)
        if isinstance(metrics, Mapping)
        else {name: name.replace("_", " ") for name in metrics}
    )
    columns = min(len(titles), 3)
    rows = -(-len(titles) // columns)
    figure = _figure(height=0.55 + 2.6 * rows)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    palette = _colors(list(histories))
    for axes, (column, label) in zip(panels, titles.items(), strict=False):
        for name, history in histories.items():
            if column not in history.columns:
                continue
            curve = history[[x, column]].dropna()
            axes.plot(curve[x], curve[column], color=palette[name], linewidth=1.6)
            if best_epoch and name in best_epoch:
                best = curve[curve[x] == best_epoch[name]]
                axes.plot(
                    best[x],
                    best[column],
                    "o",
                    color=palette[name],
                    markersize=6,
                    markeredgecolor="white",
                )
        axes.set(xlabel=x.replace("_", " "), ylabel=label)
        axes.grid(axis="y")
        if log:
            axes.set_yscale("log")
            _plain_log(axes.yaxis)
    for axes in panels[len(titles) :]:
        axes.set_visible(False)
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
    figure = _figure(height=4.2)
    axes = figure.add_subplot()
    for k, label in enumerate(labels):
        part, color = curve[curve["label"].astype(str) == label], palette[label]
        mean = part.groupby("crystals")["error"].mean()
        axes.plot(mean.index, mean, color=color, linestyle=("-", "--", ":")[k % 3], label=label)
        axes.plot(part["crystals"], part["error"], "o", color=color, ms=5, mec="white")
        for x, y in mean.items():
            axes.annotate(
                f"{y:.3g}",
                (x, y),
                (0, 8 if k % 2 == 0 else -15),  # points; neighbouring lines write on other sides
                textcoords="offset points",
                ha="center",
                fontsize=9.5,
                color=color,
            )
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
        examples: one to three mappings with `query` [P], `candidates` [K, P] (best first),
            `labels` (K names), `correct` (position of the right one in the list or None),
            optional `scores` [K] and `title`.
    """
    x = _array(two_theta)
    figure = _figure(height=4.5 if len(examples) < 3 else 4.7)
    panels = np.atleast_1d(figure.subplots(1, len(examples), sharey=True))
    for axes, example in zip(panels, examples, strict=True):
        candidates = _array(example["candidates"])
        curves = [_array(example["query"]), *candidates]
        for row, values in enumerate(curves):
            y = values / max(float(values.max()), 1e-12)
            right = row > 0 and example.get("correct") == row - 1
            color = INK if row == 0 else GREEN if right else "#9AA3AB"
            base = -1.5 * row - (0.25 if row else 0)
            axes.plot(x, 0.92 * y + base, color=color, linewidth=1.0)
            text = "query" if row == 0 else f"{row}  {_subscript(str(example['labels'][row - 1]))}"
            if row and example.get("scores") is not None:
                text += f"   {float(_array(example['scores'])[row - 1]):.2f}"
            text += "  ✓" if right else ""
            _write(
                axes,
                x.min(),
                base + 1.0,
                text,
                color=color if right or not row else MUTED,
                va="bottom",
                ha="left",
                size=9,
                weight="bold" if right or row == 0 else "normal",
            )
        axes.axhline(-0.28, color=LIGHT, linewidth=1)
        axes.set(
            xlim=(x.min(), x.max()),
            yticks=[],
            xlabel="2θ (degrees)",
            title=example.get("title", ""),
        )
        axes.spines["left"].set_visible(False)
    panels[0].set_ylabel("intensity (shifted); candidates by rank")
    return figure


@_styled
def embedding_map(
    xy: Array,
    system: Array,
    *,
    modality: Array | None = None,
    method: str = "t-SNE",
    size: float | None = None,
) -> Figure:
    """Two-dimensional map of the shared space: colour is crystal system, marker is modality.

    Args:
        xy: [N, 2] coordinates.
        system: [N] crystal-system names or indices.
        modality: [N] names from `MODALITY_MARKERS`, or None.
        method: name of the projection, for the axis labels.
        size: marker area in points squared; chosen from N when None.
    """
    xy, names = _array(xy), _system_names(system)
    kinds = (
        np.full(len(xy), "structure", dtype=object)
        if modality is None
        else _array(modality).astype(object)
    )
    figure = _figure(height=5.0)
    axes = figure.add_subplot()
    area = size or float(np.clip(16000 / max(len(xy), 1), 5, 28))
    order = np.random.default_rng(0).permutation(len(xy))  # no system hides another
    for kind in dict.fromkeys(kinds):
        pick = order[kinds[order] == kind]
        axes.scatter(
            xy[pick, 0],
            xy[pick, 1],
            s=area,
            c=[SYSTEM_COLORS[name] for name in names[pick]],
            alpha=0.75,
            marker=MODALITY_MARKERS.get(str(kind), "o"),
            linewidths=0,
            rasterized=True,
        )
    axes.set(
        xlabel=f"{method} 1 (arbitrary units)",
        ylabel=f"{method} 2 (arbitrary units)",
        xticks=[],
        yticks=[],
    )
    present = [name for name in CRYSTAL_SYSTEMS if name in set(names)]
    handles = [
        Line2D([], [], marker="o", ls="", ms=7, color=SYSTEM_COLORS[name], label=name)
        for name in present
    ]
    if modality is not None:
        handles += [
            Line2D(
                [],
                [],
                marker=MODALITY_MARKERS.get(str(kind), "o"),
                ls="",
                ms=7,
                mfc="white",
                mec=INK,
                label=_pretty(kind),
            )
            for kind in dict.fromkeys(kinds)
        ]
    figure.legend(handles=handles, loc="outside right upper", handletextpad=0.2)
    return figure


@_styled
def similarity_matrix(
    matrix: Array,
    *,
    row_label: str = "pattern",
    column_label: str = "structure",
    label: str = "cosine similarity",
) -> Figure:
    """Similarities [N, M] of two sets of embeddings; a good alignment shows a bright diagonal."""
    matrix = _array(matrix)
    figure = _figure(width=5.0, height=4.1)
    axes = figure.add_subplot()
    bound = float(np.abs(matrix).max()) or 1.0
    image = axes.imshow(matrix, cmap=DIVERGING, vmin=-bound, vmax=bound, interpolation="nearest")
    axes.set(xlabel=f"{column_label} (index)", ylabel=f"{row_label} (index)")
    bar = figure.colorbar(image, ax=axes, shrink=0.9, label=label)
    bar.outline.set_visible(False)
    return figure


# -------------------------------------------------------------------------------------------------
# Results
# -------------------------------------------------------------------------------------------------
@_styled
def confusion(matrices: Mapping[str, Array], *, labels: Sequence[str] = CRYSTAL_SYSTEMS) -> Figure:
    """Confusion matrices side by side: true classes in rows, percent of the row in the cells.

    Args:
        matrices: title -> [K, K] counts, row = true class, column = predicted class. Rows must
            count the same crystals: their numbers are written once, at the left.
        labels: K class names.
    """
    counts = {name: _array(matrix).astype(float) for name, matrix in matrices.items()}
    wrong = {name: x.shape for name, x in counts.items() if x.shape != (len(labels),) * 2}
    if wrong or not counts:
        raise ValueError(
            f"expected square matrices for {len(labels)} classes, got {wrong or 'none'}"
        )
    columns = min(len(counts), 2)
    rows = -(-len(counts) // columns)
    figure = _figure(height=0.4 + (5.2 if columns == 1 else 2.9 * rows), layout="compressed")
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    for k, (axes, (name, matrix)) in enumerate(zip(panels.flat, counts.items(), strict=False)):
        number = matrix.sum(axis=1)
        share = matrix / np.maximum(number[:, None], 1)
        text = np.where(share < 0.005, "<1", np.char.mod("%.0f", 100 * share))
        sns.heatmap(
            share,
            ax=axes,
            annot=np.where(matrix > 0, text, ""),
            fmt="",
            annot_kws={"size": 8.6},
            cmap=SEQUENTIAL,
            vmin=0,
            vmax=1,
            square=True,
            cbar=False,
            yticklabels=[f"{n} ({int(c):,})" for n, c in zip(labels, number, strict=True)],
        )
        axes.tick_params(labelsize=8.8)
        axes.set_xticks(axes.get_xticks(), labels, rotation=40, ha="right", rotation_mode="anchor")
        axes.tick_params(length=0)
        axes.set_title(name, fontsize=10.5)
        if k // columns == rows - 1:
            axes.set_xlabel("predicted")
        if k % columns == 0:
            axes.set_ylabel("true (crystals)")
    for axes in panels.flat[len(counts) :]:
        axes.set_visible(False)
    image = panels.flat[0].collections[0]
    bar = figure.colorbar(image, ax=panels, shrink=0.6, pad=0.02, label="share of the true class")
    bar.outline.set_visible(False)
    return figure


@_styled
def parity(
    true: Array,
    predicted: Array,
    *,
    columns: Sequence[str] = ("a", "b", "c"),
    unit: str = "Å",
    digits: int = 2,
) -> Figure:
    """Predicted against true values: one density per column, its mean absolute error above.

    Args:
        true: [N, K].
        predicted: [N, K].
        columns: K names.
        unit: of both axes.
        digits: decimals of the error.
    """
    true, predicted = (
        _array(values).reshape(len(_array(values)), -1).astype(float)
        for values in (true, predicted)
    )
    figure = _figure(height=1.2 + 6.6 / max(len(columns), 2), layout="compressed")
    panels = figure.subplots(1, len(columns), squeeze=False)[0]
    both = np.concatenate([true.ravel(), predicted.ravel()])
    low, high = np.quantile(both, [0.001, 0.999])
    pad = 0.04 * (high - low) + 1e-9
    low, high = low - pad, high + pad
    image = None
    for k, (axes, name) in enumerate(zip(panels, columns, strict=True)):
        image = axes.hexbin(
            true[:, k],
            predicted[:, k],
            gridsize=42,
            extent=(low, high, low, high),
            bins="log",
            mincnt=1,
            cmap=mpl.colors.ListedColormap(SEQUENTIAL(np.linspace(0.28, 1, 128))),
            linewidths=0.1,
        )
        axes.plot([low, high], [low, high], color=RED, linewidth=1.0)
        error = float(np.abs(true[:, k] - predicted[:, k]).mean())
        between = ": " if max(map(len, columns)) < 6 else "\n"
        axes.set_title(f"{name}{between}MAE {error:.{digits}f} {unit}", fontsize=10.5)
        axes.set(xlim=(low, high), ylim=(low, high), aspect="equal", xlabel=f"true ({unit})")
        axes.yaxis.set_major_locator(mpl.ticker.MaxNLocator(5))
        axes.xaxis.set_major_locator(mpl.ticker.MaxNLocator(5))
        axes.set_ylabel(f"predicted ({unit})" if k == 0 else "")
        if k:
            axes.tick_params(labelleft=False)
    bar = figure.colorbar(
        image,
        ax=panels,
        orientation="horizontal",
        shrink=0.45,
        aspect=32,
        pad=0.04,
        format="{x:,.0f}",
    )
    bar.set_label("crystals in a hexagon (log scale)", fontsize=9.5)
    bar.outline.set_visible(False)
    bar.ax.minorticks_off()
    return figure


@_styled
def error_by_symmetry(
    frame: pd.DataFrame, *, column: str, label: str, hue: str | None = None, log: bool = True
) -> Figure:
    """Distribution of an error in each crystal system: median, middle half and middle 90 %.

    Args:
        frame: one row per crystal with `crystal_system` and `column`.
        column: the error.
        label: axis label with its unit.
        hue: column that tells several models apart.
        log: logarithmic error axis.
    """
    _require(frame, ["crystal_system", column, *([hue] if hue else [])])
    names = _system_names(frame["crystal_system"])
    groups = list(dict.fromkeys(frame[hue])) if hue else [None]
    palette = _colors([str(group) for group in groups])
    figure = _figure(height=1.1 + len(CRYSTAL_SYSTEMS) * (0.26 + 0.14 * len(groups)))
    axes = figure.add_subplot()
    ticks = []
    for row, system in enumerate(CRYSTAL_SYSTEMS):
        number = 0
        for k, group in enumerate(groups):
            pick = (names == system) & (
                np.ones(len(frame), bool) if group is None else (frame[hue] == group).to_numpy()
            )
            values = frame.loc[pick, column].to_numpy(dtype=float)
            number = max(number, len(values))
            if not len(values):
                continue
            y = row + (k - (len(groups) - 1) / 2) * 0.72 / len(groups)
            color = SYSTEM_COLORS[system] if group is None else palette[str(group)]
            p5, p25, p50, p75, p95 = np.quantile(values, [0.05, 0.25, 0.5, 0.75, 0.95])
            axes.plot([p5, p95], [y, y], color=color, linewidth=1.3)
            axes.plot(
                [p25, p75],
                [y, y],
                color=color,
                linewidth=8 if len(groups) < 3 else 5,
                solid_capstyle="butt",
                alpha=0.55,
            )
            axes.plot(
                p50,
                y,
                "o",
                color=color,
                markersize=6,
                markeredgecolor="white",
                markeredgewidth=0.9,
                zorder=4,
            )
        ticks.append(f"{system} ({number:,})")
    axes.set_yticks(range(len(ticks)), ticks)
    axes.set_ylim(len(ticks) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.set(xlabel=label, ylabel="crystal system (crystals)")
    if log:
        axes.set_xscale("log")
        _plain_log(axes.xaxis)
    axes.grid(axis="x")
    tone = "#4D4D4D"
    handles = [
        Line2D([], [], marker="o", ls="", color=tone, ms=6, label="median"),
        Line2D(
            [], [], color=tone, alpha=0.55, linewidth=8, solid_capstyle="butt", label="middle half"
        ),
        Line2D([], [], color=tone, linewidth=1.3, label="middle 90 %"),
    ]
    if hue:
        handles += [
            Line2D([], [], color=palette[str(g)], linewidth=4, label=_pretty(g)) for g in groups
        ]
    figure.legend(handles=handles, loc="outside upper center", ncols=3)
    return figure


@_styled
def error_against(
    quantities: Mapping[str, Array],
    error: Array,
    *,
    ylabel: str,
    bins: int = 8,
    min_count: int = 5,
) -> Figure:
    """Median and quantile bands of an error along quantities such as the cell volume.

    Args:
        quantities: axis label with unit -> [N], one panel each.
        error: [N].
        ylabel: with unit.
        bins: number of equally filled bins (fewer where many crystals have one value).
        min_count: bins with fewer crystals are not drawn.
    """
    error = _array(error).astype(float)
    figure = _figure(height=3.5)
    panels = figure.subplots(1, len(quantities), sharey=True, squeeze=False)[0]
    for axes, (label, values) in zip(panels, quantities.items(), strict=True):
        x = _array(values).astype(float)
        edges = np.unique(np.quantile(x, np.linspace(0, 1, bins + 1)))
        which = np.clip(np.digitize(x, edges[1:-1]), 0, max(len(edges) - 2, 0))
        groups = [which == k for k in np.unique(which) if (which == k).sum() >= min_count]
        if not groups:
            raise ValueError(
                f"no bin holds {min_count} or more of the {len(x)} crystals; use fewer bins"
            )
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


def _right_of(axes: Axes, y: float, text: str) -> None:
    """Text beside the row `y`, right of the plotting area."""
    axes.annotate(
        text, (1.01, y), xycoords=("axes fraction", "data"), va="center", ha="left", fontsize=9.5
    )


def _interval(axes: Axes, y: float, low: float, high: float, color: str) -> None:
    if np.isfinite(low) and np.isfinite(high):
        axes.plot(
            [low, high],
            [y, y],
            color=color,
            linewidth=2.4,
            alpha=0.55,
            solid_capstyle="round",
            zorder=3,
        )


@_styled
def fusion_comparison(
    frame: pd.DataFrame,
    *,
    xlabel: str,
    label: str = "fusion",
    value: str = "value",
    low: str = "low",
    high: str = "high",
    hue: str | None = None,
    reference: float | None = None,
    reference_label: str = "paper",
    digits: int = 3,
) -> Figure:
    """Dot plot with intervals, one row per method.

    Args:
        frame: one row per dot with the columns named below (an interval may be NaN).
        xlabel: with unit.
        label: column with the row names.
        value: column with the point.
        low: column with the lower end of the interval.
        high: column with the upper end of the interval.
        hue: column that tells several dots of one row apart.
        reference: value marked by a vertical line.
        reference_label: its name.
        digits: decimals of the printed values (without `hue`).
    """
    _require(frame, [label, value, low, high, *([hue] if hue else [])])
    names = list(dict.fromkeys(frame[label]))
    groups = [str(g) for g in dict.fromkeys(frame[hue])] if hue else [""]
    palette = _colors(groups)
    figure = _figure(
        height=0.95 + len(names) * (0.34 + 0.12 * (len(groups) - 1)) + (0.3 if hue else 0)
    )
    axes = figure.add_subplot()
    for _, row in frame.iterrows():
        k = groups.index(str(row[hue])) if hue else 0
        y = names.index(row[label]) + (k - (len(groups) - 1) / 2) * 0.62 / len(groups)
        color = palette[groups[k]] if hue else BLUE
        _interval(axes, y, row[low], row[high], color)
        axes.plot(row[value], y, "o", color=color, markersize=7, markeredgecolor="white", zorder=4)
        if not hue:
            _right_of(axes, y, f"{row[value]:.{digits}f}")
    if reference is not None:
        axes.axvline(reference, color=INK, linewidth=1.1, linestyle=(0, (4, 3)), zorder=1)
        axes.annotate(
            f" {reference_label} {reference:g}",
            (reference, 1.0),
            xycoords=("data", "axes fraction"),
            va="bottom",
            ha="center",
            fontsize=9.5,
        )
    axes.set_yticks(range(len(names)), [_pretty(name) for name in names])
    axes.set_ylim(len(names) - 0.45, -0.55)
    axes.set_xlabel(xlabel)
    axes.margins(x=0.14)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x")
    if hue:
        handles = [
            Line2D([], [], marker="o", color=palette[g], ms=6, label=_pretty(g)) for g in groups
        ]
        figure.legend(handles=handles, loc="outside upper center", ncols=min(4, len(groups)))
    return figure


@_styled
def missing_modality(
    frame: pd.DataFrame,
    *,
    label: str,
    digits: int = 3,
    lower_is_better: bool = True,
    row_label: str = "trained as",
    column_label: str = "available at test time",
) -> Figure:
    """Heat map of a metric: rows are models, columns the modalities given (NaN: cannot run).

    Args:
        frame: values; index and columns are the tick labels.
        label: metric with its unit.
        digits: decimals in the cells.
        lower_is_better: dark colour marks good values either way.
        row_label: label of the rows.
        column_label: label of the columns.
    """
    values = frame.to_numpy(dtype=float)
    figure = _figure(height=1.6 + 0.5 * len(frame))
    axes = figure.add_subplot()
    axes.set_facecolor("#ECEEF0")
    cmap = SEQUENTIAL.reversed() if lower_is_better else SEQUENTIAL
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)
    norm = mpl.colors.Normalize(low, high if high > low else low + 1)
    image = axes.imshow(np.ma.masked_invalid(values), cmap=cmap, norm=norm, aspect="auto")
    for i, j in np.ndindex(*values.shape):
        known = bool(np.isfinite(values[i, j]))
        color = _text_color(cmap(norm(values[i, j]))) if known else MUTED
        _write(axes, j, i, f"{values[i, j]:.{digits}f}" if known else "n/a", color=color)
    axes.set_xticks(
        range(frame.shape[1]), [_pretty(c).replace(" + ", "\n+ ") for c in frame.columns]
    )
    axes.set_yticks(range(frame.shape[0]), [_pretty(r) for r in frame.index])
    axes.set(xlabel=column_label, ylabel=row_label)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    bar = figure.colorbar(image, ax=axes, label=label, pad=0.02)
    bar.outline.set_visible(False)
    return figure


@_styled
def calibration(confidence: Array, correct: Array, *, bins: int = 15) -> Figure:
    """Reliability diagram: accuracy against stated confidence, and the crystals in each bin.

    Args:
        confidence: [N] largest predicted probability, 0..1.
        correct: [N] bool.
        bins: number of equally wide bins.
    """
    confidence, correct = _array(confidence).astype(float), _array(correct).astype(float)
    edges = np.linspace(0, 1, bins + 1)
    which = np.clip(np.digitize(confidence, edges[1:-1]), 0, bins - 1)
    number = np.bincount(which, minlength=bins)
    filled = number > 0
    stated = np.bincount(which, confidence, bins)[filled] / number[filled]
    found = np.bincount(which, correct, bins)[filled] / number[filled]
    ece = float(np.sum(number[filled] * np.abs(stated - found)) / max(number.sum(), 1))
    figure = _figure(width=5.2, height=5.0)
    axes, below = figure.subplots(2, 1, sharex=True, height_ratios=(3.4, 1))
    axes.plot(
        [0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=(0, (4, 3)), label="perfect calibration"
    )
    axes.vlines(stated, stated, found, color=RED, linewidth=5, alpha=0.35, label="gap")
    axes.plot(stated, found, "o-", color=BLUE, markersize=6, label="model")
    axes.set(
        ylabel="accuracy",
        xlim=(0, 1),
        ylim=(0, 1.02),
        title=f"expected calibration error {100 * ece:.1f} %",
    )
    axes.legend(loc="upper left")
    axes.grid()
    below.bar((edges[:-1] + edges[1:]) / 2, number, width=0.9 / bins, color="#9AA3AB")
    below.set(xlabel="stated confidence", ylabel="crystals")
    below.yaxis.set_major_formatter("{x:,.0f}")
    figure.align_ylabels([axes, below])
    return figure


@_styled
def paper_vs_ours(frame: pd.DataFrame, *, xlabel: str, digits: int = 2) -> Figure:
    """Published value, our reproduction and our best, a row per claim.

    Args:
        frame: columns `claim`, `paper`, `ours`, optional `ours_low`, `ours_high`, and the same of
            `reproduction` and `ours_refined`; NaN where there is no value.
        xlabel: with unit.
        digits: decimals of the printed values.
    """
    _require(frame, ["claim", "paper", "ours"])
    series = (
        ("paper", "D", INK, "paper"),
        ("reproduction", "s", ORANGE, "reproduction"),
        ("ours", "o", BLUE, "this book"),
        ("ours_refined", "^", GREEN, "this book, refined"),
    )
    shown = [entry for entry in series if entry[0] in frame.columns]
    figure = _figure(height=1.15 + len(frame) * 0.52)
    axes = figure.add_subplot()
    for y, (_, row) in enumerate(frame.iterrows()):
        axes.axhline(y, color="#EDEFF1", linewidth=1, zorder=0)
        points = []
        for k, (name, marker, color, _label) in enumerate(shown):
            if pd.isna(row[name]):
                points.append("–")
                continue
            at = y + (k - (len(shown) - 1) / 2) * 0.2
            _interval(
                axes, at, row.get(f"{name}_low", np.nan), row.get(f"{name}_high", np.nan), color
            )
            hollow = {"markerfacecolor": "white", "markeredgewidth": 1.6} if name == "paper" else {}
            axes.plot(row[name], at, marker, color=color, markersize=7, zorder=4, **hollow)
            points.append(f"{row[name]:.{digits}f}")
        _right_of(axes, y, " / ".join(points))
    axes.set_yticks(range(len(frame)), [_pretty(claim) for claim in frame["claim"]])
    axes.set_ylim(len(frame) - 0.45, -0.55)
    axes.set_xlabel(xlabel)
    axes.margins(x=0.08)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x")
    handles = [
        Line2D(
            [],
            [],
            marker=marker,
            ls="",
            color=color,
            ms=7,
            label=label,
            **({"markerfacecolor": "white", "markeredgewidth": 1.6} if name == "paper" else {}),
        )
        for name, marker, color, label in shown
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=3)
    return figure
