"""A measured curve in, its square root against 1/d out, smoothed, to be looked up at any line.

The comparison works with root intensities, as visual comparison does: weak lines count. A crystal
is a set of sticks, each as high as the root of its intensity; smoothed measurement times sticks is
the overlap of the two curves, whatever the sticks' positions: moving a line needs no new curve.
"""

import functools
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from unimat_powder.search.curve import MeasuredCurve

WIDTHS = (0.004, 0.002, 0.0012)
"""Standard deviations of the smoothing in 1/angstrom, from coarse to fine."""

DISPLACEMENT = 0.7  # square angstrom, B of the Debye-Waller factor of every crystal in the search
_STEP = 3e-4  # 1/angstrom


@dataclass(frozen=True, eq=False)
class Amplitude:
    """Root of a measured curve against g = 1/d; its norm is 1.

    Attributes:
        start, end: Range of the measurement in g, 1/angstrom.
        root: ``[G]`` float64 in steps of 3e-4 1/angstrom from ``start``.
        wavelength: Of the measurement, angstrom.
    """

    start: float
    end: float
    root: np.ndarray
    wavelength: float

    @functools.lru_cache(maxsize=8)  # noqa: B019  the object lives as long as one search
    def smoothed(self, width: float) -> tuple[Tensor, Tensor]:
        """Overlap with a line of this width at each step, ``[G]``, and its slope in g."""
        x = np.arange(-int(4 * width / _STEP), int(4 * width / _STEP) + 1) * _STEP
        kernel = np.exp(-(x**2) / (2 * width**2))
        kernel /= np.sqrt((kernel**2).sum() * _STEP)
        # "same" keeps the middle of the longer one, which of a short scan would be the kernel.
        root = np.pad(self.root, (0, max(0, len(kernel) - len(self.root))))
        value = np.convolve(root, kernel, "same")[: len(self.root)] * _STEP
        return torch.from_numpy(value), torch.from_numpy(np.gradient(value, _STEP))

    def at(self, g: Tensor, width: float) -> tuple[Tensor, Tensor, Tensor]:
        """Overlap, slope, and whether it was measured, at any ``g``; all of its shape."""
        value, slope = self.smoothed(width)
        place = ((g - self.start) / _STEP).clamp(0, len(value) - 1.001)
        left = place.long()
        share = place - left
        inside = (g >= self.start) & (g <= self.end)
        between = (table[left].lerp(table[left + 1], share) * inside for table in (value, slope))
        return *between, inside


def amplitude_of(curve: MeasuredCurve) -> Amplitude:
    """Root of a measured curve against 1/d; zero where the steps meet nothing of the signal."""
    g = curve.g
    steps = np.arange(g[0], g[-1], _STEP)
    if len(steps) < 2:  # long waves near 180 degrees: two points are the least that has a slope
        steps = g[0] + _STEP * np.arange(2)
    root = np.sqrt(np.interp(steps, g, curve.signal))
    norm = max(np.sqrt((root**2).sum() * _STEP), 1e-30)
    return Amplitude(float(g[0]), float(g[-1]), root / norm, curve.wavelength)


def line_factor(g: Tensor, wavelength: float) -> Tensor:
    """What 2|F|^2 of a line at ``g`` is multiplied with in a curve against g.

    Lorentz-polarisation factor, a common Debye-Waller factor, and 1 / cos theta from 2theta to g.
    """
    sine = (g * wavelength / 2).clamp(1e-6, 0.9995)
    sin2 = sine.square()
    factor = (1 + (1 - 2 * sin2).square()) / (sin2 * (1 - sin2))
    return factor * torch.exp(-DISPLACEMENT / 2 * g.square())
