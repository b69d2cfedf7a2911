"""Structures of pymatgen in, a crystal table out."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from unimat_lib.crystals.reduction import reduce_crystal, reduced_formula, wrap_into_cell
from unimat_lib.crystals.table import CrystalError, CrystalTable, table_from_arrays

if TYPE_CHECKING:
    from pymatgen.core import Structure


def from_structures(
    structures: Iterable[Structure], *, info: pd.DataFrame | None = None, reduce: bool = True
) -> CrystalTable:
    """A table from pymatgen structures.

    Args:
        structures: Ordered structures.
        info: One row each; missing required columns are filled in (``material_id`` with the running
            number, ``split`` with "train", ``source`` with "structure", ``space_group`` by spglib).
        reduce: Bring each to its Niggli-reduced primitive cell; otherwise cells stay as they are.

    Raises:
        CrystalError: Structure number so-and-so is disordered or otherwise unusable.
    """
    crystals, groups = [], []
    for i, structure in enumerate(structures):
        try:
            if not structure.is_ordered:
                raise CrystalError("disordered: a site is partially occupied")
            lattice, frac = structure.lattice.matrix, structure.frac_coords
            numbers = np.array([site.specie.Z for site in structure], dtype=np.int64)
            reduced = reduce_crystal(lattice, frac, numbers)
        except CrystalError as error:
            raise CrystalError(f"structure {i}: {error}") from None
        crystals.append(reduced[:3] if reduce else (lattice, wrap_into_cell(frac), numbers))
        groups.append(reduced.space_group)
    if info is not None and len(info) != len(groups):
        raise ValueError(f"info: one row per structure, {len(groups)}, expected, not {len(info)}")
    info = pd.DataFrame(index=range(len(groups))) if info is None else info.reset_index(drop=True)
    defaults = {
        "material_id": [str(i) for i in range(len(groups))],
        "formula": [reduced_formula(numbers) for _, _, numbers in crystals],
        "space_group": groups,
        "split": "train",
        "source": "structure",
    }
    info = info.assign(**{name: value for name, value in defaults.items() if name not in info})
    return table_from_arrays(*(zip(*crystals, strict=True) if crystals else [()] * 3), info)
