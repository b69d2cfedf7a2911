"""Errors frames in, small prediction files out, and back."""

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from unimat_book.ledger.settings import RESOLUTION
from unimat_book.record import note_read, product, project_root
from unimat_lib.evaluation.metrics import PROBABILITY_COLUMNS, with_relative_errors
from unimat_lib.files import replacing


def save_predictions(
    frames: Mapping[int, pd.DataFrame],
    folder: str | os.PathLike[str],
    *,
    setting: str,
    variant: str,
) -> list[Path]:
    """Write the errors frames of all seeds of a setting; files of other seeds are removed.

    Numbers are rounded to the steps of ``RESOLUTION``, far below any error that is reported, so
    that the files are a quarter of their plain size. What is published is computed from the files.

    Args:
        frames: Seed to errors frame.
        folder: The ``predictions`` folder; it is made.
        setting: Name of the setting, such as ``xrd``.
        variant: Name of the variant, such as ``ours``.

    Returns:
        The files, in the order of ``frames``.
    """
    return save_by_seed(frames, Path(folder), setting, variant, write=_write_packed)


def save_by_seed(by_seed, folder: Path, setting: str, variant: str, *, write) -> list[Path]:
    """Write one file per seed with ``write(frame, path)``; those of other seeds are removed."""
    folder = product(folder)
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for seed, frame in by_seed.items():
        path = folder / f"{setting}-{variant}-seed{seed}.parquet"
        with replacing(path) as temporary:
            write(frame, temporary)
        written.append(path)
    for path in _files(folder, setting, variant).values():  # seeds of an earlier run would mix in
        if path not in written:
            path.unlink()
    return written


def _write_packed(frame: pd.DataFrame, path: Path) -> None:
    """Whole multiples of ``RESOLUTION``, byte by byte beside each other, which compresses well."""
    labels = ["material_id", "num_atoms", "crystal_system", "predicted_system"]
    packed = frame[labels].astype(dict.fromkeys(labels[1:], np.int16))
    steps = {n: (frame[n] / step).round().astype(np.int32) for n, step in RESOLUTION.items()}
    table = pa.Table.from_pandas(packed.assign(**steps), preserve_index=False)
    coding = {"compression": "zstd", "compression_level": 12, "use_dictionary": False}
    split = dict.fromkeys(RESOLUTION, "BYTE_STREAM_SPLIT")
    pq.write_table(table, path, column_encoding=split, **coding)


def _read_packed(path: Path) -> pd.DataFrame:
    frame = pd.read_parquet(path)
    values = {name: frame[name] * step for name, step in RESOLUTION.items()}
    for name in PROBABILITY_COLUMNS:  # a logarithm will be taken of them
        values[name] = values[name].clip(lower=RESOLUTION[name] / 2)
    labels = {name: frame[name].astype(np.int64) for name in frame.columns[1:4]}
    return with_relative_errors(frame.assign(**labels, **values))


def load_predictions(
    folder: str | os.PathLike[str], *, setting: str, variant: str, made_by: str
) -> dict[int, pd.DataFrame]:
    """Read the errors frames of all seeds of a setting.

    Args:
        folder: The ``predictions`` folder.
        setting: Name of the setting.
        variant: Name of the variant.
        made_by: The exact command that makes the files, for the error message.

    Returns:
        Seed to errors frame, by rising seed.

    Raises:
        FileNotFoundError: If there is no file; the message holds the command.
        ValueError: If the seeds predict different crystals.
    """
    return load_by_seed(Path(folder), setting, variant, made_by, read=_read_packed)


def load_by_seed(folder: Path, setting: str, variant: str, made_by: str, *, read):
    """Seed to what ``read(path)`` gives; files of this very run go before published ones."""
    folder = project_root() / folder
    files = _files(product(folder), setting, variant) or _files(folder, setting, variant)
    if not files:
        raise FileNotFoundError(
            f"{folder / f'{setting}-{variant}-seed*.parquet'} is missing. Make it with:\n"
            f"    {made_by}"
        )
    frames = {seed: read(note_read(path)) for seed, path in sorted(files.items())}
    check_same_crystals(*frames.values())
    return frames


def _files(folder: Path, setting: str, variant: str) -> dict[int, Path]:
    """Seed to the file of each seed of a setting."""
    found = folder.glob(f"{setting}-{variant}-seed*.parquet")
    return {int(path.stem.rsplit("-seed", 1)[1]): path for path in found}


def check_same_crystals(*frames: pd.DataFrame) -> None:
    """Refuse to compare predictions of different crystals.

    Raises:
        ValueError: If the ``material_id`` columns differ.
    """
    first = frames[0]["material_id"].to_numpy()
    for frame in frames[1:]:
        other = frame["material_id"].to_numpy()
        if len(first) != len(other) or (first != other).any():
            raise ValueError(
                f"expected predictions of the same crystals in the same order, got {len(first)} "
                f"and {len(other)} that differ: run the chapters that wrote them on one data set"
            )
