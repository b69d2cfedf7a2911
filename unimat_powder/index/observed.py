"""A pattern or a list of lines in, the lines that a cell must explain out."""

from dataclasses import dataclass
from typing import Self

import numpy as np

from unimat_lib.views.grid import CU_K_ALPHA
from unimat_powder.pattern import Pattern, check_wavelength
from unimat_powder.peak_finding import LineList, find_lines

_MOST = 40  # lines, from the lowest angle: beyond, many reflections share a peak
_FLOOR = 0.007  # degrees: what positions are off by beside noise; from fits of measured cells
_UNDERSTATED = 1.3  # real errors over stated ones; from the same fits
_STRONG, _STRONGEST = 0.1, 10  # share of the strongest line; lines that stand out, at most
# Share of strangers among the lines of cells that explain them, as fitted to those of simulated
# measurements and of the half of the measured ones that may be looked at: from 1 to 45 per cent,
# by share of the strongest line and by significance.
_STRANGERS = 0.01, 0.45
_CLEAR = 8.0  # significance of lines of which nobody says it
_EDGE = 0.3  # degrees beyond the last line, and before the first without a pattern
_UNRESOLVED = 0.6  # of a width: lines nearer than that show as one


@dataclass(frozen=True, eq=False)
class Observed:
    """The lowest lines of one pattern by rising angle, ``K`` of them, and how they were seen.

    Attributes:
        two_theta: ``[K]`` float64, degrees.
        sigma: ``[K]`` standard deviations, degrees, without what shifts all lines together.
        reliability: ``[K]`` probability that a line belongs to the phase sought.
        share: ``[K]`` intensities, as shares of the strongest line's.
        strong: Places of the lowest lines that stand out among those around them.
        wavelength: Angstrom.
        start: Where the measurement begins, degrees.
        end: Up to where lines are compared, degrees.
        resolution: Two lines nearer than this show as one, degrees.
    """

    two_theta: np.ndarray
    sigma: np.ndarray
    reliability: np.ndarray
    share: np.ndarray
    strong: np.ndarray
    wavelength: float
    start: float
    end: float
    resolution: float

    def __len__(self) -> int:
        """Number of lines."""
        return len(self.two_theta)

    @classmethod
    def of(cls, source: Pattern | LineList, *, start: float | None = None) -> Self:
        """Those of a measured pattern, or of the lines found in one.

        Lines that are no line of the sample (``remark``) are left out.

        Args:
            source: The pattern or the lines.
            start: Where the measurement of the lines begins, degrees; a pattern says it itself.
        """
        lines = find_lines(source) if isinstance(source, Pattern) else source
        keep = ~lines.spurious
        start = float(source.two_theta[0]) if isinstance(source, Pattern) else start
        return cls._of_columns(
            lines.two_theta[keep],
            lines.two_theta_sigma[keep],
            lines.intensity[keep],
            lines.significance[keep],
            wavelength=lines.wavelength,
            width=float(np.median(lines.fwhm[keep])) if keep.any() else 0.1,
            start=start,
        )

    @classmethod
    def from_lines(
        cls,
        two_theta: np.ndarray,
        *,
        sigma: np.ndarray | float = 0.015,
        intensity: np.ndarray | None = None,
        wavelength: float = CU_K_ALPHA,
        width: float = 0.1,
    ) -> Self:
        """Those of a plain list.

        Args:
            two_theta: ``[K]`` degrees, in any order; one that repeats counts once.
            sigma: Standard deviations of them, degrees, one for all or ``[K]``.
            intensity: ``[K]`` areas; weak lines may more easily be of something else.
            wavelength: Angstrom.
            width: Full width at half maximum of a line, degrees.

        Raises:
            ValueError: A number is no angle, or columns are not equally long.
        """
        angles = np.asarray(two_theta, dtype=np.float64)
        area = np.ones_like(angles) if intensity is None else np.asarray(intensity, np.float64)
        errors = np.broadcast_to(np.asarray(sigma, dtype=np.float64), angles.shape)
        if angles.ndim != 1 or area.shape != angles.shape:
            raise ValueError(
                "expected one row of 2theta and as many intensities, "
                f"but came {angles.shape} and {area.shape}"
            )
        check_wavelength(wavelength)
        for name, values, low, high in (
            ("2theta", angles, 0.0, 180.0),
            ("sigma", errors, 0.0, 10.0),
            ("intensity", area, 0.0, np.inf),
        ):
            bad = np.flatnonzero(~((values > low) & (values < high)))
            if len(bad):
                raise ValueError(
                    f"expected {name} between {low:g} and {high:g}, but line {bad[0] + 1} has "
                    f"{values[bad[0]]}; remove or repair that line"
                )
        return cls._of_columns(
            angles, errors, area, np.full_like(angles, _CLEAR), wavelength=wavelength, width=width
        )

    @classmethod
    def _of_columns(
        cls,
        two_theta: np.ndarray,
        sigma: np.ndarray,
        intensity: np.ndarray,
        clear: np.ndarray,
        *,
        wavelength: float,
        width: float,
        start: float | None = None,
    ) -> Self:
        two_theta, first = np.unique(two_theta, return_index=True)
        sigma = np.hypot(_FLOOR, _UNDERSTATED * sigma[first])
        share = intensity[first] / intensity.max() if len(first) else intensity[first]
        doubt = 0.05 * ((0.03 / np.maximum(share, 1e-4)) * (8 / clear[first])) ** 0.8
        reliability = 1 - np.clip(doubt, *_STRANGERS)
        end = 0.0  # of what is compared: beyond the last line, lines are too faint to be missed
        if len(first):
            start = two_theta[0] - _EDGE if start is None else start
            end = two_theta[-1] + _EDGE
        if len(first) > _MOST:
            end = (two_theta[_MOST - 1] + two_theta[_MOST]) / 2
        return cls(
            two_theta[:_MOST],
            sigma[:_MOST],
            reliability[:_MOST],
            share[:_MOST],
            np.flatnonzero(share[:_MOST] > _STRONG)[:_STRONGEST],
            wavelength,
            float(start or 0.0),
            float(end),
            _UNRESOLVED * width,
        )


def to_q(two_theta: np.ndarray, wavelength: float) -> np.ndarray:
    """1/d^2 at angles in degrees."""
    return (2 * np.sin(np.radians(np.clip(two_theta, 0, 180) / 2)) / wavelength) ** 2


def to_two_theta(q: np.ndarray, wavelength: float) -> np.ndarray:
    """Angles in degrees of 1/d^2; 180 beyond what the wavelength reaches."""
    return 2 * np.degrees(np.arcsin(np.minimum(np.sqrt(q) * wavelength / 2, 1.0)))
