"""Reflections and samples in, what each strained, textured crystal scatters out."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from unimat_lib.crystals.table import gather_segments
from unimat_lib.views.bragg import Reflections
from unimat_lib.views.segments import owners
from unimat_powder.simulation.instruments import Instruments
from unimat_powder.simulation.symmetry import strain_projectors, tensor_of

_TABLE = 2**16  # random numbers that intensity errors are looked up in


class Beams(NamedTuple):
    """Reflections of all crystals of a batch, ``M`` of them."""

    row: Tensor  # int64 [M], the pattern
    entry: Tensor  # int64 [M], the crystal, as Instruments.pattern counts them
    g: Tensor  # 1/d of the strained crystal, 1/angstrom, float32 [M]
    weight: Tensor  # intensity without Lorentz-polarisation, float32 [M]


def scattered(
    reflections: Reflections,
    which: Tensor,
    instruments: Instruments,
    reach: tuple[Tensor, Tensor],
    generator: torch.Generator | None,
    symmetry: Tensor | None,
) -> Beams:
    """All reflections that an instrument may see.

    Args:
        reflections: All crystals' reflections.
        which: Places of the batch's crystals among them, int64 ``[N]``.
        instruments: Of the batch.
        reach: Smallest and largest 1/d that each pattern sees, ``[B]`` each.
        generator: Source of the intensity errors; without it there are none.
        symmetry: Projectors of all crystals' strains, or None.
    """
    flat, offsets = gather_segments(reflections.offsets, which)
    entry = owners(offsets.diff(), len(flat))
    row = instruments.pattern.index_select(0, entry)
    hkl = reflections.hkl.index_select(0, flat).T.contiguous().float()  # [3, M]
    g_own = reflections.g.index_select(0, flat).float()
    reciprocal = reflections.reciprocal[which]
    projector = strain_projectors(reciprocal) if symmetry is None else symmetry[which]
    reciprocal = reciprocal.float()
    g = _strained(hkl, entry, reciprocal, projector, instruments)
    low, high = reach
    seen = (g > low.index_select(0, row)) & (g < high.index_select(0, row))
    seen = seen.nonzero()[:, 0]
    columns = g_own, flat, entry, row, g
    g_own, flat, entry, row, g = (x.index_select(0, seen) for x in columns)
    hkl = hkl.index_select(1, seen)
    weight = reflections.intensity.index_select(0, flat).float()
    weight = weight * _texture(hkl, g_own, entry, reciprocal, instruments)
    weight = weight * torch.exp(-0.5 * instruments.b_factor.index_select(0, entry) * g * g)
    if generator is not None:
        weight = _with_errors(weight, g_own, entry, instruments, generator)
    return Beams(row, entry, g, weight)


def _strained(
    hkl: Tensor, entry: Tensor, reciprocal: Tensor, projector: Tensor, instruments: Instruments
) -> Tensor:
    """1/d of the strained crystals, ``[M]``."""
    six = (projector @ instruments.strain[:, :, None])[..., 0]
    strain = tensor_of(six)
    # (1 + E)^-1 to second order; what is left of a strain of 1 % is 1e-6.
    one = torch.eye(3, device=hkl.device)
    changed = reciprocal @ (one - strain + strain @ strain)
    changed = changed / (1 + instruments.isotropic)[:, None, None]
    metric = changed @ changed.mT
    h, k, el = hkl
    first, second = (0, 1, 2, 1, 0, 0), (0, 1, 2, 2, 2, 1)
    factors = metric[:, first, second] * metric.new_tensor([1, 1, 1, 2, 2, 2])
    a, b, c, d, e, f = factors.T.contiguous().index_select(1, entry).unbind(0)
    g2 = h * (a * h + e * el + f * k) + k * (b * k + d * el) + c * el * el
    return g2.clamp_min(0).sqrt()


def _texture(
    hkl: Tensor, g: Tensor, entry: Tensor, reciprocal: Tensor, instruments: Instruments
) -> Tensor:
    """March-Dollase weights of both axes, ``[M]``; see :mod:`unimat_lib.views.render`."""
    axis = instruments.texture_axis @ reciprocal  # [N, 2, 3] Cartesian
    axis = axis / axis.norm(dim=-1, keepdim=True).clamp_min(1e-12)
    along = axis @ reciprocal.mT  # [N, 2, 3]: a*, b*, c* along each axis
    weight = 1.0
    h, k, el = hkl
    for number in range(2):
        x, y, z = along[:, number].T.contiguous().index_select(1, entry).unbind(0)
        r = instruments.texture[:, number].contiguous().index_select(0, entry)
        cos2 = ((h * x + k * y + el * z) / g).square().clamp_max(1)
        spread = r * r * cos2 + (1 - cos2) / r
        weight = weight * spread.rsqrt() / spread
    return weight


def _with_errors(
    weight: Tensor, g: Tensor, entry: Tensor, instruments: Instruments, generator: torch.Generator
) -> Tensor:
    """Intensities as another chemistry would have them, the same for reflections of equal g."""
    device = weight.device
    table = torch.randn(2, _TABLE, generator=generator, device=device)
    key = ((g * 2e4).int() * 40503 + entry.int() * 9973) & (_TABLE - 1)  # odd multipliers scatter
    number = torch.bincount(entry, minlength=len(instruments.misfit)).clamp_min(1)
    mean = torch.zeros_like(instruments.misfit).index_add_(0, entry, weight) / number
    off = (instruments.misfit * mean.sqrt()).index_select(0, entry)
    amplitude = weight.sqrt() + off * table[0].index_select(0, key)
    # Few large grains make single reflections much too strong: tails heavier than a Gaussian's.
    grains = table[1] * (1 + 0.15 * table[1].square()) / 1.4
    return amplitude.square() * torch.exp(
        instruments.spread.index_select(0, entry) * grains.index_select(0, key)
    )
