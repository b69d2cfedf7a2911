"""Packages below a folder in, a drawing of who imports whom out.

``make imports`` draws this tree. The tree before it had packages was drawn from its commit:

    git archive ee055f9 unimat_lib | tar -x -C /tmp/before
    python .ci/draw_imports.py _static/imports_before.svg /tmp/before
"""

from __future__ import annotations

import io
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import grimp
import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

PACKAGES = ("unimat_lib", "unimat_powder", "unimat_book")  # what stands lower comes first
COLORS = dict(zip(PACKAGES, ("#0072B2", "#009E73", "#E69F00"), strict=True))
CIRCLE = "#D55E00"
BOX, PITCH, MARGIN = 0.17, (0.052, 0.34), 0.12  # inches: height; width a letter, height a row


class Imports:
    """The imports below a folder, without those that follow from others.

    Args:
        folder: What holds the packages.

    Attributes:
        modules: Modules, without the empty ``__init__`` of packages.
        arrows: Importer and imported.
        circles: Those of ``arrows`` that lie on a way from a module to itself.
    """

    def __init__(self, folder: Path) -> None:
        sys.path.insert(0, str(folder))
        packages = [name for name in PACKAGES if (folder / name).is_dir()]
        graph = grimp.build_graph(*packages, cache_dir=None)
        below = {m: sorted(graph.find_modules_directly_imported_by(m)) for m in graph.modules}
        used = {m for imported in below.values() for m in imported}
        empty = {m for m in below if graph.find_children(m) and not below[m] and m not in used}
        self.modules = sorted(below.keys() - empty)
        pairs = [(a, b) for a in self.modules for b in below[a]]
        reach = {a: graph.find_upstream_modules(a) for a in self.modules}
        self.circles = {(a, b) for a, b in pairs if a in reach[b]}
        self.arrows = [
            (a, b)
            for a, b in pairs
            if (a, b) in self.circles
            or not any(b in reach[c] for c in below[a] if (a, c) not in self.circles and c != b)
        ]
        self._below = {a: [b for b in below[a] if (a, b) not in self.circles] for a in below}

    def rows(self) -> list[tuple[str, list[str]]]:
        """Package and modules of each row from below; a module stands above what it imports."""
        rows = []
        for package in PACKAGES:
            levels: dict[str, int] = {}
            own = [m for m in self.modules if m.split(".")[0] == package]
            for module in own:
                self._level(module, levels)
            by_level = defaultdict(list)
            for module in own:
                by_level[levels[module]].append(module)
            rows += [(package, by_level[level]) for level in sorted(by_level)]
        return rows

    def _level(self, module: str, levels: dict[str, int]) -> int:
        if module not in levels:
            package = module.split(".")[0]
            lower = [m for m in self._below[module] if m.split(".")[0] == package]
            levels[module] = 1 + max((self._level(m, levels) for m in lower), default=-1)
        return levels[module]


def imports(found: Imports) -> Figure:
    """Draw rows of modules, one band of rows per package, and an arrow per import."""
    rows = _arranged(found)
    width = max(sum(_width(m) for m in row) for _, row in rows) + 2 * MARGIN
    height = len(rows) * PITCH[1] + 0.4
    figure = Figure(figsize=(width, height))
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(-0.3, height - 0.3))
    axes.axis("off")
    place = {}
    for number, (package, row) in enumerate(rows):
        gap = (width - sum(map(_width, row))) / (len(row) + 1)
        x, y = gap, number * PITCH[1]
        axes.axhspan(y - PITCH[1] / 2, y + PITCH[1] / 2, color=COLORS[package], alpha=0.07, lw=0)
        for module in row:
            place[module] = (x + _width(module) / 2, y)
            x += _width(module) + gap
    for module, (x, y) in place.items():
        _box(axes, module, x, y)
    for arrow in found.arrows:
        _arrow(axes, *(place[module] for module in arrow), circle=arrow in found.circles)
    for package in PACKAGES:
        numbers = [n for n, (name, _) in enumerate(rows) if name == package]
        if numbers:
            top = (max(numbers) + 0.48) * PITCH[1]
            axes.text(0.04, top, package, color=COLORS[package], size=8, weight="bold", va="top")
    return figure


def _arranged(found: Imports) -> list[tuple[str, list[str]]]:
    """The rows, each module near the middle of its neighbours, so that few arrows cross."""
    rows = found.rows()
    near = defaultdict(list)
    for a, b in found.arrows:
        near[a].append(b)
        near[b].append(a)
    place = {m: (i + 1) / (len(row) + 1) for _, row in rows for i, m in enumerate(row)}
    for _ in range(20):
        for _, row in rows:
            pull = {m: sum(place[n] for n in near[m]) / len(near[m]) for m in row if near[m]}
            row.sort(key=lambda m: (pull.get(m, place[m]), m))
            place |= {m: (i + 1) / (len(row) + 1) for i, m in enumerate(row)}
    return rows


def _width(module: str) -> float:
    return PITCH[0] * len(module.partition(".")[2] or module) + MARGIN


def _box(axes: Axes, module: str, x: float, y: float) -> None:
    color = COLORS[module.split(".")[0]]
    look = {"boxstyle": "square,pad=0.25", "fc": "white", "ec": color, "lw": 0.6}
    name = module.partition(".")[2] or module
    axes.text(x, y, name, size=5.6, ha="center", va="center", bbox=look, zorder=3, gid=module)


def _arrow(axes: Axes, start: Sequence[float], end: Sequence[float], *, circle: bool) -> None:
    color, line = (CIRCLE, 1.1) if circle else ("#555555", 0.35)
    down = BOX / 2 if start[1] > end[1] else -BOX / 2
    axes.annotate(
        "",
        (end[0], end[1] + down),
        (start[0], start[1] - down),
        arrowprops={
            "arrowstyle": "-|>,head_width=0.08,head_length=0.16",
            "connectionstyle": "arc3,rad=0.25" if circle else "arc3",
            "color": color,
            "lw": line,
            "alpha": 0.9 if circle else 0.6,
            "shrinkA": 0,
            "shrinkB": 0,
        },
        zorder=2 if circle else 1,
    )


def main(target: str = "_static/imports.svg", folder: str = ".") -> None:
    """Draw the packages of a folder into an SVG file, its text as text."""
    figure, text = imports(Imports(Path(folder).resolve())), io.StringIO()
    none = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "imports"}):
        figure.savefig(text, format="svg", metadata=none)
    Path(target).write_text(_small(text.getvalue()), encoding="utf-8")


def _small(svg: str) -> str:
    """The same drawing: tenths of a point, styles by name, no empty space."""
    often = [style for style, n in Counter(re.findall(r'style="([^"]*)"', svg)).items() if n > 9]
    rules = "".join(f".s{n} {{{style}}}" for n, style in enumerate(often))
    svg = svg.replace("</style>", f"{rules}</style>", 1)
    for n, style in enumerate(often):
        svg = svg.replace(f'style="{style}"', f'class="s{n}"')
    svg = re.sub(r' (?:d|x|y|transform)="[^"]*"', _tenths, svg)
    return re.sub(r"\s+", " ", svg).replace("> <", ">\n<") + "\n"


def _tenths(attribute: re.Match[str]) -> str:
    return re.sub(r"\d+\.\d{2,}", lambda found: f"{float(found[0]):.1f}", attribute[0])


if __name__ == "__main__":
    main(*sys.argv[1:])
