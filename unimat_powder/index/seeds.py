"""Rough cells in, trial cells near them that explain the lowest lines out.

A cell that is off by a few per cent puts every line elsewhere. But it says which few reflections a
line may be: those that it computes within a tenth. The equation of :mod:`.trials` is solved for
some of the lowest lines under all of those.
"""

from itertools import combinations

import numpy as np
import torch

from unimat_lib.views.bragg import half_sphere
from unimat_powder.bravais import metric_matrix, quadratic_terms, reciprocal_metric
from unimat_powder.index.observed import Observed
from unimat_powder.index.sieve import Sieve
from unimat_powder.index.symmetry import cell_matrix, symmetric_bases
from unimat_powder.index.trials import SHIFTS, volumes_of

_OFF = 0.12  # relative, of Q, that a seed's lines may be off
_LOWEST = 9  # lines that are solved for, k at a time
_CHOICES = 24  # of those k lines
_COMBINATIONS = 3000  # of reflections for them
_BEST = 40  # cells per seed, symmetry and shift
_SYMMETRIC = 0.1  # deviation from a symmetry that errors of a seed may make
_NEAR = 0.08  # relative: how far the lengths may go


def cells_near(seeds: np.ndarray, observed: Observed) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Trial cells near some seeds.

    Args:
        seeds: Lengths and angles ``[N, 6]``.
        observed: The lines.

    Returns:
        Reciprocal metrics ``[M, 6]``, what each may become ``[M, 6, 6]``, shifts ``[M, 2]``.

    Raises:
        ValueError: A seed is no cell.
    """
    if seeds.ndim != 2 or seeds.shape[1] != 6:
        raise ValueError(f"expected seeds as [N, 6] lengths and angles, but came {seeds.shape}")
    metrics = reciprocal_metric(*(torch.from_numpy(part) for part in (seeds[:, :3], seeds[:, 3:])))
    bad = np.flatnonzero(~np.isfinite(metrics.numpy()).all(1))
    if len(bad):
        raise ValueError(f"expected cells that close as seeds, but number {bad[0] + 1} does not")
    found = []
    for seed, metric in zip(seeds, metrics.numpy(), strict=True):
        rows = cell_matrix(seed)
        for basis in symmetric_bases(rows @ rows.T, near=_SYMMETRIC):
            found += [_near(metric, basis, Sieve(observed, s), s) for s in SHIFTS]
    return tuple(np.concatenate(column) for column in zip(*found, strict=True))


def _near(
    metric: np.ndarray, basis: np.ndarray, sieve: Sieve, shift: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The best cells near one metric, within one symmetry, at one shift."""
    start = basis @ np.linalg.lstsq(basis, metric)[0]
    rows = _lines_of(start, (1 + 2 * _OFF) * sieve.q[-1])
    reduced = np.unique((rows @ basis).round(6), axis=0)
    free = np.linalg.lstsq(basis, start)[0]
    computed = reduced @ free
    k = basis.shape[1]
    generator = np.random.default_rng(0)
    chosen = list(combinations(range(min(_LOWEST, len(sieve.q))), k))
    some = generator.permutation(len(chosen))[:_CHOICES]
    cells = [np.zeros((0, k))]
    for lines in (chosen[i] for i in some):
        q = sieve.q[list(lines)]
        options = [np.flatnonzero(np.abs(computed / one - 1) < _OFF) for one in q]
        if all(map(len, options)):
            picks = [generator.choice(each, _COMBINATIONS) for each in options]
            matrices = reduced[np.unique(np.stack(picks, 1), axis=0)]
            matrices = matrices[np.abs(np.linalg.det(matrices)) > 1e-6]
            cells.append(
                np.linalg.solve(matrices, np.broadcast_to(q[:, None], (len(matrices), k, 1)))[
                    ..., 0
                ]
            )
    trial = np.concatenate(cells)
    full = trial @ basis.T
    near = np.abs(full[:, :3] / start[:3] - 1).max(1) < 2 * _NEAR
    near &= volumes_of(full) > 0
    trial, full = trial[near], full[near]
    best = np.argsort(-sieve.scores(trial, reduced), kind="stable")[:_BEST]
    padded = np.pad(basis, ((0, 0), (0, 6 - k)))
    shifts = np.broadcast_to([0.0, shift], (len(best), 2))
    return full[best], np.broadcast_to(padded, (len(best), 6, 6)), shifts


def _lines_of(metric: np.ndarray, reach: float) -> np.ndarray:
    """Products of the indices ``[n, 6]`` of a cell's lines up to ``reach``."""
    factor = torch.linalg.cholesky(metric_matrix(torch.from_numpy(metric[None])))
    hkl, _, _ = half_sphere(factor, float(np.sqrt(reach)))
    return quadratic_terms(torch.stack(hkl, -1)).numpy()
