"""Crystal tables in, what chapter 01 asks of them out: twins, elements, dropped rows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

from unimat_lib.crystals.table import CrystalTable


def near_twins(
    test: CrystalTable, train: CrystalTable, *, keys: Sequence[str], tolerance: float
) -> np.ndarray:
    """Which crystals have a counterpart of the same size in another table.

    Args:
        test: ``C`` crystals.
        train: Crystals to search for counterparts.
        keys: Columns of ``info`` in which both must be equal, such as ``formula``.
        tolerance: Largest relative difference of each of the three lengths. The number of atoms
            must be equal.

    Returns:
        ``[C]`` bool.
    """
    by_key: dict[tuple[Any, ...], list[int]] = {}
    for row, key in enumerate(_keys(train, keys)):
        by_key.setdefault(key, []).append(row)
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


def element_counts(table: CrystalTable) -> pd.Series:
    """Number of crystals that contain each element; symbols of the elements that occur."""
    from pymatgen.core import Element

    pairs = torch.stack([table.atom_crystal, table.atomic_numbers]).unique(dim=1)
    numbers, counts = pairs[1].unique(return_counts=True)
    return pd.Series(counts.tolist(), index=[Element.from_Z(z).symbol for z in numbers.tolist()])


def drop_reasons(dropped: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Why rows were left out: reason (numbers replaced by N), rows, and two examples.

    Args:
        dropped: ``PreparationReport.dropped``; without any row the table says so in one line.
    """
    if not dropped:
        return pd.DataFrame({"reason": ["none: every row is usable"], "rows": [0], "examples": "–"})
    frame = pd.DataFrame(list(dropped))
    frame["reason"] = frame["reason"].str.replace(r"\d+(\.\d+)?", "N", regex=True)
    groups = frame.groupby("reason", sort=False)["material_id"]
    table = groups.agg(rows="size", examples=lambda ids: ", ".join(ids[:2].astype(str)))
    return table.sort_values("rows", ascending=False, kind="stable").reset_index()
