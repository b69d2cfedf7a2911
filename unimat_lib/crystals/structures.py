"""Structures of pymatgen or all atoms of cells in, reduced crystals and their table out."""

from __future__ import annotations

import math
import re
import warnings
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from unimat_lib.crystals import reduction
from unimat_lib.crystals.table import CrystalError, CrystalTable, table_from_arrays

if TYPE_CHECKING:
    from pymatgen.core import Structure


def from_structures(
    structures: Iterable[Structure], *, info: pd.DataFrame | None = None, reduce: bool = True
) -> CrystalTable:
    """A table from pymatgen structures, also disordered ones; ``CrystalError`` for unusable ones.

    Args:
        structures: Structures.
        info: One row each; missing required columns are filled in (``material_id`` with the running
            number, ``split`` with "train", ``source`` with "structure", ``space_group`` by spglib).
        reduce: Bring each to its Niggli-reduced primitive cell; otherwise cells stay as they are.
    """
    crystals, groups = [], []
    for i, structure in enumerate(structures):
        species = [(site.frac_coords, *each) for site in structure for each in site.species.items()]
        frac, numbers = np.array([x for x, _, _ in species]), np.array([e.Z for _, e, _ in species])
        cell = structure.lattice.matrix, frac, numbers
        occupancy = None if structure.is_ordered else np.array([share for *_, share in species])
        try:
            reduced, share = reduce_sites(*cell, occupancy)
        except CrystalError as error:
            raise CrystalError(f"structure {i}: {error}") from None
        cell = cell[0], reduction.wrap_into_cell(cell[1]), cell[2]
        crystals.append((*reduced[:3], share) if reduce else (*cell, occupancy))
        groups.append(reduced.space_group)
    if info is not None and len(info) != len(groups):
        raise ValueError(f"info: one row per structure, {len(groups)}, expected, not {len(info)}")
    info = pd.DataFrame(index=range(len(groups))) if info is None else info.reset_index(drop=True)
    defaults = {
        "material_id": [str(i) for i in range(len(groups))],
        "formula": [reduced_formula(*crystal[2:]) for crystal in crystals],
        "space_group": groups,
        "split": "train",
        "source": "structure",
        "occupancy": pd.Series([share for *_, share in crystals], dtype=object),
    }
    info = info.assign(**{name: value for name, value in defaults.items() if name not in info})
    return table_from_arrays(*(list(zip(*crystals, strict=True))[:3] or [()] * 3), info)


def reduce_sites(
    lattice: np.ndarray, frac: np.ndarray, numbers: np.ndarray, occupancy: np.ndarray | None
) -> tuple[reduction.ReducedCrystal, np.ndarray | None]:
    """:func:`.reduce_crystal` with occupancies ``[n]``, which come back for the atoms that remain.

    Atoms closer than two can be are alternatives; more than one there is a ``CrystalError``.
    """
    if occupancy is None:
        return reduction.reduce_crystal(lattice, frac, numbers), None
    reduction._check_crystal(lattice, frac, numbers)
    # To spglib an element with another occupancy is another element.
    kinds, kind = np.unique(np.stack([numbers, occupancy]), axis=1, return_inverse=True)
    cell = lattice, frac, kind.reshape(-1) + 1
    dataset = reduction._symmetry_dataset(*cell, reduction.SYMPREC)
    was_primitive = int(max(dataset.mapping_to_primitive)) + 1 == len(numbers)
    lattice, frac, kind = cell if was_primitive else reduction._primitive(*cell, dataset)
    reduced = reduction.niggli_cell(lattice)
    frac = reduction.wrap_into_cell(frac @ (lattice @ np.linalg.inv(reduced)))
    reduction._check_distances(reduced, frac[:1])  # of the cell only
    numbers, occupancy = kinds[:, kind - 1]
    for place in frac:
        near = np.linalg.norm(((x := frac - place) - np.round(x)) @ reduced, axis=1)
        if (total := occupancy[near < reduction.MIN_DISTANCE].sum()) > 1.03:
            raise CrystalError(f"atoms at one site have the total occupancy {total:.3g}, not 1")
    cell = np.round(reduced, reduction._DECIMALS), frac, numbers.astype(np.int64)
    return reduction.ReducedCrystal(*cell, int(dataset.number), was_primitive), occupancy


def reduced_formula(atomic_numbers: np.ndarray, occupancy: np.ndarray | None = None) -> str:
    """Reduced formula in pymatgen's order, such as ``TiO2`` or, from occupancies, ``Fe0.9O``."""
    from pymatgen.core import Composition, Element

    if occupancy is None:
        return reduction.reduced_formula(atomic_numbers)
    kinds, amounts = Counter(zip(atomic_numbers.tolist(), occupancy, strict=True)), Counter()
    for (number, share), count in kinds.items():
        amounts[Element.from_Z(number)] += share * count / math.gcd(*kinds.values())
    with warnings.catch_warnings(action="ignore", category=UserWarning):
        text = Composition({x: round(n, 4) for x, n in amounts.items()}).reduced_formula
    return re.sub(r"(?<=[a-z])1(?![\d.])", "", text, flags=re.IGNORECASE)
