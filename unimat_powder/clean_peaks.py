"""Computed patterns in, many at once; positions, heights and uncertainties of their peaks out.

For patterns without background, doublet and counts, as the networks of chapters 03 to 05 see them.
Lines of a measurement are found by :mod:`.peak_finding`.
"""

import math
from typing import NamedTuple, Self

import torch
from torch import Tensor
from torch.nn import functional

from unimat_lib.views.grid import Grid

_NOISY = 1e-4  # noise above this part of the highest peak makes smoothing worth its blur
_NUM_PEAKS = 40  # that are kept of a pattern, the ones at lowest angle
_MIN_HEIGHT = 3e-5  # of a peak


class ObservedPeaks(NamedTuple):
    """Peaks of ``B`` patterns by rising angle, filled up to ``K``; float64 ``[B, K]`` each.

    A peak that is wider than its neighbours holds several reflections: its sigma is large.
    """

    two_theta: Tensor  # degrees; 0 where there is no peak
    height: Tensor  # in units of the pattern
    sigma: Tensor  # standard deviation of the position, degrees
    mask: Tensor  # bool, where there is a peak
    wavelength: float  # angstrom


def find_peaks(pattern: Tensor, grid: Grid, *, position_error: float = 1e-3) -> ObservedPeaks:
    """Find the first peaks of patterns, at most 40 each, to a small part of the grid's step.

    A peak is a local maximum of some height; where there is noise, it must also be clear of it by
    six standard deviations of its curvature. The parabola through the logarithms of its three
    highest points, exact for a Gaussian, gives position and width; noisy patterns are smoothed
    before. Peaks that are wider than the narrow ones of their pattern hold several reflections; the
    surplus is the uncertainty of their position.

    Args:
        pattern: ``[B, P]``, maximum 1, any floating type.
        grid: The grid it lies on.
        position_error: What positions are off by beside noise and overlap, degrees: nothing in
            rendered patterns, else the size of a zero shift or another misalignment.

    Raises:
        ValueError: The patterns are not ``[B, P]`` on this grid, P at least 3, or not finite.
    """
    if pattern.ndim != 2 or pattern.shape[1] != grid.num_points or grid.num_points < 3:
        wanted = f"[B, {max(grid.num_points, 3)}]"
        raise ValueError(f"expected patterns of shape {wanted}, got {tuple(pattern.shape)}")
    if not bool(torch.isfinite(pattern).all()):
        raise ValueError("expected finite intensities: repair or leave out the broken patterns")
    x = pattern.double()
    noise = _noise(x)  # [B, P]
    noisy = noise.amax(1, keepdim=True) > _NOISY * x.amax(1, keepdim=True)
    x = torch.where(noisy, _filtered(x, [1, 4, 6, 4, 1]) / 16, x)
    left, centre, right = (x[:, i : i + x.shape[1] - 2] for i in range(3))
    noise = noise[:, 1:-1]
    # The second difference of smoothed noise has a third of the noise's standard deviation.
    clear = (2 * centre - left - right > 6 * 0.33 * noise) & (centre > _MIN_HEIGHT)
    found = (centre > left) & (centre >= right) & clear
    places = x.shape[1] - 2
    index = torch.arange(places, device=x.device)
    order = torch.where(found, index, places).sort(dim=1).values[:, :_NUM_PEAKS]  # [B, K]
    mask = order < places
    order = order.clamp_max(places - 1)
    left, height, right, noise = (each.gather(1, order) for each in (left, centre, right, noise))
    left, centre, right = (each.clamp_min(1e-12).log() for each in (left, height, right))
    bend = (2 * centre - left - right).clamp_min(1e-9)
    offset = ((right - left) / (2 * bend)).clamp(-0.5, 0.5)
    two_theta = grid.two_theta_min + (order + 1 + offset) * grid.step
    width2 = grid.step**2 / bend  # variance of the Gaussian
    narrow = torch.where(mask, width2, math.nan).nanquantile(0.25, dim=1, keepdim=True)
    surplus = (width2 - narrow).clamp_min(0)
    surplus = torch.where(surplus > 0.02 * narrow, surplus, 0.0)
    # A slope that is off by n moves the maximum of a Gaussian by n * variance / height.
    jitter = 0.3 * noise / height.clamp_min(1e-12) * width2 / grid.step
    sigma = (position_error**2 + surplus + jitter**2).sqrt()
    return ObservedPeaks(
        two_theta=torch.where(mask, two_theta, 0.0),
        height=torch.where(mask, height, 0.0),
        sigma=torch.where(mask, sigma, 1.0),
        mask=mask,
        wavelength=grid.wavelength,
    )


def _noise(pattern: Tensor) -> Tensor:
    """Standard deviation of the noise near each point, ``[B, P]``, from differences of high order.

    Neighbouring points of noise are independent, those of peaks are not: of a peak as wide as four
    points or more, a difference of sixteenth order leaves less than a thousandth.
    """
    order = 16
    weights = [(-1) ** i * math.comb(order, i) for i in range(order + 1)]
    rough = _filtered(pattern, weights) / math.sqrt(math.comb(2 * order, order))
    window = 4 * order + 1
    mean = functional.avg_pool1d(rough.square()[:, None], window, 1, window // 2)[:, 0]
    return mean.sqrt()


def _filtered(rows: Tensor, weights: list[int]) -> Tensor:
    """Rows ``[B, P]`` convolved with a symmetric filter; the ends are continued."""
    half = len(weights) // 2
    kernel = torch.tensor(weights, dtype=rows.dtype, device=rows.device)[None, None]
    padded = functional.pad(rows[:, None], (half, half), mode="replicate")
    return functional.conv1d(padded, kernel)[:, 0]


class PeaksInQ(NamedTuple):
    """Peaks in Q = 1/d^2, float64 ``[B, K]`` in 1/angstrom^2."""

    q: Tensor
    sigma: Tensor  # standard deviation
    mask: Tensor  # bool, where there is a peak

    def select(self, index: Tensor) -> Self:
        """Those of some patterns."""
        return type(self)(*(each[index] for each in self))


def in_q(peaks: ObservedPeaks) -> PeaksInQ:
    """Peaks by 1/d^2."""
    theta = torch.deg2rad(peaks.two_theta.double() / 2)
    q = (2 * theta.sin() / peaks.wavelength).square()
    slope = 2 * (2 * theta).sin() / peaks.wavelength**2  # dQ / d(2 theta), per radian
    return PeaksInQ(q, slope * torch.deg2rad(peaks.sigma.double()), peaks.mask)
