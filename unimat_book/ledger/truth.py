"""The true cells behind predictions in, one file that many of predictions share out, and back.

The file is named by its hash: who refers to it by name knows its content.
"""

import hashlib
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from unimat_book.ledger.settings import RESOLUTION
from unimat_book.record import note_read
from unimat_lib.evaluation.metrics import CELL_COLUMNS, SCALED_COLUMNS
from unimat_lib.files import file_hash, replacing

CELLS = [*"abc", *SCALED_COLUMNS, *CELL_COLUMNS[3:]]
"""What is predicted of a cell, in the order of the files."""

LABELS = ["material_id", "num_atoms", "crystal_system"]

_SLACK = 2
"""Steps by which a truth may differ: prediction and error were rounded, and the truth was too."""


def steps(frame: pd.DataFrame, names: Iterable[str]) -> pd.DataFrame:
    """Columns as whole multiples of ``RESOLUTION``, int32; the index is dropped.

    Raises:
        ValueError: If a number is not finite.
    """
    columns = {n: (frame[n] / RESOLUTION[n]).round().astype(np.int32) for n in names}
    return pd.DataFrame(columns).reset_index(drop=True)


def unsigned(values: pd.DataFrame) -> pd.DataFrame:
    """Whole numbers 0, -1, 1, -2 ... as 0, 1, 2, 3 ...: small ones have no bytes but the last."""
    return (values * 2) ^ (values < 0) * -1


def signed(values: pd.DataFrame) -> pd.DataFrame:
    """What :func:`unsigned` was given."""
    return (values // 2) ^ (values % 2) * -1


def packed(frame: pd.DataFrame, facts: Mapping[str, str] | None = None) -> bytes:
    """A Parquet file of names and whole numbers; equal bytes of all rows lie beside each other."""
    numbers = frame.columns.drop("material_id", errors="ignore")
    columns = {n: frame[n].to_numpy(np.int32) for n in numbers}
    names = {n: frame[n].to_numpy() for n in frame.drop(columns=numbers)}
    table = pa.table(names | columns)
    sink = pa.BufferOutputStream()
    pq.write_table(
        table.replace_schema_metadata(dict(facts or {})),
        sink,
        compression="brotli",
        compression_level=11,
        use_dictionary=False,
        write_statistics=False,
        column_encoding=dict.fromkeys(numbers, "BYTE_STREAM_SPLIT"),
    )
    return sink.getvalue().to_pybytes()


def keep_truth(truth: pd.DataFrame, folder: Path, published: Path) -> tuple[str, pd.DataFrame]:
    """See to it that a folder has a file with the truth of some crystals.

    One that is there, or in the published folder, serves all the same: its bytes stay, so that
    chapters that predict the same crystals write the same file.

    Args:
        truth: ``LABELS``, and the steps of ``CELLS``.
        folder: Where the predictions will lie.
        published: Where they will lie in the end.

    Returns:
        Name of the file, and the truth that it holds.
    """
    for path in (p for place in (folder, published) for p in sorted(place.glob("truth-*.parquet"))):
        if path.stem == _name(path) and _is_of(truth, found := pd.read_parquet(path)):
            if path.parent != folder:
                with replacing(folder / path.name) as temporary:
                    shutil.copyfile(path, temporary)
            return path.stem, found
    content = packed(truth)
    name = f"truth-{hashlib.sha256(content).hexdigest()[:12]}"
    with replacing(folder / f"{name}.parquet") as temporary:
        temporary.write_bytes(content)
    return name, truth


def _is_of(truth: pd.DataFrame, found: pd.DataFrame) -> bool:
    """Whether two truths are of the same crystals and differ by no more than rounding."""
    if len(found) != len(truth) or any((found[n] != truth[n]).any() for n in LABELS):
        return False
    return bool(((found[CELLS] - truth[CELLS]).abs() <= _SLACK).all(axis=None))


def _name(path: Path) -> str:
    return f"truth-{file_hash(path)[:12]}"


def read_truth(name: str, beside: Path, *, made_by: str) -> pd.DataFrame:
    """The truth that a file of predictions names; it counts as read.

    Raises:
        FileNotFoundError: If it is missing; the message holds the command that makes it.
        ValueError: If it is not what the predictions were compared with.
    """
    path = beside.with_name(f"{name}.parquet")
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing: {beside.name} holds only how far the predictions are from it. "
            f"Put it back, or make both with:\n    {made_by}"
        )
    if _name(path) != name:
        raise ValueError(
            f"{path} was edited, or is of other crystals: expected the content that "
            f"{beside.name} was written with, got that of {_name(path)}. Put it back, or make "
            f"both with:\n    {made_by}"
        )
    return pd.read_parquet(note_read(path))
