"""Measured or simulated curves on a grid in, the form that a network or a search compares out."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from unimat_lib.views.grid import Grid

HALF_WINDOW = 2.0  # degrees; what is narrower than twice this is a peak, not background
_COARSE = 4  # points averaged before the background is sought: less noise, less work
_FLOOR = 0.003  # of the highest peak: below, the square-root scale becomes linear
_SCALE = 1e4  # the background is sought on curves of this height, whatever their unit


def prepare(curve: Tensor, mask: Tensor, grid: Grid) -> Tensor:
    """Take the background off and bring patterns to one scale, alike for measured and simulated.

    Intensities y over the highest peak become y sqrt((1 + c) / (abs(y) + c)): the square root for
    whatever stands out, linear below c = 0.003, so that an empty baseline stays one. White noise of
    1e-5 of the highest peak moves no point by more than about 1e-3.

    Args:
        curve: Intensities in any unit, float ``[B, P]``.
        mask: Which points were measured, bool ``[B, P]``, one stretch in each row.
        grid: The grid they are on.

    Returns:
        float32 ``[B, P]``, highest point 1, noise on both sides of zero, zero outside the mask;
        rows with no peak are zero.

    Raises:
        ValueError: Curves, mask and grid do not fit together.
    """
    if curve.shape != mask.shape or curve.dim() != 2 or curve.shape[1] != grid.num_points:
        came = f"{tuple(curve.shape)} and {tuple(mask.shape)}"
        raise ValueError(f"expected curves and mask [B, {grid.num_points}], but came {came}")
    held = _hold_ends(curve.float(), mask)
    above = held - background_of(held, half_window=HALF_WINDOW / grid.step)
    above = above * mask
    above = above / above.amax(1, keepdim=True).clamp_min(1e-30)
    return above * ((1 + _FLOOR) / (above.abs() + _FLOOR)).sqrt()


def background_of(curve: Tensor, *, half_window: float) -> Tensor:
    """Smooth background under the peaks of curves ``[B, P]``: SNIP, see :func:`.snip_background`.

    It is sought on means of four points, smoothed once more, so that it runs through the noise
    rather than below it.

    Args:
        curve: Intensities in any unit.
        half_window: Half width of the widest peak to remove, in points.
    """
    points = curve.shape[1]
    padded = functional.pad(curve[:, None], (0, -points % _COARSE), mode="replicate")
    coarse = functional.avg_pool1d(padded, _COARSE)
    coarse = functional.avg_pool1d(functional.pad(coarse, (2, 2), mode="replicate"), 5, stride=1)
    coarse = coarse[:, 0]
    scale = _SCALE / coarse.amax(1, keepdim=True).clamp_min(1e-30)
    level = ((coarse * scale).clamp_min(0) + 1).sqrt().add(1).log().add(1).log()
    window = min(max(round(half_window / _COARSE), 1), (level.shape[1] - 1) // 2)
    while window:
        w, window = window, window * 4 // 5
        mean = (level[:, : -2 * w] + level[:, 2 * w :]) / 2
        inside = torch.minimum(level[:, w:-w], mean)
        level = torch.cat([level[:, :w], inside, level[:, -w:]], dim=1)
    clipped = ((level.exp() - 1).exp() - 1).square() - 1
    fine = functional.interpolate(
        (clipped / scale)[:, None], scale_factor=_COARSE, mode="linear", align_corners=False
    )
    return fine[:, 0, :points]


def _hold_ends(curve: Tensor, mask: Tensor) -> Tensor:
    """Curves that go on with their first and last measured value where nothing was measured."""
    points = torch.arange(mask.shape[1], device=mask.device)
    first = torch.where(mask, points, mask.shape[1] - 1).amin(1, keepdim=True)
    last = torch.where(mask, points, 0).amax(1, keepdim=True)
    held = torch.minimum(torch.maximum(points[None], first), last)
    return curve.gather(1, held)
