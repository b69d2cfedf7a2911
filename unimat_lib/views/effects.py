"""Ranges of what an instrument does in, effects drawn for a batch of patterns out."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor

from unimat_lib.views.bragg import EDGE_MARGIN

CHEBYSHEV_TERMS = 5
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
    """Ranges of what a measurement does to a pattern, drawn uniformly. The defaults do nothing.

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
                bounds = f"{smallest:g} to {largest:g}"
                raise ValueError(f"{name} ({what}) must lie within {bounds}, but is {value}")


@dataclass(frozen=True, eq=False)
class Effects:
    """Effects drawn for ``B`` patterns. ``None`` stands for an effect that is switched off.

    Attributes:
        fwhm, eta: float32 ``[B]``, degrees and Lorentzian share.
        strain: float64 ``[B]``; multiply the lengths of the cells by 1 + strain.
        zero_shift: float64 ``[B]``, degrees.
        texture: March-Dollase r, float64 ``[B]``.
        texture_axis: Miller indices of the preferred direction, float64 ``[B, 3]``.
        impurity: Share of the other pattern, float32 ``[B]``.
        impurity_from: Which pattern of the batch is the other one, int64 ``[B]``.
        background: Height relative to the highest peak, float32 ``[B]``.
        background_shape: Chebyshev terms; share, centre, width of a hump, float32 ``[B, 8]``.
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


def draw_effects(
    measurement: Measurement,
    batch_size: int,
    *,
    generator: torch.Generator,
    device: torch.device | str = "cpu",
) -> Effects:
    """Draw the effects of ``B`` patterns; the generator must live on ``device``."""

    def uniform(low: float, high: float, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        draw = torch.rand(batch_size, *shape, generator=generator, device=device, dtype=dtype)
        return low + (high - low) * draw

    def below(high: int) -> Tensor:
        return torch.randint(high, (batch_size,), generator=generator, device=device)

    m, double = measurement, torch.float64
    drawn = {"fwhm": uniform(*m.fwhm), "eta": uniform(*m.eta)}
    for name in ("strain", "zero_shift"):
        drawn[name] = uniform(-getattr(m, name), getattr(m, name), dtype=double)
    if tuple(m.texture) != (1.0, 1.0):
        axes = _texture_axes(torch.device(device))
        drawn["texture_axis"] = axes[below(len(axes))]
        drawn["texture"] = uniform(*m.texture, dtype=double)
    if m.impurity > 0:
        step = 1 + below(max(batch_size - 1, 1))
        drawn["impurity_from"] = (torch.arange(batch_size, device=device) + step) % batch_size
        drawn["impurity"] = uniform(0, m.impurity)
    if m.background > 0:
        waves = uniform(-1, 1, CHEBYSHEV_TERMS)
        hump = uniform(0, 1, 1), uniform(0.1, 0.5, 1), uniform(0.03, 0.15, 1)
        drawn["background_shape"] = torch.cat([waves, *hump], dim=1)
        drawn["background"] = uniform(0, m.background)
    if m.noise > 0:
        drawn["noise"] = uniform(0, m.noise)
    return Effects(**drawn)


@functools.cache
def _texture_axes(device: torch.device) -> Tensor:
    """The 13 low-index directions, one of each pair (hkl), (-h -k -l), float64 ``[13, 3]``."""
    steps = torch.arange(-1.0, 2.0, dtype=torch.float64, device=device)
    return torch.cartesian_prod(steps, steps, steps)[14:]
