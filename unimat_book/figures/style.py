"""One visual style for all figures, and the pieces they are drawn from.

Each figure function takes plain data (tables, tensors, arrays, frames), returns a `Figure` of
matplotlib and touches no global state: no pyplot, no settings at import. A returned figure draws
itself in a notebook as a compact PNG. Colours are those of Okabe and Ito, chosen to be told apart
with any kind of colour vision; a crystal system and a modality keep their colour through the book.
"""

from __future__ import annotations

import contextlib
import functools
import io
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch, Rectangle

from unimat_lib.crystals.table import CRYSTAL_SYSTEMS

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


def row_axis(axes: Axes, labels: Sequence[str], room: float) -> None:
    """One labelled row per entry from the top down, `room` rows above the first."""
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 1 + room, -room)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x")


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


def styled(function: Callable[..., Figure]) -> Callable[..., Figure]:
    """Run a figure function inside `style()`, ticks included (made when first drawn)."""

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Figure:
        with style():
            figure = function(*args, **kwargs)
            for _ in range(2):  # the second pass settles the layout
                figure.draw_without_rendering()
        return figure

    return wrapper


def new_figure(height: float, width: float = PAGE_WIDTH, layout: str = "constrained") -> BookFigure:
    figure = BookFigure(figsize=(width, height), layout=layout)
    figure.get_layout_engine().set(w_pad=0.06, h_pad=0.05)
    return figure


def new_canvas(width: float, height: float) -> tuple[BookFigure, Axes]:
    """A blank drawing board whose data coordinates are inches."""
    figure = BookFigure(figsize=(width, height))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(0, height), aspect="equal")
    axes.axis("off")
    return figure, axes


def as_array(values: Array) -> np.ndarray:
    """NumPy view of a tensor on any device, an array, a Series or a sequence."""
    if hasattr(values, "detach"):
        values = values.detach().cpu().numpy()
    return np.asarray(values)


def system_names(values: Array) -> np.ndarray:
    """Crystal-system names from names or from indices 0..6."""
    values = as_array(values)
    if values.dtype.kind in "iu":
        return np.asarray(CRYSTAL_SYSTEMS, dtype=object)[values]
    unknown = sorted(set(values.astype(str)) - set(CRYSTAL_SYSTEMS))
    if unknown:
        raise ValueError(f"expected crystal systems from {CRYSTAL_SYSTEMS}, got {unknown}")
    return values.astype(object)


def require_columns(frame: pd.DataFrame, columns: Sequence[str]) -> None:
    missing = [name for name in columns if name not in frame.columns]
    if missing:
        raise ValueError(f"the frame lacks {missing}; it has {list(frame.columns)}")


def label_colors(labels: Sequence[str]) -> dict[str, str]:
    """Fixed colour for a modality or a crystal system, the palette in order for anything else."""
    fixed = {**SYSTEM_COLORS, **MODALITY_COLORS}
    taken = {fixed[label] for label in labels if label in fixed}
    rest = itertools.cycle([color for color in PALETTE if color not in taken])
    return {label: fixed[label] if label in fixed else next(rest) for label in labels}


def soften(color: Any, amount: float) -> tuple[float, ...]:
    """Mix a colour with white."""
    return tuple(channel + (1 - channel) * amount for channel in to_rgb(color))


def modality_text(label: Any) -> str:
    """Names of modalities as the book prints them: 'xrd+composition' -> 'XRD + composition'."""
    parts = [part.strip() for part in str(label).split("+")]
    if not all(part in MODALITY_NAMES for part in parts):
        return str(label)
    return " + ".join(MODALITY_NAMES[part] for part in parts)


def plain_log(axis: Any) -> None:
    """Ticks of a logarithmic axis at 1, 2, 5 (or at powers of ten), written as plain numbers."""
    low, high = axis.get_view_interval()
    wide = high / max(low, 1e-12) > 200
    axis.set_major_locator(mpl.ticker.LogLocator(subs=(1.0,) if wide else (1.0, 2.0, 5.0)))
    axis.set_major_formatter(mpl.ticker.FuncFormatter(lambda value, _: f"{value:,g}"))
    axis.set_minor_formatter(mpl.ticker.NullFormatter())


def text_color(rgba: Sequence[float]) -> str:
    luminance = 0.299 * rgba[0] + 0.587 * rgba[1] + 0.114 * rgba[2]
    return "white" if luminance < 0.55 else INK


def write_text(axes: Axes, x: float, y: float, text: str, **kwargs: Any) -> None:
    """Text centred on (x, y) unless `ha` and `va` say otherwise."""
    axes.text(x, y, text, **{"ha": "center", "va": "center", "size": 9.5, **kwargs})


def draw_segment(axes: Axes, start: Sequence[float], end: Sequence[float], **kwargs: Any) -> None:
    axes.plot([start[0], end[0]], [start[1], end[1]], **kwargs)


def draw_disc(axes: Axes, centre: Sequence[float], radius: float, **kwargs: Any) -> None:
    axes.add_patch(Circle(centre, radius, **{"ec": "white", "zorder": 5, **kwargs}))


def draw_tile(axes: Axes, x: float, y: float, width: float, height: float, **kwargs: Any) -> None:
    axes.add_patch(Rectangle((x, y), width, height, **{"ec": "none", "zorder": 4, **kwargs}))


def draw_box(
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
    write_text(axes, x + width / 2, y + height / 2, text, **look)


def draw_arrow(
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
