"""Patterns on a grid in, what the network looks at out: curves over ln g and lists of peaks.

Measured and simulated patterns go the same way. Over the logarithm of g = 1/d an isotropic strain
or another wavelength is a shift.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from unimat_lib.views.grid import Grid
from unimat_powder.simulation.prepare import prepare

GRID = Grid(5.0, 90.0, 4251)
"""Where patterns are simulated, and measured ones are put, before they are prepared."""

POINTS = 4096  #: of the axis over ln g
PEAKS = 80  #: longest list of peaks
PEAK_FEATURES = 3

_NOISE_WINDOW = 129  # points; what the local noise is the mean of
_QUIETEST = 3e-3  # of the prepared curve's height; no noise is taken to be less
_SMOOTH = 2.0  # points, standard deviation, before peaks are sought
_APART = 4  # points between two peaks
_VALLEY = 30  # points left and right in which a peak must fall off
_ABOVE = 4.0  # standard deviations of the smoothed noise
_LOWEST = 0.012  # of the prepared curve's height: 0.07 % of the highest intensity


class Views(NamedTuple):
    """What ``B`` patterns look like to the network.

    Attributes:
        curve: float32 ``[B, 3, POINTS]``: prepared curve, 1 where it was measured, noise.
        ln_g: Positions of peaks, ln(g angstrom), float32 ``[B, PEAKS]``, 0 for none.
        peaks: Height (root intensity), ln of width in degrees, ln of height over noise; float32
            ``[B, PEAKS, 3]``, 0 for none.
        present: Which places of the lists are taken, bool ``[B, PEAKS]``.
    """

    curve: Tensor
    ln_g: Tensor
    peaks: Tensor
    present: Tensor


def views_of(counts: Tensor, mask: Tensor) -> Views:
    """Prepare patterns and find their peaks.

    Args:
        counts: At the points of :data:`GRID`, background included or not, any unit, ``[B, P]``.
        mask: Which points were measured, one stretch in each row, bool ``[B, P]``.

    Raises:
        ValueError: Counts and mask are not of :data:`GRID`.
    """
    prepared = prepare(counts, mask, GRID)
    noise = noise_of(prepared, mask)
    channels = torch.stack([prepared, mask.float(), noise], 1)
    curve = over_ln_g(channels)
    measured = curve[:, 1] > 0.999
    level = (curve[:, 2].clamp_min(_QUIETEST).log() + 4) / 2
    curve = torch.stack([curve[:, 0], measured.float(), level], 1)
    return Views(curve * measured[:, None], *find_peaks(prepared, noise))


def ln_g_axis() -> Tensor:
    """The points of the axis, equidistant in ln(g angstrom), float64 ``[POINTS]``."""
    first, last = (math.log(2 * math.sin(math.radians(x / 2)) / GRID.wavelength) for x in _ends())
    return torch.linspace(first, last, POINTS, dtype=torch.float64)


def over_ln_g(curves: Tensor) -> Tensor:
    """Means of curves ``[..., P]`` on the grid over the intervals of the axis, ``[..., POINTS]``.

    Curves are linear between the grid's points, so that a narrow interval reads the line off and
    a wide one averages the noise.
    """
    place, part, span = _edges(curves.device)
    curves = curves.double()
    total = functional.pad(((curves[..., 1:] + curves[..., :-1]) / 2).cumsum(-1), (1, 0))
    left, right = curves[..., place], curves[..., place + 1]
    area = total[..., place] + part * left + part.square() / 2 * (right - left)
    return (area.diff(dim=-1) / span).float()


def noise_of(prepared: Tensor, mask: Tensor) -> Tensor:
    """Local standard deviation of white noise on prepared curves, float32 ``[B, P]``.

    From differences of each point to the mean of its neighbours; those of peaks, beyond four times
    the median, count no more than that.
    """
    bend = prepared[:, 1:-1] - (prepared[:, :-2] + prepared[:, 2:]) / 2
    there = mask[:, 1:-1] & mask[:, :-2] & mask[:, 2:]
    size = functional.pad((bend.abs() * there), (1, 1))
    there = functional.pad(there.float(), (1, 1))
    middle = size.masked_fill(there == 0, math.nan).nanmedian(1, keepdim=True).values
    size = torch.minimum(size, 4 * middle.nan_to_num())
    total, number = (_running_mean(x) for x in (size, there))
    # Mean size of a normal deviate: 0.8; variance of the bend: 1.5 times that of a point.
    return total / number.clamp_min(1e-6) * (math.sqrt(math.pi / 2) / math.sqrt(1.5)) * mask


def find_peaks(prepared: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The highest peaks of prepared curves ``[B, P]``.

    Maxima of the smoothed curve that stand out of the noise and fall off on both sides.

    Returns:
        ``ln_g`` ``[B, PEAKS]``, features ``[B, PEAKS, 3]`` and ``present`` ``[B, PEAKS]``, see
        :class:`Views`; by falling height.
    """
    kernel = _kernel(prepared.device)
    reach = kernel.shape[-1] // 2
    padded = functional.pad(prepared[:, None], (reach, reach), mode="replicate")
    smooth = functional.conv1d(padded, kernel)[:, 0]
    quiet = noise.clamp_min(_QUIETEST / 4) * kernel.square().sum().sqrt()
    size = 2 * _APART + 1
    highest = functional.max_pool1d(smooth[:, None], size, 1, _APART)[:, 0]
    low = torch.maximum(_lowest(smooth), _lowest(smooth.flip(1)).flip(1))
    threshold = (_ABOVE * quiet).clamp_min(_LOWEST)
    is_peak = (smooth == highest) & (smooth > threshold) & (smooth - low > threshold)
    is_peak[:, [0, -1]] = False
    height, place = torch.where(is_peak, smooth, 0.0).topk(PEAKS, dim=1)
    present = height > 0
    left, right = (smooth.gather(1, (place + s).clamp(0, smooth.shape[1] - 1)) for s in (-1, 1))
    bend = (2 * height - left - right).clamp_min(1e-6)
    moved = place + ((right - left) / 2 / bend).clamp(-0.5, 0.5)
    sine = torch.sin(torch.deg2rad((GRID.two_theta_min + moved * GRID.step) / 2))
    ln_g = torch.log(2 * sine / GRID.wavelength)
    width = (height / bend).clamp(0.1, 1e4).sqrt() * (2.355 * GRID.step)
    ratio = (height.clamp_min(1e-6) / quiet.gather(1, place)).log()
    features = torch.stack([height, width.log(), ratio / 2], -1)
    return ln_g * present, features * present[..., None], present


def _ends() -> tuple[float, float]:
    return GRID.two_theta_min, GRID.two_theta_max


@functools.lru_cache(maxsize=8)
def _edges(device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Where the edges of the axis' intervals lie: grid point, rest, and how wide they are."""
    axis = ln_g_axis().numpy()
    half = (axis[1] - axis[0]) / 2
    edges = np.append(axis - half, axis[-1] + half)
    angle = 2 * np.degrees(np.arcsin(np.exp(edges) * GRID.wavelength / 2))
    at = (angle - GRID.two_theta_min) / GRID.step
    at = np.clip(at, 0, GRID.num_points - 1)
    place = np.minimum(at.astype(np.int64), GRID.num_points - 2)
    arrays = place, at - place, np.diff(at)
    return tuple(torch.from_numpy(x).to(device) for x in arrays)


@functools.lru_cache(maxsize=8)
def _kernel(device: torch.device) -> Tensor:
    reach = round(3 * _SMOOTH)
    x = torch.arange(-reach, reach + 1, device=device) / _SMOOTH
    bell = torch.exp(-x.square() / 2)
    return (bell / bell.sum())[None, None]


def _lowest(curve: Tensor) -> Tensor:
    """Smallest value among the points to the left, ``[B, P]``."""
    padded = functional.pad(-curve[:, None], (_VALLEY, 0), mode="replicate")
    return -functional.max_pool1d(padded, _VALLEY + 1, 1)[:, 0]


def _running_mean(values: Tensor) -> Tensor:
    window = _NOISE_WINDOW
    return functional.avg_pool1d(values[:, None], window, 1, window // 2)[:, 0]
