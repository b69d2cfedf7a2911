"""Powder diffraction of many crystals at once: patterns, and what an instrument does to them.

The work is split where its cost is. :func:`bragg_reflections` (module ``bragg``) depends on the
crystals only and runs once: it lists every lattice plane (hkl) with its spacing and its intensity.
:func:`render` turns the reflections of a batch into patterns and is cheap, so that patterns are
never stored and each epoch may see every crystal through another instrument. Measured patterns
(module ``patterns``) come onto the same grid with :func:`to_grid`.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, fields, replace
from typing import NamedTuple

import torch
from scipy.fft import next_fast_len
from torch import Tensor

from unimat_lib.bragg import (
    EDGE_MARGIN,
    Peaks,
    Reflections,
    bragg_reflections,
    check_reach,
    g_max_of,
    lorentz_polarisation,
    peaks,
)
from unimat_lib.crystals import gather_segments
from unimat_lib.patterns import (
    CU_K_ALPHA,
    WAVELENGTHS,
    Grid,
    Pattern,
    PatternError,
    read_pattern,
    to_grid,
)

__all__ = [
    "CU_K_ALPHA",
    "WAVELENGTHS",
    "Effects",
    "Grid",
    "Measurement",
    "Pattern",
    "PatternError",
    "Peaks",
    "Reflections",
    "bragg_reflections",
    "draw_effects",
    "g_max_of",
    "peaks",
    "read_pattern",
    "render",
    "to_grid",
]

_FWHM_PER_SIGMA = 2 * math.sqrt(2 * math.log(2))

# ------------------------------------------------------------------------------ measurement effects

_CHEBYSHEV_TERMS = 5
_RANGES = {  # field: (smallest, largest, what it is)
    "fwhm": (1e-6, 20.0, "peak width in degrees"),
    "eta": (0.0, 1.0, "Lorentzian share"),
    "texture": (0.05, 20.0, "March-Dollase r"),
    "strain": (0.0, 0.5, "isotropic strain"),
    "zero_shift": (0.0, EDGE_MARGIN, "zero shift in degrees"),
    "background": (0.0, 100.0, "background height"),
    "noise": (0.0, 1.0, "counting noise"),
    "impurity": (0.0, 1.0, "impurity fraction"),
}


@dataclass(frozen=True)
class Measurement:
    """Ranges of what a measurement does to a pattern. The defaults do nothing.

    Values are drawn uniformly between the ends of a range.

    Attributes:
        fwhm: Smallest and largest full width of peaks at half maximum, degrees.
        eta: Smallest and largest Lorentzian share of the pseudo-Voigt profile, 0 to 1.
        strain: Largest isotropic strain s, either sign: lengths are multiplied by 1 + s.
        zero_shift: Largest shift of the whole pattern, either sign, degrees.
        texture: Smallest and largest March-Dollase r; 1 is a perfect powder, below 1 are platelets.
        background: Largest background, relative to the highest peak.
        noise: Largest relative counting noise at the highest peak, 1 / sqrt(its counts).
        impurity: Largest share of another crystal's pattern.
    """

    fwhm: tuple[float, float] = (0.1, 0.1)
    eta: tuple[float, float] = (0.0, 0.0)
    strain: float = 0.0
    zero_shift: float = 0.0
    texture: tuple[float, float] = (1.0, 1.0)
    background: float = 0.0
    noise: float = 0.0
    impurity: float = 0.0

    def __post_init__(self) -> None:
        """Refuse ranges that are reversed or mean nothing."""
        for name, (smallest, largest, what) in _RANGES.items():
            value = getattr(self, name)
            low, high = value if isinstance(value, tuple | list) else (smallest, value)
            if not smallest <= low <= high <= largest:
                raise ValueError(
                    f"{name} ({what}) must lie within {smallest:g} to {largest:g}, but is {value}"
                )


@dataclass(frozen=True, eq=False)
class Effects:
    """Effects drawn for ``B`` patterns. ``None`` stands for an effect that is switched off.

    Attributes:
        fwhm: float32 ``[B]``, degrees.
        eta: float32 ``[B]``.
        strain: float64 ``[B]``; multiply the lengths of the cells by 1 + strain.
        zero_shift: float64 ``[B]``, degrees.
        texture: March-Dollase r, float64 ``[B]``.
        texture_axis: Miller indices of the preferred direction, float64 ``[B, 3]``.
        impurity: Share of the other pattern, float32 ``[B]``.
        impurity_from: Which pattern of the batch is the other one, int64 ``[B]``.
        background: Height relative to the highest peak, float32 ``[B]``.
        background_shape: Chebyshev coefficients, then share, centre and width of a hump, float32
            ``[B, 8]``.
        noise: Relative counting noise at the highest peak, float32 ``[B]``.
    """

    fwhm: Tensor
    eta: Tensor
    strain: Tensor
    zero_shift: Tensor
    texture: Tensor | None = None
    texture_axis: Tensor | None = None
    impurity: Tensor | None = None
    impurity_from: Tensor | None = None
    background: Tensor | None = None
    background_shape: Tensor | None = None
    noise: Tensor | None = None

    def to(self, device: torch.device | str) -> Effects:
        """The same effects on another device."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return Effects(**{k: None if v is None else v.to(device) for k, v in values.items()})


def draw_effects(
    measurement: Measurement,
    batch_size: int,
    *,
    generator: torch.Generator,
    device: torch.device | str = "cpu",
) -> Effects:
    """Draw the effects of a batch of patterns.

    Args:
        measurement: Ranges to draw from.
        batch_size: Number of patterns ``B``.
        generator: Source of all random numbers; it must live on ``device``.
        device: Where the values go.
    """

    def uniform(low: float, high: float, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        draw = torch.rand(batch_size, *shape, generator=generator, device=device, dtype=dtype)
        return low + (high - low) * draw

    m, double = measurement, torch.float64
    effects = Effects(
        fwhm=uniform(*m.fwhm),
        eta=uniform(*m.eta),
        strain=uniform(-m.strain, m.strain, dtype=double),
        zero_shift=uniform(-m.zero_shift, m.zero_shift, dtype=double),
    )
    if tuple(m.texture) != (1.0, 1.0):
        axes = _texture_axes(torch.device(device))
        choice = torch.randint(len(axes), (batch_size,), generator=generator, device=device)
        effects = replace(
            effects, texture=uniform(*m.texture, dtype=double), texture_axis=axes[choice]
        )
    if m.impurity > 0:
        step = torch.randint(
            max(batch_size - 1, 1), (batch_size,), generator=generator, device=device
        )
        other = (torch.arange(batch_size, device=device) + 1 + step) % batch_size
        effects = replace(effects, impurity=uniform(0, m.impurity), impurity_from=other)
    if m.background > 0:
        shape = torch.cat(
            [
                uniform(-1, 1, _CHEBYSHEV_TERMS),
                uniform(0, 1, 1),
                uniform(0.1, 0.5, 1),
                uniform(0.03, 0.15, 1),
            ],
            1,
        )
        effects = replace(effects, background=uniform(0, m.background), background_shape=shape)
    if m.noise > 0:
        effects = replace(effects, noise=uniform(0, m.noise))
    return effects


@functools.cache
def _texture_axes(device: torch.device) -> Tensor:
    """The 13 low-index directions, one of each pair (hkl), (-h -k -l), float64 ``[13, 3]``."""
    steps = torch.arange(-1.0, 2.0, dtype=torch.float64, device=device)
    return torch.cartesian_prod(steps, steps, steps)[14:]


# ---------------------------------------------------------------------------------------- rendering


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
    peak by a known variance, which the profile gives back, so that positions between grid points
    come out as exact as those on them. Peaks narrower than about 1.4 steps cannot be drawn narrower
    than that. The spectrum of a row is padded by half the grid, so what a tail wraps around is
    below 1e-4 of its peak for any profile in use.

    On a GPU the order of additions varies, so equal calls agree to about 1e-6, not bit by bit.
    After a first call with the same reflections and grid, a call on a GPU never waits for it and
    may be captured in a CUDA graph (register the generator with the graph): shapes depend on ``B``
    and the grid alone.

    Args:
        reflections: All crystals' reflections.
        index: Which crystals, int64 ``[B]``.
        grid: Where to draw them.
        effects: Drawn effects of these ``B`` patterns; they bring their own ``fwhm`` and ``eta``.
        fwhm: Full width at half maximum in degrees, when there are no effects.
        eta: Lorentzian share of the pseudo-Voigt profile, when there are no effects.
        generator: Source of the counting noise, on the reflections' device; needed where effects
            have noise.

    Returns:
        float32 ``[B, P]``, not negative, each row scaled to a maximum of 1 (a row without
        reflections is zero).

    Raises:
        ValueError: The reflections do not reach the end of the grid, effects are of another batch,
            or the generator is missing.
    """
    batch, device = len(index), reflections.device
    index = torch.as_tensor(index, device=device)
    check_reach(reflections, g_max_of(grid), f"a grid up to {grid.two_theta_max:g} degrees")
    if effects is None:
        single = torch.ones(batch, device=device)
        effects = Effects(fwhm * single, eta * single, 0 * single.double(), 0 * single.double())
    if len(effects.fwhm) != batch:
        raise ValueError(
            f"the effects were drawn for {len(effects.fwhm)} patterns, but the index has {batch}"
        )
    if effects.noise is not None and generator is None:
        raise ValueError("the effects contain noise: expected a torch.Generator to draw it with")
    pattern = _profiles(_sticks(reflections, index, grid, effects), grid, effects)
    pattern = _to_unit_maximum(pattern)
    if all(x is None for x in (effects.impurity, effects.background, effects.noise)):
        return pattern
    if effects.impurity is not None:
        share = effects.impurity[:, None]
        pattern = (1 - share) * pattern + share * pattern[effects.impurity_from]
    if effects.background is not None:
        pattern = pattern + effects.background[:, None] * _background(
            effects.background_shape, grid
        )
    if effects.noise is not None:
        draw = torch.randn(pattern.shape, generator=generator, device=device)
        pattern = (
            pattern + effects.noise[:, None] * pattern.sqrt() * draw
        )  # Poisson: the variance is the intensity
    return _to_unit_maximum(pattern)


def _to_unit_maximum(pattern: Tensor) -> Tensor:
    """Rows without negative values and with maximum 1; rows of zeros stay."""
    pattern = pattern.clamp_min(0)
    return pattern / pattern.amax(1, keepdim=True).clamp_min(1e-30)


def _row_length(grid: Grid) -> int:
    """Length of a padded row, a size that the Fourier transform likes."""
    return next_fast_len(
        math.ceil(1.5 * grid.num_points) + 2 * math.ceil(EDGE_MARGIN / grid.step) + 4, real=True
    )


class _Rows(NamedTuple):
    """What the reflections of each pattern have in common, float64 ``[B]`` each, ``along [B, 3]``.

    A reflection at g has sin theta = ``sine_per_g * g`` and lies ``origin + steps_per_radian *
    theta`` steps from the first grid point.
    """

    sine_per_g: Tensor
    steps_per_radian: Tensor
    origin: Tensor
    texture: Tensor | None
    along: Tensor | None  # a*, b*, c* along the preferred direction


def _rows(reflections: Reflections, index: Tensor, grid: Grid, effects: Effects) -> _Rows:
    along = None
    if effects.texture is not None:
        reciprocal = reflections.reciprocal[index]  # [B, 3, 3]
        axis = (effects.texture_axis[:, :, None] * reciprocal).sum(1)  # [B, 3]
        axis = axis / axis.norm(dim=-1, keepdim=True)
        along = (reciprocal * axis[:, None]).sum(-1)  # [B, 3]
    return _Rows(
        sine_per_g=grid.wavelength / 2 / (1 + effects.strain),
        steps_per_radian=torch.full_like(effects.strain, math.degrees(2) / grid.step),
        origin=(effects.zero_shift - grid.two_theta_min) / grid.step,
        texture=effects.texture,
        along=along,
    )


def _sticks(reflections: Reflections, index: Tensor, grid: Grid, effects: Effects) -> Tensor:
    """Reflections as sticks, float32 ``[B, n]``; what lies left of the grid is at the row's end.

    A CUDA kernel does on the GPU what :func:`_sticks_in_steps` spells out.
    """
    rows = _rows(reflections, index, grid, effects)
    sticks = torch.zeros(len(index), _row_length(grid), device=reflections.device)
    margin = (grid.two_theta_min - EDGE_MARGIN, grid.two_theta_max + EDGE_MARGIN)
    # At 180 degrees the Lorentz factor is infinite; no instrument gets there.
    sine_range = [math.sin(math.radians(min(max(edge, 0.0), 179.99) / 2)) for edge in margin]
    if reflections.device.type == "cuda":
        from unimat_lib.stick_kernel import add_sticks  # needs triton, which comes with CUDA only

        return add_sticks(sticks, reflections, index, rows, sine_range)
    return _sticks_in_steps(sticks, reflections, index, rows, sine_range)


def _sticks_in_steps(
    sticks: Tensor, reflections: Reflections, index: Tensor, rows: _Rows, sine_range: list[float]
) -> Tensor:
    """Add the reflections between two values of sin theta to ``sticks`` ``[B, n]``."""
    flat, offsets = gather_segments(reflections.offsets, index)
    row = torch.arange(len(index), device=flat.device)
    row = torch.repeat_interleave(row, offsets.diff(), output_size=len(flat))  # [M]
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
    spline = (
        torch.stack([s**3, 3 * t**3 - 6 * t**2 + 4, 3 * s**3 - 6 * s**2 + 4, t**3], dim=1) / 6
    )  # [M, 4]
    n = sticks.shape[1]
    taps = torch.arange(-1, 3, device=flat.device)
    target = row[:, None] * n + (left.long()[:, None] + taps) % n  # [M, 4]
    sticks.view(-1).index_add_(
        0, target.reshape(-1), (weight.float()[:, None] * spline).reshape(-1)
    )
    return sticks


def _march_dollase(r: Tensor, cosine: Tensor) -> Tensor:
    """Texture weights, (r^2 cos^2 alpha + sin^2 alpha / r)^(-3/2), of the shape given.

    Here alpha is the angle between a reflection and the preferred direction. Each reflection is
    weighted by its own angle. Equivalent planes with different angles fall on the same peak and are
    added there, which is the average over the multiplicity.

    Source: Dollase, J. Appl. Cryst. 19, 267 (1986).
    """
    cos2 = cosine.square().clamp_max(1)
    return (r.square() * cos2 + (1 - cos2) / r).pow(-1.5)


def _profiles(sticks: Tensor, grid: Grid, effects: Effects) -> Tensor:
    """Sticks ``[B, n]`` convolved with each row's pseudo-Voigt profile, float32 ``[B, P]``.

    The transform of a Gaussian of variance v is exp(-v k^2 / 2), that of a Lorentzian of half width
    w exp(-w |k|), with k in radians per step. The B-spline of the sticks has variance 1/3 (in steps
    squared), which is taken off again.
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
    order = torch.arange(1, _CHEBYSHEV_TERMS + 1, device=shape.device)
    smooth = (shape[:, :_CHEBYSHEV_TERMS] / order) @ basis
    smooth = _to_unit_maximum(smooth - smooth.amin(1, keepdim=True))
    share, centre, width = (column[:, None] for column in shape[:, _CHEBYSHEV_TERMS:].unbind(1))
    hump = torch.exp(-(((x + 1) / 2 - centre) / width).square() / 2)
    return _to_unit_maximum(torch.lerp(smooth, hump, share))


@functools.lru_cache(maxsize=16)
def _chebyshev(num_points: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Points from -1 to 1, ``[P]``, and the Chebyshev polynomials T1 to T5 there, ``[5, P]``."""
    x = torch.linspace(-1, 1, num_points, device=device)
    order = torch.arange(1, _CHEBYSHEV_TERMS + 1, device=device)
    return x, torch.cos(order[:, None] * torch.acos(x))
