"""Reflections and instruments in, powder patterns as a laboratory counts them ``[B, P]`` out."""

from __future__ import annotations

import torch
from torch import Tensor

from unimat_lib.views.bragg import Reflections
from unimat_lib.views.grid import CU_K_ALPHA, Grid
from unimat_powder.simulation.curve import (
    Axes,
    between_knots,
    chebyshev,
    conversion,
    expected_curve,
    on_sample,
    row_axes,
)
from unimat_powder.simulation.instruments import Instruments
from unimat_powder.simulation.prepare import HALF_WINDOW, background_of

_COARSE = 1.15  # grid steps; measured points no further apart are taken as the grid's own


def simulate(
    reflections: Reflections,
    index: Tensor,
    grid: Grid,
    instruments: Instruments,
    *,
    generator: torch.Generator,
    symmetry: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Measure some crystals.

    Peaks from :func:`.expected_curve`, on a background of constant, slope, air scatter and
    amorphous humps, counted with Poisson statistics at the measured points, smoothed where the
    instrument's program does so, and brought onto the grid the way :func:`.to_grid` does it.

    Args:
        reflections: All crystals' reflections; they have to reach beyond the grid by the largest
            strain.
        index: Which crystals, int64 ``[B]``.
        grid: Where to draw them.
        instruments: Drawn for these ``B`` patterns, see :func:`.draw_instruments`.
        generator: Source of intensity errors and counting noise, on the reflections' device.
        symmetry: See :func:`.expected_curve`.

    Returns:
        Counts, float32 ``[B, P]``, not negative, zero where nothing was measured; and which points
        were measured, bool ``[B, P]``.

    Raises:
        ValueError: The instruments are drawn for another number of patterns.
    """
    if len(instruments) != len(index):
        came = f"{len(instruments)} patterns came for {len(index)} crystals"
        raise ValueError(f"the instruments of {came}: draw as many as there are crystals")
    index = torch.as_tensor(index, device=reflections.device)
    curve = expected_curve(
        reflections, index, grid, instruments, generator=generator, symmetry=symmetry
    )
    axes = row_axes(grid, instruments)
    under = background(instruments, axes) * instruments.counts[:, None]  # [B, T]
    rate = curve.mul_(instruments.counts[:, None]).add_(between_knots(under, grid))
    counts = _smoothed(_counted(rate, instruments, generator), instruments.smoothing)
    counts = _without_background(counts, instruments.cut, grid)
    mask = covered(instruments, grid)
    return counts.mul_(between_knots(conversion(instruments, axes, grid), grid)).mul_(mask), mask


def covered(instruments: Instruments, grid: Grid) -> Tensor:
    """Which points of the grid were measured, bool ``[B, P]``."""
    ratio = (grid.wavelength / instruments.stated)[:, None]
    ends = torch.sin(torch.deg2rad(instruments.covered / 2)) * ratio
    first, last = (2 * torch.rad2deg(torch.asin(ends.clamp_max(1)))).split(1, dim=1)  # [B, 1]
    points = grid.two_theta.to(ends)
    return (points >= first) & (points <= last)


def background(instruments: Instruments, axes: Axes) -> Tensor:
    """Background per degree at the knots, over the area of the peaks, ``[B, T]``, not negative."""
    x = axes.own * (CU_K_ALPHA / instruments.stated)[:, None]  # roughly degrees of Cu K-alpha
    terms = chebyshev(instruments.slope.shape[1], x.shape[1], x.device)
    smooth = instruments.level[:, None] * (1 + instruments.slope @ terms).clamp_min(0.05)
    smooth = smooth * on_sample(instruments, axes)
    height, decay = (column[:, None] for column in instruments.air.unbind(1))
    smooth = smooth + height * torch.exp((5 - x) / decay)
    height, centre, width = (column.T[..., None] for column in instruments.humps.unbind(2))
    for number in range(len(height)):
        offset = (x - centre[number]) / width[number]
        smooth = smooth + height[number] * torch.exp(-offset.square() / 2)
    return smooth


def _counted(rate: Tensor, instruments: Instruments, generator: torch.Generator) -> Tensor:
    """Counts for rates ``[B, P]``; points further apart than the grid's are joined by lines."""
    draw = torch.randn(rate.shape, generator=generator, device=rate.device)
    coarse = (instruments.coarse > _COARSE).nonzero()[:, 0]
    points = torch.arange(rate.shape[1], device=rate.device)
    step = instruments.coarse[coarse, None]
    rate[coarse] = _at(rate[coarse], points * step)  # those measured points come first now
    counts = _poisson(rate, draw)
    counts[coarse] = _at(counts[coarse], points / step)
    return counts


def _at(values: Tensor, position: Tensor) -> Tensor:
    """Values ``[K, P]`` at fractional places ``[K, Q]``, linear between points."""
    left = position.int().clamp_max_(values.shape[1] - 2)
    part = position.sub_(left).clamp_max_(1)
    left = left.long()
    return values.gather(1, left).lerp_(values.gather(1, left + 1), part)


def _poisson(rate: Tensor, draw: Tensor) -> Tensor:
    """Whole counts with the first four moments of Poisson's, nearly, down to rates of about 1.

    The expansion of Cornish and Fisher, rate + sqrt(rate) z + (z^2 - 1) / 6 + (z - z^3) / (72
    sqrt(rate)); the width is lessened by what the second term adds.
    """
    root = (rate - 0.056).clamp_min_(0.01).sqrt_()
    factor = torch.addcmul(draw.new_tensor(1 / 72), draw, draw, value=-1 / 72)
    factor = factor.div_(root + 0.3).add_(root).add_(draw, alpha=1 / 6)
    return factor.mul_(draw).add_(rate).add_(1 / 3).floor_().clamp_min_(0)


def _without_background(counts: Tensor, cut: Tensor, grid: Grid) -> Tensor:
    """Rows from which a program took the background, rounded to a thousandth of the highest."""
    rows = cut.isfinite().nonzero()[:, 0]
    line = background_of(counts[rows], half_window=HALF_WINDOW / grid.step).clamp_min(0)
    line = (line - cut[rows, None] * line.sqrt()).clamp_min(0)
    left = (counts[rows] - line).clamp_min(0)
    step = left.amax(1, keepdim=True).clamp_min(1e-3) / 1000
    counts[rows] = (left / step).round() * step
    return counts


def _smoothed(counts: Tensor, times: Tensor) -> Tensor:
    """Rows smoothed by (1, 2, 1) / 4 as often as each row says."""
    rows = (times > 0).nonzero()[:, 0]
    if not len(rows):
        return counts
    some, left = counts[rows], times[rows]
    for _ in range(int(left.max())):
        mean = (some[:, :-2] + 2 * some[:, 1:-1] + some[:, 2:]) / 4
        some[:, 1:-1] = torch.where((left > 0)[:, None], mean, some[:, 1:-1])
        left = left - 1
    counts[rows] = some
    return counts
