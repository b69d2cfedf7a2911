"""Crystals that were trained on and test crystals in, how new each of these is out."""

import itertools
import math
from collections import defaultdict
from collections.abc import Sequence
from string import ascii_uppercase
from typing import Any

import numpy as np
import pandas as pd

from unimat_lib.crystals.table import CrystalTable
from unimat_lib.datasets.mp_extra import pretraining_pool
from unimat_lib.datasets.preparation import load_dataset
from unimat_lib.datasets.report import DataError

NOVELTY = ("near twin", "same formula", "known structure type", "new structure type")
"""How near a test crystal is to the crystals that were trained on, see :func:`novelty`."""


def near_twins(
    test: CrystalTable, train: CrystalTable, *, keys: Sequence[str], tolerance: float
) -> np.ndarray:
    """Which of ``C`` test crystals have a counterpart of the same size in another table, bool.

    Args:
        test: The crystals.
        train: Crystals to search for counterparts.
        keys: Columns of ``info`` in which both must be equal, beside the number of atoms.
        tolerance: Largest relative difference of each of the three lengths.
    """
    by_key = defaultdict(list)
    for row, key in enumerate(_keys(train, keys)):
        by_key[key].append(row)
    lengths, others = test.lengths.log().cpu().numpy(), train.lengths.log().cpu().numpy()
    found = np.zeros(len(test), dtype=bool)
    for row, key in enumerate(_keys(test, keys)):
        if key in by_key:
            gap = np.abs(others[by_key[key]] - lengths[row]).max(1)
            found[row] = gap.min() <= math.log1p(tolerance)
    return found


def _keys(table: CrystalTable, columns: Sequence[str]) -> list[tuple[Any, ...]]:
    values = [table.info[name].tolist() for name in columns]
    return list(zip(*values, table.num_atoms.tolist(), strict=True))


def structure_types(table: CrystalTable) -> tuple[list[str], list[frozenset[int]]]:
    """Structure type and set of elements (atomic numbers) of each crystal.

    A structure type is told by the formula without the names of its elements, the space group and
    the number of atoms in the primitive cell, such as "AB2, 136, 6" for rutile. Two crystals of one
    type are usually, not always, built alike.
    """
    crystal, number = table.atom_crystal.cpu().numpy(), table.atomic_numbers.cpu().numpy()
    pairs, counts = np.unique(crystal * 128 + number, return_counts=True)  # sorted by crystal
    bounds = np.searchsorted(pairs, 128 * np.arange(len(table) + 1))
    types, elements = [], []
    groups = zip(table.space_group.tolist(), table.num_atoms.tolist(), strict=True)
    for (first, last), (group, atoms) in zip(itertools.pairwise(bounds), groups, strict=True):
        amounts = sorted((counts[first:last] // np.gcd.reduce(counts[first:last])).tolist())
        letters = zip(ascii_uppercase, amounts, strict=False)
        formula = "".join(letter + (str(n) if n > 1 else "") for letter, n in letters)
        types.append(f"{formula}, {group}, {atoms}")
        elements.append(frozenset((pairs[first:last] % 128).tolist()))
    return types, elements


def known_crystals(
    table: CrystalTable, pretraining: str, *, max_atoms: int
) -> tuple[CrystalTable, str]:
    """Every crystal that our models were trained on, and words that say what is among them.

    Args:
        table: The data set with its splits.
        pretraining: Name of the data set of further crystals, empty for none.
        max_atoms: Largest of their cells.

    Returns:
        The training split with the further crystals. Where this computer has no such data set the
        training split comes alone, and the words say so.
    """
    words, extra = "and there was no pretraining", None
    if pretraining:
        words = "with those of pretraining"
        try:
            extra = load_dataset(pretraining)
        except DataError:
            words = f"without those of pretraining, as {pretraining} is not on this computer"
    pool = pretraining_pool(table, extra, max_atoms=max_atoms)
    return pool.select(pool.info["split"].isin(["train", "extra"]).to_numpy(bool, copy=True)), words


def novelty(test: CrystalTable, known: CrystalTable, *, tolerance: float = 0.02) -> pd.DataFrame:
    """How near ``C`` test crystals are to the known ones, those that were trained on.

    Returns:
        ``C`` rows: ``category``, the first of ``NOVELTY`` that holds: a crystal of the same
        formula, space group, number of atoms and lengths (up to ``tolerance``) is known ("near
        twin"), one of the same formula, one of the same structure type, or none of these; and
        ``elements``, "known" where the same set of elements is.
    """
    types, elements = structure_types(test)
    known_types, known_elements = (set(x) for x in structure_types(known))
    formulas = test.info["formula"].isin(known.info["formula"]).to_numpy()
    twins = near_twins(test, known, keys=("formula", "space_group"), tolerance=tolerance)
    of_type = np.array([name in known_types for name in types], dtype=bool)
    seen = np.array([some in known_elements for some in elements], dtype=bool)
    return pd.DataFrame(
        {
            "category": np.select([twins, formulas, of_type], NOVELTY[:3], NOVELTY[3]),
            "elements": np.where(seen, "known", "new"),
        }
    )
