"""A folder of CIF files in, with or without a table of properties; rows out."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import gemmi
import pandas as pd

from unimat_lib.crystals.cif import MAX_CHARACTERS, read_sites
from unimat_lib.crystals.reduction import ReducedCrystal
from unimat_lib.crystals.structures import reduce_sites, reduced_formula
from unimat_lib.crystals.table import SPLITS
from unimat_lib.datasets.report import SPLIT_SHARES, DataError, Source, dropped_row, read_csv

_OWN_COLUMNS = {
    *("file", "material_id", "formula", "source", "row", "space_group_spglib", "was_primitive"),
    *("lattice", "frac_coords", "atomic_numbers", "occupancy"),
}
_GROUP_COLUMNS = ("spacegroup.number", "space_group")


def cif_files(folder: str | os.PathLike[str] | None) -> list[Path]:
    """The files ``*.cif`` of a folder, sorted; ``DataError`` if none, or two of one name."""
    if folder is None:
        raise DataError("cif_folder needs the folder: prepare('cif_folder', folder='my/cifs')")
    entries = Path(folder).expanduser().glob("*")
    files = sorted(p for p in entries if p.suffix.lower() == ".cif" and p.is_file())
    if not files:
        raise DataError(f"files *.cif were expected directly in {folder}; there are none")
    for first, second in pairwise(files):
        if first.stem == second.stem:
            raise DataError(f"{folder} holds {first.name} and {second.name}: rename one of them")
    return files


def cif_folder_source(files: list[Path], properties: Path | None, limit: int | None) -> Source:
    """Rows of the (first ``limit``) files; :class:`.Origin` tells of ``properties``, or raises."""
    # Bytes of a name that are no UTF-8 are spelled out.
    names = [os.fsencode(file.stem).decode("utf-8", errors="backslashreplace") for file in files]
    table = _property_table(properties, names) if properties else {}
    rows, without = [], 0
    for file, name in list(zip(files, names, strict=True))[:limit]:
        extra = dict(table.get(name, {}))
        without += bool(table) and not extra
        own = {"space_group": None, "split": None, **extra, "source": "cif"}
        with file.open("rb") as handle:  # one byte too many is refused, a disk image is not read
            text = handle.read(MAX_CHARACTERS + 1).decode("utf-8", errors="replace")
        rows.append({"row": len(rows), "material_id": name, "cif": text, "info": own})
    orphans = sorted(set(table) - set(names))
    counts = {"files_without_properties": without, "properties_without_file": len(orphans)}
    reason = "the table of properties names it, but the folder has no such file"
    dropped = [dropped_row(n, name, reason) for n, name in enumerate(orphans, len(rows))]
    text = "{0.num_used:,} of {0.num_rows:,} CIF files of a folder."
    return Source(rows, _from_cif_file, text.format, dropped, counts if table else {})


def _from_cif_file(row: Mapping[str, Any]) -> ReducedCrystal:
    crystal, occupancy = reduce_sites(*read_sites(row["cif"]))
    formula = reduced_formula(crystal.atomic_numbers, occupancy)
    if occupancy is not None:
        row["info"].update(occupancy=occupancy, formula=formula)
    if row["info"]["split"] is None:
        row["info"]["split"] = hashed_split(formula)
    return crystal


def hashed_split(key: str) -> str:
    """Split that a text (a formula, so that its crystals stay together) falls into: 70/15/15 %."""
    value = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") / 2**64
    if value < SPLIT_SHARES["train"]:
        return "train"
    return "val" if value < SPLIT_SHARES["train"] + SPLIT_SHARES["val"] else "test"


def _property_table(path: Path, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Columns of the CSV by the name of the file they belong to."""
    frame, _ = read_csv(path, text_columns=("file", "material_id", *_GROUP_COLUMNS))  # as 007.cif
    key = next((name for name in ("file", "material_id") if name in frame), None)
    if key is None:
        raise DataError(f"{path} needs a column 'file' or 'material_id', not {list(frame)}")
    stems = frame.pop(key).fillna("").str.replace(r"(?i)\.cif$", "", regex=True)
    if stems.duplicated().any():
        raise DataError(f"{path} names {stems[stems.duplicated()].iloc[0]!r} more than once")
    if not set(stems) & set(names):
        raise DataError(f"no {key} of {path} names a file of the folder: {stems[:3].tolist()}")
    if "split" in frame and not set(frame["split"]) <= set(SPLITS):
        raise DataError(f"{path}: split must be one of {SPLITS}, but {set(frame['split'])} came")
    if taken := sorted(_OWN_COLUMNS & set(frame)):
        raise DataError(f"{path}: the table of crystals has columns {taken} itself; rename yours")
    if len(groups := [name for name in _GROUP_COLUMNS if name in frame]) > 1:
        raise DataError(f"{path} has the columns {groups}: keep one of them")
    for name in groups:
        values = zip(stems, frame.pop(name), strict=True)
        numbers = [_space_group(value, f"{path}: {name} of {stem!r}") for stem, value in values]
        frame["space_group"] = pd.Series(numbers, index=frame.index, dtype=object)
    kept = [name for name in frame if not re.fullmatch(r"Unnamed: \d+", name)]  # an index
    return dict(zip(stems, frame[kept].to_dict("records"), strict=True))


def _space_group(value: Any, where: str) -> int | None:
    """International number of a number or symbol such as "Fm-3m", "P 21/c" or "P2(1)/c"."""
    if not isinstance(value, str):  # an empty cell
        return None
    digits = re.fullmatch(r" *(\d{1,3})(\.0*)? *", value)
    group = None if digits else gemmi.find_spacegroup_by_name(re.sub(r"[_()]", "", value))
    number = int(digits[1]) if digits else group.number if group else 0
    if number not in range(1, 231):
        raise DataError(f"{where} is {value!r}: 1 to 230 or a Hermann-Mauguin symbol expected")
    return number
