"""Counts and dropped rows in, a report of a preparation out."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from unimat_lib.crystals.table import CRYSTAL_SYSTEMS, EXTRA_SPLIT, SPLITS, crystal_system_index


class DataError(RuntimeError):
    """A data set as a whole cannot be used; the message says what to do."""


@dataclass
class PreparationReport:
    """What became of every row.

    Attributes:
        name: Data set.
        num_rows: Rows (crystals, files) that came in.
        num_used: Rows in the table.
        dropped: One ``{"row", "material_id", "reason"}`` for each of the others.
        counts: Crystals used: ``{"split": {...}, "source": {...}}``, then by split and source,
            and by split and crystal system.
        notes: Further counts, each with its name: disagreements of the space group, ...
        provenance: Which data this is, in words.
        table: Path of the table.
        seconds: Wall time of this preparation (of its last part, when it was resumed).
    """

    name: str
    num_rows: int
    num_used: int
    dropped: list[dict[str, Any]]
    counts: dict[str, dict[str, int]]
    notes: dict[str, int]
    provenance: str
    table: str = ""
    seconds: float = 0.0

    def summary(self) -> pd.DataFrame:
        """Crystals by split (rows) and crystal system (columns), with their sum."""
        frame = pd.DataFrame({split: self.counts[split] for split in self.counts["split"]}).T
        frame = frame.reindex(columns=CRYSTAL_SYSTEMS)
        frame["all"] = frame.sum(axis=1)
        return frame


def count_crystals(info: pd.DataFrame) -> dict[str, dict[str, int]]:
    """``counts`` of a :class:`PreparationReport` from the ``info`` of its table."""
    by_split = info["split"].value_counts()
    splits = (EXTRA_SPLIT,) if EXTRA_SPLIT in by_split else SPLITS
    counts = {"split": {split: int(by_split.get(split, 0)) for split in splits}}
    counts["source"] = dict(sorted(Counter(info["source"]).items()))
    systems = crystal_system_index(info["space_group"].to_numpy(np.int64, copy=True)).numpy()
    for split in splits:
        mask = info["split"] == split
        counts[f"{split}_by_source"] = dict(sorted(Counter(info["source"][mask]).items()))
        present = np.bincount(systems[mask], minlength=len(CRYSTAL_SYSTEMS)).tolist()
        counts[split] = dict(zip(CRYSTAL_SYSTEMS, present, strict=True))
    return counts
