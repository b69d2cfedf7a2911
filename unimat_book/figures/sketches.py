"""The drawings that explain an idea: Bragg's law, the reduced cell, a basis, alignment, fusion."""

import itertools
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Arc, Polygon
from scipy.special import eval_legendre

from unimat_book.figures import draw
from unimat_book.figures.crystals import draw_sphere
from unimat_book.figures.narrow import is_narrow
from unimat_book.figures.style import (
    BLUE,
    GREY,
    INK,
    LIGHT,
    MODALITY_COLORS,
    MODALITY_NAMES,
    MUTED,
    PAGE_WIDTH,
    PALETTE,
    RED,
    new_canvas,
    new_figure,
    soften,
    styled,
)


@styled
def plot_bragg_law() -> Figure:
    """Two lattice planes, two rays and their path difference 2 d sin(theta)."""
    narrow = is_narrow()
    figure, axes = new_canvas(PAGE_WIDTH, 4.0 if narrow else 3.55)
    if narrow:
        figure.set_size_inches(4.4, 4.4 * 4.0 / PAGE_WIDTH)
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
        spot = np.array([low[0] + side * (0.6 if narrow else 0.43), low[1] - 0.26])
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
    words = "X-rays,\nwavelength λ", "reflected"
    if narrow:
        draw.text(axes, 0.1, 3.78, words[0].replace("\n", " "), color=BLUE, ha="left", size=10)
        draw.text(axes, 7.1, 3.78, words[1], color=BLUE, ha="right", size=10)
    else:
        draw.text(axes, 0.42, 2.95, words[0], color=BLUE, ha="left", size=10)
        draw.text(axes, 6.15, 2.95, words[1], color=BLUE, ha="left", size=10)
    return figure


@styled
def plot_basis_functions(*, cutoff: float, num_shown: int = 4) -> Figure:
    """The first radial and angular functions of DimeNet's basis, envelope of exponent 6 included.

    Args:
        cutoff: Radius of the neighbourhood of an atom, angstrom; a fifth of it is not drawn.
        num_shown: Functions of each kind.
    """
    x = np.linspace(0.2, 1, 300)
    envelope = 1 / x - 28 * x**5 + 48 * x**6 - 21 * x**7
    angle = np.linspace(0, 180, 181)
    figure = new_figure(2.9)
    radial, angular = figure.subplots(1, 2)
    for n, color in zip(range(num_shown), PALETTE, strict=False):
        wave = envelope * np.sin((n + 1) * np.pi * x)
        radial.plot(cutoff * x, wave, color=color, label=f"n = {n + 1}")
        height = np.sqrt((2 * n + 1) / (4 * np.pi)) * eval_legendre(n, np.cos(np.radians(angle)))
        angular.plot(angle, height, color=color, label=f"ℓ = {n}")
    radial.set(xlabel="distance (Å)", ylabel="$e_n$", title="radial")
    angular.set(xlabel="angle (°)", ylabel="factor with $P_\\ell$", title="angular")
    angular.set_xticks(range(0, 181, 45))
    for axes in (radial, angular):
        axes.axhline(0, color=MUTED, linewidth=0.8)
        axes.legend(ncols=2)
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
    narrow = is_narrow()
    size, cell, left, top = 5, 0.5, (1.2 if narrow else 2.15), (4.3 if narrow else 3.1)
    figure, axes = new_canvas(*((4.3, 5.3) if narrow else (PAGE_WIDTH, 4.1)))
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
    if narrow:
        look = {"color": RED, "size": 10.5, "rotation": 90}
        draw.text(axes, 0.25, middle, "pattern embeddings", **look)
    else:
        draw.text(axes, 0.12, middle, "pattern\nembeddings", color=RED, ha="left", size=10.5)
    centre = left + size * cell / 2
    draw.text(axes, centre, top + 0.74, "structure embeddings", color=BLUE, size=10.5)
    row, column = top - 0.5 * cell, left + 0.5 * cell
    draw.arrow(axes, (right, row), (right + 0.5, row), color=RED)
    draw.arrow(axes, (column, bottom - 0.05), (column, bottom - 0.36), color=BLUE)
    rows = "softmax of a row:\nwhich structure\nbelongs to $p_1$?"
    columns = "softmax of a column: which pattern belongs to $g_1$?"
    if narrow:
        first, second = rows.replace("\n", " "), columns.replace(": ", ":\n")
        draw.text(axes, left + 0.78 * cell, bottom - 0.32, second, ha="left", color=BLUE)
        draw.text(axes, 0.1, bottom - 0.76, first, ha="left", color=RED)
        x, y = 0.1, bottom - 1.5
    else:
        draw.text(axes, right + 0.58, row, rows, ha="left")
        draw.text(axes, left + 0.78 * cell, bottom - 0.24, columns, ha="left")
        x, y = right + 0.58, bottom + 0.46
    draw.tile(axes, x, y + 0.32, 0.16, 0.16, fc=BLUE)
    draw.text(axes, x + 0.26, y + 0.40, "pull together", ha="left")
    draw.tile(axes, x, y, 0.16, 0.16, fc=soften(BLUE, 0.82))
    draw.text(axes, x + 0.26, y + 0.08, "push apart", ha="left")
    text = "$s_{ij} = p_i \\cdot g_j\\,/\\,\\tau$"
    place = (x + 1.6, y + 0.24) if narrow else (x, y - 0.32)
    draw.text(axes, *place, text, ha="left", size=11)
    return figure


@styled
def plot_message_passing_diagram() -> Figure:
    """Directed messages of DimeNet++: k -> j updates j -> i through the angle between them."""
    narrow = is_narrow()
    figure, axes = new_canvas(*((4.6, 5.0) if narrow else (PAGE_WIDTH, 3.3)))
    if narrow:  # the words below
        axes.set_ylim(-1.8, 3.2)
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
    image = "image of an atom\nin another cell"
    draw.text(axes, *((3.3, 0.2) if narrow else (4.62, 0.75)), image, color=MUTED, ha="left")
    x, top = (1.2, -0.3) if narrow else (4.85, 2.62)
    draw.text(axes, x, top, "for every pair of edges", color=MUTED, ha="left")
    draw.text(axes, x, top - 0.37, "$k \\rightarrow j \\rightarrow i$:", ha="left", size=12)
    draw.text(axes, x, top - 0.76, "$m_{ji} \\leftarrow m_{ji} + $", ha="left", size=12)
    formula = "$\\sum_k f(m_{kj},\\, d_{kj},\\, \\alpha)$"
    draw.text(axes, x, top - 1.18, formula, ha="left", size=12)
    return figure


@styled
def plot_fusion_diagram() -> Figure:
    """Four ways to make one prediction from several embeddings."""
    size, places = (PAGE_WIDTH, 4.7), [(0.12, 2.5), (3.74, 2.5), (0.12, 0.12), (3.74, 0.12)]
    if is_narrow():
        size, places = (3.6, 9.2), [(0.12, 6.98 - 2.29 * k) for k in range(4)]
    figure, axes = new_canvas(*size)
    ways = (
        (_fusion_concat, "concatenation + MLP (the paper's)", ""),
        (_fusion_gated, "gated sum", "weights depend on all inputs, sum to 1"),
        (_fusion_attention, "cross-attention", "one learned query reads the tokens"),
        (_fusion_late, "late fusion", "a mean with learned weights, one per view"),
    )
    for (way, title, note), (x, y) in zip(ways, places, strict=True):
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
