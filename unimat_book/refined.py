"""Errors frames of a network in, the same with refined cells out: in parts, resumable.

On a GPU one call of :func:`refine_frame` does a test set. On a CPU that takes long, so all cores
share the work, and an interrupted run goes on where it stopped.
"""

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from unimat_lib.crystals.table import CrystalTable
from unimat_lib.evaluation.metrics import (
    CELL_COLUMNS,
    PROBABILITY_COLUMNS,
    SCALED_COLUMNS,
    with_relative_errors,
)
from unimat_lib.files import replacing
from unimat_lib.identity import identity_of
from unimat_lib.processes import unordered
from unimat_lib.views.batch import CrystalViews, build_views
from unimat_powder.bravais import lattice_system
from unimat_powder.clean_peaks import find_peaks
from unimat_powder.posterior import LatticeCounts, estimate_atoms, formula_atoms, system_posterior
from unimat_powder.refinement import refine_cells

_AT_ONCE = {"cpu": 64, "cuda": 2048}  # crystals of a file that are refined together


def refine_frame(
    frame: pd.DataFrame,
    views: CrystalViews,
    index: Tensor,
    *,
    counts: LatticeCounts,
    formulas: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Refine the cells of an errors frame against the crystals' clean patterns.

    Where a cell is accepted, its lengths and angles replace the predicted ones, the scaled lengths
    follow through :func:`estimate_atoms` and the probabilities of the crystal system through
    :func:`system_posterior`. The truth (errors, ``num_atoms``, ``crystal_system``) is read only to
    say afterwards how far off the new numbers are.

    Args:
        frame: Errors frame, see :func:`.predict`.
        views: Views that hold the reflections of the crystals.
        index: Rows of the frame's crystals in ``views``, ``[B]``.
        counts: Training crystals.
        formulas: Reduced formulas ``[B]``, for a model that was given them.

    Returns:
        A frame of the same columns, and ``accepted`` (bool) and ``explained`` (share of the peaks
        that the best cell explains), which prediction files do not keep.

    Raises:
        ValueError: Frame, index and formulas do not have one length, or columns are missing.
    """
    sizes = {"frame": len(frame), "index": len(index), "formulas": len(frame)}
    sizes |= {} if formulas is None else {"formulas": len(formulas)}
    if len(set(sizes.values())) > 1 or not len(frame):
        raise ValueError(f"expected one row per crystal in each, at least one, got {sizes}")
    columns = [*CELL_COLUMNS, *SCALED_COLUMNS, *PROBABILITY_COLUMNS]
    needed = [*columns, *(f"error_{name}" for name in columns[:9])]
    if missing := [name for name in needed if name not in frame]:
        raise ValueError(f"expected an errors frame, see predict; it lacks {missing}")
    device = views.device
    values = torch.tensor(frame[columns].to_numpy(float), device=device)
    cells, plain_scaled, probs = values.split([6, 3, 7], dim=1)
    formula = None if formulas is None else formula_atoms(list(formulas)).to(device)
    parts = []
    for rows in torch.arange(len(frame), device=device).split(_AT_ONCE[device.type]):
        pattern = views.batch(index.to(device)[rows], modalities=("xrd",)).views["xrd"]
        # A network may answer with a length that is none: for the search a small one will do.
        start = cells[rows, :3].clamp_min(1.0)
        peaks = find_peaks(pattern, views.grid)
        refined = refine_cells(start, cells[rows, 3:], peaks, system_probs=probs[rows])
        parts.append((refined.lengths, refined.angles, refined.accepted, refined.explained))
    lengths, angles, accepted, explained = (torch.cat(x) for x in zip(*parts, strict=True))

    new = accepted[:, None]
    lattice = lattice_system(lengths, angles)
    atoms = estimate_atoms(lengths, cells[:, :3], plain_scaled, lattice, counts, formula=formula)
    exact = torch.cat([lengths, angles, lengths / atoms.double().pow(1 / 3)[:, None]], dim=1)
    values = torch.where(new, exact, values[:, :9])
    probs = torch.where(new, system_posterior(probs, lattice, counts), probs)
    after = _with_predictions(frame, values.cpu().numpy(), probs.cpu().numpy())
    return after.assign(accepted=accepted.cpu().numpy(), explained=explained.cpu().numpy())


def _with_predictions(frame: pd.DataFrame, cells: np.ndarray, probs: np.ndarray) -> pd.DataFrame:
    """The frame with other predictions, its errors counted anew."""
    names = [*CELL_COLUMNS, *SCALED_COLUMNS]
    errors = [f"error_{name}" for name in names]
    true = frame[names].to_numpy(float) - frame[errors].to_numpy(float)
    columns = dict(zip(names, cells.T, strict=True))
    columns |= dict(zip(errors, (cells - true).T, strict=True))
    columns |= dict(zip(PROBABILITY_COLUMNS, probs.T, strict=True))
    return with_relative_errors(frame.assign(**columns, predicted_system=probs.argmax(axis=1)))


def atoms_of(frame: pd.DataFrame) -> np.ndarray:
    """Number of atoms behind the scaled lengths of a refined frame, float ``[B]``.

    Where the prediction was kept, this is the network's own ratio, which need not be whole.
    """
    ratio = frame[list("abc")].to_numpy(float) / frame[list(SCALED_COLUMNS)].to_numpy(float)
    return ratio.prod(axis=1)


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
    """:func:`refine_frame` on all cores of the CPU, in parts of ``size`` crystals.

    ``index`` are rows of ``table``; ``settings`` holds ``grid`` and ``fwhm`` of the patterns.
    Finished parts are kept in ``folder``, below a hash of all that decides the result.
    """
    digest = hashlib.sha256(repr((sorted(settings.items()), formulas is None)).encode())
    hashes = pd.util.hash_pandas_object(frame).to_numpy()
    for part in (hashes, *(x.cpu().numpy() for x in (index, *counts))):
        digest.update(np.ascontiguousarray(part).tobytes())
    for text in (table.content_hash(), identity_of(f"{__name__}:_refine_part").digest):
        digest.update(text.encode())
    folder, jobs = Path(folder) / digest.hexdigest()[:12], []
    for start in range(0, len(frame), size):
        rows = slice(start, start + size)
        chosen = None if formulas is None else list(formulas[rows])
        part = table.select(index[rows])
        path = folder / f"{start:06d}.parquet"
        jobs.append((path, frame.iloc[rows], part, dict(settings), counts, chosen))
    missing = [job for job in jobs if not job[0].is_file()]
    for _ in unordered(_refine_part, missing, workers=len(os.sched_getaffinity(0))):
        pass
    return pd.concat([pd.read_parquet(job[0]) for job in jobs]).set_axis(frame.index)


def _refine_part(path, frame, table, settings, counts, formulas) -> None:
    torch.set_num_threads(1)  # many small steps: more threads would wait for each other
    views = build_views(table, modalities=("xrd",), **settings)
    new = refine_frame(frame, views, torch.arange(len(table)), counts=counts, formulas=formulas)
    with replacing(path) as temporary:
        new.to_parquet(temporary)
