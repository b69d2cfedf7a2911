"""A measured pattern in, the same without background on a network's grid out."""

import numpy as np
import torch
from torch import Tensor

from unimat_lib.views.grid import Grid, lorentz_polarisation
from unimat_powder.pattern import Pattern, PatternError

SNIP_HALF_WINDOW = 2.0  # degrees; what is narrower than twice this is a peak, not background


def to_grid(pattern: Pattern, grid: Grid, *, background: bool = True) -> Tensor:
    """Bring a measured pattern onto a grid, the way simulated ones come.

    Angles are converted to the grid's wavelength through d (sin theta / wavelength stays). Each
    grid point then gets the mean of the measured curve over its own interval of one step, so a peak
    keeps its area whatever the two steps are. Where the wavelengths differ, intensities are taken
    from the Lorentz-polarisation factor of the measured angle to that of the new one, and from the
    old axis to the new. Grid points outside the measured range are zero.

    Args:
        pattern: The measurement.
        grid: Where to put it.
        background: Subtract the background, see :func:`snip_background`; otherwise intensities are
            only clipped at zero.

    Returns:
        float32 ``[P]``, scaled to a maximum of 1.

    Raises:
        PatternError: No grid point lies inside the measured range, or nothing there rises above the
            background.
    """
    sine = np.sin(np.radians(pattern.two_theta.numpy() / 2))
    sine = sine * (grid.wavelength / pattern.wavelength)
    reachable = sine <= 1  # beyond, the d-spacing is too small for the grid's wavelength
    # Near 180 degrees rounding could turn points round.
    two_theta = np.maximum.accumulate(2 * np.degrees(np.arcsin(sine[reachable])))
    intensity = pattern.intensity.numpy()[reachable]
    points, slack = grid.two_theta.numpy(), 0.01 * grid.step  # for the rounding of angles in files
    covered = np.zeros(grid.num_points, dtype=bool)
    if len(two_theta) > 1:
        covered = (points >= two_theta[0] - slack) & (points <= two_theta[-1] + slack)
    if covered.sum() < 2:
        reached = f"{two_theta[0]:.2f} to {two_theta[-1]:.2f}" if len(two_theta) else "nothing"
        raise PatternError(
            f"the pattern lies outside the grid: it covers {reached} degrees at {grid.wavelength} "
            f"angstrom, the grid {grid.two_theta_min:g} to {grid.two_theta_max:g}; "
            "check the wavelength or choose another grid"
        )
    values = _bin_means(two_theta, intensity, points[covered], grid.step)
    if background:
        values = values - snip_background(values, half_window=round(SNIP_HALF_WINDOW / grid.step))
    values = np.clip(values, 0, None) * _conversion(points[covered], grid, pattern.wavelength)
    if values.max() <= 1e-9 * np.abs(intensity).max():
        after = " once the background is subtracted" if background else ""
        raise PatternError(
            f"nothing rises above zero{after} where the pattern overlaps the grid; "
            "check the intensity column"
        )
    result = np.zeros(grid.num_points, dtype=np.float32)
    result[covered] = values / values.max()
    return torch.from_numpy(result)


def _conversion(two_theta: np.ndarray, grid: Grid, wavelength: float) -> np.ndarray:
    """What intensities measured at ``wavelength`` are multiplied with at angles of the grid."""
    if wavelength == grid.wavelength:
        return np.ones_like(two_theta)
    # Both factors are infinite at 0 degrees, their ratio is not: take it just beside.
    here = torch.sin(torch.deg2rad(torch.from_numpy(two_theta) / 2)).clamp_min(1e-9)
    there = here * (wavelength / grid.wavelength)  # below 1: these points were measured
    stretch = ((1 - here**2) / (1 - there**2).clamp_min(1e-12)).sqrt()
    stretch = stretch * wavelength / grid.wavelength
    return (lorentz_polarisation(here) / lorentz_polarisation(there) * stretch).numpy()


def _bin_means(x: np.ndarray, y: np.ndarray, centres: np.ndarray, width: float) -> np.ndarray:
    """Exact means of the piecewise linear curve through (x, y) over intervals at ``centres``.

    Intervals are cut where the curve ends; every centre must lie inside it, but for rounding.
    """
    slope = np.diff(y) / np.maximum(np.diff(x), 1e-12)  # [n-1]
    integral = np.concatenate([[0.0], np.cumsum(np.diff(x) * (y[1:] + y[:-1]) / 2)])  # [n]

    def antiderivative(at: np.ndarray) -> np.ndarray:
        i = np.clip(np.searchsorted(x, at, side="right") - 1, 0, len(x) - 2)
        return integral[i] + (at - x[i]) * (y[i] + slope[i] * (at - x[i]) / 2)

    low = np.clip(centres - width / 2, x[0], x[-1])
    high = np.clip(centres + width / 2, x[0], x[-1])
    return (antiderivative(high) - antiderivative(low)) / (high - low)


def snip_background(intensity: np.ndarray, *, half_window: int) -> np.ndarray:
    """Smooth background under the peaks (statistics-sensitive non-linear iterative peak clipping).

    Each point is replaced by the mean of its two neighbours at distance w where that is lower, for
    w shrinking by fifths from ``half_window`` to 1 (fewer steps wear less off a broad hump), on a
    double logarithmic and square-root scale that treats weak and strong peaks alike.

    Args:
        intensity: ``[n]``, equidistant.
        half_window: Half width of the widest peak to remove, in points.

    Returns:
        float64 ``[n]``, nowhere above the intensities.

    Source: Ryan et al., Nucl. Instrum. Methods B 34, 396 (1988), with the shrinking window of
        Morhac et al., Nucl. Instrum. Methods A 401, 113 (1997).
    """
    floor = min(float(intensity.min()), 0.0)
    # On a scale of 1e4 the same background comes out whatever the unit of the intensity.
    scale = 1e4 / max(float(intensity.max()) - floor, 1e-300)
    level = np.log(np.log(np.sqrt((intensity - floor) * scale + 1) + 1) + 1)
    window = min(max(half_window, 1), (len(level) - 1) // 2)
    while window:
        w, window = window, window * 4 // 5
        mean = (level[: -2 * w] + level[2 * w :]) / 2
        level[w:-w] = np.minimum(level[w:-w], mean)
    clipped = ((np.exp(np.exp(level) - 1) - 1) ** 2 - 1) / scale + floor
    return np.minimum(clipped, intensity)
