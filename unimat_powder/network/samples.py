"""Crystals in, freshly measured patterns of some of them with what should be read out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import NamedTuple

import gemmi
import torch
from torch import Tensor

from unimat_lib.crystals.table import CrystalTable
from unimat_lib.views.bragg import Reflections, bragg_reflections, g_max_of
from unimat_powder.network.composition import fractions_of
from unimat_powder.network.views import GRID
from unimat_powder.simulation.instruments import Instruments
from unimat_powder.simulation.ranges import RRUFF, LaboratoryRanges, draw_instruments
from unimat_powder.simulation.scans import REACH
from unimat_powder.simulation.simulate import simulate
from unimat_powder.simulation.symmetry import strain_projectors, tensor_of

_FAINT = 1e-4  # of a crystal's strongest reflection; what is below is left out
_DALTON = 1.66053907  # g/cm3 of 1 dalton per cubic angstrom

CU = replace(LaboratoryRanges(), anodes=(("Cu", 1.0),), fwhm=(0.04, 0.8), eta=(0.0, 1.1), full=0.4)
"""Copper tubes of all laboratories, up to wide peaks."""

CLEAN = replace(
    CU,
    doublet=0.5,
    k_beta=0.0,
    tungsten=0.0,
    white=0.0,
    full=0.7,
    fwhm=(0.06, 0.5),
    growth=(0.95, 1.3),
    eta=(0.0, 0.7),
    asymmetry=(1e-4, 0.02),
    impurity=0.25,
    isotropic=(-0.02, 0.02),
    texture=0.1,
    b_factor=(-0.3, 0.8),
    misfit=(0.001, 0.1),
    spread=(0.001, 0.1),
    response=0.03,
    spill=(0.0, 4.0),
    level=(1e-4, 0.01),
    air=(1e-5, 1e-3),
    hump=0.1,
    counts=(3e4, 1e8),
    smoothed=0.0,
    subtracted=0.0,
)
"""Nearly what theory computes."""

HABITS = ((RRUFF, 0.4), (CU, 0.25), (LaboratoryRanges(), 0.15), (CLEAN, 0.2))
"""What patterns are measured with, and shares of a batch."""


@dataclass(frozen=True, eq=False)
class TrainingCrystals:
    """Crystals that can be measured, ``C`` of them, on one device.

    Attributes:
        reflections: Their reflections, weak ones left out.
        symmetry: Projectors onto strains that keep their symmetry, ``[C, 6, 6]``.
        lattice: Niggli cells of the primitive cells, float32 ``[C, 3, 3]``.
        num_atoms: float32 ``[C]``.
        mass: Of the primitive cell, dalton, float32 ``[C]``.
        space_group: int64 ``[C]``, 1 to 230.
        fractions: See :func:`.fractions_of`, float16 ``[C, ELEMENTS]``.
        made_up: bool ``[C]``.
    """

    reflections: Reflections
    symmetry: Tensor
    lattice: Tensor
    num_atoms: Tensor
    mass: Tensor
    space_group: Tensor
    fractions: Tensor
    made_up: Tensor

    def __len__(self) -> int:
        """Number of crystals."""
        return len(self.space_group)


class Targets(NamedTuple):
    """What should be read of ``B`` patterns.

    Attributes:
        group: Space group minus 1, int64 ``[B]``.
        cell: ln of lengths and cosines of angles of the strained Niggli cell, ``[B, 6]``.
        scalars: ln volume, ln of atoms and of grams per volume, see :class:`.Readout`, ``[B, 3]``.
    """

    group: Tensor
    cell: Tensor
    scalars: Tensor


def training_crystals(
    table: CrystalTable, *, made_up: bool, device: torch.device | str
) -> TrainingCrystals:
    """Get a table of crystals ready to be measured."""
    here = table.to(device)
    reflections = _without_faint(bragg_reflections(here, g_max=REACH * g_max_of(GRID)))
    weights = torch.tensor([gemmi.Element(z).weight for z in range(119)], device=device)
    mass = torch.zeros(len(here), device=device)
    mass.index_add_(0, here.atom_crystal, weights[here.atomic_numbers])
    return TrainingCrystals(
        reflections,
        strain_projectors(reflections.reciprocal),
        here.lattice.float(),
        here.num_atoms.float(),
        mass,
        here.space_group,
        fractions_of(here).half(),
        torch.full((len(here),), made_up, device=device),
    )


def joined(parts: Sequence[TrainingCrystals]) -> TrainingCrystals:
    """One set of several."""
    every = [part.reflections for part in parts]
    counts = torch.cat([x.offsets.diff() for x in every])
    columns = [torch.cat([getattr(x, name) for x in every]) for name in ("hkl", "g", "intensity")]
    offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    reciprocal = torch.cat([x.reciprocal for x in every])
    reflections = Reflections(*columns, offsets, reciprocal, every[0].g_max)
    others = [field.name for field in fields(TrainingCrystals)[1:]]
    return TrainingCrystals(
        reflections, *(torch.cat([getattr(part, name) for part in parts]) for name in others)
    )


def drawn_odds(space_group: Tensor, *, power: float = 0.75) -> Tensor:
    """How often each crystal is drawn, ``[C]``: groups with many less than their share.

    A space group with n crystals is drawn in proportion to n to ``power``.
    """
    number = torch.bincount(space_group, minlength=231).float()[space_group]
    odds = number.pow(power - 1)
    return odds / odds.sum()


def measured_batch(
    crystals: TrainingCrystals,
    index: Tensor,
    *,
    generator: torch.Generator,
    habits: Sequence[tuple[LaboratoryRanges, float]] = HABITS,
    white_noise: float = 0.15,
) -> tuple[Tensor, Tensor, Targets]:
    """Measure some crystals, each freshly.

    Args:
        crystals: What there is.
        index: Which of them, int64 ``[B]``, in random order.
        generator: Source of all numbers, on the crystals' device.
        habits: What to draw instruments from, and shares.
        white_noise: Share of patterns with white noise of up to 2 % of the highest point.

    Returns:
        Counts ``[B, P]`` on :data:`.GRID`, which points were measured, bool ``[B, P]``, and what
        should be read.
    """
    device = crystals.lattice.device
    instruments = mixed_instruments(habits, len(index), generator=generator, device=device)
    counts, mask = simulate(
        crystals.reflections,
        index,
        GRID,
        instruments,
        generator=generator,
        symmetry=crystals.symmetry,
    )
    draw = torch.rand(2, len(index), 1, generator=generator, device=device)
    size = torch.exp(math.log(2e-4) + draw[0] * math.log(100.0)) * (draw[1] < white_noise)
    noise = torch.randn(counts.shape, generator=generator, device=device)
    counts = (counts + noise * size * counts.amax(1, keepdim=True)) * mask
    counts = counts.nan_to_num()  # one pattern in millions must not end a training
    return counts, mask, targets_of(crystals, index, instruments)


def mixed_instruments(
    habits: Sequence[tuple[LaboratoryRanges, float]],
    batch: int,
    *,
    generator: torch.Generator,
    device: torch.device | str,
) -> Instruments:
    """Instruments of several habits in one batch of ``batch`` patterns, one habit after another.

    RRUFF's counts are those of steps of 0.01 degrees; the grid's steps count more.
    """
    ends = torch.tensor([0.0, *(share for _, share in habits)]).cumsum(0)
    ends = (ends / ends[-1] * batch).round().long().tolist()
    parts = []
    for (ranges, _), first, last in zip(habits, ends, ends[1:], strict=False):
        if last > first:
            part = draw_instruments(
                ranges, last - first, grid=GRID, generator=generator, device=device
            )
            scale = GRID.step / ranges.step[1] if ranges is RRUFF else 1.0
            moved = {"pattern": part.pattern + first, "crystal": part.crystal + first}
            parts.append(replace(part, counts=part.counts * scale, **moved))
    return Instruments(**{field.name: _joined(parts, field.name) for field in fields(Instruments)})


def targets_of(crystals: TrainingCrystals, index: Tensor, instruments: Instruments) -> Targets:
    """What is true of the strained main crystals of a batch."""
    batch = len(index)
    six = (crystals.symmetry[index] @ instruments.strain[:batch, :, None])[..., 0]
    strain = tensor_of(six) + torch.eye(3, device=six.device)
    scale = (1 + instruments.isotropic[:batch])[:, None, None]
    lattice = crystals.lattice[index] @ strain * scale
    volume = torch.linalg.det(lattice).abs()
    number = crystals.num_atoms[index] / volume
    density = crystals.mass[index] / volume * _DALTON
    scalars = torch.stack([volume, number, density], 1).log()
    return Targets(crystals.space_group[index] - 1, cell_parameters(lattice), scalars)


def cell_parameters(lattice: Tensor) -> Tensor:
    """Ln of lengths and cosines of alpha, beta, gamma of cells ``[B, 3, 3]``, ``[B, 6]``."""
    length = lattice.norm(dim=-1)
    unit = lattice / length[..., None]
    cosine = (unit[:, [1, 0, 0]] * unit[:, [2, 2, 1]]).sum(-1)
    return torch.cat([length.log(), cosine], 1)


def _joined(parts: Sequence[Instruments], name: str) -> Tensor:
    """Patterns of all parts, or main crystals of all and then the impurities of all."""
    values = [getattr(part, name) for part in parts]
    if name in _OF_CRYSTALS:
        mains = [value[: len(part)] for value, part in zip(values, parts, strict=True)]
        return torch.cat(
            [*mains, *(value[len(part) :] for value, part in zip(values, parts, strict=True))]
        )
    return torch.cat(values)


_OF_CRYSTALS = (
    *("pattern", "crystal", "share", "isotropic", "strain", "texture", "texture_axis"),
    *("b_factor", "misfit", "spread"),
)


def _without_faint(reflections: Reflections) -> Reflections:
    """Reflections that could be seen, in single precision."""
    crystal = reflections.crystal
    highest = torch.zeros(len(reflections), dtype=torch.float64, device=reflections.device)
    highest.scatter_reduce_(0, crystal, reflections.intensity, "amax")
    keep = (reflections.intensity > _FAINT * highest[crystal]).nonzero()[:, 0]
    counts = torch.bincount(crystal[keep], minlength=len(reflections))
    return Reflections(
        reflections.hkl[keep],
        reflections.g[keep].float(),
        reflections.intensity[keep].float(),
        torch.cat([counts.new_zeros(1), counts.cumsum(0)]),
        reflections.reciprocal,
        reflections.g_max,
    )
