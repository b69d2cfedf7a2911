"""Crystals and their graphs in, drawings and counts of them out."""

import itertools
from collections.abc import Sequence
from typing import Any

import gemmi
import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from unimat_book.figures import draw
from unimat_book.figures.elements import element_color
from unimat_book.figures.style import (
    BLUE,
    DARK,
    GREEN,
    INK,
    MUTED,
    RED,
    SYSTEM_COLORS,
    Array,
    as_array,
    new_figure,
    require_columns,
    soften,
    styled,
    system_names,
)
from unimat_lib.crystals.table import CRYSTAL_SYSTEMS

AZIMUTH, ELEVATION = 64.0, 13.0  # degrees; the direction that crystals are seen from


def _darken(color: str, amount: float) -> tuple[float, ...]:
    """Mix a colour with black: 1 keeps it."""
    return tuple(channel * amount for channel in to_rgb(color))


@styled
def plot_crystal_system_counts(frame: pd.DataFrame) -> Figure:
    """Crystals per `crystal_system` (name or 0..6) and `split`, columns of the frame."""
    require_columns(frame, ["crystal_system", "split"])
    counts = pd.crosstab(system_names(frame["crystal_system"]), as_array(frame["split"]))
    counts = counts.reindex(CRYSTAL_SYSTEMS, fill_value=0)
    order = [name for name in ("train", "val", "test") if name in counts.columns]
    order += [name for name in counts.columns if name not in order]
    figure = new_figure(3.3)
    axes = figure.add_subplot()
    left = np.zeros(len(counts))
    shade = {name: 0.78 * i / max(len(order) - 1, 1) for i, name in enumerate(order)}
    for name in order:
        width = counts[name].to_numpy(dtype=float)
        look = {"color": [soften(color, shade[name]) for color in SYSTEM_COLORS.values()]}
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
    handles = [Rectangle((0, 0), 1, 1, color=soften(DARK, shade[name])) for name in order]
    figure.legend(handles, order, loc="outside upper right", ncols=len(order))
    return figure


@styled
def plot_cell_histograms(lengths: Array, angles: Array, num_atoms: Array) -> Figure:
    """Distributions of lengths (angstrom), angles (degrees), both [C, 3], and numbers of atoms."""
    lengths, angles, num_atoms = as_array(lengths), as_array(angles), as_array(num_atoms)
    figure = new_figure(3.1)
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
        look = {"handlelength": 0.6, "handletextpad": 0.4, "columnspacing": 0.7, "borderaxespad": 0}
        axes.legend(loc="lower right", bbox_to_anchor=(1, 1.01), ncols=3, **look)  # above the data
    panels[0].set(xlabel="cell length (Å)", ylabel="number of crystals", title="lengths")
    panels[1].set(xlabel="cell angle (degrees)", ylabel="number (log scale)", title="angles")
    panels[1].set_yscale("log")
    draw.plain_log(panels[1].yaxis)
    panels[2].hist(num_atoms, np.arange(0.5, num_atoms.max() + 1.5), color=MUTED, rwidth=0.86)
    panels[2].set(xlabel="atoms in the cell", ylabel="number of crystals", title="size")
    return figure


def _crystal_arrays(table: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lattice, fractional coordinates and atomic numbers of the first crystal."""
    stop = int(table.offsets[1])
    return (
        as_array(table.lattice)[0].astype(float),
        as_array(table.frac_coords)[:stop].astype(float),
        as_array(table.atomic_numbers)[:stop].astype(int),
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


def draw_sphere(axes: Axes, xy: np.ndarray, radius: float, color: str, zorder: float) -> None:
    """A shaded ball: rim, body and two highlights, all vector shapes."""
    draw.disc(axes, xy, radius, fc=color, ec=_darken(color, 0.55), linewidth=0.7, zorder=zorder)
    for shift, size, amount in ((0.18, 0.70, 0.22), (0.30, 0.38, 0.50), (0.36, 0.16, 0.85)):
        centre = xy + radius * shift * np.array([-1, 1])
        look = {"fc": soften(color, amount), "ec": "none", "zorder": zorder + 1e-4}
        draw.disc(axes, centre, radius * size, alpha=0.8, **look)


def _draw_cell(axes: Axes, lattice: np.ndarray, view: np.ndarray) -> None:
    """The twelve cell edges, in short pieces so that each can hide behind an atom."""
    for axis in range(3):
        others = [k for k in range(3) if k != axis]
        for i, j in np.ndindex(2, 2):
            origin = i * lattice[others[0]] + j * lattice[others[1]]
            line = origin + np.linspace(0, 1, 13)[:, None] * lattice[axis]
            for p, q in itertools.pairwise(line @ view.T):
                depth = 10 + (p[2] + q[2]) / 2
                draw.segment(axes, p, q, color="#7A828A", linewidth=1.1, zorder=depth)


def _draw_axes_triad(
    axes: Axes, lattice: np.ndarray, view: np.ndarray, origin: np.ndarray, size: float
) -> None:
    """Small arrows along a, b and c beside the drawing; the longest has the length `size`."""
    tips = lattice / np.linalg.norm(lattice, axis=1, keepdims=True) @ view.T[:, :2]
    tips *= size / np.linalg.norm(tips, axis=1).max()
    for name, tip in zip("abc", tips, strict=True):
        draw.arrow(axes, origin, origin + tip, color=INK, line=1.3, zorder=60)
        reach = max(float(np.linalg.norm(tip)), 1e-9)
        spot = origin + tip * (1 + 0.30 * size / reach)
        draw.text(axes, *spot, name, size=10.5, style="italic", zorder=60)


def _draw_bond(axes: Axes, p: np.ndarray, q: np.ndarray, colors: Sequence[str]) -> None:
    middle = (p + q) / 2
    for start, end, color in ((p, middle, colors[0]), (middle, q, colors[1])):
        depth = 10 + (start[2] + end[2]) / 2 - 0.05
        for tone, line, lift in ((_darken(color, 0.6), 3.8, 0), (color, 2.6, 1e-3)):
            look = {"color": tone, "linewidth": line, "zorder": depth + lift}
            draw.segment(axes, start, end, solid_capstyle="butt", **look)


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
    draw.text(axes, x + length + 0.15, y, f"{length} Å", ha="left", zorder=70)


def _element_legend(axes: Axes, numbers: np.ndarray) -> None:
    handles = []
    for z in sorted({int(z) for z in numbers}, reverse=True):
        look = {"mfc": element_color(z), "mec": _darken(element_color(z), 0.55)}
        name = gemmi.Element(z).name
        handles.append(Line2D([], [], marker="o", ls="", ms=9, label=name, **look))
    place = {"loc": "upper right", "bbox_to_anchor": (1.0, 0.98), "borderaxespad": 0.1}
    axes.legend(handles=handles, handletextpad=0.1, **place)


def draw_crystal(axes: Axes, table: Any) -> None:
    """The first crystal of a table in its cell, see :func:`plot_crystal_3d`."""
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
        draw_sphere(axes, point[:2], radius, element_color(z), 10 + point[2] + 0.35)
    _finish_crystal_axes(axes, points, 0.85, lattice, view)
    _element_legend(axes, species)


@styled
def plot_crystal_3d(table: Any) -> Figure:
    """The first crystal of a `CrystalTable` in its cell, with a scale bar in angstrom.

    The projection is parallel and sorted by depth. Atoms on a face, an edge or a corner are
    repeated, which closes the cell. Unlike atoms closer than 1.12 times the sum of their covalent
    radii are joined.
    """
    figure = new_figure(4.4, width=5.2)
    draw_crystal(figure.add_subplot(), table)
    return figure


def _graph_edges(graph: Any) -> tuple[np.ndarray, ...]:
    """Sources, targets, vectors [E, 3] and "in another cell" of the first crystal's edges.

    Of every atom the six nearest neighbours are kept, ties included.
    """
    end = int(graph.edge_offsets[1])
    source, target = as_array(graph.edge_index)[:, :end]
    image, vector = as_array(graph.image)[:end], as_array(graph.vector)[:end].astype(float)
    distance = as_array(graph.distance)[:end].astype(float)
    keep = np.zeros(end, dtype=bool)
    for atom in np.unique(target):
        mine = np.nonzero(target == atom)[0]
        limit = np.sort(distance[mine])[min(6, len(mine)) - 1]
        keep[mine[distance[mine] <= limit + 1e-4]] = True
    return source[keep], target[keep], vector[keep], (image[keep] != 0).any(axis=1)


def draw_graph(axes: Axes, table: Any, graph: Any) -> None:
    """The graph of the first crystal of a table, see :func:`plot_crystal_graph`."""
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
        draw.segment(axes, points[t], ghost, zorder=depth, **(outer if out else inner))
        if out:
            color = element_color(int(numbers[s]))
            rim = soften(mpl.colors.to_hex(_darken(color, 0.55)), 0.3)
            look = {"fc": soften(color, 0.55), "ec": rim, "linewidth": 0.7}
            draw.disc(axes, ghost[:2], 0.2, zorder=10 + ghost[2], **look)
    for point, z in zip(points, numbers, strict=True):
        draw_sphere(axes, point[:2], 0.34, element_color(int(z)), 12 + point[2])
    _finish_crystal_axes(axes, np.concatenate([points, ghosts]), 0.4, lattice, view)


def edge_handles() -> list[Line2D]:
    """Legend entries for the two kinds of edges."""
    return [
        Line2D([], [], color=BLUE, linewidth=1.9, label="neighbour in the same cell"),
        Line2D([], [], color=RED, linewidth=1.2, linestyle="--", label="image in another cell"),
    ]


@styled
def plot_crystal_graph(table: Any, graph: Any) -> Figure:
    """The periodic graph of one crystal: edges inside the cell and edges to images in other cells.

    `graph` was built from `table`, whose first crystal is drawn; of every atom the six nearest
    neighbours, ties included.
    """
    figure = new_figure(4.8, width=5.6)
    axes = figure.add_subplot()
    draw_graph(axes, table, graph)
    _element_legend(axes, _crystal_arrays(table)[2])
    figure.legend(handles=edge_handles(), loc="outside lower center", ncols=2)
    return figure
