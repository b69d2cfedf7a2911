"""Refinement of many crystals on a CPU: in parts, side by side, and resumable.

On a GPU one call of :func:`unimat_lib.refine.refine_frame` does a test set. On a CPU that takes a
core twenty minutes, so the crystals are dealt out to all cores, and every finished part is kept: an
interrupted run goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from unimat_lib.crystals import CrystalTable
from unimat_lib.files import replacing
from unimat_lib.refine import LatticeCounts, refine_frame
from unimat_lib.views import build_views

# The code that decides what a refinement gives; a change in it makes new parts.
_CODE = ("bragg", "diffraction", "indexing", "refine", "stick_kernel")


def refine_in_parts(
    frame: pd.DataFrame,
    table: CrystalTable,
    index: Tensor,
    *,
    settings: Mapping[str, object],
    counts: LatticeCounts,
    folder: str | os.PathLike[str],
    formulas: Sequence[str] | None = None,
    size: int = 320,
) -> pd.DataFrame:
    """:func:`unimat_lib.refine.refine_frame` on all cores of the CPU.

    Args:
        frame: Errors frame.
        table: The crystals.
        index: Rows of the frame's crystals in ``table``, int64 ``[B]``.
        settings: ``grid`` and ``fwhm`` of the patterns, see :func:`unimat_lib.views.build_views`.
        counts: Training crystals, on the CPU.
        folder: Where finished parts are kept, below a hash of all that decides the result.
        formulas: Reduced formulas ``[B]``, for a model that was given them.
        size: Crystals per part.

    Returns:
        As :func:`unimat_lib.refine.refine_frame`.
    """
    folder = Path(folder) / _content_hash(frame, table, index, settings, counts, formulas)
    jobs = []
    for start in range(0, len(frame), size):
        rows = slice(start, start + size)
        chosen = None if formulas is None else list(formulas[rows])
        part = table.select(index[rows])
        path = folder / f"{start:06d}.parquet"
        jobs.append((path, frame.iloc[rows], part, dict(settings), counts, chosen))
    missing = [job for job in jobs if not job[0].is_file()]
    cores = len(os.sched_getaffinity(0))
    if len(missing) < 2 or cores < 2:
        for job in missing:
            _refine_part(job)
    else:
        # Spawned, because a forked process would inherit the locks of PyTorch's threads.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(min(cores, len(missing)), mp_context=context) as pool:
            list(pool.map(_refine_part, missing))
    parts = pd.concat([pd.read_parquet(job[0]) for job in jobs])
    return parts.set_axis(frame.index)


def _refine_part(job: tuple) -> None:
    path, frame, table, settings, counts, formulas = job
    torch.set_num_threads(1)  # many small steps: more threads would wait for each other
    views = build_views(table, modalities=("xrd",), **settings)
    new = refine_frame(frame, views, torch.arange(len(table)), counts=counts, formulas=formulas)
    with replacing(path) as temporary:
        new.to_parquet(temporary)


def _content_hash(
    frame: pd.DataFrame,
    table: CrystalTable,
    index: Tensor,
    settings: Mapping[str, object],
    counts: LatticeCounts,
    formulas: Sequence[str] | None,
) -> str:
    digest = hashlib.sha256(repr((sorted(settings.items()), formulas is None)).encode())
    digest.update(pd.util.hash_pandas_object(frame).to_numpy().tobytes())
    digest.update(table.content_hash().encode())
    digest.update(index.cpu().numpy().tobytes())
    for tensor in counts:
        digest.update(np.ascontiguousarray(tensor.cpu().numpy()).tobytes())
    for name in _CODE:
        digest.update((Path(__file__).parent / f"{name}.py").read_bytes())
    return digest.hexdigest()[:12]
