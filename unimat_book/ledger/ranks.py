"""Points of a shared space in, retrieval ranks on file and recalls out."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor

from unimat_book.ledger.predictions import load_by_seed, save_by_seed
from unimat_book.ledger.settings import DIRECTIONS
from unimat_book.ledger.verdicts import share_row
from unimat_book.statistics import bootstrap_mean
from unimat_lib.alignment import retrieval_ranks


def rank_frame(points: Mapping[str, Tensor], material_id: Sequence[str]) -> pd.DataFrame:
    """Ranks of the right partner in every direction of ``DIRECTIONS`` that the points allow.

    Args:
        points: View name to points of the shared space ``[n, d]``, see
            :func:`.embed`; all test crystals, which are also the gallery.
        material_id: Their names.

    Returns:
        One row per crystal: ``material_id`` and an int32 column per direction, 1 = first. Ties
        count against us.
    """
    ends = {name: name.split("_to_") for name in DIRECTIONS}
    ranks = {
        name: retrieval_ranks(points[query], points[gallery]).cpu().numpy().astype(np.int32)
        for name, (query, gallery) in ends.items()
        if query in points and gallery in points
    }
    return pd.DataFrame({"material_id": list(material_id)} | ranks)


def save_ranks(
    by_seed: Mapping[int, pd.DataFrame],
    folder: str | os.PathLike[str],
    *,
    setting: str,
    variant: str,
) -> list[Path]:
    """Write the retrieval ranks of all seeds of a setting; files of other seeds are removed.

    Args:
        by_seed: Seed to a frame as :func:`rank_frame` makes it.
        folder: The ``ranks`` folder; it is made.
        setting: Name of the setting.
        variant: Name of the variant.

    Returns:
        The files, in the order of ``by_seed``.

    Raises:
        ValueError: If a frame has no or unknown directions, or a rank outside 1 to ``n``.
    """
    for seed, frame in by_seed.items():
        _check_ranks(frame, f"{setting}-{variant}-seed{seed}")
    return save_by_seed(by_seed, Path(folder), setting, variant, write=_write_ranks)


def _check_ranks(frame: pd.DataFrame, name: str) -> None:
    directions = list(frame.columns.drop("material_id"))
    if not directions or not set(directions) <= set(DIRECTIONS):
        raise ValueError(
            f"{name}: expected material_id and columns of {list(DIRECTIONS)}, got "
            f"{list(frame.columns)}: make the frame with ledger.rank_frame"
        )
    ranks = frame[directions].to_numpy()
    if len(ranks) == 0 or ranks.min() < 1 or ranks.max() > len(ranks):
        raise ValueError(
            f"{name}: expected ranks from 1 to the {len(ranks)} crystals of the gallery: queries "
            "and gallery must be all test crystals"
        )


def _write_ranks(frame: pd.DataFrame, path: Path) -> None:
    directions = frame.columns.drop("material_id")
    table = pa.Table.from_pandas(
        frame.astype(dict.fromkeys(directions, np.int32)), preserve_index=False
    )
    pq.write_table(table, path, compression="zstd", compression_level=12)


def load_ranks(
    folder: str | os.PathLike[str], *, setting: str, variant: str, made_by: str
) -> dict[int, pd.DataFrame]:
    """Read the retrieval ranks of all seeds of a setting.

    Args:
        folder: The ``ranks`` folder.
        setting: Name of the setting.
        variant: Name of the variant.
        made_by: The exact command that makes the files, for the error message.

    Returns:
        Seed to rank frame, see :func:`rank_frame`, by rising seed.

    Raises:
        FileNotFoundError: If there is no file; the message holds the command.
        ValueError: If the seeds rank different crystals.
    """
    return load_by_seed(Path(folder), setting, variant, made_by, read=pd.read_parquet)


def recall_metric(direction: str, k: int) -> str:
    """Name of a recall in the ledger; the direction of a user, pattern to structure, has none."""
    return f"recall_at_{k}" + ("" if direction == "xrd_to_structure" else f"_{direction}")


def recall_rows(
    frames: Sequence[pd.DataFrame], *, setting: str, variant: str, num_resamples: int = 1000
) -> list[dict[str, object]]:
    """Recall at 1 and at 10 in every direction, per cent, as the ledger file holds it.

    Args:
        frames: Rank frames of the seeds, same crystals in the same order.
        setting: Name of the setting.
        variant: Name of the variant.
        num_resamples: Bootstrap samples where there are several seeds; the interval of one seed
            is Wilson's.

    Returns:
        Rows as of :func:`ledger_rows`; metrics ``recall_at_<k>`` (pattern to structure) and
        ``recall_at_<k>_<direction>``.
    """
    rows = []
    for direction in (name for name in DIRECTIONS if name in frames[0]):
        ranks = np.stack([frame[direction].to_numpy() for frame in frames])  # [seeds, n]
        for k in (1, 10):
            found = 100.0 * (ranks <= k)
            per_seed, n = found.mean(axis=1), found.shape[1]
            metric = recall_metric(direction, k)
            row = share_row(per_seed.mean(), n, setting=setting, variant=variant, metric=metric)
            if len(frames) > 1:
                interval = bootstrap_mean(found.mean(axis=0), num_resamples=num_resamples)
                row |= {"std": float(per_seed.std(ddof=1)), "seeds": len(frames)}
                row["ci95"] = list(interval)
            rows.append(row)
    return rows
