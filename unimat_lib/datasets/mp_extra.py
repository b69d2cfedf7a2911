"""Further crystals of the Materials Project in, rows for pretraining out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from unimat_lib.crystals.reduction import ReducedCrystal, reduce_crystal
from unimat_lib.crystals.table import EXTRA_SPLIT, CrystalError, CrystalTable, concatenate
from unimat_lib.datasets.report import DataError, PreparationReport, Source, dropped_row, manifest


def _from_cell(row: Mapping[str, Any]) -> ReducedCrystal:
    """A crystal of ``mp_extra``: lengths and angles, coordinates with five decimals."""
    frac = np.asarray(row["frac_coords"], dtype=np.float64).reshape(-1, 3).round(5)
    # 0.33333 stands for 1/3, or symmetry would hold to a few 1e-5 angstrom only.
    special = np.round(12 * frac) / 12
    frac = np.where(np.abs(frac - special) < 6e-6, special, frac)
    crystal = reduce_crystal(_lattice(*map(float, row["lattice"])), frac, row["atomic_numbers"])
    # The file has single precision; further decimals are noise that takes space.
    return crystal._replace(lattice=crystal.lattice.round(6))


def _lattice(a: float, b: float, c: float, *angles: float) -> np.ndarray:
    """Rows ``[3, 3]`` in angstrom of lengths and angles (degrees): a along x, b in the xy plane."""
    cosine = np.cos(np.radians(angles))
    sine = math.sin(math.radians(angles[2]))
    y = (cosine[0] - cosine[1] * cosine[2]) / sine
    z_squared = 1 - cosine[1] ** 2 - y**2
    if not z_squared > 0:
        raise CrystalError("no cell has the angles {:g}, {:g}, {:g}".format(*angles))
    rows = [[a, 0, 0], [b * cosine[2], b * sine, 0]]
    return np.array([*rows, [c * cosine[1], c * y, c * math.sqrt(z_squared)]])


def find_mp_extra(folder: Path | None) -> Path:
    """The file of further crystals in a folder; ``DataError`` if either is missing."""
    name = manifest()["mp_extra"]["file"]
    if folder is not None and (folder / name).is_file():
        return folder / name
    where = "UNIMAT_DATA is not set" if folder is None else f"{folder} has no such file"
    raise DataError(f"{where}: point UNIMAT_DATA (or data_dir) at the folder that holds {name}")


def mp_extra_source(path: Path, checksum: str, limit: int | None) -> Source:
    """First rows of a file, given its SHA-256; ``DataError`` if it is not the manifest's."""
    entry = manifest()["mp_extra"]
    if checksum != entry["sha256"]:
        came = f"sha256 {entry['sha256']} expected, but {checksum} came"
        raise DataError(f"{path}: content with {came}: fetch it again")
    frame = pd.read_parquet(path).head(limit)
    repeated = frame["material_id"].duplicated()
    dropped = [
        dropped_row(row, name, "this material_id was there before")
        for row, name in frame["material_id"][repeated].items()
    ]
    shared = {"split": EXTRA_SPLIT, "source": entry["source"]}
    rows = [
        {**row, "row": number, "info": {"space_group": int(row["spacegroup_number"]), **shared}}
        for number, row in frame[~repeated].to_dict("index").items()
    ]

    def describe(report: PreparationReport) -> str:
        part = f" The first {limit:,} rows were read." if limit else ""
        return (
            f"{report.num_used:,} of {report.num_rows:,} further crystals of the Materials Project "
            f"({entry['release']}), for pretraining only: those of MP-20 were left out when the "
            "file was made, and those with formula and space group of a crystal in MP-20's "
            f"validation or test split.{part}"
        )

    return Source(rows=rows, read=_from_cell, describe=describe, dropped=dropped)


def apart_from(extra: CrystalTable, table: CrystalTable) -> CrystalTable:
    """Crystals of ``extra``, in their order, that give nothing away about the table's test data.

    Left out are the materials of ``table``, whatever their split, and every crystal that shares
    formula and space group (the declared one or spglib's) with one in its validation or test split.
    The file of ``mp_extra`` was made like that, but it counted O and O2 as two formulas and knew
    one space group of each crystal.
    """

    def keys(info: pd.DataFrame) -> list[pd.Series]:
        columns = [name for name in ("space_group", "space_group_spglib") if name in info]
        return [info["formula"] + " " + info[name].astype(str) for name in columns]

    unseen = pd.concat(keys(table.info[table.info["split"].isin(("val", "test"))]))
    out = extra.info["material_id"].isin(table.info["material_id"])
    for key in keys(extra.info):
        out |= key.isin(unseen)
    return extra.select(~out.to_numpy(bool, copy=True))


def pretraining_pool(
    table: CrystalTable, extra: CrystalTable | None, *, max_atoms: int
) -> CrystalTable:
    """All crystals of a data set, under their numbers, and then further ones for pretraining.

    These, with the split "extra", are the crystals of ``extra``, if any, that have at most
    ``max_atoms`` atoms in the cell, less those that :func:`.apart_from` leaves out.
    """
    if extra is None:
        return table
    return concatenate([table, apart_from(extra.select(extra.num_atoms <= max_atoms), table)])
