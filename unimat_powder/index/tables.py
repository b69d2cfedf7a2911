"""A Bravais lattice in; its lines, and which of them its lowest peaks are likely to be, out.

Lattices are drawn at random, each loses some of its lines, and what is then found at the places of
the lowest peaks is counted. Nothing here depends on a pattern.
"""

import functools
import math
from itertools import combinations
from typing import NamedTuple

import numpy as np
import torch

from unimat_powder.bravais import BRAVAIS_LATTICES, lattice_basis, quadratic_terms

_MISSED = 0.1, 0.6  # share of the lines that leave no peak, from lattice to lattice


class Size(NamedTuple):
    """How many assignments are kept for lattices with some number of free numbers."""

    draws: int  # random lattices
    keep: int  # assignments per choice of peaks
    first: int  # lowest peaks that are chosen from
    bound: int  # on a line's coefficients


SIZES = {
    1: Size(4000, 60, 6, 160),
    2: Size(15000, 500, 6, 250),
    3: Size(30000, 2500, 6, 60),
    4: Size(60000, 5000, 7, 30),
}
"""By the number of free numbers; the triclinic lattice has none."""


@functools.cache
def lines_of_lattice(lattice: int) -> np.ndarray:
    """Distinct lines of low index as coefficients of the k free numbers, ``[n, k]``."""
    basis = lattice_basis(lattice)
    steps, more = (torch.arange(-n, n + 1.0, dtype=torch.float64) for n in (8, 16))
    rows = (quadratic_terms(torch.cartesian_prod(steps, steps, more)) @ basis).round(decimals=6)
    size = rows.abs().sum(1)
    kept = rows[(size > 0) & (size <= SIZES[basis.shape[1]].bound)]
    return torch.unique(kept, dim=0).numpy()


def _random_lattices(lattice: int, count: int, generator: np.random.Generator) -> np.ndarray:
    """Free numbers ``[count, k]`` of lattices with all kinds of axial ratios."""
    family, centring = BRAVAIS_LATTICES[lattice]
    draw = generator.standard_normal((count, 3))
    angle = generator.random((count, 1))
    one = np.ones((count, 1))
    if family == "cubic":
        return one
    if family in ("hexagonal", "tetragonal"):
        return np.hstack([one, (0.15 if centring == "R" else 0.5) * np.exp(draw[:, :1])])
    axes = np.exp(0.8 * draw)
    if family == "orthorhombic":
        return axes
    bound = 2 * np.sqrt(axes[:, :1] * axes[:, 2:])
    cosine = 0.7 * (2 * angle - 1 if centring == "C" else angle)
    return np.hstack([axes, bound * cosine])


def lines_seen(q: np.ndarray, count: int, generator: np.random.Generator) -> np.ndarray:
    """Places of the first ``count`` of lines ``[n, m]`` by rising Q, after some were lost."""
    nearest = min(3 * count + 4, q.shape[1] - 1)
    order = np.argpartition(q, nearest, axis=1)[:, : nearest + 1]
    order = np.take_along_axis(order, np.take_along_axis(q, order, 1).argsort(1), 1)
    share = generator.uniform(*_MISSED, (len(q), 1))
    lost = generator.random(order.shape) < share
    return np.take_along_axis(order, lost.argsort(axis=1, kind="stable")[:, :count], 1)


def likely_inverses(seen: np.ndarray, rows: np.ndarray, limit: int) -> np.ndarray:
    """Inverse matrices ``[T, k, k]`` of the assignments ``[n, k]`` that were seen most often."""
    key = (seen * len(rows) ** np.arange(seen.shape[1])).sum(1)
    _, first, often = np.unique(key, return_index=True, return_counts=True)
    matrices = rows[seen[first[np.argsort(-often, kind="stable")]]]
    matrices = matrices[np.abs(np.linalg.det(matrices)) > 1e-6][:limit]
    return np.linalg.inv(matrices)


@functools.cache
def assignments(lattice: int) -> tuple[tuple[tuple[int, ...], np.ndarray], ...]:
    """Which peaks to solve for, and the inverse matrices ``[T, k, k]`` of likely assignments."""
    rows = lines_of_lattice(lattice)
    k = rows.shape[1]
    size = SIZES[k]
    generator = np.random.default_rng(lattice)
    seen = []
    for part in np.array_split(_random_lattices(lattice, size.draws, generator), 8):
        q = part @ rows.T
        seen.append(lines_seen(np.where(q > 1e-9, q, math.inf), size.first, generator))
    lines = np.concatenate(seen)
    return tuple(
        (chosen, likely_inverses(lines[:, chosen], rows, size.keep))
        for chosen in combinations(range(size.first), k)
    )
