"""A space group in, a crystal of random atoms on its positions out.

Such crystals show a network what a symmetry does to a pattern, whatever the structure type:
databases hold few crystals of most space groups. Source of the idea: Schopmans et al., Digital
Discovery 2, 1414 (2023).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import gemmi
import numpy as np
import pandas as pd

from unimat_lib.crystals.reduction import ReducedCrystal, reduce_crystal, reduced_formula
from unimat_lib.crystals.table import EXTRA_SPLIT, CrystalError, CrystalTable, table_from_arrays
from unimat_powder.network.groups import systems_of_groups
from unimat_powder.network.positions import (
    Position,
    distinct,
    operations_of,
    orbit_of,
    positions_of,
)

_SYMPREC = 0.01  # angstrom; atoms are where symmetry puts them
_ATOMS = (12.0, 0.8)  # median of the number of atoms in the primitive cell, sd of its logarithm
_MOST = 80  # atoms in the primitive cell
_ORBITS = 8
_SPECIES = (0.05, 0.3, 0.4, 0.18, 0.07)  # odds of one to five elements
_PACKING = 1.8  # volume of an atom over that of a ball of its covalent radius
_LEAST = 7.0  # cubic angstrom per atom
_SPREAD = 0.25  # of the logarithm of the volume per atom
_RATIO = 0.45  # standard deviation of the logarithm of each length
_TOUCH = 0.6  # of the sum of two covalent radii; no atoms are closer
_TRIES = 12


def made_up_crystals(
    space_groups: Sequence[int], *, abundance: np.ndarray, seed: int
) -> CrystalTable:
    """Random crystals with exactly the symmetry asked for.

    Elements are drawn by abundance, one to five of them, on up to eight random positions; the
    volume follows from covalent radii with a spread, lengths and angles are random within the
    crystal family. What turns out more symmetric, or does not fit, is drawn anew, and left out
    after some tries.

    Args:
        space_groups: Wanted space groups, 1 to 230; one crystal each.
        abundance: How often each element is drawn, by atomic number, ``[119]``.
        seed: Of the random numbers.

    Returns:
        Crystals in their Niggli-reduced primitive cells, at most one per entry of
        ``space_groups``, in that order.
    """
    draw = np.random.default_rng(seed)
    odds = np.asarray(abundance, dtype=np.float64) / np.sum(abundance)
    found = []
    for group in space_groups:
        for _ in range(_TRIES):
            crystal = _attempt(int(group), odds, draw)
            if crystal is not None:
                found.append(crystal)
                break
    info = pd.DataFrame({"space_group": [crystal.space_group for crystal in found]})
    info["formula"] = [reduced_formula(crystal.atomic_numbers) for crystal in found]
    info["material_id"] = [f"made-up-{seed}-{i}" for i in range(len(found))]
    info["split"], info["source"] = EXTRA_SPLIT, "made up"
    columns = [[getattr(x, name) for x in found] for name in ReducedCrystal._fields[:3]]
    return table_from_arrays(*columns, info)


def _attempt(group: int, odds: np.ndarray, draw: np.random.Generator) -> ReducedCrystal | None:
    operations = operations_of(group)
    per_primitive = round(1 / np.linalg.det(operations.primitive))
    target = min(_ATOMS[0] * math.exp(_ATOMS[1] * draw.normal()), _MOST)
    orbits = _draw_positions(group, per_primitive, target, draw)
    kinds = min(1 + draw.choice(len(_SPECIES), p=_SPECIES), len(orbits))
    elements = draw.choice(len(odds), size=kinds, replace=False, p=odds)
    which = np.append(np.arange(kinds), draw.integers(kinds, size=len(orbits) - kinds))
    numbers = elements[draw.permutation(which)]
    count = np.array([orbit.multiplicity for orbit in orbits])
    radii = np.array([gemmi.Element(int(z)).covalent_r for z in numbers])
    volume = _PACKING * 4 / 3 * np.pi * (count * radii**3).sum() * math.exp(_SPREAD * draw.normal())
    volume = max(volume, _LEAST * count.sum())
    cell = _draw_cell(group, volume, draw)
    placed = _place(group, orbits, radii, cell, draw)
    if placed is None:
        return None
    frac = np.concatenate(placed) @ np.linalg.inv(operations.primitive) % 1.0
    z = np.repeat(numbers, [len(points) for points in placed])
    keep = np.sort(distinct(frac))
    try:
        crystal = reduce_crystal(operations.primitive @ cell, frac[keep], z[keep], symprec=_SYMPREC)
    except CrystalError:
        return None
    return crystal if crystal.space_group == group and crystal.was_primitive else None


def _draw_positions(
    group: int, per_primitive: int, target: float, draw: np.random.Generator
) -> list[Position]:
    """Positions to occupy: until the primitive cell holds about ``target`` atoms."""
    positions = list(positions_of(group))
    chosen, atoms = [], 0.0
    while positions and len(chosen) < _ORBITS:
        fits = [p for p in positions if atoms + p.multiplicity / per_primitive <= 1.25 * target]
        if not fits:
            break
        number = int(draw.integers(len(fits)))
        position = fits[number]
        chosen.append(position)
        atoms += position.multiplicity / per_primitive
        if not position.free:  # one atom there, no more
            positions = [p for p in positions if p is not position]
        if atoms >= target:
            break
    if not chosen:  # groups whose smallest position has more atoms than that
        chosen = [min(positions_of(group), key=lambda p: p.multiplicity)]
    return chosen


def _draw_cell(group: int, volume: float, draw: np.random.Generator) -> np.ndarray:
    """Rows a, b, c of a standard cell with the symmetry of the group, angstrom."""
    system = int(systems_of_groups()[group - 1])
    a, b, c = np.exp(_RATIO * draw.normal(size=3))
    alpha = beta = gamma = 90.0
    if system == 0:
        alpha, beta, gamma = draw.uniform(65, 118, size=3)
        if alpha + beta + gamma > 340:
            alpha, beta, gamma = 180 - alpha, 180 - beta, gamma
    elif system == 1:
        beta = draw.uniform(90.5, 125)
    elif system == 6:
        a = b = c = 1.0
    elif system > 2:
        b = a
        gamma = 120.0 if system in (4, 5) else 90.0
    return _cell(np.array([a, b, c]), np.radians([alpha, beta, gamma]), volume)


def _cell(lengths: np.ndarray, angles: np.ndarray, volume: float) -> np.ndarray:
    cos_a, cos_b, cos_c = np.cos(angles)
    sin_c = np.sin(angles[2])
    y = (cos_a - cos_b * cos_c) / sin_c
    z = math.sqrt(max(1 - cos_b**2 - y**2, 0.05))
    rows = np.array([[1, 0, 0], [cos_c, sin_c, 0], [cos_b, y, z]]) * lengths[:, None]
    rows[np.abs(rows) < 1e-12] = 0.0
    return rows * (volume / np.linalg.det(rows)) ** (1 / 3)


def _place(
    group: int,
    orbits: list[Position],
    radii: np.ndarray,
    cell: np.ndarray,
    draw: np.random.Generator,
) -> list[np.ndarray] | None:
    """Points of each orbit, none too close to another; ``None`` where that does not go."""
    placed: list[np.ndarray] = []
    for orbit, radius in zip(orbits, radii, strict=True):
        for _ in range(_TRIES if orbit.free else 1):
            points = orbit_of(orbit.projection @ draw.random(3) + orbit.shift, group)
            if len(points) == orbit.multiplicity and _is_free(points, radius, placed, radii, cell):
                placed.append(points)
                break
        else:
            return None
    return placed


def _is_free(
    points: np.ndarray,
    radius: float,
    placed: list[np.ndarray],
    radii: np.ndarray,
    cell: np.ndarray,
) -> bool:
    """Whether the first of some points has room; by symmetry all of them have it then."""
    others = [points[1:], *placed]
    reach = np.repeat([radius, *radii[: len(placed)]], [len(x) for x in others]) + radius
    apart = points[0] - np.concatenate(others)
    apart = (apart - np.round(apart)) @ cell
    return bool((np.square(apart).sum(1) > np.square(_TOUCH * reach)).all())
