"""Crystals in, their computed patterns with one effect of a measurement at a time out.

The table of what a network withstands: each condition is a clean pattern (Gaussian peaks 0.1
degrees wide, one wavelength, 5 to 90 degrees) with one thing changed, the last with many.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from unimat_lib.views.bragg import Reflections
from unimat_lib.views.effects import Effects
from unimat_lib.views.grid import WAVELENGTHS
from unimat_lib.views.render import render
from unimat_powder.network.views import GRID


@dataclass(frozen=True)
class Condition:
    """What is unlike a clean pattern; the defaults change nothing.

    Attributes:
        doublet: K-alpha 1 and 2 instead of their mean.
        fwhm: Full width at half maximum, degrees.
        eta: Lorentzian share.
        noise: White noise, standard deviation over the highest point.
        covered: First and last angle, degrees.
        impurity: Share of another crystal's pattern.
        texture: March-Dollase r along c*.
        shift: Zero shift, degrees.
        background: Height of a smooth background over the highest peak.
    """

    doublet: bool = False
    fwhm: float = 0.1
    eta: float = 0.0
    noise: float = 0.0
    covered: tuple[float, float] = (5.0, 90.0)
    impurity: float = 0.0
    texture: float = 1.0
    shift: float = 0.0
    background: float = 0.0


CONDITIONS = {
    "clean": Condition(),
    "doublet": Condition(doublet=True),
    "width 0.4 degrees": Condition(fwhm=0.4),
    "pseudo-Voigt 0.5": Condition(eta=0.5),
    "white noise 1 %": Condition(noise=0.01),
    "10 to 70 degrees": Condition(covered=(10.0, 70.0)),
    "impurity 10 %": Condition(impurity=0.1),
    "usual laboratory": Condition(
        doublet=True, eta=0.5, texture=0.8, shift=0.03, background=0.05, noise=0.01
    ),
}


def patterns_under(
    condition: Condition, reflections: Reflections, *, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Patterns of all crystals under a condition.

    Args:
        condition: What is unlike a clean pattern.
        reflections: Reaching 1 % beyond :data:`.GRID`; at least two crystals, for impurities.
        generator: Source of the noise.

    Returns:
        float32 ``[C, P]`` on :data:`.GRID`, highest point about 1, and which points were
        measured, bool ``[C, P]``.
    """
    number = len(reflections)
    index = torch.arange(number, device=reflections.device)
    one = torch.ones(number, device=reflections.device)
    axis = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64, device=reflections.device)
    effects = Effects(
        condition.fwhm * one,
        condition.eta * one,
        strain=0 * one.double(),
        zero_shift=condition.shift * one.double(),
        texture=condition.texture * one.double(),
        texture_axis=axis.expand(number, 3),
    )
    if condition.doublet:
        lines = ((WAVELENGTHS["CuKa1"], 2 / 3), (WAVELENGTHS["CuKa2"], 1 / 3))
    else:
        lines = ((GRID.wavelength, 1.0),)
    y = sum(
        share * render(reflections, index, replace(GRID, wavelength=wavelength), effects=effects)
        for wavelength, share in lines
    )
    y = y / y.amax(1, keepdim=True).clamp_min(1e-30)
    y = (1 - condition.impurity) * y + condition.impurity * y.roll(1, 0)
    x = torch.linspace(0, 1, GRID.num_points, device=y.device)
    y = y + condition.background * (0.6 * torch.exp(-3 * x) + 0.4)
    y = y + condition.noise * torch.randn(y.shape, generator=generator, device=y.device)
    first, last = condition.covered
    mask = (GRID.two_theta >= first) & (GRID.two_theta <= last)
    mask = mask.to(y.device).expand(number, -1)
    return y * mask, mask
