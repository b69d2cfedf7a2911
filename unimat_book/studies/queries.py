"""Test crystals in, their patterns after a strain or from a laboratory out: queries of a search."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import torch
from torch import Tensor

from unimat_book.grid.cells import GridSettings
from unimat_book.grid.views import simulate_laboratory
from unimat_lib.crystals.table import CrystalTable
from unimat_lib.views.bragg import Reflections, bragg_reflections, g_max_of
from unimat_lib.views.render import render
from unimat_powder.simulation.symmetry import strain_projectors, tensor_of

STRAINS = (0.0, 0.003, 0.01, 0.02)
"""Sizes of the strains of queries."""

QUERIES: Mapping[str, str] = {
    **{f"strain_{100 * s:g}": f"cell strained by {100 * s:g} %" for s in STRAINS},
    **{f"symmetry_strain_{100 * s:g}": f"{100 * s:g} % inside the symmetry" for s in STRAINS[1:]},
    "laboratory": "laboratory simulation",
}
"""Kinds of queries, and how they are called in tables."""

_SEED = 7_000_002
_CHUNK = 512


def query_patterns(
    table: CrystalTable, rows: Tensor, settings: GridSettings, kind: str, *, device: str
) -> Tensor:
    """Patterns of some crystals as one kind of queries, float16 ``[n, P]``, highest point 1.

    A strain is as large for all crystals; its sign (isotropic), or its direction among those that
    keep the symmetry of the lattice, is drawn once and for all. The laboratory's crystals are not
    strained.

    Args:
        table: The crystals.
        rows: Which of them, int64 ``[n]``.
        settings: Grid and peak width of the patterns.
        kind: A key of :data:`QUERIES`.
        device: Where to compute and leave them.

    Raises:
        ValueError: There is no such kind.
    """
    if kind not in QUERIES:
        raise ValueError(f"expected a kind of {list(QUERIES)}, got {kind!r}")
    some, grid = table.select(rows), settings.grid
    if kind == "laboratory":
        # No drawn patterns, which are those of training.
        once = dataclasses.replace(settings, draws=0)
        every = torch.arange(len(some))
        rows = {"train": every[:0], "others": every}
        return simulate_laboratory(some, once, device=device, **rows).fixed
    size = float(kind.rpartition("_")[2]) / 100
    reach = g_max_of(grid, max(STRAINS) * math.sqrt(3))
    reflections = bragg_reflections(some.to(device), g_max=reach)
    make = symmetric_strains if kind.startswith("symmetry") else isotropic_strains
    reflections = strained(reflections, make(reflections.reciprocal, size))
    every = torch.arange(len(some), device=device)
    parts = [
        render(reflections, chunk, grid, fwhm=settings.model["fwhm"]).half()
        for chunk in every.split(_CHUNK)
    ]
    return torch.cat(parts)


def isotropic_strains(reciprocal: Tensor, size: float) -> Tensor:
    """Strains of either sign, alike in all directions, float64 ``[C, 3, 3]``."""
    generator = torch.Generator().manual_seed(_SEED)
    sign = 2.0 * torch.randint(2, (len(reciprocal),), generator=generator).to(reciprocal) - 1
    return size * sign[:, None, None] * torch.eye(3).to(reciprocal)


def symmetric_strains(reciprocal: Tensor, size: float) -> Tensor:
    """Strains that keep the rotations of each lattice, float64 ``[C, 3, 3]``.

    Their directions are drawn; their length (root of the sum of squares) is that of an isotropic
    strain of the same size, which they are for a cubic lattice.
    """
    generator = torch.Generator().manual_seed(_SEED)
    drawn = torch.randn(len(reciprocal), 6, generator=generator).to(reciprocal.device)
    six = torch.einsum("cij,cj->ci", strain_projectors(reciprocal), drawn)
    length = six.norm(dim=1, keepdim=True).clamp_min(1e-6)
    return tensor_of(size * math.sqrt(3) * six / length).to(reciprocal)


def strained(reflections: Reflections, strains: Tensor) -> Reflections:
    """Reflections of crystals whose cell vectors r become r + E r; intensities stay.

    Args:
        reflections: Of ``C`` crystals.
        strains: Symmetric tensors E, float64 ``[C, 3, 3]``.

    Returns:
        Their reflections, complete up to a g that is smaller by the largest strain.
    """
    stretch = torch.eye(3).to(strains) + strains
    reciprocal = reflections.reciprocal @ torch.linalg.inv(stretch)
    rows = reciprocal[reflections.crystal]  # [R, 3, 3]
    g = torch.einsum("ri,rij->rj", reflections.hkl.to(rows), rows).norm(dim=1)
    largest = float(torch.linalg.eigvalsh(stretch).max()) if len(stretch) else 1.0
    known = {"g": g.to(reflections.g), "reciprocal": reciprocal}
    return dataclasses.replace(reflections, **known, g_max=reflections.g_max / max(1.0, largest))
