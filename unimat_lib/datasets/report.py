"""What all data sets share: files in, rows to prepare and the report of their preparation out."""

from __future__ import annotations

import gzip
import hashlib
import io
import math
import os
import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from unimat_lib.crystals.cif import read_cif
from unimat_lib.crystals.reduction import ReducedCrystal, reduce_crystal
from unimat_lib.crystals.table import CRYSTAL_SYSTEMS, EXTRA_SPLIT, SPLITS, crystal_system_index

SPLIT_SHARES = {"train": 0.70, "val": 0.15, "test": 0.15}


class DataError(RuntimeError):
    """A data set as a whole cannot be used; the message says what to do."""


@dataclass
class PreparationReport:
    """What became of every row."""

    name: str  #: data set
    num_rows: int  #: rows (crystals, files) that came in
    num_used: int  #: rows in the table
    dropped: list[dict[str, Any]]  #: one ``{"row", "material_id", "reason"}`` for each other row
    #: crystals used, by split, source, split and source, and split and crystal system
    counts: dict[str, dict[str, int]]
    notes: dict[str, int]  #: further counts, such as disagreements of the space group
    provenance: str  #: which data this is, in words
    table: str = ""  #: file name of the table
    seconds: float = 0.0  #: wall time of this preparation (of its last part, when it was resumed)

    def summary(self) -> pd.DataFrame:
        """Crystals by split (rows) and crystal system (columns), with their sum."""
        frame = pd.DataFrame({split: self.counts[split] for split in self.counts["split"]}).T
        return frame[[*CRYSTAL_SYSTEMS]].assign(all=frame.sum(axis=1))


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


@dataclass
class Source:
    """A data set before its preparation.

    ``rows`` holds dictionaries with ``row`` (a number), ``material_id``, ``info`` (columns of the
    table) and whatever ``read`` needs; ``dropped`` and ``notes`` are those of the report.
    """

    rows: list[dict[str, Any]]
    read: Callable[[Mapping[str, Any]], ReducedCrystal]
    describe: Callable[[PreparationReport], str]
    dropped: list[dict[str, Any]] = field(default_factory=list)
    notes: dict[str, int] = field(default_factory=dict)


def data_folder(data_dir: str | os.PathLike[str] | None) -> Path | None:
    """The folder given, else ``UNIMAT_DATA``, else none."""
    chosen = data_dir or os.environ.get("UNIMAT_DATA")
    return Path(chosen).expanduser() if chosen else None


def git_blob_id(content: bytes) -> str:
    """Identifier that git gives to a file of this content (sha1 with a header)."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def manifest() -> dict[str, Any]:
    """Content of ``manifest.yml``: where the public files are and what they contain."""
    import yaml

    return yaml.safe_load(Path(__file__).with_name("manifest.yml").read_text(encoding="utf-8"))


def read_csv(path: Path, text_columns: Sequence[str] = ()) -> tuple[pd.DataFrame, str]:
    """A CSV, plain or gzipped, and the git blob id of its plain content."""
    content = path.read_bytes()
    try:
        plain = gzip.decompress(content) if path.suffix == ".gz" else content
        types = dict.fromkeys(text_columns, str)
        # An empty cell is a missing value; the text "NaN" may be a formula.
        frame = pd.read_csv(io.BytesIO(plain), dtype=types, keep_default_na=False, na_values=[""])
    except (EOFError, OSError, zlib.error, ValueError) as error:
        raise DataError(f"{path} cannot be read; if truncated, fetch it anew: {error}") from error
    return frame, git_blob_id(plain)


def as_number(value: Any) -> float:
    """``value`` as a number, NaN where it is none."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


def as_integer(value: Any) -> int:
    """``value`` as an integer; 0, which is no space group, where it is not one."""
    number = as_number(value)
    return int(number) if number.is_integer() else 0


def dropped_row(row: int, name: str, reason: str) -> dict[str, Any]:
    """What the report says of a row that is not used."""
    return {"row": row, "material_id": name, "reason": reason}


def read_cif_row(row: Mapping[str, Any]) -> ReducedCrystal:
    """The crystal of a row whose column ``cif`` holds a CIF."""
    return reduce_crystal(*read_cif(row["cif"]))
