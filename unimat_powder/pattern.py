"""Angles and counts in, a checked measured pattern out."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from torch import Tensor

from unimat_lib.views.grid import CU_K_ALPHA

_WAVELENGTHS = (0.01, 100.0)  # angstrom: gamma rays to cold neutrons
_MOST = 1e30  # of any intensity: beyond, sums and squares of it would overflow


class PatternError(ValueError):
    """A measured pattern cannot be used; the message says where and why."""


@dataclass(frozen=True, eq=False)
class Pattern:
    """One measured powder pattern.

    Attributes:
        two_theta: ``[P]`` float64, strictly increasing, degrees.
        intensity: ``[P]`` float64, counts or any other unit; some may be negative, but not all.
        wavelength: X-ray wavelength in angstrom, 0.01 to 100. Of a K-alpha doublet, the weighted
            mean of both.
        wavelength_from: Who says so: the ``"file"``, the caller (``"argument"``), or nobody
            (``"default"``: Cu K-alpha).
        uncertainty: ``[P]`` float64 standard uncertainties of the intensities, where the file
            states them; zero is possible.
        notes: What was done to the measurement that its owner should know, a sentence each.
        k_alpha_2: Whether K-alpha 2 is in the beam beside K-alpha 1; ``None``: nobody says.

    Raises:
        PatternError: The points make no pattern; the message says where and why.
    """

    two_theta: Tensor
    intensity: Tensor
    wavelength: float = CU_K_ALPHA
    wavelength_from: Literal["file", "argument", "default"] | None = None
    uncertainty: Tensor | None = None
    notes: tuple[str, ...] = ()
    k_alpha_2: bool | None = None

    def __post_init__(self) -> None:
        """Refuse what is not a pattern."""
        if self.wavelength_from is None:  # built by hand
            said = "default" if self.wavelength == CU_K_ALPHA else "argument"
            object.__setattr__(self, "wavelength_from", said)
        check_points(
            self.two_theta.numpy(), self.intensity.numpy(), "pattern", lambda i: f"point {i + 1}"
        )
        check_wavelength(self.wavelength)
        if self.uncertainty is not None and self.uncertainty.shape != self.intensity.shape:
            raise PatternError(
                f"pattern: expected as many uncertainties as intensities, but came "
                f"{tuple(self.uncertainty.shape)} and {tuple(self.intensity.shape)}"
            )


def check_wavelength(wavelength: float) -> None:
    """Raise ``PatternError`` unless this can be a wavelength in angstrom."""
    low, high = _WAVELENGTHS
    if not low <= wavelength <= high:
        raise PatternError(
            f"expected a wavelength of {low:g} to {high:g} angstrom, but came {wavelength}"
        )


def check_values(values: np.ndarray, label: str, name: str, where: Callable[[int], str]) -> None:
    """Raise ``PatternError`` at the first value that is not finite or beyond any use."""
    bad = np.flatnonzero(~(np.abs(values) <= _MOST))  # NaN is not below it either
    if len(bad):
        raise PatternError(
            f"{name}: expected finite numbers up to {_MOST:g}, but the {label} at "
            f"{where(bad[0])} is {values[bad[0]]}; remove or repair that point"
        )


def check_points(
    two_theta: np.ndarray, intensity: np.ndarray, name: str, where: Callable[[int], str]
) -> None:
    """Raise ``PatternError`` unless the points make a pattern; ``where(i)`` names point ``i``."""
    shapes = two_theta.shape, intensity.shape
    if shapes[0] != shapes[1] or len(shapes[0]) != 1 or len(two_theta) < 2:
        raise PatternError(
            f"{name}: expected at least 2 points, as many intensities as angles, but came "
            f"{shapes[1]} and {shapes[0]}"
        )
    for label, values in (("2theta", two_theta), ("intensity", intensity)):
        check_values(values, label, name, where)
    if two_theta[0] < 0 or two_theta[-1] > 180:
        raise PatternError(
            f"{name}: 2theta must lie in 0 to 180 degrees, "
            f"but runs from {two_theta[0]:g} to {two_theta[-1]:g}"
        )
    bad = np.flatnonzero(np.diff(two_theta) <= 0) + 1
    if len(bad):
        before, after = two_theta[bad[0] - 1], two_theta[bad[0]]
        kind = "repeats" if after == before else "falls back to"
        raise PatternError(
            f"{name}: 2theta must increase, but {kind} {after:g} at {where(bad[0])} "
            f"(after {before:g}); sort the points and keep one of each angle"
        )
    if intensity.max() <= 0:
        raise PatternError(
            f"{name}: no intensity is positive (the largest is {intensity.max():g}); "
            "is this the right column?"
        )
