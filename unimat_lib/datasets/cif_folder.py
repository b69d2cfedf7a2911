"""A folder of CIF files in, with or without a table of properties; rows out."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unimat_lib.crystals.reduction import ReducedCrystal, reduced_formula
from unimat_lib.crystals.table import SPLITS
from unimat_lib.datasets.report import DataError, PreparationReport
from unimat_lib.datasets.source import SPLIT_SHARES, Source, as_integer, read_cif_row, read_csv


def cif_files(folder: str | os.PathLike[str] | None) -> list[Path]:
    if folder is None:
        raise DataError("cif_folder needs the folder: prepare('cif_folder', folder='my/cifs')")
    entries = Path(folder).expanduser().glob("*")
    files = sorted(p for p in entries if p.suffix.lower() == ".cif" and p.is_file())
    if not files:
        raise DataError(
            f"files *.cif were expected in {folder}, but there are none; folders in it are not read"
        )
    return files


def cif_folder_source(files: list[Path], properties: Path | None, limit: int | None) -> Source:
    table = _property_table(properties, files) if properties else {}
    rows, without = [], 0
    for file in files[:limit]:
        extra = dict(table.get(file.stem, {}))
        without += bool(table) and not extra
        split = extra.pop("split", None)
        group = extra.pop("spacegroup.number", extra.pop("space_group", None))
        info = {"space_group": as_integer(group) or None, "split": split, "source": "cif"}
        text = file.read_bytes().decode("utf-8", errors="replace")
        row = {"row": len(rows), "material_id": file.stem, "cif": text}
        rows.append({**row, "info": {**extra, **info}})
    notes = {}
    dropped = []
    if table:
        orphans = sorted(set(table) - {file.stem for file in files})
        notes = {"files_without_properties": without, "properties_without_file": len(orphans)}
        reason = "the table of properties names it, but the folder has no such file"
        dropped = [
            {"row": len(rows) + n, "material_id": name, "reason": reason}
            for n, name in enumerate(orphans)
        ]

    def describe(report: PreparationReport) -> str:
        return f"{report.num_used:,} of {report.num_rows:,} CIF files of a folder."

    return Source(rows, _from_cif_file, describe, dropped, notes)


def _from_cif_file(row: Mapping[str, Any]) -> ReducedCrystal:
    crystal = read_cif_row(row)
    if row["info"]["split"] is None:
        row["info"]["split"] = hashed_split(reduced_formula(crystal.atomic_numbers))
    return crystal


def hashed_split(key: str) -> str:
    """Split that a text always falls into: 70 % train, 15 % val, 15 % test.

    Folders are split by formula, so that two crystals of the same formula stay together.
    """
    value = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") / 2**64
    if value < SPLIT_SHARES["train"]:
        return "train"
    return "val" if value < SPLIT_SHARES["train"] + SPLIT_SHARES["val"] else "test"


def _property_table(path: Path, files: Sequence[Path]) -> dict[str, dict[str, Any]]:
    """Columns of the CSV by the stem of the file they belong to."""
    if not path.is_file():
        raise DataError(f"no table of properties at {path}")
    # As text: a number would lose the leading zeros of a file name.
    frame, _ = read_csv(path, text_columns=("file", "material_id"))
    key = next((name for name in ("file", "material_id") if name in frame), None)
    if key is None:
        raise DataError(
            f"{path} needs a column 'file' or 'material_id'; it has {list(frame.columns)}"
        )
    stems = frame[key].str.replace(r"(?i)\.cif$", "", regex=True)
    if stems.duplicated().any():
        raise DataError(f"{path} names {stems[stems.duplicated()].iloc[0]!r} more than once")
    if not set(stems) & {file.stem for file in files}:
        raise DataError(
            f"no row of {path} names a file of the folder; {key} has {stems[:3].tolist()}"
        )
    if "split" in frame and not set(frame["split"]) <= set(SPLITS):
        raise DataError(f"{path}: split must be one of {SPLITS}, but {set(frame['split'])} came")
    reserved = {"file", "material_id", "formula", "source", "row", "space_group_spglib"}
    kept = [name for name in frame if name not in reserved and not name.startswith("Unnamed")]
    return dict(zip(stems, frame[kept].to_dict("records"), strict=True))
