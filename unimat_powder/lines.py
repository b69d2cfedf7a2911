"""Reflections in, the peaks of a computed pattern out, overlapping ones merged."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from unimat_lib.views.bragg import Reflections, check_reach
from unimat_lib.views.grid import CU_K_ALPHA, lorentz_polarisation
from unimat_lib.views.segments import offsets_of


class Peaks(NamedTuple):
    """Peaks of ``C`` crystals, by crystal and rising angle."""

    two_theta: Tensor  # [M] float64, degrees
    intensity: Tensor  # [M] float64, with Lorentz-polarisation factor, not scaled
    offsets: Tensor  # [C+1] int64


def merged_peaks(
    reflections: Reflections,
    *,
    wavelength: float = CU_K_ALPHA,
    two_theta_range: tuple[float, float] = (0.0, 90.0),
    min_intensity: float = 1e-5,
) -> Peaks:
    """Merge reflections at the same angle into peaks, by the rule of pymatgen's ``XRDCalculator``.

    Reflections whose angle rounds to the same multiple of 1e-5 degrees are one peak, at the
    smallest of their angles; two angles that differ in the last bits only may round apart.

    Args:
        reflections: Of any number of crystals.
        wavelength: X-ray wavelength in angstrom.
        two_theta_range: First and last angle in degrees.
        min_intensity: Peaks up to this fraction of their crystal's strongest are left out.

    Raises:
        ValueError: The reflections do not reach the end of the range.
    """
    low, high = (math.sin(math.radians(angle / 2)) for angle in two_theta_range)
    check_reach(reflections, 2 * high / wavelength, f"{two_theta_range[1]:g} degrees")
    sin_theta = reflections.g * (wavelength / 2)
    keep = ((sin_theta >= low) & (sin_theta <= high)).nonzero()[:, 0]
    columns = sin_theta, reflections.crystal, reflections.intensity
    sin_theta, crystal, intensity = (each.index_select(0, keep) for each in columns)
    two_theta = torch.asin(sin_theta).mul_(math.degrees(2))
    intensity.mul_(lorentz_polarisation(sin_theta))

    width = 1e-5  # of a bin, degrees
    bins = round(180 / width) + 2
    key = crystal.mul_(bins).add_((two_theta / width).round_().long())
    key, peak = torch.unique(key, return_inverse=True)
    merged = intensity.new_zeros(len(key)).index_add_(0, peak, intensity)
    position = two_theta.new_full((len(key),), 180.0).scatter_reduce_(0, peak, two_theta, "amin")
    crystal = key // bins
    strongest = merged.new_zeros(len(reflections)).scatter_reduce(0, crystal, merged, "amax")
    keep = (merged > min_intensity * strongest[crystal]).nonzero()[:, 0]
    return Peaks(position[keep], merged[keep], offsets_of(crystal[keep], len(reflections)))
