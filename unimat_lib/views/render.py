"""Reflections and effects in, powder patterns ``[B, P]`` out.

:func:`.bragg_reflections` depends on the crystals only and runs once. :func:`render` is cheap, so
that patterns are never stored and each epoch may see every crystal through another instrument.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import torch
from scipy.fft import next_fast_len
from torch import Tensor

from unimat_lib.crystals.table import gather_segments
from unimat_lib.views.bragg import EDGE_MARGIN, Reflections, check_reach, g_max_of
from unimat_lib.views.effects import CHEBYSHEV_TERMS, Effects
from unimat_lib.views.grid import Grid, lorentz_polarisation
from unimat_lib.views.segments import owners

_FWHM_PER_SIGMA = 2 * math.sqrt(2 * math.log(2))


def render(
    reflections: Reflections,
    index: Tensor,
    grid: Grid,
    *,
    effects: Effects | None = None,
    fwhm: float = 0.1,
    eta: float = 0.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draw the powder patterns of some crystals.

    Every reflection becomes a stick on the grid, its weight spread over four points with a cubic
    B-spline; the profile is then applied to whole rows in Fourier space. The spline widens each
    peak by a known variance, which the profile gives back, so positions between grid points come
    out as exact as those on them. Peaks cannot be narrower than about 1.4 steps. A row is padded by
    half the grid, so what a tail wraps around is below 1e-4 of its peak.

    On a GPU the order of additions varies, so equal calls agree to about 1e-6, not bit by bit; and
    after a first call with the same reflections and grid, a call never waits for it and may be
    captured in a CUDA graph (register the generator): shapes depend on ``B`` and the grid.

    Args:
        reflections: All crystals' reflections.
        index: Which crystals, int64 ``[B]``.
        grid: Where to draw them.
        effects: Drawn effects of these ``B`` patterns, with ``fwhm`` and ``eta`` of their own.
        fwhm: Full width at half maximum in degrees, when there are no effects.
        eta: Lorentzian share of the pseudo-Voigt profile, when there are no effects.
        generator: Source of the counting noise, on the reflections' device.

    Returns:
        float32 ``[B, P]``, not negative, each row with maximum 1 (or zero without reflections).

    Raises:
        ValueError: The reflections do not reach the end of the grid, effects are of another batch,
            or the generator is missing.
    """
    batch, device = len(index), reflections.device
    index = torch.as_tensor(index, device=device)
    check_reach(reflections, g_max_of(grid), f"a grid up to {grid.two_theta_max:g} degrees")
    if effects is None:
        one, zero = torch.ones(batch, device=device), index.new_zeros(batch, dtype=torch.float64)
        effects = Effects(fwhm * one, eta * one, strain=zero, zero_shift=zero)
    if len(effects.fwhm) != batch:
        raise ValueError(f"effects of {len(effects.fwhm)} patterns came for {batch} crystals")
    if effects.noise is not None and generator is None:
        raise ValueError("the effects contain noise: expected a torch.Generator to draw it with")
    pattern = _profiles(_sticks(reflections, index, grid, effects), grid, effects)
    pattern = _to_unit_maximum(pattern)
    if effects.impurity is effects.background is effects.noise is None:
        return pattern
    if effects.impurity is not None:
        share = effects.impurity[:, None]
        pattern = (1 - share) * pattern + share * pattern[effects.impurity_from]
    if effects.background is not None:
        height = effects.background[:, None]
        pattern = pattern + height * _background(effects.background_shape, grid)
    if effects.noise is not None:  # Poisson: the variance is the intensity
        draw = torch.randn(pattern.shape, generator=generator, device=device)
        pattern = pattern + effects.noise[:, None] * pattern.sqrt() * draw
    return _to_unit_maximum(pattern)


def _to_unit_maximum(pattern: Tensor) -> Tensor:
    """Rows without negative values and with maximum 1; rows of zeros stay."""
    pattern = pattern.clamp_min(0)
    return pattern / pattern.amax(1, keepdim=True).clamp_min(1e-30)


def _row_length(grid: Grid) -> int:
    """Length of a padded row, a size that the Fourier transform likes."""
    margins = 2 * math.ceil(EDGE_MARGIN / grid.step) + 4
    return next_fast_len(math.ceil(1.5 * grid.num_points) + margins, real=True)


class Rows(NamedTuple):
    """What the reflections of each pattern have in common, float64 ``[B]`` each, ``along [B, 3]``.

    A reflection at g has sin theta = ``sine_per_g * g`` and lies ``origin + steps_per_radian *
    theta`` steps from the first grid point.
    """

    sine_per_g: Tensor
    steps_per_radian: Tensor
    origin: Tensor
    texture: Tensor | None
    along: Tensor | None  # a*, b*, c* along the preferred direction


def _rows(reflections: Reflections, index: Tensor, grid: Grid, effects: Effects) -> Rows:
    along = None
    if effects.texture is not None:
        reciprocal = reflections.reciprocal[index]  # [B, 3, 3]
        axis = (effects.texture_axis[:, :, None] * reciprocal).sum(1)  # [B, 3]
        axis = axis / axis.norm(dim=-1, keepdim=True)
        along = (reciprocal * axis[:, None]).sum(-1)  # [B, 3]
    return Rows(
        sine_per_g=grid.wavelength / 2 / (1 + effects.strain),
        steps_per_radian=torch.full_like(effects.strain, math.degrees(2) / grid.step),
        origin=(effects.zero_shift - grid.two_theta_min) / grid.step,
        texture=effects.texture,
        along=along,
    )


def _sticks(reflections: Reflections, index: Tensor, grid: Grid, effects: Effects) -> Tensor:
    """Reflections as sticks, float32 ``[B, n]``; what lies left of the grid is at the row's end."""
    rows = _rows(reflections, index, grid, effects)
    sticks = torch.zeros(len(index), _row_length(grid), device=reflections.device)
    margin = (grid.two_theta_min - EDGE_MARGIN, grid.two_theta_max + EDGE_MARGIN)
    # At 180 degrees the Lorentz factor is infinite; no instrument gets there.
    sine_range = [math.sin(math.radians(min(max(edge, 0.0), 179.99) / 2)) for edge in margin]
    add_sticks = _sticks_in_steps
    if reflections.device.type == "cuda":  # the same; here, because triton comes with CUDA only
        from unimat_lib.kernels.sticks import add_sticks
    return add_sticks(sticks, reflections, index, rows, sine_range)


def _sticks_in_steps(
    sticks: Tensor, reflections: Reflections, index: Tensor, rows: Rows, sine_range: list[float]
) -> Tensor:
    """Add the reflections between two values of sin theta to ``sticks`` ``[B, n]``."""
    flat, offsets = gather_segments(reflections.offsets, index)
    row = owners(offsets.diff(), len(flat))  # [M]
    sine = reflections.g.index_select(0, flat) * rows.sine_per_g.index_select(0, row)
    seen = ((sine >= sine_range[0]) & (sine <= sine_range[1])).nonzero()[:, 0]
    flat, row, sine = (each.index_select(0, seen) for each in (flat, row, sine))
    weight = reflections.intensity.index_select(0, flat) * lorentz_polarisation(sine)
    if rows.texture is not None:
        cosine = (reflections.hkl[flat] * rows.along[row]).sum(-1) / reflections.g[flat]
        weight = weight * _march_dollase(rows.texture[row], cosine)
    place = rows.steps_per_radian[row] * torch.asin(sine) + rows.origin[row]

    left = place.floor()
    t = (place - left).float()
    s = 1 - t
    spline = [s**3, 3 * t**3 - 6 * t**2 + 4, 3 * s**3 - 6 * s**2 + 4, t**3]
    values = weight.float()[:, None] * (torch.stack(spline, dim=1) / 6)  # [M, 4]
    n = sticks.shape[1]
    taps = torch.arange(-1, 3, device=flat.device)
    target = row[:, None] * n + (left.long()[:, None] + taps) % n  # [M, 4]
    sticks.view(-1).index_add_(0, target.reshape(-1), values.reshape(-1))
    return sticks


def _march_dollase(r: Tensor, cosine: Tensor) -> Tensor:
    """Texture weights, (r^2 cos^2 alpha + sin^2 alpha / r)^(-3/2), of the shape given.

    Here alpha is the angle between a reflection and the preferred direction. Equivalent planes with
    different angles are added at the same peak, which is the average over the multiplicity.

    Source: Dollase, J. Appl. Cryst. 19, 267 (1986).
    """
    cos2 = cosine.square().clamp_max(1)
    return (r.square() * cos2 + (1 - cos2) / r).pow(-1.5)


def _profiles(sticks: Tensor, grid: Grid, effects: Effects) -> Tensor:
    """Sticks ``[B, n]`` convolved with each row's pseudo-Voigt profile, float32 ``[B, P]``.

    The transform of a Gaussian of variance v is exp(-v k^2 / 2), that of a Lorentzian of half width
    w exp(-w |k|), k in radians per step. The variance of the B-spline, 1/3, is taken off again.
    """
    k = _frequencies(grid, sticks.device)  # [n/2+1]
    width = (effects.fwhm / grid.step)[:, None]  # [B, 1] in steps
    variance = (width / _FWHM_PER_SIGMA).square()
    surplus = variance.clamp_max(1 / 3)
    k2 = k.square()
    gauss = (k2 * ((surplus - variance) / 2)).exp_()
    lorentz = (k2 * (surplus / 2)).sub_(k * (width / 2)).exp_()
    transfer = gauss.lerp_(lorentz, effects.eta[:, None])  # [B, n/2+1]
    spectrum = torch.fft.rfft(sticks)
    torch.view_as_real(spectrum).mul_(transfer[:, :, None])
    return torch.fft.irfft(spectrum, n=sticks.shape[1])[:, : grid.num_points]


@functools.lru_cache(maxsize=16)
def _frequencies(grid: Grid, device: torch.device) -> Tensor:
    """Frequencies of a row's transform in radians per step, float32 ``[n/2+1]``."""
    return 2 * math.pi * torch.fft.rfftfreq(_row_length(grid), device=device)


def _background(shape: Tensor, grid: Grid) -> Tensor:
    """Smooth curves ``[B, P]`` from 0 to 1, a low polynomial and a hump, as air and glass give."""
    x, basis = _chebyshev(grid.num_points, shape.device)
    order = torch.arange(1, CHEBYSHEV_TERMS + 1, device=shape.device)
    smooth = (shape[:, :CHEBYSHEV_TERMS] / order) @ basis
    smooth = _to_unit_maximum(smooth - smooth.amin(1, keepdim=True))
    share, centre, width = (column[:, None] for column in shape[:, CHEBYSHEV_TERMS:].unbind(1))
    hump = torch.exp(-(((x + 1) / 2 - centre) / width).square() / 2)
    return _to_unit_maximum(torch.lerp(smooth, hump, share))


@functools.lru_cache(maxsize=16)
def _chebyshev(num_points: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Points from -1 to 1, ``[P]``, and the Chebyshev polynomials T1 to T5 there, ``[5, P]``."""
    x = torch.linspace(-1, 1, num_points, device=device)
    order = torch.arange(1, CHEBYSHEV_TERMS + 1, device=device)
    return x, torch.cos(order[:, None] * torch.acos(x))
