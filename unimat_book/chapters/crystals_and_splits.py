"""Crystal tables in, what chapter 01 asks of them out: twins, elements, dropped rows."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import torch

from unimat_lib.crystals.table import CrystalTable


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
