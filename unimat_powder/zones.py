"""Peak positions in, zones (planes of the reciprocal lattice) and cells that complete them out."""

import functools
import math
from itertools import combinations

import torch
from torch import Tensor

from unimat_powder.bravais import quadratic_terms
from unimat_powder.fitting import (
    CELLS_KEPT,
    batch_budget,
    best_cells,
    best_different,
    fits_volume,
    lowest_peaks,
)
from unimat_powder.peaks import PeaksInQ

ZONE_PEAKS = 20  # from the lowest angle, that choose among zones; a zone explains some of them
_ZONES = 16  # zones that are completed to lattices
_MISSED_SHARE = 0.3  # share of the lines that leave no peak, when assignments are listed


def lines_seen(lines: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """The first ``count`` of lines ``[n, m]`` by rising Q, after some were lost at random."""
    lost = torch.rand(lines.shape, generator=generator) < _MISSED_SHARE
    return lines.gather(1, lost.byte().argsort(dim=1, stable=True)[:, :count])


def likely_inverses(seen: Tensor, rows: Tensor, limit: int) -> Tensor:
    """Inverse matrices ``[T, k, k]`` of the assignments ``[n, k]`` that were seen most often."""
    unique, often = torch.unique(seen, dim=0, return_counts=True)
    matrices = rows[unique[often.argsort(dim=0, descending=True, stable=True)]]
    return torch.linalg.inv(matrices[torch.linalg.det(matrices).abs() > 1e-6][:limit])


@functools.cache
def _zone_tables(device: torch.device) -> tuple[Tensor, Tensor]:
    """For zones, Q = A h^2 + B k^2 + F hk: lines ``[n, 3]`` and inverses ``[T, 3, 3]``.

    As the assignments of a Bravais lattice, but every three of the four lowest lines serve.
    """
    steps = torch.arange(-5.0, 6.0, dtype=torch.float64)
    h, k = torch.cartesian_prod(steps, steps).T
    rows = torch.unique(torch.stack([h * h, k * k, h * k], 1), dim=0)
    rows = rows[rows.abs().sum(1) > 0]
    generator = torch.Generator().manual_seed(0)
    draw = torch.randn(20000, 2, generator=generator, dtype=torch.float64)
    axes = torch.exp(0.8 * draw).sort(dim=1).values
    cross = axes[:, :1] * torch.rand(20000, 1, generator=generator, dtype=torch.float64)
    order = (torch.cat([axes, cross], 1) @ rows.T).argsort(dim=1)[:, :16]
    order = lines_seen(order, 4, generator)
    triples = torch.cat([order[:, three] for three in combinations(range(4), 3)])
    return rows.to(device), likely_inverses(triples, rows, 500).to(device)


@functools.cache
def _layer_tables(device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Pairs of (h, k) of two peaks in the layer l = 1, ``[T, 2]`` each, and lines ``[n, 6]``."""
    steps = torch.arange(-4.0, 5.0, dtype=torch.float64)
    near = torch.cartesian_prod(steps[2:-2], steps[2:-2])  # [25, 2]
    one, two = torch.cartesian_prod(torch.arange(25), torch.arange(25)).T
    second, third = near[one], near[two]
    independent = second[:, 0] * third[:, 1] != second[:, 1] * third[:, 0]
    # Reversing both axes of the zone changes nothing: half of the pairs will do.
    half = torch.where(second[:, 0] != 0, second[:, 0], second[:, 1]) > 0
    rows = quadratic_terms(torch.cartesian_prod(steps, steps, steps[2:-2]))
    rows = torch.unique(rows[rows[:, :3].sum(1) > 0], dim=0)
    keep = independent & half
    return second[keep].to(device), third[keep].to(device), rows.to(device)


def solve_by_zones(observed: PeaksInQ, volume: Tensor) -> tuple[Tensor, Tensor]:
    """Triclinic cells that explain the lowest peaks.

    Six unknowns at once would have too many assignments, and often the lowest peaks all lie in one
    plane of the reciprocal lattice. So planes come first, three unknowns that explain some of the
    peaks, and then the layer next to each, with three more: its first peak is called (0 0 1), two
    others get all small (h k 1).

    Takes the peaks of ``B`` patterns and predicted volumes ``[B]``; returns which pattern, int64
    ``[M]``, and the reciprocal metrics ``[M, 6]``.

    Source: de Wolff, Acta Cryst. 10, 590 (1957); Ito, Nature 164, 755 (1949).
    """
    q, sigma = lowest_peaks(observed, ZONE_PEAKS)
    score, zones = find_zones(q, sigma)
    pairs = len(_layer_tables(q.device)[0])
    size = max(1, batch_budget(q.device) // (6 * _ZONES * math.comb(6, 3) * pairs))
    found = []
    for some in torch.arange(len(q), device=q.device).split(size):
        which, metric = _complete(zones[some], score[some] > 0, q[some], sigma[some], volume[some])
        found.append((some[which], metric))
    return tuple(torch.cat(each) for each in zip(*found, strict=True))


def find_zones(q: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    """The best zones of each pattern's peaks ``[B, P]``: score ``[B, Z]`` and A, B, F."""
    rows, inverses = _zone_tables(q.device)
    zones = torch.cat(
        [torch.einsum("tkj,bj->btk", inverses, q[:, three]) for three in combinations(range(7), 3)],
        dim=1,
    )
    a, b, f = zones.unbind(-1)
    # Reduced: a* is shortest, and the angle lies between 60 and 90 degrees.
    reduced = (a > 0) & (b >= 0.999 * a) & (f >= -1e-6 * a) & (f <= 1.001 * a)
    pattern, place = reduced.nonzero().T
    score = torch.full(reduced.shape, -math.inf, device=q.device)
    size = batch_budget(q.device) // (16 * len(rows))
    for i, t in zip(pattern.split(size), place.split(size), strict=True):
        calculated = (zones[i, t] @ rows.T).float()
        here, reach = q[i].float(), q[i, -1:].float()
        density = (1 + ((calculated > 0) & (calculated < reach)).sum(1)) / reach[:, 0]
        width2 = 2 * sigma[i].float().square() + (1e-4 * here).square()
        total = torch.zeros_like(density)
        for j in range(q.shape[1]):
            distance = (calculated - here[:, j : j + 1]).abs_().amin(1)
            match = torch.exp(-distance.square() / (2 * width2[:, j]))
            match = match / (2 * math.pi * width2[:, j]).sqrt()
            total += torch.log(0.5 + 0.5 * match / density)
        score[i, t] = total
    score, best = best_different(score, _ZONES)
    return score, zones.gather(1, best[..., None].expand(-1, -1, 3))


def outside_zones(zones: Tensor, q: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    """The six lowest peaks ``[B, Z, 6]`` that zones do not explain, and how many there are."""
    plane, _ = _zone_tables(q.device)
    distance = (q[:, None, :, None] - (zones @ plane.T)[:, :, None]).abs().amin(3)  # [B, Z, P]
    inside = distance < (4 * sigma + 1e-4 * q)[:, None]
    order = inside.byte().argsort(dim=2, stable=True)[:, :, :6]
    return q[:, None].expand_as(inside).gather(2, order), (~inside).sum(2)


def _complete(
    zones: Tensor, good: Tensor, q: Tensor, sigma: Tensor, volume: Tensor
) -> tuple[Tensor, Tensor]:
    """Lattices that add a third direction to zones ``[B, Z, 3]``, the ``good`` ones ``[B, Z]``."""
    second, third, rows = _layer_tables(q.device)
    above, outside = outside_zones(zones, q, sigma)
    good = good & (outside >= 3)
    choices = torch.tensor(list(combinations(range(6), 3)), device=q.device)
    first, one, two = above[:, :, choices].unbind(-1)  # [B, Z, 20]
    left, right = (
        (peak - first)[..., None] - (zones @ torch.stack([h * h, k * k, h * k]))[:, :, None]
        for peak, (h, k) in ((one, second.T), (two, third.T))
    )  # [B, Z, 20, T]
    det = second[:, 0] * third[:, 1] - second[:, 1] * third[:, 0]
    e = (left * third[:, 1] - right * second[:, 1]) / det
    d = (right * second[:, 0] - left * third[:, 0]) / det
    a, b, f = (x[..., None, None].expand_as(d) for x in zones.unbind(-1))
    metric = torch.stack([a, b, first[..., None].expand_as(d), d, e, f], -1)
    possible = fits_volume(metric, volume[:, None, None, None])
    possible &= (e.abs() <= 1.5 * a) & (d.abs() <= 1.5 * b) & good[..., None, None]
    metric, possible = metric.flatten(1, 3), possible.flatten(1)  # [B, Z * 20 * T]
    return best_cells(possible, metric, rows, q, sigma, 3 * CELLS_KEPT)
