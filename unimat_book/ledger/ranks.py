"""Points of a shared space in, retrieval ranks on file and recalls out."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor

from unimat_book.ledger.predictions import load_by_seed, save_by_seed
from unimat_book.ledger.rows import ledger_row
from unimat_book.ledger.settings import DIRECTIONS
from unimat_book.statistics import bootstrap_mean, wilson_interval
from unimat_lib.alignment import retrieval_ranks


def rank_frame(points: Mapping[str, Tensor], material_id: Sequence[str]) -> pd.DataFrame:
    """Ranks of the right partner in every direction of ``DIRECTIONS`` that the points allow.

    Args:
        points: View name to points of the shared space ``[n, d]``, see :func:`.embed`; all test
            crystals, which are also the gallery.
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
    """As :func:`.save_predictions` for frames that :func:`rank_frame` makes.

    Raises:
        ValueError: If a frame has no or unknown directions, or a rank outside 1 to ``n``.
    """
    for seed, frame in by_seed.items():
        directions = list(frame.columns.drop("material_id"))
        if not directions or not set(directions) <= set(DIRECTIONS):
            raise ValueError(
                f"seed {seed}: expected material_id and columns of {list(DIRECTIONS)}, got "
                f"{list(frame.columns)}: make the frame with rank_frame"
            )
        ranks = frame[directions].to_numpy()
        if len(ranks) == 0 or ranks.min() < 1 or ranks.max() > len(ranks):
            raise ValueError(
                f"seed {seed}: expected ranks from 1 to the {len(ranks)} crystals of the gallery: "
                "queries and gallery must be all test crystals"
            )
    return save_by_seed(by_seed, Path(folder), setting, variant, write=_write_ranks)


def _write_ranks(frame: pd.DataFrame, path: Path) -> None:
    table = pa.Table.from_pandas(frame, preserve_index=False)
    pq.write_table(table, path, compression="zstd", compression_level=12)


def load_ranks(
    folder: str | os.PathLike[str], *, setting: str, variant: str, made_by: str
) -> dict[int, pd.DataFrame]:
    """Seed to rank frame (see :func:`rank_frame`) of a setting, by rising seed.

    Arguments and errors are those of :func:`.load_predictions`.
    """
    return load_by_seed(Path(folder), setting, variant, made_by, read=pd.read_parquet)


def recall_metric(direction: str, k: int) -> str:
    """Name of a recall in the ledger; the direction of a user, pattern to structure, has none."""
    return f"recall_at_{k}" + ("" if direction == "xrd_to_structure" else f"_{direction}")


def recall_rows(
    frames: Sequence[pd.DataFrame], *, setting: str, variant: str, num_resamples: int = 1000
) -> list[dict[str, object]]:
    """Recall at 1 and at 10 in every direction, per cent, as rows of the ledger.

    Args:
        frames: Rank frames of the seeds, same crystals in the same order.
        setting: Name of the setting.
        variant: Name of the variant.
        num_resamples: Bootstrap samples where there are several seeds; the interval of one seed
            is Wilson's.
    """
    rows = []
    for direction in (name for name in DIRECTIONS if name in frames[0]):
        ranks = np.stack([frame[direction].to_numpy() for frame in frames])  # [seeds, n]
        for k in (1, 10):
            found = 100.0 * (ranks <= k)
            per_seed, n = found.mean(axis=1), found.shape[1]
            metric = recall_metric(direction, k)
            spread, ends = None, wilson_interval(per_seed.mean(), n)
            if len(frames) > 1:
                spread = float(per_seed.std(ddof=1))
                ends = bootstrap_mean(found.mean(axis=0), num_resamples=num_resamples)
            more = {"std": spread, "seeds": len(frames), "ci95": ends, "n_test": n}
            rows.append(ledger_row(setting, variant, metric, per_seed.mean(), **more))
    return rows
