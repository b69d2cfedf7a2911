"""Rows in, a crystal table out: read in chunks by several processes, resumable."""

from __future__ import annotations

import dataclasses
import json
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
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
from unimat_lib.datasets.report import DataError
from unimat_lib.processes import unordered

logger = logging.getLogger(__name__)


_CHUNK = 250  # rows per file of an unfinished preparation: about a second of work


def _prepare_chunk(
    read: Callable[[Mapping[str, Any]], ReducedCrystal], rows: list[dict[str, Any]], target: str
) -> int:
    """Read some rows and write them to ``target`` (Parquet) with the dropped ones beside it."""
    crystals, infos, dropped = [], [], []
    for row in rows:
        try:
            crystal = read(row)
            if row["info"].get("space_group") is None:
                row["info"]["space_group"] = crystal.space_group
            crystal_system_index(row["info"]["space_group"])
        except ValueError as error:  # a CrystalError, or a space group that does not exist
            dropped.append(
                {"row": row["row"], "material_id": row["material_id"], "reason": str(error)}
            )
            continue
        crystals.append(crystal)
        infos.append(
            {
                "row": row["row"],
                "material_id": row["material_id"],
                "formula": reduced_formula(crystal.atomic_numbers),
                "space_group_spglib": crystal.space_group,
                "was_primitive": crystal.was_primitive,
                **row["info"],
            }
        )
    path = Path(target)
    path.with_suffix(".json").write_text(json.dumps({"used": len(crystals), "dropped": dropped}))
    if crystals:
        table = table_from_arrays(
            [c.lattice for c in crystals],
            [c.frac_coords for c in crystals],
            [c.atomic_numbers for c in crystals],
            pd.DataFrame(infos),
        )
        save_table(table, path)
    path.with_suffix(".done").touch()  # last, so that a chunk is either complete or done again
    return len(rows)


def run_chunks(
    read: Callable[[Mapping[str, Any]], ReducedCrystal],
    rows: list[dict[str, Any]],
    scratch: Path,
    *,
    workers: int,
    show_progress: bool | None,
) -> tuple[CrystalTable, list[dict[str, Any]]]:
    """Prepare all rows, taking over the chunks that an interrupted run left in ``scratch``."""
    from tqdm import tqdm

    scratch.mkdir(parents=True, exist_ok=True)
    starts = range(0, len(rows), _CHUNK)
    paths = [scratch / f"chunk-{start:08d}.parquet" for start in starts]
    todo = [i for i, path in enumerate(paths) if not path.with_suffix(".done").exists()]
    if len(todo) < len(paths):
        logger.info("resuming: %d of %d chunks are there", len(paths) - len(todo), len(paths))
    jobs = [(rows[starts[i] : starts[i] + _CHUNK], str(paths[i])) for i in todo]
    show = sys.stderr.isatty() if show_progress is None else show_progress
    left = sum(len(chunk) for chunk, _ in jobs)
    with tqdm(total=len(rows), initial=len(rows) - left, unit="crystal", disable=not show) as bar:
        for done in unordered(_prepare_chunk, [(read, *job) for job in jobs], workers=workers):
            bar.update(done)
    return _merge_chunks(paths)


def _merge_chunks(paths: Sequence[Path]) -> tuple[CrystalTable, list[dict[str, Any]]]:
    tables, dropped = [], []
    for path in paths:
        record = json.loads(path.with_suffix(".json").read_text())
        dropped += record["dropped"]
        if record["used"]:
            tables.append(load_table(path))
    if not tables:
        reasons = "; ".join(f"{d['material_id']}: {d['reason']}" for d in dropped[:5])
        raise DataError(f"none of {len(dropped)} rows can be used ({reasons}); check the source")
    # A chunk whose rows have no properties lacks their columns; concat keeps them for the others.
    info = pd.concat([table.info for table in tables], ignore_index=True)
    return dataclasses.replace(concatenate(tables), info=info), dropped
