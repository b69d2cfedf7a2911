"""One small crystal per Bravais lattice, and predictions of their cells that are a little off."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch

from unimat_lib.crystals.reduction import reduce_crystal
from unimat_lib.crystals.table import CrystalTable, table_from_arrays
from unimat_lib.evaluation.predict import frame_of_errors
from unimat_lib.views.grid import Grid
from unimat_powder.bravais import CENTRINGS

GRID = Grid(5.0, 90.0, 4096)

# Conventional cells (lengths, angles) and the centring of one crystal per Bravais lattice.
CELLS = {
    ("cubic", "P"): ([4.123, 4.123, 4.123], [90, 90, 90]),
    ("cubic", "I"): ([5.431, 5.431, 5.431], [90, 90, 90]),
    ("cubic", "F"): ([5.913, 5.913, 5.913], [90, 90, 90]),
    ("hexagonal", "P"): ([4.377, 4.377, 7.215], [90, 90, 120]),
    ("hexagonal", "R"): ([4.913, 4.913, 14.21], [90, 90, 120]),
    ("tetragonal", "P"): ([4.594, 4.594, 5.859], [90, 90, 90]),
    ("tetragonal", "I"): ([4.785, 4.785, 9.214], [90, 90, 90]),
    ("orthorhombic", "P"): ([4.487, 5.431, 6.872], [90, 90, 90]),
    ("orthorhombic", "C"): ([4.487, 7.431, 6.072], [90, 90, 90]),
    ("orthorhombic", "I"): ([4.487, 6.431, 7.872], [90, 90, 90]),
    ("orthorhombic", "F"): ([6.487, 7.431, 8.872], [90, 90, 90]),
    ("monoclinic", "P"): ([5.112, 6.043, 7.381], [90, 101.7, 90]),
    ("monoclinic", "C"): ([9.112, 5.043, 6.381], [90, 107.3, 90]),
    ("triclinic", "P"): ([5.213, 6.142, 7.351], [82.1, 76.4, 70.3]),
}

SPACE_GROUPS = dict(
    cubic=221, hexagonal=191, tetragonal=123, orthorhombic=47, monoclinic=10, triclinic=1
)


def vectors(lengths, angles) -> np.ndarray:
    """Rows a, b, c of a cell."""
    (a, b, c), cosine = lengths, np.cos(np.radians(angles))
    x, y = b * cosine[2], b * math.sqrt(1 - cosine[2] ** 2)
    u, v = c * cosine[1], c * (cosine[0] - cosine[1] * cosine[2]) / math.sqrt(1 - cosine[2] ** 2)
    return np.array([[a, 0, 0], [x, y, 0], [u, v, math.sqrt(c**2 - u**2 - v**2)]])


def bravais_crystals() -> CrystalTable:
    """One crystal per Bravais lattice: an iron atom, and in large cells a lighter one."""
    lattices = [
        np.array(CENTRINGS[centring]) @ vectors(*cell) for (_, centring), cell in CELLS.items()
    ]
    groups = [166 if centring == "R" else SPACE_GROUPS[family] for family, centring in CELLS]
    return crystals_of(lattices, groups)


def crystals_of(lattices, space_groups) -> CrystalTable:
    """Crystals with these primitive cells."""
    rows = []
    for lattice in lattices:
        coords = np.array([[0.0, 0, 0], [0.13, 0.23, 0.37]])
        reduced = reduce_crystal(lattice, coords[:1], np.array([26]))
        coords = coords if np.linalg.det(lattice) > 120 else coords[:1]
        rows.append((reduced.lattice, coords, np.array([26, 8])[: len(coords)]))
    info = pd.DataFrame({"material_id": [str(i) for i in range(len(rows))], "formula": "Fe"})
    info = info.assign(space_group=space_groups, split="val", source="test")
    return table_from_arrays(*[list(column) for column in zip(*rows, strict=True)], info)


def predictions(crystals: CrystalTable, size: float, seed: int = 0):
    """Cells with errors of the given relative size in lengths, and 40 times that in degrees."""
    generator = torch.Generator().manual_seed(seed)
    draw = torch.randn(len(crystals), 6, generator=generator, dtype=torch.float64)
    return crystals.lengths * torch.exp(size * draw[:, :3]), crystals.angles + 40 * size * draw[
        :, 3:
    ]


def errors_frame(crystals: CrystalTable, *, stretched: Sequence[int] = ()) -> pd.DataFrame:
    """Predictions of all crystals that are three per cent off, by a network without an opinion.

    The plain lengths of the ``stretched`` rows are four times too long: a volume that nothing fits.
    """
    lengths, angles = predictions(crystals, 0.03)
    scaled = crystals.scaled_lengths * lengths / crystals.lengths
    lengths[list(stretched)] *= 4
    probs = torch.full((len(crystals), 7), 1 / 7, dtype=torch.float64)
    true = [crystals.lengths, crystals.angles, crystals.scaled_lengths]
    values = torch.cat([lengths, angles, scaled, *true, probs], dim=1).numpy()
    return frame_of_errors(values, crystals, torch.arange(len(crystals)))
