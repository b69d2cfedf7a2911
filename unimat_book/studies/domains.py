"""Files of foreign crystals in, checked tables of them out: what transfer is measured on.

    python -m unimat_book.studies.domains prepare --data-dir FOLDER

``perov_5`` are cubic perovskites of another density-functional database, ``carbon_24`` are carbon
allotropes of a random search, both the test splits of the CDVAE paper, and ``mpts_52`` are larger
cells of the Materials Project, of later years than ours. Nothing is downloaded; prepared tables go
beside those of the library.
"""

from __future__ import annotations

import argparse
import re
import sys
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from unimat_lib.crystals.parquet import load_table, save_table
from unimat_lib.crystals.reduction import ReducedCrystal
from unimat_lib.crystals.table import (
    CrystalError,
    CrystalTable,
    table_from_arrays,
)
from unimat_lib.datasets.chunks import read_rows
from unimat_lib.datasets.report import (
    DataError,
    as_number,
    data_folder,
    dropped_row,
    read_cif_row,
    read_csv,
)
from unimat_lib.files import alone_in, file_hash, read_record, write_record
from unimat_lib.identity import identity_of, short_hash
from unimat_lib.paths import cache_folder
from unimat_lib.views.bragg import scattering_parameters

PREPARE = "python -m unimat_book.studies.domains prepare --data-dir FOLDER"


@dataclass(frozen=True)
class ForeignFile:
    """Where a domain comes from.

    Attributes:
        name: Of its file, in the folder or in ``transfer`` below it.
        sha256: Of the content.
        source: In words.
        energy: Its column of energies per atom (eV).
        atoms: Smallest and largest number of atoms in the primitive cell that belong to it.
    """

    name: str
    sha256: str
    source: str
    energy: str
    atoms: tuple[int, int] = (1, 1000)


FOREIGN: Mapping[str, ForeignFile] = {
    "perov_5": ForeignFile(
        "perov_5_test.csv.gz",
        "b635a7e4803ce8abc147da102a5ac5df1a2c9fc74fc4854afb7eac54c839420c",
        "Perov-5 (Castelli et al. 2012), test split of Xie et al. 2021",
        "heat_all",
    ),
    "carbon_24": ForeignFile(
        "carbon_24_test.csv.gz",
        "f51a69674f1d15fb06fa8be60f09abbda60283f77fd1a21d44d6ec2c9a039f65",
        "Carbon-24 (Pickard 2020), test split of Xie et al. 2021",
        "energy_per_atom",
    ),
    "mpts_52": ForeignFile(
        "mpts_52_val.csv.gz",
        "af56fcaa2ed7f36e9ec0ce95ae409c73f4c909644153c3d441c76f87a4d1c11d",
        "MPTS-52 (Baird et al. 2024, Materials Project), validation split, 21 to 52 atoms",
        "formation_energy_per_atom",
        (21, 52),
    ),
}
"""The foreign domains by name."""


def prepare_domain(
    name: str, *, data_dir: str | Path | None = None, cache_dir: str | Path | None = None
) -> dict[str, Any]:
    """Turn a file of foreign crystals into a table and say what became of every row.

    Cells are Niggli-reduced primitive ones and space groups are spglib's (0.1 angstrom), as those
    of the library's data sets. Left out are crystals with another number of atoms than belongs to
    the domain, and what the library cannot read or measure. Two files are written,
    ``transfer-<name>.parquet`` and, with checksums and the report, ``transfer-<name>.json``.

    Args:
        name: A key of :data:`FOREIGN`.
        data_dir: Folder with the file, or with ``transfer`` that has it; by default the one that
            the environment variable UNIMAT_DATA names.
        cache_dir: Where the table goes; by default :func:`.cache_folder`.

    Returns:
        The report: ``name``, ``rows``, ``used``, ``dropped`` (one ``{"row", "material_id",
        "reason"}`` each), ``bytes`` of the table.

    Raises:
        ValueError: There is no such domain.
        DataError: The file is absent, damaged, or another one.
    """
    entry = _entry(name)
    path = _find(entry, data_folder(data_dir))
    if (checksum := file_hash(path)) != entry.sha256:
        came = f"sha256 {entry.sha256} expected, but {checksum} came"
        raise DataError(f"{path}: content with {came}: get the file again")
    table, dropped = foreign_table(read_csv(path)[0], name)
    with alone_in(cache_folder(cache_dir)) as cache:
        target = save_table(table, cache / f"transfer-{name}.parquet")
        report = {"name": name, "rows": len(table) + len(dropped), "used": len(table)}
        report |= {"dropped": dropped, "bytes": target.stat().st_size}
        record = {"code": _code(), "input": checksum, "sha256": file_hash(target)}
        write_record(cache / f"transfer-{name}.json", record | {"report": report})
    return report


def foreign_table(frame: pd.DataFrame, name: str) -> tuple[CrystalTable, list[dict[str, Any]]]:
    """Table of the rows of a domain's file, all of the split "test", and what was left out.

    Args:
        frame: With the columns ``material_id``, ``cif`` and that of the energies.
        name: A key of :data:`FOREIGN`.

    Raises:
        DataError: A column is missing, or no row can be used.
    """
    entry = _entry(name)
    needed = ("material_id", "cif", entry.energy)
    if missing := [column for column in needed if column not in frame]:
        raise DataError(f"{entry.name} lacks the columns {missing}; it has {list(frame.columns)}")
    rows, dropped, seen = [], [], set()
    for number, row in enumerate(frame.to_dict("records")):
        identifier = _identifier(row["material_id"], name)
        if identifier in seen:
            reason = "this material_id was there before"
            dropped.append(dropped_row(number, identifier, reason))
            continue
        seen.add(identifier)
        info = {"space_group": None, "split": "test", "source": entry.source}
        info["energy_per_atom"] = as_number(row[entry.energy])
        cif = row["cif"] if isinstance(row["cif"], str) else ""
        own = {"row": number, "material_id": identifier, "cif": cif, "info": info}
        rows.append(own | {"atoms": entry.atoms})
    crystals, infos, refused = read_rows(_foreign_crystal, rows)
    if not crystals:
        raise DataError(f"none of {len(refused)} rows can be used; the first: {refused[:1]}")
    info = pd.DataFrame(infos).drop(columns=["row", "was_primitive", "space_group_spglib"])
    table = table_from_arrays(*list(zip(*crystals, strict=True))[:3], info)
    return table, sorted([*dropped, *refused], key=lambda each: each["row"])


def load_domain(name: str, *, cache_dir: str | Path | None = None) -> CrystalTable:
    """The prepared table of a foreign domain, checked.

    Raises:
        ValueError: There is no such domain.
        DataError: It was not prepared, is damaged, or is of another file or of other code; the
            message says how to prepare it.
    """
    entry, cache = _entry(name), cache_folder(cache_dir)
    path = cache / f"transfer-{name}.parquet"
    record, problem = read_record(path.with_suffix(".json")), ""
    if record is None or not path.is_file():
        problem = "is not prepared"
    elif file_hash(path) != record["sha256"]:
        problem = "is damaged"
    elif (record["input"], record["code"]) != (entry.sha256, _code()):
        problem = "was prepared from another file or by other code"
    if problem:
        raise DataError(f"{path} {problem}. Prepare it with:\n    {PREPARE}")
    return load_table(path)


def _entry(name: str) -> ForeignFile:
    if name not in FOREIGN:
        raise ValueError(f"foreign domain must be one of {tuple(FOREIGN)}, but {name!r} came")
    return FOREIGN[name]


def _find(entry: ForeignFile, folder: Path | None) -> Path:
    for place in () if folder is None else (folder, folder / "transfer"):
        if (place / entry.name).is_file():
            return place / entry.name
    where = "UNIMAT_DATA is not set" if folder is None else f"{folder} has no {entry.name}"
    raise DataError(f"{where}: point UNIMAT_DATA or --data-dir at the folder that holds it")


def _code() -> str:
    """Hash of all our code that makes a table; versions of packages do not count."""
    code = identity_of("unimat_book.studies.domains:foreign_table").code
    return short_hash(repr(sorted(code.items())))


def _identifier(value: Any, name: str) -> str:
    """A name that no other data set has; those of the Materials Project stay as they are."""
    text = str(value)
    return f"{name}-{text}" if text.isdigit() else text


def _foreign_crystal(row: Mapping[str, Any]) -> ReducedCrystal:
    with warnings.catch_warnings(action="ignore", category=UserWarning):
        crystal = read_cif_row(row)
    least, most = row["atoms"]
    if not least <= len(crystal.atomic_numbers) <= most:
        came = f"{len(crystal.atomic_numbers)} atoms in the primitive cell"
        raise CrystalError(f"{came}, {least} to {most} belong to the domain")
    if scattering_parameters()[crystal.atomic_numbers, 0, 0].isnan().any():
        raise CrystalError("an element without scattering parameters")
    return crystal


def main(words: Sequence[str] | None = None) -> int:
    """Do what the command line says; 0 if all domains could be prepared."""
    parser = argparse.ArgumentParser(prog="python -m unimat_book.studies.domains")
    command = parser.add_subparsers(required=True).add_parser("prepare")
    command.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(FOREIGN)}")
    command.add_argument("--data-dir", help="folder of the files (default: $UNIMAT_DATA)")
    command.add_argument("--cache-dir", help="target (default: the book's cache)")
    options = vars(parser.parse_args(words))
    for name in options.pop("names") or FOREIGN:
        try:
            report = prepare_domain(name, **options)
        except (DataError, OSError, ValueError) as error:
            sys.stderr.write(f"{error}\n")
            return 1
        sys.stdout.write(_said(report))
    return 0


def _said(report: Mapping[str, Any]) -> str:
    """The report in words, with reasons that differ in their numbers only counted together."""
    reasons = Counter(_kind(row["reason"]) for row in report["dropped"])
    lines = ["{name}: {used:,} of {rows:,} rows, {bytes:,} bytes".format(**report)]
    lines += [f"  {number:,} left out: {reason}" for reason, number in reasons.most_common()]
    return "\n".join(lines) + "\n"


def _kind(reason: str) -> str:
    """A reason without the number of atoms of the crystal at hand."""
    return re.sub(r"^\d+ (atoms in the primitive cell)", r"\1", reason)


if __name__ == "__main__":
    sys.exit(main())
