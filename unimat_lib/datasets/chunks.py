"""Rows in, a crystal table out: read in chunks by several processes, resumable."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from unimat_lib.crystals.parquet import load_table, save_table
from unimat_lib.crystals.reduction import ReducedCrystal, reduced_formula
from unimat_lib.crystals.table import (
    CrystalTable,
    concatenate,
    crystal_system_index,
    table_from_arrays,
)
from unimat_lib.datasets.report import DataError, dropped_row
from unimat_lib.files import file_hash, read_record, write_record
from unimat_lib.processes import unordered

logger = logging.getLogger(__name__)

_CHUNK = 250  # rows per file of an unfinished preparation: about a second of work
Read = Callable[[Mapping[str, Any]], ReducedCrystal]


def read_rows(
    read: Read, rows: list[dict[str, Any]]
) -> tuple[list[ReducedCrystal], list[dict[str, Any]], list[dict[str, Any]]]:
    """Crystals of some rows with their columns, and the rows that are dropped for a reason."""
    crystals, infos, dropped = [], [], []
    for row in rows:
        try:
            crystal = read(row)
            if row["info"].get("space_group") is None:
                row["info"]["space_group"] = crystal.space_group
            crystal_system_index(row["info"]["space_group"])
        except ValueError as error:  # a CrystalError, or a space group that does not exist
            dropped.append(dropped_row(row["row"], row["material_id"], str(error)))
            continue
        crystals.append(crystal)
        info = {"row": row["row"], "material_id": row["material_id"]}
        info["formula"] = reduced_formula(crystal.atomic_numbers)
        info["space_group_spglib"] = crystal.space_group
        infos.append(info | {"was_primitive": crystal.was_primitive} | row["info"])
    return crystals, infos, dropped


def _prepare_chunk(read: Read, rows: list[dict[str, Any]], target: str) -> int:
    """Read some rows and write them to ``target`` (Parquet), then a record of it beside it."""
    crystals, infos, dropped = read_rows(read, rows)
    path, checksum = Path(target), None
    if crystals:
        arrays = list(zip(*crystals, strict=True))[:3]
        save_table(table_from_arrays(*arrays, pd.DataFrame(infos)), path)
        checksum = file_hash(path)
    # Last, so that a chunk is either whole or done again.
    write_record(path.with_suffix(".json"), {"sha256": checksum, "dropped": dropped})
    return len(rows)


def _read_chunk(path: Path) -> dict[str, Any] | None:
    """The record of a chunk that is whole."""
    record = read_record(path.with_suffix(".json"))
    wanted = record and record["sha256"]
    if wanted is None or (path.is_file() and file_hash(path) == wanted):
        return record
    logger.warning("%s is damaged and is made anew", path)
    return None


def run_chunks(
    read: Read, rows: list[dict[str, Any]], scratch: Path, workers: int
) -> tuple[CrystalTable, list[dict[str, Any]]]:
    """Table of all rows, and one ``{"row", "material_id", "reason"}`` for each that is dropped.

    ``read`` makes a crystal of a row, see :class:`.Source`; its ``ValueError`` drops the row. The
    folder ``scratch`` is made and stays; chunks of an interrupted run count. ``workers`` are
    processes. If no row can be used, or a chunk was damaged meanwhile, it is a ``DataError``.
    """
    from tqdm import tqdm

    chunks = {
        scratch / f"rows-{start:08d}-{_CHUNK}.parquet": rows[start : start + _CHUNK]
        for start in range(0, len(rows), _CHUNK)
    }
    jobs = [(read, part, str(path)) for path, part in chunks.items() if _read_chunk(path) is None]
    if len(jobs) < len(chunks):
        logger.info("resuming: %d of %d chunks are there", len(chunks) - len(jobs), len(chunks))
    there = len(rows) - sum(len(part) for _, part, _ in jobs)
    with tqdm(total=len(rows), initial=there, unit="crystal", disable=None) as bar:
        for done in unordered(_prepare_chunk, jobs, workers=workers):
            bar.update(done)
    records = {path: _read_chunk(path) for path in chunks}
    if None in records.values():
        raise DataError(f"a chunk in {scratch} was damaged while this ran: run it again")
    dropped = [reason for record in records.values() for reason in record["dropped"]]
    tables = [load_table(path) for path, record in records.items() if record["sha256"]]
    if not tables:
        reasons = "; ".join(f"{d['material_id']}: {d['reason']}" for d in dropped[:5])
        raise DataError(f"none of {len(dropped)} rows can be used ({reasons}); check the source")
    # A chunk whose rows have no properties lacks their columns; concat keeps them for the others.
    info = pd.concat([table.info for table in tables], ignore_index=True)
    return dataclasses.replace(concatenate(tables), info=info), dropped
