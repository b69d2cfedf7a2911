"""The exported data of the things to move in, a still picture of each out: for print, or no script.

They show what the page computes, by the packages' own engine.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from pymatgen.core import Lattice, Structure
from safetensors.torch import load_file

from unimat_book.browser.moving import VIEWS
from unimat_book.figures.crystals import draw_crystal
from unimat_book.figures.style import (
    BLUE,
    GREY,
    INK,
    MODALITY_COLORS,
    MODALITY_MARKERS,
    MODALITY_NAMES,
    MUTED,
    PALETTE,
    SEQUENTIAL,
    new_figure,
    styled,
)
from unimat_lib.crystals.structures import from_structures
from unimat_lib.crystals.table import CRYSTAL_SYSTEMS, CrystalTable
from unimat_lib.views.bragg import bragg_reflections, g_max_of
from unimat_lib.views.grid import Grid
from unimat_lib.views.render import render
from unimat_powder.network.predict import read_pattern
from unimat_powder.pattern import Pattern
from unimat_powder.witnesses import shipped_reader

GRID = Grid(two_theta_min=10.0, two_theta_max=90.0, num_points=4001)
CELLS = (
    ("cubic", (1, 1, 1, 90, 90, 90)),
    ("tetragonal: c longer", (1, 1, 1.06, 90, 90, 90)),
    ("orthorhombic: three edges", (1, 1.03, 1.07, 90, 90, 90)),
    ("rhombohedral: angles of 87°", (1, 1, 1, 87, 87, 87)),
)
"""Names of cells, and each as multiples of the cubic edge and as angles."""

SCANS = (
    ("usual", 0.12, 10_000),
    ("lines of 1.2°", 1.2, 10_000),
    ("30 counts", 0.12, 30),
)
"""Names of scans, widths in degrees and counts at the highest line."""

TEMPERATURES = (0.003, 0.07, 1.0)
NEIGHBOURS = 5
LISTED = (0, 1, 3, 5)  # models of the still of errors
_ANGLES = GRID.two_theta.numpy()
_BACKGROUND, _LORENTZ, _SEED = 0.04, 0.4, 1


def write_stills(folder: Path) -> None:
    """Write ``stills/NAME.png`` below a folder that :func:`.write_moving` has filled."""
    data = json.loads((folder / "moving.json").read_text("utf-8"))
    (folder / "stills").mkdir(exist_ok=True)
    for name, plot in _STILLS.items():
        (folder / f"stills/{name}.png").write_bytes(plot(folder, data).png())


def _table(crystal: dict[str, Any], cell: Sequence[float] | None = None) -> CrystalTable:
    numbers, *frac = zip(*crystal["atoms"], strict=True)
    lattice = Lattice.from_parameters(*(cell or crystal["cell"]))
    return from_structures([Structure(lattice, numbers, np.transpose(frac))], reduce=False)


def _pattern(table: CrystalTable, *, fwhm: float, eta: float = 0.0) -> np.ndarray:
    reflections = bragg_reflections(table, g_max=g_max_of(GRID))
    return render(reflections, torch.tensor([0]), GRID, fwhm=fwhm, eta=eta)[0].double().numpy()


def _named(data: dict[str, Any], title: str) -> dict[str, Any]:
    return next(crystal for crystal in data["crystals"] if crystal["title"] == title)


@styled
def plot_cells(folder: Path, data: dict[str, Any]) -> Figure:
    """Patterns of cubic perovskite and of its atoms in three other cells."""
    crystal = _named(data, "Perovskite (cubic)")
    figure = new_figure(4.6)
    rows = figure.subplots(len(CELLS), 1, sharex=True)
    edge = crystal["cell"][0]
    for axes, (name, shape) in zip(rows, CELLS, strict=True):
        cell = [edge * x if k < 3 else x for k, x in enumerate(shape)]
        axes.plot(_ANGLES, _pattern(_table(crystal, cell), fwhm=0.2), color=PALETTE[1], lw=1)
        axes.text(0.99, 0.85, name, transform=axes.transAxes, ha="right", va="top")
        axes.set(yticks=[], xlim=(GRID.two_theta_min, GRID.two_theta_max), ylim=(-0.03, 1.25))
        axes.spines["left"].set_visible(False)
    cubic = {"100": 1, "110": 2, "111": 3, "200": 4, "211": 6, "220": 8}
    for index, square in cubic.items():
        angle = 2 * np.degrees(np.arcsin(GRID.wavelength / 2 / edge * np.sqrt(square)))
        height = np.interp(angle, _ANGLES, rows[0].lines[0].get_ydata())
        rows[0].annotate(index, (angle, height), xytext=(0, 3), ha="center", **_POINTS)
    rows[-1].set_xlabel("2θ (degrees)")
    return figure


_POINTS = {"textcoords": "offset points", "fontsize": 9.5}


@styled
def plot_reader(folder: Path, data: dict[str, Any]) -> Figure:
    """Scans of rutile by three instruments, and what the network reads in each."""
    crystal = _named(data, "Rutile")
    figure = new_figure(5.0)
    rows = figure.subplots(len(SCANS), 2, width_ratios=(3, 2))
    draw = np.random.default_rng(_SEED)
    for (scan, bars), (name, fwhm, counts) in zip(rows, SCANS, strict=True):
        clean = _pattern(_table(crystal), fwhm=fwhm, eta=_LORENTZ)
        y = draw.poisson(counts * (clean + _BACKGROUND)).astype(float)
        said = read_pattern(
            shipped_reader(), Pattern(GRID.two_theta, torch.from_numpy(y), GRID.wavelength)
        )
        scan.plot(_ANGLES, y, color=PALETTE[1], lw=0.8)
        scan.set(yticks=[], xlim=(GRID.two_theta_min, GRID.two_theta_max))
        scan.spines["left"].set_visible(False)
        scan.text(0.99, 0.95, name, transform=scan.transAxes, ha="right", va="top")
        colors = [BLUE if k == crystal["system"] else GREY for k in range(len(CRYSTAL_SYSTEMS))]
        bars.barh(CRYSTAL_SYSTEMS, 100 * np.asarray(said.system), color=colors)
        bars.set(xlim=(0, 100))
        bars.tick_params(axis="y", length=0, labelsize=9.5)
        bars.invert_yaxis()
    rows[-1][0].set_xlabel("2θ (degrees)")
    rows[-1][1].set_xlabel("probability (%), true system in blue")
    return figure


@styled
def plot_crystals(folder: Path, data: dict[str, Any]) -> Figure:
    """All crystals in their conventional cells."""
    figure = new_figure(9.4)
    panels = figure.subplots(4, 3).ravel()
    for axes, crystal in zip(panels, data["crystals"], strict=False):
        draw_crystal(axes, _table(crystal))
        axes.set_title(f"{crystal['title']}, {crystal['formula']}", fontsize=10.5)
    for axes in panels[len(data["crystals"]) :]:
        axes.axis("off")
    return figure


@styled
def plot_softmax(folder: Path, data: dict[str, Any]) -> Figure:
    """Softmax of a batch at three temperatures."""
    batch = data["batches"][0]
    figure = new_figure(2.8)
    panels = figure.subplots(1, len(TEMPERATURES), sharey=True)
    cosines = torch.tensor(batch["cosines"], dtype=torch.float64)
    for axes, temperature in zip(panels, TEMPERATURES, strict=True):
        shares = torch.softmax(cosines / temperature, dim=1)
        axes.imshow(shares.numpy(), vmin=0, vmax=1, cmap=SEQUENTIAL)
        axes.set_title(f"temperature {temperature:g}", fontsize=10.5)
        places = range(len(cosines))
        axes.set_xticks(places, batch["labels"], rotation=60, ha="right", rotation_mode="anchor")
        axes.set_yticks(places, batch["labels"])
        axes.tick_params(length=0, labelsize=9)
        axes.spines[:].set_visible(False)
    panels[0].set_ylabel("patterns", color=MODALITY_COLORS["xrd"])
    panels[1].set_xlabel("structures", color=MODALITY_COLORS["structure"])
    return figure


@styled
def plot_map(folder: Path, data: dict[str, Any]) -> Figure:
    """Structures and patterns on the map, and the structures nearest to one pattern."""
    tensors = load_file(folder / "map.safetensors")
    places, points = tensors["places"].numpy(), tensors["points"].float()
    names = bytes(tensors["names"].numpy()).decode().split("\n")
    formulas = [name.split("\t")[0] for name in names]
    row = formulas.index("TiO2") if "TiO2" in formulas else 0
    figure = new_figure(5.0)
    axes = figure.add_subplot()
    for k, view in enumerate(VIEWS[:2]):
        look = {"c": MODALITY_COLORS[view], "marker": MODALITY_MARKERS[view], "s": 12, "alpha": 0.5}
        axes.scatter(*places[k].T, label=MODALITY_NAMES[view], linewidths=0, **look)
    asked = places[1, row]
    for other in (points[0] @ points[1, row]).topk(NEIGHBOURS).indices.tolist():
        near = places[0, other]
        axes.plot(*np.stack([asked, near]).T, color=INK, lw=0.9, zorder=3)
        axes.scatter(*near, c=MODALITY_COLORS["structure"], s=45, ec=INK, zorder=4)
        axes.annotate(formulas[other], near, xytext=(5, 4), zorder=5, **_POINTS)
    axes.scatter(*asked, c=MODALITY_COLORS["xrd"], marker="^", s=90, ec=INK, zorder=5)
    axes.axis("off")
    axes.legend(loc="upper left", markerscale=1.6)
    title = f"Nearest structures of the pattern of {formulas[row]}"
    axes.set_title(title, fontsize=10.5)
    return figure


@styled
def plot_errors(folder: Path, data: dict[str, Any]) -> Figure:
    """Mean error of the lengths by crystal system, of four models."""
    tensors = load_file(folder / "errors.safetensors")
    system = tensors["system"].numpy()
    figure = new_figure(3.2)
    axes = figure.add_subplot()
    for place, (k, color) in enumerate(zip(LISTED, (*_OF_MODELS,), strict=True)):
        lengths = tensors["lengths"][k].numpy()
        means = [lengths[system == s].mean() for s in range(len(CRYSTAL_SYSTEMS))]
        x = np.arange(len(means)) + 0.2 * (place - 1.5)
        axes.bar(x, means, width=0.19, color=color, label=data["models"][k]["title"])
    axes.set_xticks(range(len(CRYSTAL_SYSTEMS)), CRYSTAL_SYSTEMS)
    axes.tick_params(axis="x", length=0)
    axes.set(ylabel="mean error of a, b, c (Å)")
    figure.legend(loc="outside upper left", ncols=2)
    return figure


_OF_MODELS = (MODALITY_COLORS["composition"], MODALITY_COLORS["xrd"], PALETTE[4], MUTED)
_STILLS: dict[str, Callable[[Path, dict[str, Any]], Any]] = {
    "cell": plot_cells,
    "reader": plot_reader,
    "solid": plot_crystals,
    "softmax": plot_softmax,
    "map": plot_map,
    "errors": plot_errors,
}
"""File names and what draws them."""
