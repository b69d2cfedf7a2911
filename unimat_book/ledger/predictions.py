"""Errors frames in, small prediction files out, and back."""

import os
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from unimat_book.ledger.settings import RESOLUTION
from unimat_book.ledger.truth import (
    CELLS,
    LABELS,
    keep_truth,
    packed,
    read_truth,
    signed,
    steps,
    unsigned,
)
from unimat_book.record import note_read, product, project_root
from unimat_lib.evaluation.metrics import PROBABILITY_COLUMNS, with_relative_errors
from unimat_lib.files import alone_in, replacing

_ERRORS = [f"error_{name}" for name in CELLS]
_RESTS = [f"rest_{name}" for name in CELLS]
_ONE = round(1 / RESOLUTION[PROBABILITY_COLUMNS[0]])
"""The steps of a probability of one."""


def save_predictions(
    frames: Mapping[int, pd.DataFrame],
    folder: str | os.PathLike[str],
    *,
    setting: str,
    variant: str,
) -> list[Path]:
    """Write the errors frames of all seeds of a setting; files of other seeds are removed.

    Numbers are rounded to the steps of ``RESOLUTION``, far below any error that is reported. What
    is published is computed from the files. They hold errors; the true cells lie once in a file
    beside them, which files of other settings share (:mod:`.truth`).

    Args:
        frames: Seed to errors frame.
        folder: The ``predictions`` folder; it is made.
        setting: Name of the setting, such as ``xrd``.
        variant: Name of the variant, such as ``ours``.

    Returns:
        The files, in the order of ``frames``.
    """
    write = partial(_write_packed, published=project_root() / folder)
    with alone_in(product(folder)) as place:
        written = save_by_seed(frames, Path(folder), setting, variant, write=write)
        used = {_truth_of(path) for path in place.glob("*-seed*.parquet")}
        for path in place.glob("truth-*.parquet"):  # of seeds that have just gone
            if path.stem not in used:
                path.unlink()
    return written


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


def _write_packed(frame: pd.DataFrame, path: Path, *, published: Path) -> None:
    """Errors, and the step or so by which truth and error miss the prediction: all were rounded."""
    frame = frame.reset_index(drop=True)
    predicted, errors = steps(frame, CELLS), steps(frame, _ERRORS).set_axis(CELLS, axis=1)
    true = {n: (frame[n] - frame[f"error_{n}"]).rename(n) for n in CELLS}
    name, truth = keep_truth(
        frame[LABELS].join(steps(pd.DataFrame(true), CELLS)), path.parent, published
    )
    rests = predicted - errors - truth[CELLS]
    parts = [
        errors.set_axis(_ERRORS, axis=1),
        rests.set_axis(_RESTS, axis=1),
        _exchanged(steps(frame, PROBABILITY_COLUMNS), frame["predicted_system"]),
    ]
    columns = frame[["predicted_system"]].join(unsigned(pd.concat(parts, axis=1)))
    path.write_bytes(packed(columns, {"truth": name}))


def _exchanged(chances: pd.DataFrame, predicted_system: pd.Series) -> pd.DataFrame:
    """In place of what was predicted, mostly near one, what the sum lacks of one; and back."""
    values = chances.to_numpy(np.int64, copy=True)  # [n, 7]
    lacking = _ONE - values.sum(axis=1, keepdims=True)
    np.put_along_axis(values, predicted_system.to_numpy()[:, None], lacking, axis=1)
    return pd.DataFrame(values, columns=chances.columns)


def _truth_of(path: Path) -> str | None:
    """Name of the truth that a file of predictions was written with, None if it is no such file."""
    with suppress(pa.ArrowInvalid):
        return (pq.read_schema(path).metadata or {}).get(b"truth", b"").decode() or None
    return None


def _read_packed(path: Path, *, made_by: str) -> pd.DataFrame:
    name = _truth_of(path)
    if name is None:
        raise ValueError(
            f"{path}: expected predictions that name the file of their truth, got another form "
            f"or a broken file. Make it anew with:\n    {made_by}"
        )
    truth, file = read_truth(name, path, made_by=made_by), pd.read_parquet(path)
    numbers = signed(file.drop(columns="predicted_system"))
    chances = _exchanged(numbers[list(PROBABILITY_COLUMNS)], file["predicted_system"])
    columns = {n: truth[n] + numbers[f"error_{n}"] + numbers[f"rest_{n}"] for n in CELLS}
    columns |= {n: numbers[n] for n in _ERRORS}
    columns |= {n: chances[n] for n in PROBABILITY_COLUMNS}
    values = {n: column * RESOLUTION[n] for n, column in columns.items()}
    for n in PROBABILITY_COLUMNS:  # a logarithm will be taken of them
        values[n] = values[n].clip(lower=RESOLUTION[n] / 2)
    labels = truth[LABELS].assign(predicted_system=file["predicted_system"])
    return with_relative_errors(
        labels.astype(dict.fromkeys(labels.columns[1:], np.int64)).assign(**values)
    )


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
        FileNotFoundError: If there is no file, or not its truth; the message holds the command.
        ValueError: If the seeds predict different crystals, or a file does not fit its truth.
    """
    read = partial(_read_packed, made_by=made_by)
    return load_by_seed(Path(folder), setting, variant, made_by, read=read)


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
