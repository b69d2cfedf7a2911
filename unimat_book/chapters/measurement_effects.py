"""One crystal in, its pattern as a measurement builds it up, effect by effect, out."""

import math
from collections.abc import Mapping

import pandas as pd
import torch
from torch import Tensor

from unimat_lib.views.bragg import Reflections
from unimat_lib.views.grid import CU_K_ALPHA, Grid
from unimat_powder.pattern import Pattern
from unimat_powder.search.amplitude import amplitude_of
from unimat_powder.search.curve import measured_curve
from unimat_powder.search.shifts import SHIFTS, LineIndex, overlaps
from unimat_powder.simulation.curve import expected_curve
from unimat_powder.simulation.instruments import ANODES, Instruments
from unimat_powder.simulation.ranges import caglioti_through
from unimat_powder.simulation.simulate import simulate

EFFECTS: Mapping[str, str] = {
    "one wavelength": "sharp lines of one wavelength",
    "doublet": "Kα2 at half the height of Kα1, and a weak Kβ",
    "width": "widths that grow with the angle, long tails, a tail towards low angles",
    "cell and sample": "a cell 0.8 % smaller than computed, a sample that sits too low",
    "texture": "plate-like grains that lie flat",
    "background, counts": "air scatter, an amorphous hump, 700 counts at the top",
}
"""What a measurement does to a pattern, one after the other, and each in words."""


def effect_instruments(grid: Grid) -> Instruments:
    """Six instruments for one crystal each, one more of :data:`EFFECTS` in each than before."""
    number = len(EFFECTS)

    def since(step: int, value: float, before: float = 0.0) -> Tensor:
        return torch.where(torch.arange(number) >= step, float(value), float(before))

    def zeros(*shape: int) -> Tensor:
        return torch.zeros(number, *shape)

    first, second, beta = ANODES["Cu"]
    doublet = torch.arange(number) >= 1
    lines = torch.tensor([first, second, beta]).repeat(number, 1)
    lines[:, 0] = torch.where(doublet, first, CU_K_ALPHA)
    axes = torch.tensor([[0.0, 0.0, 1.0], [1.0, 1.0, 0.0]]).repeat(number, 1, 1)
    return Instruments(
        lines=lines,
        line_weights=torch.stack([since(0, 1), since(1, 0.5), since(1, 0.012)], 1),
        white=zeros(3) + torch.tensor([0.35, 0.08, 0.0]),
        stated=since(0, CU_K_ALPHA),
        covered=torch.tensor([[grid.two_theta_min - 1, grid.two_theta_max + 1]]).repeat(number, 1),
        zero=zeros(),
        displacement=since(3, -0.06),
        caglioti=caglioti_through(since(2, 0.11, 0.06), since(2, 2.5, 1.0), zeros()),
        eta=since(2, 0.9)[:, None].repeat(1, 2),
        asymmetry=since(2, 0.03, 1e-6),
        pattern=torch.arange(number),
        crystal=torch.arange(number),
        share=since(0, 1),
        isotropic=since(3, -0.008),
        strain=zeros(6),
        texture=torch.stack([since(0, 1), since(4, 0.6, 1.0)], 1),
        texture_axis=axes,
        b_factor=zeros(),
        misfit=zeros(),
        spread=zeros(),
        response=zeros(4),
        spill=zeros(),
        level=since(5, 0.05, 1e-6),
        slope=zeros(4),
        air=torch.stack([since(5, 0.15, 1e-9), since(0, 3.0)], 1),
        humps=torch.stack([since(5, 0.03), since(0, 25.0), since(0, 7.0)], 1)[:, None],
        counts=since(5, 700.0 * 0.8, 1e7),
        coarse=since(0, 1),
        cut=since(0, math.inf),
        smoothing=torch.zeros(number, dtype=torch.int64),
    )


def measured_step_by_step(reflections: Reflections, grid: Grid, *, seed: int) -> Tensor:
    """The first crystal of ``reflections``, one more effect in each row, float32 ``[6, P]``.

    Counts; only those of the last row are few enough for their noise to be seen.
    """
    index = torch.zeros(len(EFFECTS), dtype=torch.int64)
    instruments = effect_instruments(grid)
    curve = expected_curve(reflections, index, grid, instruments)
    generator = torch.Generator().manual_seed(seed)
    counts, _ = simulate(reflections, index, grid, instruments, generator=generator)
    return torch.cat([1e7 * curve[:-1], counts[-1:]])


def effects_table(curves: Tensor, grid: Grid, lines: LineIndex) -> pd.DataFrame:
    """What each further effect does to two comparisons with the clean pattern.

    Args:
        curves: Of :func:`measured_step_by_step`.
        grid: Of the curves.
        lines: Of the one crystal.

    Returns:
        ``effect``, ``in words``, ``point by point`` (cosine of the curves), ``root sticks`` (cosine
        of the search without any shift) and ``best shift`` (with the best isotropic strain).
    """
    unit = curves / curves.norm(dim=1, keepdim=True)
    rows = []
    for row, (name, words) in enumerate(EFFECTS.items()):
        pattern = Pattern(grid.two_theta, curves[row].double())
        scores = overlaps(amplitude_of(measured_curve(pattern)), lines)[0]
        found = float(unit[row] @ unit[0]), float(scores[-SHIFTS[0]]), float(scores.max())
        rows.append((name, words, *found))
    names = ["effect", "in words", "point by point", "root sticks", "best shift"]
    return pd.DataFrame(rows, columns=names)
