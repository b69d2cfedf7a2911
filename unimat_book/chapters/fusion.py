"""Answers of a model in, the tables of chapter 05 out."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from unimat_lib.crystals.table import CrystalTable
from unimat_powder.identify import Identification


def cells_table(crystal: CrystalTable, predicted: Mapping[str, Identification]) -> pd.DataFrame:
    """The true cell of one crystal (first row) and predicted ones: a, b, c, alpha, beta, gamma."""
    cells = {"true": [*crystal.lengths[0].tolist(), *crystal.angles[0].tolist()]}
    cells |= {name: [*said.lengths, *said.angles] for name, said in predicted.items()}
    columns = ["a (Å)", "b (Å)", "c (Å)", "α (°)", "β (°)", "γ (°)"]
    return pd.DataFrame(cells.values(), index=list(cells), columns=columns).rename_axis("cell")
