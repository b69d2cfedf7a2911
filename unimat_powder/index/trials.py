"""The lowest lines of a pattern in, trial cells that might explain them out.

For each Bravais lattice the equation Q = 1/d^2 of (hkl) is solved exactly for a few of the lowest
lines under many assignments of (hkl) (:mod:`.tables`), at several trial shifts of all lines. Any
few of the lowest lines may be strangers or missing, and no volume need be known.

Sources: Werner, Eriksson and Westdahl, J. Appl. Cryst. 18, 367 (1985); Le Bail, Powder Diffr. 19,
249 (2004).
"""

from collections.abc import Iterator

import numpy as np
import torch

from unimat_powder.bravais import BRAVAIS_LATTICES, TRICLINIC, lattice_basis, metric_determinant
from unimat_powder.index.observed import Observed
from unimat_powder.index.sieve import Sieve
from unimat_powder.index.tables import assignments, lines_of_lattice
from unimat_powder.index.zones import solved_by_zones

VOLUMES = (12.0, 4000.0)  # cubic angstrom of primitive cells
SHIFTS = (0.0, 0.06, -0.06)  # degrees of all lines, tried before the exact solving
_BEST = 120  # cells of one lattice and shift that are kept


def volumes_of(metric: np.ndarray) -> np.ndarray:
    """Volumes ``[...]`` of reciprocal metrics ``[..., 6]``, 0 where one is no metric."""
    det = metric_determinant(torch.from_numpy(metric)).numpy()
    return np.where(det > 0, 1 / np.sqrt(np.where(det > 0, det, 1.0)), 0.0)


def solved(lattice: int, q: np.ndarray) -> np.ndarray:
    """Free numbers ``[T, k]`` of cells that put lines of low index at low ``q``, ``[P]``."""
    cells = [
        inverses @ q[list(chosen)]
        for chosen, inverses in assignments(lattice)
        if chosen[-1] < len(q)
    ]
    k = lattice_basis(lattice).shape[1]
    return np.concatenate(cells) if cells else np.zeros((0, k))


def best_of_lattice(
    lattice: int, sieve: Sieve, volumes: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray]:
    """Scores ``[M]`` and reciprocal metrics ``[M, 6]`` of the best cells of one lattice."""
    basis = lattice_basis(lattice).numpy()
    if lattice == TRICLINIC:
        free, rows = solved_by_zones(sieve)
    else:
        rows = lines_of_lattice(lattice)
        free = np.concatenate([solved(lattice, q) for q in _bases(sieve)])
    size = volumes_of(free @ basis.T)
    free = free[(size > volumes[0]) & (size < volumes[1])]
    score = sieve.scores(free, rows)
    return _different(score, free @ basis.T)


def _bases(sieve: Sieve) -> list[np.ndarray]:
    """Rows of lines to solve for: the lowest, those without higher orders, the strong ones."""
    every = [sieve.q, without_orders(sieve.q), sieve.strong]
    kept = {tuple(q[:7].round(6)): q for q in every}
    return list(kept.values())


def _different(score: np.ndarray, metric: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The best cells, each once: equal in score and volume is equal."""
    count = min(8 * _BEST, len(score))
    best = np.argpartition(-score, count - 1)[:count] if count else np.zeros(0, dtype=int)
    best = best[np.argsort(-score[best], kind="stable")]
    key = np.stack([score[best].round(3), np.log(volumes_of(metric[best])).round(2)], 1)
    _, first = np.unique(key, axis=0, return_index=True)
    kept = best[np.sort(first)][:_BEST]
    return score[kept], metric[kept]


def without_orders(q: np.ndarray) -> np.ndarray:
    """``q`` without higher orders of a line before them: a row (00l) fixes one number only."""
    ratio = np.unique((np.arange(1.0, 13.0)[:, None] / np.arange(1.0, 5.0)).ravel() ** 2)
    ratio = ratio[ratio > 1]  # (n / m)^2: the fundamental itself may be absent
    near = np.abs(q[:, None, None] - q[None, :, None] * ratio) < 2e-3 * q[:, None, None]
    return q[~np.tril(near.any(2), -1).any(1)]


def trial_cells(
    observed: Observed, volumes: tuple[float, float] = VOLUMES
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Lattice, reciprocal metrics ``[M, 6]`` and shifts ``[M]``, lattice by lattice."""
    sieves = [Sieve(observed, shift) for shift in SHIFTS]
    for lattice in range(len(BRAVAIS_LATTICES)):
        found = [best_of_lattice(lattice, sieve, volumes) for sieve in sieves]
        score = np.concatenate([s for s, _ in found])
        metric = np.concatenate([m for _, m in found])
        shift = np.repeat(SHIFTS, [len(s) for s, _ in found])
        best = np.argsort(-score, kind="stable")[:_BEST]
        yield lattice, metric[best], shift[best]
