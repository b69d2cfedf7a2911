"""The drawings that explain an idea: Bragg's law, the reduced cell, alignment, fusion."""

import itertools
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Arc, Polygon

from unimat_book.figures import draw
from unimat_book.figures.crystals import draw_sphere
from unimat_book.figures.style import (
    BLUE,
    GREY,
    INK,
    LIGHT,
    MODALITY_COLORS,
    MODALITY_NAMES,
    MUTED,
    PAGE_WIDTH,
    RED,
    new_canvas,
    new_figure,
    soften,
    styled,
)


@styled
def plot_bragg_law() -> Figure:
    """Two lattice planes, two rays and their path difference 2 d sin(theta)."""
    figure, axes = new_canvas(PAGE_WIDTH, 3.55)
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
        draw.arrow(axes, point - into * reach, point, color=BLUE, line=1.7, zorder=3)
        draw.arrow(axes, point, point + out * reach, color=BLUE, line=1.7, zorder=3)
    for foot, side in ((low - into * d * np.sin(t), -1), (low + out * d * np.sin(t), 1)):
        draw.segment(axes, top, foot, color=MUTED, linewidth=1.1, linestyle=(0, (4, 2)), zorder=2)
        draw.segment(axes, low, foot, color=RED, linewidth=4, zorder=5, solid_capstyle="butt")
        spot = np.array([low[0] + side * 0.43, low[1] - 0.26])
        draw.arrow(axes, (spot[0], spot[1] + 0.1), (foot + low) / 2, color=RED, line=0.8, head="-")
        draw.text(axes, *spot, "$d\\,\\sin\\theta$", color=RED, size=11)
    draw.arrow(axes, (6.3, low[1]), (6.3, top[1]), color=INK, head="<|-|>", line=1.1)
    draw.text(axes, 6.42, (top[1] + low[1]) / 2, "$d_{hkl}$", ha="left", size=13)
    for start, label in ((180 - theta, 180 - theta / 2), (0, theta / 2)):
        look = {"color": INK, "linewidth": 1.1, "zorder": 3}
        axes.add_patch(Arc(top, 1.5, 1.5, theta1=start, theta2=start + theta, **look))
        at = top + 0.92 * np.array([np.cos(np.radians(label)), np.sin(np.radians(label))])
        draw.text(axes, *at, "θ", size=12)
    condition = "in phase when  $2\\,d_{hkl}\\,\\sin\\theta = \\lambda$"
    draw.text(axes, top[0], 0.26, condition, size=13)
    draw.text(axes, 0.42, 2.95, "X-rays,\nwavelength λ", color=BLUE, ha="left", size=10)
    draw.text(axes, 6.15, 2.95, "reflected", color=BLUE, ha="left", size=10)
    return figure


@styled
def plot_niggli_cells() -> Figure:
    """One two-dimensional lattice with a skewed primitive cell and with its reduced cell."""
    figure = new_figure(2.5)
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
        look = {"facecolor": soften(color, 0.8), "edgecolor": color, "zorder": 1}
        axes.add_patch(Polygon(np.array([[0, 0], u, u + v, v]), closed=True, **look))
        for name, vector, way in (("a", u, side), ("b", v, -side)):
            draw.arrow(axes, (0, 0), vector, color=color, line=2.2, zorder=3)
            normal = np.array([-vector[1], vector[0]]) / np.linalg.norm(vector) * 0.42 * way
            draw.text(axes, *vector * 0.55 + normal, name, color=color, size=13, style="italic")
        lengths = sorted((float(np.linalg.norm(u)), float(np.linalg.norm(v))))
        angle = np.degrees(np.arccos(u @ v / np.linalg.norm(u) / np.linalg.norm(v)))
        area = abs(u[0] * v[1] - u[1] * v[0])
        sides = f"{lengths[0]:.1f} Å, {lengths[1]:.1f} Å, {angle:.0f}°"
        axes.set(xlim=(-1.4, 8.2), ylim=(-0.8, 4.0), aspect="equal", xticks=[], yticks=[])
        axes.set(title=title, xlabel=f"{sides};  area {area:.1f} Å²")
        axes.spines[:].set_visible(False)
    return figure


@styled
def plot_contrastive_diagram() -> Figure:
    """Schematic of the symmetric InfoNCE loss: five pairs, matches on the diagonal."""
    figure, axes = new_canvas(PAGE_WIDTH, 4.1)
    size, cell, left, top = 5, 0.5, 2.15, 3.1
    for i, j in np.ndindex(size, size):
        look = {"face": soften(BLUE, 0.87), "color": MUTED}
        if i == j:
            look = {"face": BLUE, "color": "white"}
        corner = left + j * cell + 0.03, top - (i + 1) * cell + 0.03
        text = f"$s_{{{i + 1}{j + 1}}}$"
        draw.box(axes, *corner, cell - 0.06, cell - 0.06, text, edge="none", size=10, **look)
    for k in range(size):
        y, x = top - (k + 0.5) * cell, left + (k + 0.5) * cell
        look = {"face": soften(RED, 0.8), "edge": RED, "size": 10.5}
        draw.box(axes, left - 0.62, y - 0.18, 0.46, 0.36, f"$p_{k + 1}$", **look)
        look = {"face": soften(BLUE, 0.9), "edge": BLUE, "size": 10.5}
        draw.box(axes, x - 0.2, top + 0.14, 0.4, 0.36, f"$g_{k + 1}$", **look)
    right, bottom, middle = left + size * cell + 0.14, top - size * cell, top - size * cell / 2
    draw.text(axes, 0.12, middle, "pattern\nembeddings", color=RED, ha="left", size=10.5)
    draw.text(
        axes, left + size * cell / 2, top + 0.74, "structure embeddings", color=BLUE, size=10.5
    )
    row, column = top - 0.5 * cell, left + 0.5 * cell
    draw.arrow(axes, (right, row), (right + 0.5, row), color=RED)
    text = "softmax of a row:\nwhich structure\nbelongs to $p_1$?"
    draw.text(axes, right + 0.58, row, text, ha="left")
    draw.arrow(axes, (column, bottom - 0.05), (column, bottom - 0.36), color=BLUE)
    text = "softmax of a column: which pattern belongs to $g_1$?"
    draw.text(axes, left + 0.78 * cell, bottom - 0.24, text, ha="left")
    draw.tile(axes, right + 0.58, bottom + 0.78, 0.16, 0.16, fc=BLUE)
    draw.text(axes, right + 0.84, bottom + 0.86, "pull together", ha="left")
    draw.tile(axes, right + 0.58, bottom + 0.46, 0.16, 0.16, fc=soften(BLUE, 0.82))
    draw.text(axes, right + 0.84, bottom + 0.54, "push apart", ha="left")
    text = "$s_{ij} = p_i \\cdot g_j\\,/\\,\\tau$"
    draw.text(axes, right + 0.58, bottom + 0.14, text, ha="left", size=11)
    return figure


@styled
def plot_message_passing_diagram() -> Figure:
    """Directed messages of DimeNet++: k -> j updates j -> i through the angle between them."""
    figure, axes = new_canvas(PAGE_WIDTH, 3.3)
    i, j, k = np.array([1.1, 0.85]), np.array([2.75, 1.35]), np.array([3.35, 2.75])
    for atom, radius, ball, color in (
        (k, 0.24, "#E8A0A0", RED),
        (np.array([4.35, 0.75]), 0.2, "#E9D3D3", soften(RED, 0.6)),
        (np.array([2.15, 2.8]), 0.2, "#E9D3D3", soften(RED, 0.6)),
    ):
        unit = (j - atom) / np.linalg.norm(j - atom)
        draw.arrow(axes, atom + unit * 0.27, j - unit * 0.31, color=color, line=2.2)
        draw_sphere(axes, atom, radius, ball, 5)
    unit = (i - j) / np.linalg.norm(i - j)
    draw.arrow(axes, j + unit * 0.31, i - unit * 0.31, color=BLUE, line=2.6)
    draw_sphere(axes, i, 0.28, "#8FB8D6", 5)
    draw_sphere(axes, j, 0.28, "#BFC2C7", 5)
    for point, name in ((i, "i"), (j, "j"), (k, "k")):
        draw.text(axes, *point, f"${name}$", zorder=8, size=13)
    angle_i = np.degrees(np.arctan2(*(i - j)[::-1])) % 360
    angle_k = np.degrees(np.arctan2(*(k - j)[::-1])) % 360
    look = {"color": INK, "linewidth": 1.3, "zorder": 6}
    axes.add_patch(Arc(j, 0.98, 0.98, theta1=angle_k, theta2=angle_i, **look))
    draw.text(axes, *j + np.array([-0.42, 0.42]), "α", size=13)
    draw.text(axes, 1.98, 0.86, "$m_{ji}$, $d_{ji}$", color=BLUE, ha="left", size=12)
    draw.text(axes, 3.16, 2.1, "$m_{kj}$, $d_{kj}$", color=RED, ha="left", size=12)
    draw.text(axes, 4.62, 0.75, "image of an atom\nin another cell", color=MUTED, ha="left")
    draw.text(axes, 4.85, 2.62, "for every pair of edges", color=MUTED, ha="left")
    draw.text(axes, 4.85, 2.25, "$k \\rightarrow j \\rightarrow i$:", ha="left", size=12)
    draw.text(axes, 4.85, 1.86, "$m_{ji} \\leftarrow m_{ji} + $", ha="left", size=12)
    draw.text(axes, 4.85, 1.44, "$\\sum_k f(m_{kj},\\, d_{kj},\\, \\alpha)$", ha="left", size=12)
    return figure


@styled
def plot_fusion_diagram() -> Figure:
    """Four ways to make one prediction from several embeddings."""
    figure, axes = new_canvas(PAGE_WIDTH, 4.7)
    for way, (x, y), title, note in (
        (_fusion_concat, (0.12, 2.5), "concatenation + MLP (the paper's)", ""),
        (_fusion_gated, (3.74, 2.5), "gated sum", "weights depend on all inputs, sum to 1"),
        (_fusion_attention, (0.12, 0.12), "cross-attention", "one learned query reads the tokens"),
        (_fusion_late, (3.74, 0.12), "late fusion", "a mean with learned weights, one per view"),
    ):
        draw.box(axes, x, y, 3.36, 2.1, face="#F4F6F8", edge="none", zorder=0)
        draw.text(axes, x + 0.14, y + 1.88, title, ha="left", size=10.5, weight="bold")
        tokens = []
        for row, (name, color) in enumerate(MODALITY_COLORS.items()):
            centre, look = y + 1.42 - row * 0.52, {"face": soften(color, 0.82), "edge": color}
            draw.box(axes, x + 0.14, centre - 0.17, 0.98, 0.34, MODALITY_NAMES[name], **look)
            tokens.append((x + 1.12, centre, color))
        way(axes, x, y, tokens)
        draw.text(axes, x + 1.78, y + 0.1, note, color=MUTED, size=8.4)
        draw.arrow(axes, (x + 2.62, y + 0.92), (x + 2.88, y + 0.92))
        draw.tile(axes, x + 2.9, y + 0.62, 0.24, 0.6, fc=INK)
    return figure


_Tokens = Sequence[tuple[float, float, str]]  # right end, centre and colour of three boxes


def _fusion_concat(axes: Axes, x: float, y: float, tokens: _Tokens) -> None:
    for row, (start, centre, color) in enumerate(tokens):
        slot = y + 1.1 - row * 0.36
        draw.tile(axes, x + 1.5, slot, 0.26, 0.36, fc=soften(color, 0.35), ec="white", zorder=3)
        draw.arrow(axes, (start, centre), (x + 1.49, slot + 0.18), color=color)
    draw.box(axes, x + 2.06, y + 0.64, 0.56, 0.56, "MLP", size=9.5)
    draw.arrow(axes, (x + 1.77, y + 0.92), (x + 2.05, y + 0.92))


def _fusion_gated(axes: Axes, x: float, y: float, tokens: _Tokens) -> None:
    for row, (start, centre, color) in enumerate(tokens):
        draw.disc(axes, (x + 1.5, centre), 0.16, fc="white", ec=color, zorder=4)
        draw.text(axes, x + 1.5, centre, f"$w_{row + 1}$", zorder=5)
        draw.arrow(axes, (start, centre), (x + 1.34, centre), color=color)
        draw.arrow(axes, (x + 1.66, centre), (x + 2.12, y + 0.9 + (1 - row) * 0.14), color=color)
    draw.disc(axes, (x + 2.34, y + 0.9), 0.24, fc="white", ec=MUTED, zorder=4)
    draw.text(axes, x + 2.34, y + 0.9, "$\\Sigma$", zorder=5, size=14)


def _fusion_attention(axes: Axes, x: float, y: float, tokens: _Tokens) -> None:
    for row, (start, centre, color) in enumerate(tokens):
        draw.arrow(axes, (start, centre), (x + 1.86, y + 0.92 + (1 - row) * 0.14), color=color)
        spot = (start + x + 1.86) / 2, (centre + y + 0.92 + (1 - row) * 0.14) / 2
        draw.disc(axes, spot, 0.13, fc="#F4F6F8", ec="none", zorder=4)
        draw.text(axes, *spot, f"$\\alpha_{row + 1}$", zorder=5)
    draw.box(axes, x + 1.86, y + 0.66, 0.76, 0.52, "query $q$")


def _fusion_late(axes: Axes, x: float, y: float, tokens: _Tokens) -> None:
    for start, centre, color in tokens:
        draw.box(axes, x + 1.36, centre - 0.15, 0.52, 0.3, "head", edge=color)
        draw.arrow(axes, (start, centre), (x + 1.35, centre), color=color)
        end = x + 2.1, y + 0.9 + (centre - y - 0.9) * 0.35
        draw.arrow(axes, (x + 1.89, centre), end, color=color)
    draw.box(axes, x + 2.1, y + 0.58, 0.52, 0.64, "$\\Sigma\\,w_m\\hat{y}_m$", size=8)
