"""A range of angles and a wavelength in, the grid of a powder pattern out."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

WAVELENGTHS = {
    "CuKa": 1.54184, "CuKa1": 1.54056, "CuKa2": 1.54439, "MoKa": 0.71073, "MoKa1": 0.70930,
    "CoKa": 1.79026, "CoKa1": 1.78896, "FeKa": 1.93735, "FeKa1": 1.93604,
    "CrKa": 2.29100, "CrKa1": 2.28970, "AgKa": 0.560885, "AgKa1": 0.559421,
}  # fmt: skip
"""Wavelengths of laboratory X-ray tubes in angstrom, the values of pymatgen's ``XRDCalculator``."""

CU_K_ALPHA = WAVELENGTHS["CuKa"]
"""Mean Cu K-alpha wavelength in angstrom."""


@dataclass(frozen=True)
class Grid:
    """Equidistant points in 2theta at a stated wavelength.

    Attributes:
        two_theta_min, two_theta_max: First and last point, degrees.
        num_points: Number of points ``P``.
        wavelength: X-ray wavelength in angstrom.
    """

    two_theta_min: float = 5.0
    two_theta_max: float = 90.0
    num_points: int = 4096
    wavelength: float = CU_K_ALPHA

    def __post_init__(self) -> None:
        """Refuse grids that no diffractometer has."""
        low, high = self.two_theta_min, self.two_theta_max
        if not 0 <= low < high < 180:
            what = "a grid needs 0 <= two_theta_min < two_theta_max < 180 degrees"
            raise ValueError(f"{what}, but came with {low} and {high}")
        if self.num_points < 2:
            raise ValueError(f"a grid needs at least 2 points, but came with {self.num_points}")
        if not 0 < self.wavelength < math.inf:
            raise ValueError(f"the wavelength must be positive, in angstrom, not {self.wavelength}")

    @property
    def two_theta(self) -> Tensor:
        """``[P]`` float64, the points in degrees."""
        ends = self.two_theta_min, self.two_theta_max
        return torch.linspace(*ends, self.num_points, dtype=torch.float64)

    @property
    def step(self) -> float:
        """Distance of two points in degrees."""
        return (self.two_theta_max - self.two_theta_min) / (self.num_points - 1)


def lorentz_polarisation(sin_theta: Tensor) -> Tensor:
    """Factor of an unpolarised beam on a powder, (1 + cos^2 2theta) / (sin^2 theta cos theta)."""
    sin2 = sin_theta.square()
    return (1 + (1 - 2 * sin2).square()) / (sin2 * (1 - sin2).clamp_min(1e-12).sqrt())
