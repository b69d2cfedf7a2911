"""The name of a data set in, its crystal table out, prepared once and kept.

``prototypes`` needs no download. ``mp_20`` is the Materials Project subset of the CDVAE paper, from
a folder or downloaded. ``mp_extra``, from a folder, holds further crystals that only pretraining
may use. ``cif_folder`` is any folder of CIF files. :func:`.prepare_dataset` says in its report what
became of every row; :func:`.load_dataset` returns the table and prepares it where needed.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from unimat_lib.crystals.parquet import load_table, save_table
from unimat_lib.crystals.table import CrystalTable
from unimat_lib.datasets.chunks import read_rows, run_chunks
from unimat_lib.datasets.cif_folder import cif_files, cif_folder_source
from unimat_lib.datasets.mp_20 import download_mp_20, find_mp_20, mp_20_source
from unimat_lib.datasets.mp_extra import find_mp_extra, mp_extra_source
from unimat_lib.datasets.prototypes import prototypes_source
from unimat_lib.datasets.report import (
    DataError,
    PreparationReport,
    Source,
    count_crystals,
    data_folder,
)
from unimat_lib.files import alone_in, file_hash, read_record, write_record
from unimat_lib.identity import Identity, identity_of, short_hash
from unimat_lib.paths import cache_folder

logger = logging.getLogger(__name__)

# What reads the rows of each data set; whatever it calls counts for its identity.
_READERS = {
    "prototypes": prototypes_source,
    "mp_20": mp_20_source,
    "mp_extra": mp_extra_source,
    "cif_folder": cif_folder_source,
}
DATASETS = tuple(_READERS)


def preparation_identity(name: str) -> Identity:
    """Identity of what turns rows into crystals; a table made by other code is made anew."""
    reader = _READERS[name]
    steps = (reader, read_rows, _finish)
    return identity_of(*(f"{step.__module__}:{step.__name__}" for step in steps))


@dataclass(frozen=True)
class Origin:
    """Where the rows of a data set come from, and how many of them are wanted."""

    #: folder with the files of ``mp_20`` or ``mp_extra``, in place of the environment variable
    #: ``UNIMAT_DATA``; without either MP-20's are downloaded
    data_dir: str | os.PathLike[str] | None = None
    folder: str | os.PathLike[str] | None = None  #: of CIF files, for ``cif_folder``
    #: CSV with a column ``file`` or ``material_id`` and properties, optionally ``split`` and
    #: ``space_group`` (number or symbol), for ``cif_folder``
    properties: str | os.PathLike[str] | None = None
    #: read only the first so many (at least 1) rows of each file (``mp_20``, ``mp_extra``), files
    #: (``cif_folder``), or make only about so many crystals (``prototypes``)
    limit: int | None = None

    def __post_init__(self) -> None:
        """Refuse to read nothing."""
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"limit must be at least 1, but {self.limit} came")


def prepare_dataset(
    name: str, *, cache_dir: str | os.PathLike[str] | None = None, workers: int = 2, **origin: Any
) -> PreparationReport:
    """Turn a data set into a table of crystals and say what became of every row.

    Writes ``{name}-{hash}.parquet`` and then ``{name}.json`` (table, inputs, report, versions) into
    ``cache_dir``. An interrupted preparation goes on where it stopped when it is called again.

    Args:
        name: One of ``DATASETS``.
        cache_dir: Where the results go; by default :func:`.cache_folder`.
        workers: Processes.
        origin: Fields of :class:`Origin`: ``data_dir``, ``folder``, ``properties``, ``limit``.

    Raises:
        ValueError: Unknown name, or an argument out of range.
        DataError: The source is absent, damaged or not acceptable.
    """
    _check_name(name)
    if workers < 1:
        raise ValueError(f"workers must be at least 1, but {workers} came")
    wanted = Origin(**origin)
    with alone_in(cache_folder(cache_dir)) as cache:
        return _prepare(name, wanted, cache, workers)


def _prepare(name: str, wanted: Origin, cache: Path, workers: int) -> PreparationReport:
    started = time.perf_counter()
    inputs, arguments = _inputs(name, wanted, cache)
    source = _READERS[name](*arguments, wanted.limit)
    identity = preparation_identity(name)
    key = short_hash(json.dumps([identity.digest, name, inputs, wanted.limit]))
    table, dropped = run_chunks(source.read, source.rows, cache / f".{name}-{key}", workers)
    report = _report(name, table.info, source, dropped)
    table = _finish(table)
    path = save_table(table, cache / f"{name}-{table.content_hash()}.parquet")
    report.table = path.name
    report.seconds = round(time.perf_counter() - started, 2)
    record = {"code": identity.digest, "table": path.name, "sha256": file_hash(path)}
    record |= {"limit": wanted.limit, "inputs": inputs, "report": asdict(report)}
    write_record(cache / f"{name}.json", record | {"versions": identity.versions})
    for left in cache.glob(f".{name}-*"):  # also what earlier code or killed writers left
        shutil.rmtree(left) if left.is_dir() else left.unlink(missing_ok=True)
    logger.info("%s: %d of %d rows used", name, report.num_used, report.num_rows)
    return report


def load_dataset(
    name: str, *, cache_dir: str | os.PathLike[str] | None = None, workers: int = 2, **origin: Any
) -> CrystalTable:
    """The table of a data set, prepared first when it is not there or its source has changed.

    Without ``data_dir``, ``folder`` and ``UNIMAT_DATA`` a prepared table is taken as it is. The
    arguments and errors are those of :func:`.prepare_dataset`.
    """
    _check_name(name)
    wanted = Origin(**origin)
    path = _prepared(name, wanted, cache_folder(cache_dir))
    if path is None:
        with alone_in(cache_folder(cache_dir)) as cache:
            path = _prepared(name, wanted, cache)  # by another process, while this one waited
            path = path or cache / _prepare(name, wanted, cache, workers).table
    return load_table(path)


def _prepared(name: str, origin: Origin, cache: Path) -> Path | None:
    """The table of a data set if it is there and made from this source by this code."""
    record = _record(name, cache)
    if record is None or record["limit"] != origin.limit:
        return None
    path = cache / record["table"]
    same_code = record["code"] == preparation_identity(name).digest
    given = origin.folder if name == "cif_folder" else data_folder(origin.data_dir)
    if given is not None or name == "prototypes":
        same = same_code and _inputs(name, origin, cache)[0] == record["inputs"]
        return path if same else None
    if not same_code:
        remedy = "point UNIMAT_DATA at its source to prepare it anew"
        logger.warning("%s is of another version of the code, but taken: %s", path.name, remedy)
    return path


def dataset_provenance(
    name: str, cache_dir: str | os.PathLike[str] | None = None
) -> dict[str, Any]:
    """Which data a data set is; ``DataError`` where it was not prepared.

    That is ``name``, ``text`` (in words), ``table`` (file name with its content hash),
    ``num_rows``, ``num_used``, and counts by split, by source, and by source within each split.
    """
    report = read_report(name, cache_dir)
    counts = {k: v for k, v in report.counts.items() if k not in report.counts["split"]}
    return {
        "name": name,
        "text": report.provenance,
        "table": report.table,
        "num_rows": report.num_rows,
        "num_used": report.num_used,
        "crystals_by_split": counts.pop("split"),
        "crystals_by_source": counts.pop("source"),
        **counts,
    }


def read_report(name: str, cache_dir: str | os.PathLike[str] | None = None) -> PreparationReport:
    """The report of a data set; a ``DataError`` where it was not prepared."""
    _check_name(name)
    cache = cache_folder(cache_dir)
    if record := _record(name, cache):
        return PreparationReport(**record["report"])
    raise DataError(
        f"{name} is not prepared in {cache}; run python -m unimat_lib.datasets prepare {name}"
    )


def _check_name(name: str) -> None:
    if name not in DATASETS:
        raise ValueError(f"data set must be one of {DATASETS}, but {name!r} came")


def _record(name: str, cache: Path) -> dict[str, Any] | None:
    """What ``{name}.json`` says, when it is whole and so is its table."""
    if (record := read_record(cache / f"{name}.json")) is None:
        return None
    path = cache / record["table"]
    if path.is_file() and file_hash(path) == record["sha256"]:
        return record
    logger.warning("%s is absent or damaged and is not used", path)
    return None


def _inputs(name: str, origin: Origin, cache: Path) -> tuple[dict[str, str], tuple]:
    """Checksums of everything that goes in, and what the reader of the data set takes."""
    if name == "prototypes":
        return {}, ()
    given = data_folder(origin.data_dir)
    if name == "mp_20":
        paths = find_mp_20(given) if given else download_mp_20(cache / "mp_20_public")
        return {split: file_hash(path) for split, path in paths.items()}, (paths,)
    if name == "mp_extra":
        path = find_mp_extra(given)
        return {"file": (checksum := file_hash(path))}, (path, checksum)
    files = cif_files(origin.folder)
    lines = [os.fsencode(file.name) + f" {file_hash(file)}\n".encode() for file in files]
    inputs = {"files": hashlib.sha256(b"".join(lines)).hexdigest()}
    if origin.properties is None:
        return inputs, (files, None)
    if not (properties := Path(origin.properties)).is_file():
        raise DataError(f"no table of properties at {properties}")
    return {**inputs, "properties": file_hash(properties)}, (files, properties)


def _report(
    name: str, info: pd.DataFrame, source: Source, dropped: list[dict[str, Any]]
) -> PreparationReport:
    disagree = info["space_group"] != info["space_group_spglib"]
    primitive, counts = info["was_primitive"].sum(), count_crystals(info)
    notes = {**source.notes, "reduced_to_primitive": len(info) - int(primitive)}
    notes["space_group_disagreements"] = int(disagree.sum())
    dropped = sorted([*source.dropped, *dropped], key=lambda record: record["row"])
    rows = len(info) + len(dropped)
    report = PreparationReport(name, rows, len(info), dropped, counts, notes, provenance="")
    report.provenance = source.describe(report)
    return report


def _finish(table: CrystalTable) -> CrystalTable:
    """Columns of the final table, the required ones first."""
    first = ["material_id", "formula", "space_group", "space_group_spglib", "split", "source"]
    others = [c for c in table.info if c not in (*first, "row", "was_primitive")]
    return replace(table, info=table.info[first + others])
