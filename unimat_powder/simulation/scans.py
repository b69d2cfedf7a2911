"""Crystals and a laboratory's habits in, measurements as it would make them out."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from unimat_lib.crystals.table import CrystalTable
from unimat_lib.views.bragg import Reflections, bragg_reflections, g_max_of
from unimat_lib.views.grid import Grid
from unimat_powder.simulation.instruments import Instruments
from unimat_powder.simulation.ranges import LaboratoryRanges, draw_instruments
from unimat_powder.simulation.simulate import simulate

REACH = 1.06
"""How much further than the grid reflections go: strained cells move some of them into it."""


class Scans(NamedTuple):
    """Measurements of some crystals, ``N`` of them.

    Attributes:
        counts: float32 ``[N, P]``.
        mask: Which points were measured, bool ``[N, P]``.
        reflections: Of the crystals.
        instruments: That measured them.
    """

    counts: Tensor
    mask: Tensor
    reflections: Reflections
    instruments: Instruments


def scans_of(
    table: CrystalTable, ranges: LaboratoryRanges, grid: Grid, *, copies: int = 1, seed: int
) -> Scans:
    """Measure every crystal of a table ``copies`` times: all once, then all again.

    Args:
        table: The crystals.
        ranges: What the laboratory does.
        grid: Points of the scans.
        copies: Scans of each crystal.
        seed: Of instruments and counting noise.
    """
    generator = torch.Generator().manual_seed(seed)
    index = torch.arange(len(table)).repeat(copies)
    instruments = draw_instruments(ranges, len(index), grid=grid, generator=generator)
    reflections = bragg_reflections(table, g_max=REACH * g_max_of(grid))
    counts, mask = simulate(reflections, index, grid, instruments, generator=generator)
    return Scans(counts, mask, reflections, instruments)
