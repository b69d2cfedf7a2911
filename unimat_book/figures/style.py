"""One visual style for all figures: colours, sizes, and a figure that shows itself in a page.

Each figure function takes plain data (tables, tensors, arrays, frames), returns a `Figure` of
matplotlib and touches no global state: no pyplot, no settings at import. A returned figure draws
itself in a notebook as SVG of at most `svg.MAX_BYTES` (as PNG where that cannot be), the same bytes
each time, and brings along a second layout, 3.7 inches wide, that pages show on telephones: the
function is called once more while `is_narrow()`, so it must neither use up nor change what it is
given. It draws dark on white; the pages' dark mode turns lightness around and keeps hues (see
`_static/book.css`). Colours are those of Okabe and Ito, chosen to be told apart with any kind of
colour vision; a crystal system and a modality keep their colour through the book.
"""

import base64
import contextlib
import functools
import io
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import matplotlib as mpl
import matplotlib.style
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_rgb
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.text import Text

from unimat_book.figures import NARROW_MIME
from unimat_book.figures.narrow import LINE, STACKED, WIDTH, fit, is_narrow, narrow_page
from unimat_book.figures.svg import compact_svg
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

PAGE_WIDTH = 7.2  # inches, 691 pixels: the column of a page
MAX_PNG_BYTES = 110_000

_STYLE: dict[str, Any] = {
    **dict.fromkeys(("figure.dpi", "savefig.dpi"), 120),
    "font.size": 10.5,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 10.5,
    **dict.fromkeys(("axes.spines.top", "axes.spines.right"), False),
    "axes.axisbelow": True,
    "axes.prop_cycle": mpl.cycler(color=PALETTE),
    "grid.color": "#E4E7EA",
    **dict.fromkeys(("xtick.color", "ytick.color"), MUTED),
    **dict.fromkeys(("xtick.labelcolor", "ytick.labelcolor"), INK),
    **dict.fromkeys(("xtick.labelsize", "ytick.labelsize", "legend.fontsize"), 9.5),
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "lines.solid_capstyle": "round",
}


@contextlib.contextmanager
def style() -> Iterator[None]:
    """The book's look on top of matplotlib's defaults; the previous settings come back on exit."""
    with mpl.style.context(["default", _STYLE]):
        yield


class BookFigure(Figure):
    """A figure that shows itself in a notebook without pyplot, as SVG in two layouts.

    Attributes:
        again: Draws the figure anew; None where no figure function has drawn it.
    """

    again: Callable[[], Figure] | None = None

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

    def narrow(self) -> Figure | None:
        """The same figure for a telephone; None where no figure function has drawn it."""
        if self.again is None:
            return None
        with narrow_page():
            return self.again()

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        """The wide layout for every reader, the narrow one for the builder of the pages."""
        wide = compact_svg(self)
        if wide is None:
            return {"image/png": base64.b64encode(self.png()).decode()}
        figure = self.narrow()
        narrow = compact_svg(figure) if figure else None
        return {"image/svg+xml": wide} | ({NARROW_MIME: narrow} if narrow else {})

    def subplots(self, nrows: int = 1, ncols: int = 1, **kwargs: Any) -> Any:
        """Panels as in matplotlib; in a narrow layout one below the other, row by row."""
        if ncols == 1 or not is_narrow():
            return super().subplots(nrows, ncols, **kwargs)
        self.set_figheight(STACKED * ncols * self.get_figheight())
        squeeze = kwargs.pop("squeeze", True)
        kwargs.pop("width_ratios", None)
        panels = super().subplots(nrows * ncols, 1, squeeze=False, **kwargs).reshape(nrows, ncols)
        return panels[0] if squeeze and nrows == 1 else panels

    def legend(self, *args: Any, ncols: int = 1, **kwargs: Any) -> Legend:
        """A legend as in matplotlib; in a narrow layout with as many columns as fit."""
        if not is_narrow():
            return super().legend(*args, ncols=ncols, **kwargs)
        if kwargs.get("loc", "").startswith("outside right"):
            kwargs["loc"], ncols = "outside lower center", 4
        looks = {"handlelength": 1.4, "columnspacing": 1.2, **kwargs}
        legend = super().legend(*args, ncols=ncols, **looks)
        rows = -(-len(legend.get_texts()) // ncols)
        while ncols > 1 and legend.get_window_extent().width > 0.97 * self.bbox.width:
            legend.remove()
            ncols -= 1
            legend = super().legend(*args, ncols=ncols, **looks)
        more = -(-len(legend.get_texts()) // ncols) - rows
        self.set_figheight(self.get_figheight() + LINE * more)
        return legend


def styled(function: Callable[..., Figure]) -> Callable[..., Figure]:
    """Run a figure function inside `style()`, ticks included (made when first drawn).

    The figure can be drawn once more, for a narrow page: arguments must not be used up.
    """

    def draw(*args: Any, **kwargs: Any) -> Figure:
        with style():
            figure = function(*args, **kwargs)
            for text in figure.findobj(Text):
                text.set_color(readable(text.get_color()))
            if is_narrow():
                fit(figure)
            for _ in range(2):  # the second pass settles the layout
                figure.draw_without_rendering()
        return figure

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Figure:
        figure = draw(*args, **kwargs)
        figure.again = functools.partial(draw, *args, **kwargs)
        return figure

    return wrapper


def new_figure(height: float, width: float = PAGE_WIDTH, layout: str = "constrained") -> BookFigure:
    """An empty figure; sizes in inches. On a narrow page it is narrower, a small one lower too."""
    if is_narrow():
        height *= 1 if width == PAGE_WIDTH else (1 + WIDTH / width) / 2
        width = WIDTH
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
    """Raise a ValueError that names the columns which the frame lacks."""
    missing = [name for name in columns if name not in frame.columns]
    if missing:
        raise ValueError(f"the frame lacks {missing}; it has {list(frame.columns)}")


def label_colors(labels: Sequence[str]) -> dict[str, str]:
    """Fixed colour for a modality or a crystal system, the palette in order for anything else."""
    fixed = {**SYSTEM_COLORS, **MODALITY_COLORS}
    taken = {fixed[label] for label in labels if label in fixed}
    rest = itertools.cycle([color for color in PALETTE if color not in taken])
    return {label: fixed[label] if label in fixed else next(rest) for label in labels}


def luminance(color: Any) -> float:
    """Relative luminance of a colour, as WCAG has it."""
    channels = np.array(to_rgb(color))
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ (0.2126, 0.7152, 0.0722))


def readable(color: Any) -> tuple[float, ...]:
    """The colour of a text, darker where it is too faint on white; white itself is for dark."""
    channels = to_rgb(color)
    while 0.175 < luminance(channels) < 0.9:  # 4.7 to 1
        channels = tuple(0.97 * channel for channel in channels)
    return channels


def soften(color: Any, amount: float) -> tuple[float, ...]:
    """Mix a colour with white."""
    return tuple(channel + (1 - channel) * amount for channel in to_rgb(color))


def modality_text(label: Any) -> str:
    """Names of modalities as the book prints them: 'xrd+composition' -> 'XRD + composition'."""
    parts = [part.strip() for part in str(label).split("+")]
    if not all(part in MODALITY_NAMES for part in parts):
        return str(label)
    return " + ".join(MODALITY_NAMES[part] for part in parts)
