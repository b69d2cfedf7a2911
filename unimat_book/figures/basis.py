"""A cutoff in, curves of the basis in which distances and angles enter a structure encoder out."""

import numpy as np
from matplotlib.figure import Figure
from scipy.special import eval_legendre

from unimat_book.figures.style import MUTED, PALETTE, new_figure, styled


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
    radial.set(xlabel="distance (Å)", title="radial: $e_n(d)$")
    angular.set(xlabel="angle (°)", title="angular: factor of $P_\\ell$", xticks=range(0, 181, 45))
    for axes in (radial, angular):
        axes.axhline(0, color=MUTED, linewidth=0.8)
        axes.legend(ncols=2)
    return figure
