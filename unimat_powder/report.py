"""Answers in, pages of HTML out: one a file with its curves and candidates, and an index of all.

The pages need nothing but themselves (figures are SVG in the page), on a screen or a phone.
"""

import html
import io
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from unimat_lib.files import replacing
from unimat_powder.answer import (
    CONFIDENT,
    LEFT_OVER,
    PERCENTAGES,
    TENTATIVE,
    Answer,
    Cell,
    Curves,
    Match,
    percent,
    printable,
    symbol_parts,
)
from unimat_powder.index.standard_errors import RefinedCell
from unimat_powder.peak_warnings import FEWEST_TO_PROVE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# The colours of the book's figures (Okabe and Ito): to be told apart with any colour vision.
_INK, _MUTED, _GREY, _LIGHT = "#222222", "#6B6B6B", "#9AA3AB", "#D5D9DD"
_BLUE, _ORANGE, _GREEN, _RED = "#0072B2", "#E69F00", "#009E73", "#D55E00"
_VERDICT = {"confident": _GREEN, "tentative": _ORANGE, "none": _MUTED, "error": _RED}

_BINS = 1200  # of a drawn curve, each with its lowest and highest point: finer than a screen
_NO_METADATA = ("Creator", "Date", "Format", "Type")  # of the SVG of matplotlib
_SIZES = {"wide": (10.2, 5.6), "narrow": (4.3, 5.2)}  # inches; text has one size in both

_STYLE = f"""
:root {{ color: {_INK}; font: 16px/1.5 system-ui, "Segoe UI", Roboto, Arial, sans-serif }}
body {{ max-width: 1080px; margin: 0 auto; padding: 1.2rem 1rem 3rem; background: #fff }}
h1 {{ font-size: 1.25rem; margin: 0; overflow-wrap: anywhere }}
h2 {{ font-size: 1.05rem; margin: 2rem 0 .5rem }}
a {{ color: {_BLUE} }}
.top {{ display: flex; flex-wrap: wrap; gap: .4rem 1rem; align-items: baseline;
  justify-content: space-between; border-bottom: 2px solid {_LIGHT}; padding-bottom: .6rem }}
.best {{ font-size: 2rem; line-height: 1.2; margin: 1rem 0 .2rem }}
.best small {{ font-size: 1.1rem; color: {_MUTED}; white-space: nowrap }}
.chip {{ color: #fff; border-radius: 1rem; padding: .1rem .7rem; font-size: .85rem;
  white-space: nowrap }}
.muted {{ color: {_MUTED} }}
.scroll {{ overflow-x: auto }}
table {{ border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }}
th {{ text-align: left; color: {_MUTED}; font-weight: 500; font-size: .85rem }}
th, td {{ padding: .35rem .9rem .35rem 0; border-bottom: 1px solid {_LIGHT}; white-space: nowrap }}
sub {{ line-height: 0; font-size: .75em }}
.over {{ text-decoration: overline }}
td.text {{ white-space: normal; overflow-wrap: anywhere; min-width: 9rem }}
.bar {{ display: inline-block; vertical-align: middle; width: 5rem; height: .55rem;
  background: #EEF1F3; border-radius: .3rem; margin-right: .5rem }}
.bar i {{ display: block; height: 100%; border-radius: .3rem; background: {_BLUE} }}
.columns {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(20rem, 1fr));
  gap: 0 2.5rem }}
.warnings {{ border-left: 4px solid {_ORANGE}; background: #FDF6E7; padding: .5rem 1rem;
  margin: 1rem 0; overflow-wrap: anywhere }}
.warnings p {{ margin: .25rem 0 }}
figure {{ margin: 1rem 0 0 }}
figure svg {{ width: 100%; height: auto; display: block }}
figcaption {{ color: {_MUTED}; font-size: .85rem }}
.narrow {{ display: none }}
@media (max-width: 640px) {{
  .wide {{ display: none }}
  .narrow {{ display: block }}
  .best {{ font-size: 1.6rem }}
  .columns {{ grid-template-columns: minmax(0, 1fr) }}
  .bar {{ display: none }}
  th, td {{ padding-right: .7rem }}
  .files tr {{ display: block; padding: .6rem 0; border-bottom: 1px solid {_LIGHT} }}
  .files tr:has(th) {{ display: none }}
  .files td {{ display: inline-block; padding: .1rem .8rem .1rem 0; border: 0 }}
  .files td.text {{ display: block }}
}}
"""
_MARK = '<meta name="generator" content="unimat identify">'


def page_name(number: int, file: str) -> str:
    """Name of the page of the file at a place (from 1); the same file twice has two pages."""
    stem = re.sub(r"[^A-Za-z0-9._-]+", "_", Path(file).name)[:60].strip("._") or "pattern"
    return f"{number:03d}-{stem}.html"


def write_page(answer: Answer, path: Path) -> None:
    """Write the page of one answered file; ``index.html`` is expected beside it."""
    name = _text(answer.file)
    parts = [
        f'<div class="top"><h1>{name}</h1><a href="index.html">all files</a></div>',
        _headline(answer),
        _warnings(answer.warnings),
        _figure(answer.curves),
        "<h2>Candidates</h2>",
        _phase_table(answer.phases),
        _meaning("phase") if answer.phases else "",
    ]
    if answer.second_phase:
        parts += [
            "<h2>Perhaps a second phase</h2>",
            "<p>What may have made the lines that the first candidate leaves:</p>",
            _phase_table(answer.second_phase),
        ]
    if answer.cells:  # else nothing is known of the crystal
        parts += [_cell_section(answer.cells), _refined_section(answer.refined)]
        parts += [_class_section(answer)]
    parts += [
        "<h2>What was given</h2>",
        f"<p>Wavelength: {_text(answer.wavelength_text)}.<br>",
        f"Elements: {_text(answer.asked_text)}.</p>",
        '<p class="muted">Confident means that the cell and its crystal system have a probability '
        f"of at least {_percent(CONFIDENT)}, and that of {FEWEST_TO_PROVE} lines or more the cell "
        f"leaves at most {_percent(LEFT_OVER)} unexplained, strong ones counting more; tentative "
        f"means a probability of at least {_percent(TENTATIVE)}. Cells, crystal systems and space "
        "groups weigh what the library, the lines and the network say "
        "together.</p>",
    ]
    _write(path, name, "\n".join(parts))


def index_row(answer: Answer, page: str) -> str:
    """The row of one file in the index; a file that could not be answered has no page."""
    name = _text(answer.file)
    if answer.error is not None:
        message = f'<td class="text" colspan="3">{_text(answer.error)}</td>'
        return f'<tr><td class="text">{name}</td><td>{_chip("error")}</td>{message}</tr>'
    cells = ["", "", ""]
    if answer.cells:
        cells[0] = f"{answer.system} {_percent(answer.crystal_system[answer.system])}"
    if answer.phases:
        best = answer.phases[0]
        cells[1] = f"{_formula(best.formula)}, {_group(best.space_group)}"
        cells[2] = _bar(best.probability)
    link = f'<a href="{html.escape(page)}">{name}</a>'
    rest = "".join(f"<td>{cell}</td>" for cell in (_chip(answer.verdict), *cells))
    return f'<tr><td class="text">{link}</td>{rest}</tr>'


def write_index(rows: Sequence[str], path: Path) -> None:
    """Write the page that lists all files, from the rows of :func:`index_row`."""
    count = f"{len(rows)} file{'' if len(rows) == 1 else 's'}"
    head = ("file", "verdict", "crystal system", "likeliest crystal", "its probability")
    body = f'<div class="top"><h1>{count}</h1></div>{_table(head, rows, "files")}'
    _write(path, count, body)


def draw(curves: Curves, size: tuple[float, float]) -> "Figure":
    """Measured and computed curve, ticks at the lines, and the difference below.

    Args:
        curves: What to draw; without a computed curve, the measured one alone.
        size: Width and height in inches.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    x = curves.two_theta
    figure = Figure(figsize=size, layout="constrained")
    alone = curves.computed is None
    heights = [1] if alone else [6, 0.45, 1.5]
    panels = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights, squeeze=False)
    main = panels[0, 0]
    main.set_yscale("function", functions=(_root, np.square))
    main.plot(*_thinned(x, curves.measured), color=_INK, lw=0.9, label="measured")
    if curves.background is not None:
        main.plot(*_thinned(x, curves.background), color=_GREEN, lw=1, label="background")
    top = curves.measured.max()
    if curves.computed is not None:
        main.plot(*_thinned(x, curves.computed), color=_RED, lw=0.9, label="computed")
        top = max(top, curves.computed.max())
        ticks, below = panels[1:, 0]
        inside = curves.ticks[(curves.ticks >= x[0]) & (curves.ticks <= x[-1])]
        ticks.vlines(inside, 0, 1, color=_BLUE, lw=0.8, label="its lines")
        ticks.set(ylim=(-0.1, 1.1))
        ticks.axis("off")
        # Of roots: counting noise is as wide at a strong line as beside it, and a misfit shows.
        difference = _root(curves.measured) - _root(curves.computed)
        below.axhline(0, color=_LIGHT, lw=0.8)
        below.plot(*_thinned(x, difference), color=_MUTED, lw=0.8)
        below.set_ylabel("difference\nof roots")
        below.yaxis.set_major_locator(MaxNLocator(3))
    lowest = max(float(curves.measured.min()), 0.0)
    main.set(xlim=(x[0], x[-1]), ylim=(0.8 * lowest, 1.08 * top), ylabel="intensity, root scale")
    main.yaxis.set_major_locator(MaxNLocator(5))
    panels[-1, 0].set_xlabel("2θ, degrees")
    handles = [handle for panel in panels[:, 0] for handle in panel.get_legend_handles_labels()[0]]
    columns = len(handles) if size[0] > 6 else 2
    figure.legend(handles=handles, loc="outside upper left", ncols=columns, frameon=False)
    for panel in (main, panels[-1, 0]):
        panel.spines[["top", "right"]].set_visible(False)
    return figure


def _svg(curves: Curves, name: str) -> str:
    """The drawing at one size as an element of a page."""
    import matplotlib as mpl

    settings = {
        "svg.fonttype": "none",  # text stays text: small, and to be searched
        "svg.hashsalt": name,  # two drawings of a page must not share the names of their parts
        "font.size": 10.5,
        "font.family": "sans-serif",
        "axes.edgecolor": _MUTED,
        "xtick.color": _MUTED,
        "ytick.color": _MUTED,
        "xtick.labelcolor": _INK,
        "ytick.labelcolor": _INK,
        "axes.formatter.limits": (-4, 5),
    }
    buffer = io.StringIO()
    with mpl.rc_context({**mpl.rcParamsDefault, **settings, "backend": mpl.get_backend()}):
        figure = draw(curves, _SIZES[name])
        figure.savefig(buffer, format="svg", metadata=dict.fromkeys(_NO_METADATA))
    text = buffer.getvalue()
    # Figures of matplotlib name their groups alike; a page must not hold one name twice.
    text = re.sub(r'<g id="([^"]+)">', rf'<g id="{name}-\1">', text[text.index("<svg") :])
    return f'<div class="{name}">{text}</div>'


def _thinned(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A curve with fewer points that looks the same: the lowest and highest of each bin."""
    size = math.ceil(len(x) / _BINS)
    if size <= 2:
        return x, y
    starts = np.arange(0, len(x), size)
    short = len(starts) * size - len(x)
    rows = np.pad(y, (0, short), mode="edge").reshape(-1, size)
    extremes = np.stack([rows.argmin(1), rows.argmax(1)]) + starts
    keep = np.unique(np.minimum(np.append(extremes, [0, len(x) - 1]), len(x) - 1))
    return x[keep], y[keep]


def _root(values: np.ndarray) -> np.ndarray:
    return np.sqrt(np.maximum(values, 0))


def _figure(curves: Curves | None) -> str:
    if curves is None:
        return ""
    drawings = "".join(_svg(curves, name) for name in _SIZES)
    what = "Measured pattern, on a root scale that shows weak lines"
    if curves.computed is not None:
        what = (
            "Measured pattern and the one computed from the first candidate, on a root scale that "
            "shows weak lines; where its lines are; root of measured minus root of computed"
        )
    return f"<figure>{drawings}<figcaption>{what}.</figcaption></figure>"


def _headline(answer: Answer) -> str:
    """What the page says first; a candidate that is not to be relied on is not named there."""
    if answer.verdict == "none":
        words = "Nothing was found that fits."
        if answer.cells:
            words = "The candidates below are the likeliest; none of them is to be relied on."
        return f'<p class="best">No confident answer</p><p>{words}</p>'
    cell = answer.cells[0]
    edges = " × ".join(f"{x:.3f}" for x in cell.conventional[:3])
    line = f"{answer.system.capitalize()} <small>{cell.letters} {edges} Å</small>"
    for best in answer.phases[:1]:  # else the cell is known, but not which crystal has it
        if best.probability >= TENTATIVE and answer.agrees(best):
            line = f"{_formula(best.formula)} <small>{_group(best.space_group)}</small>"
    words = _text(answer.verdict_text)
    words = f"{words[:1].upper()}{words[1:]}. {_sentence('verdict')}"
    return f'<p class="best">{line} {_chip(answer.verdict)}</p><p class="muted">{words}</p>'


def _phase_table(phases: Sequence[Match]) -> str:
    if not phases:
        return "<p>None.</p>"
    head = ("", "formula", "probability", "space group", "score", "figure of merit", "material")
    rows = []
    for rank, match in enumerate(phases, 1):
        merit = f"{match.figure_of_merit:.1f}" if math.isfinite(match.figure_of_merit) else "–"
        cells = (
            f"{rank}",
            _formula(match.formula),
            _bar(match.probability),
            _group(match.space_group),
            f"{match.score:.3f}",
            merit,
            _text(match.material_id),
        )
        rows.append(f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>")
    return _table(head, rows)


def _class_section(answer: Answer) -> str:
    """Crystal systems and space groups, beside each other where there is room."""
    systems = sorted(answer.crystal_system.items(), key=lambda item: -item[1])
    groups = [(_group(n), p) for n, p in answer.space_group[:7] if p >= 0.005]
    sections = (
        f"<section><h2>{name.capitalize()}</h2>{_shares(shares)}{_meaning(name)}</section>"
        for name, shares in (("crystal system", systems), ("space group", groups))
    )
    return f'<div class="columns">{"".join(sections)}</div>'


def _cell_section(cells: Sequence[Cell]) -> str:
    head = ("probability", "lattice", "a", "b", "c", "α", "β", "γ", "volume")
    rows = []
    for cell in cells:
        niggli = (*cell.lengths, *cell.angles)
        for start, letters, numbers, volume in (
            (_bar(cell.probability), cell.letters, cell.conventional, cell.conventional_volume),
            ("", "Niggli", niggli, cell.volume),
        ):
            values = [start, letters, *(f"{x:.4f}" for x in numbers[:3])]
            values += [*(f"{x:.2f}" for x in numbers[3:]), f"{volume:.2f}"]
            rows.append(f"<tr>{''.join(f'<td>{value}</td>' for value in values)}</tr>")
    note = (
        "Each cell twice, relaxed to the pattern: the conventional one with the letters of its "
        "Bravais lattice, its axes in the order of the lattice and not of a space group's setting; "
        "and the primitive Niggli cell. Lengths in ångström, angles in degrees, volumes in cubic "
        "ångström."
    )
    meaning = _meaning("cell")
    return f'<h2>Cells</h2>{_table(head, rows)}{meaning}<p class="muted">{note}</p>'


def _refined_section(refined: RefinedCell | None) -> str:
    """The first cell with its standard errors, and what it makes of each line."""
    if refined is None:
        return ""
    said = "<br>".join(_text(text) for text in refined.texts())
    head = ("line", "h k l", "2θ observed", "2θ computed", "difference", "intensity")
    rows = []
    for number, line in enumerate(refined.lines, 1):
        cells = ["<b>not explained</b>", f"{line.two_theta:.4f}", "–", "–"]
        if line.hkl is not None and line.computed is not None:
            off = line.two_theta - line.computed
            cells = [" ".join(map(str, line.hkl)), f"{line.two_theta:.4f}"]
            cells += [f"{line.computed:.4f}", f"{off:+.4f}".replace("-", "−")]
        cells = [f"{number}", *cells, f"{100 * line.share:.1f}"]
        rows.append(f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>")
    note = (
        "The first cell in its conventional form, refined to these lines within its lattice; "
        "angles in degrees, zero shift and displacement within the computed ones, intensities in "
        "per cent of the strongest line's. At most the forty lowest lines are compared. Errors and "
        "indices hold if the cell and its lattice are right."
    )
    lines = _table(head, rows) if rows else ""
    return f'<h2>Lines of the first cell</h2><p>{said}</p>{lines}<p class="muted">{note}</p>'


def _meaning(name: str) -> str:
    """What the percentages of a table are of, as a paragraph."""
    return f'<p class="muted">{_sentence(name)}</p>'


def _sentence(name: str) -> str:
    return f"The percentage is the probability {_text(PERCENTAGES[name])}."


def _shares(shares: Sequence[tuple[str, float]]) -> str:
    """A table of names, which are HTML, and their shares."""
    rows = [f"<tr><td>{name}</td><td>{_bar(share)}</td></tr>" for name, share in shares]
    return f"<table>{''.join(rows)}</table>"


def _warnings(warnings: Sequence[str]) -> str:
    if not warnings:
        return ""
    lines = "".join(f"<p>{_text(line[:1].upper() + line[1:])}</p>" for line in warnings)
    return f'<div class="warnings">{lines}</div>'


def _table(head: Sequence[str], rows: Sequence[str], kind: str = "scroll") -> str:
    names = "".join(f"<th>{name}</th>" for name in head)
    return f'<div class="{kind}"><table><tr>{names}</tr>{"".join(rows)}</table></div>'


def _bar(share: float) -> str:
    width = f"{100 * min(max(share, 0.0), 1.0):.0f}"
    return f'<span class="bar"><i style="width:{width}%"></i></span>{_percent(share)}'


def _chip(verdict: str) -> str:
    words = {"none": "no confident answer", "error": "not read"}.get(verdict, verdict)
    return f'<span class="chip" style="background:{_VERDICT[verdict]}">{words}</span>'


def _percent(share: float) -> str:
    return html.escape(percent(share)).replace(" ", "&nbsp;")


def _formula(formula: str) -> str:
    """A formula with its amounts set low."""
    return re.sub(r"(?<=[A-Za-z)\]])(\d+(?:\.\d+)?)", r"<sub>\1</sub>", _text(formula))


def _group(number: int) -> str:
    """Symbol of a space group as it is printed, screw axes set low and inversions overlined."""
    letter, *axes = symbol_parts(number)
    symbol = re.sub(r"-(\d)", r'<span class="over">\1</span>', "&#8202;".join(axes))
    symbol = re.sub(r"\b([2346])([1-5])(?=/|\b)", r"\1<sub>\2</sub>", symbol)
    return f"<i>{letter}</i>{symbol} ({number})"


def _text(text: str) -> str:
    """Any text as it may stand in a page."""
    return html.escape(printable(text))


def is_ours(path: Path) -> bool:
    """Whether a page was written here, so that a new report may replace it."""
    with path.open(encoding="utf-8", errors="replace") as file:
        return _MARK in file.read(1000)


def _write(path: Path, title: str, body: str) -> None:
    """Write a whole page or none."""
    page = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"{_MARK}"
        f"<title>{title}</title><style>{_STYLE}</style></head>\n<body>\n{body}\n</body></html>\n"
    )
    with replacing(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
