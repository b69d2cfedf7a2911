"""The lowest lines of a pattern in, trial cells of the triclinic lattice out.

Six unknowns at once would have too many assignments, and often the lowest lines all lie in one
plane of the reciprocal lattice, a zone. So zones come first, three unknowns that explain some of
the lines, and then the layer next to each, with three more: its first line is called (0 0 1), two
others get all small (h k 1).

Sources: Ito, Nature 164, 755 (1949); de Wolff, Acta Cryst. 10, 590 (1957).
"""

import functools
from itertools import combinations

import numpy as np
import torch

from unimat_powder.bravais import quadratic_terms
from unimat_powder.index.sieve import Sieve
from unimat_powder.index.tables import likely_inverses, lines_seen

_ZONES = 24  # that are completed to lattices
_LOWEST = 8  # lines that zones are solved for
_OUTSIDE = 6  # lowest lines outside of a zone, three of which lie in the next layer


@functools.cache
def _zone_tables() -> tuple[np.ndarray, np.ndarray]:
    """For Q = A h^2 + B k^2 + F hk: lines ``[n, 3]`` and inverses ``[T, 3, 3]``."""
    steps = np.arange(-5.0, 6.0)
    h, k = (x.ravel() for x in np.meshgrid(steps, steps))
    rows = np.unique(np.stack([h * h, k * k, h * k], 1), axis=0)
    rows = rows[np.abs(rows).sum(1) > 0]
    generator = np.random.default_rng(0)
    axes = np.sort(np.exp(0.8 * generator.standard_normal((20000, 2))), axis=1)
    cross = axes[:, :1] * generator.random((20000, 1))
    order = lines_seen(np.hstack([axes, cross]) @ rows.T, 4, generator)
    triples = np.concatenate([order[:, three] for three in combinations(range(4), 3)])
    return rows, likely_inverses(triples, rows, 500)


@functools.cache
def _layer_tables() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs of (h, k) of two lines in the layer l = 1, ``[2, T]`` each, and lines ``[n, 6]``."""
    near = np.array([(h, k) for h in range(-2, 3) for k in range(-2, 3)], dtype=float)
    one, two = (x.ravel() for x in np.meshgrid(np.arange(25), np.arange(25)))
    second, third = near[one], near[two]
    independent = second[:, 0] * third[:, 1] != second[:, 1] * third[:, 0]
    # Reversing both axes of the zone changes nothing: half of the pairs will do.
    half = np.where(second[:, 0] != 0, second[:, 0], second[:, 1]) > 0
    keep = independent & half
    steps = torch.arange(-4.0, 5.0, dtype=torch.float64)
    rows = quadratic_terms(torch.cartesian_prod(steps, steps, steps[2:-2])).numpy()
    rows = np.unique(rows[rows[:, :3].sum(1) > 0], axis=0)
    return second[keep].T, third[keep].T, rows


def find_zones(sieve: Sieve) -> tuple[np.ndarray, np.ndarray]:
    """The best zones (A, B, F) ``[Z, 3]`` and which lines each explains, bool ``[Z, P]``."""
    rows, inverses = _zone_tables()
    threes = [sieve.q[list(three)] for three in combinations(range(min(_LOWEST, len(sieve.q))), 3)]
    zones = np.concatenate([inverses @ three for three in threes])
    a, b, f = zones.T
    # Reduced: a* is shortest, and the angle lies between 60 and 90 degrees.
    zones = zones[(a > 0) & (b >= 0.999 * a) & (f >= -1e-6 * a) & (f <= 1.001 * a)]
    score, hit = sieve.zone_scores(zones, rows)
    best = np.argsort(-score, kind="stable")[: 40 * _ZONES]
    key = np.stack([score[best].round(2), np.log(zones[best, 0] * zones[best, 1]).round(2)], 1)
    _, first = np.unique(key, axis=0, return_index=True)
    kept = best[np.sort(first)][:_ZONES]
    return zones[kept], hit[kept]


def solved_by_zones(sieve: Sieve) -> tuple[np.ndarray, np.ndarray]:
    """Reciprocal metrics ``[T, 6]`` of cells, and the lines ``[n, 6]`` to compare them by."""
    second, third, rows = _layer_tables()
    det = second[0] * third[1] - second[1] * third[0]
    found = [np.zeros((0, 6))]
    for (a, b, f), hit in zip(*find_zones(sieve), strict=True):
        outside = sieve.q[~hit][:_OUTSIDE]
        zone = np.array([a, b, f])
        planes = [zone @ np.stack([h * h, k * k, h * k]) for h, k in (second, third)]
        for first, one, two in combinations(outside, 3):
            left, right = one - first - planes[0], two - first - planes[1]
            e = (left * third[1] - right * second[1]) / det
            d = (right * second[0] - left * third[0]) / det
            good = (np.abs(e) <= 1.5 * a) & (np.abs(d) <= 1.5 * b)
            fixed = np.broadcast_to([a, b, first], (good.sum(), 3))
            cell = np.column_stack([fixed, d[good], e[good], np.full(good.sum(), f)])
            found.append(cell)
    return np.concatenate(found), rows
