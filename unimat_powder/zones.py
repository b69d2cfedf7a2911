"""Peak positions in, zones (two-dimensional lattices) and the cells that complete them out."""

from __future__ import annotations

import functools
import math
from itertools import combinations

import torch
from torch import Tensor

from unimat_powder.bravais import metric_determinant, quadratic_terms
from unimat_powder.fitting import cells_at_once
from unimat_powder.peaks import PeaksInQ
from unimat_powder.scoring import (
    CELLS_KEPT,
    MISSED_SHARE,
    VOLUME_RANGE,
    best_different,
    score_where,
)

ZONE_PEAKS = 20  # the same for zones, which explain only some of them
_ZONES = 16  # zones that are completed to lattices


@functools.cache
def _zone_tables(device: torch.device) -> tuple[Tensor, Tensor]:
    """For plane lattices, Q = A h^2 + B k^2 + F hk: lines ``[n, 3]``, inverses ``[T, 3, 3]``.

    As in :func:`_assignments`, but every three of the four lowest lines serve.
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
    lost = torch.rand(order.shape, generator=generator) < MISSED_SHARE
    order = order.gather(1, lost.byte().argsort(dim=1, stable=True)[:, :4])
    triples = torch.cat([order[:, three] for three in combinations(range(4), 3)])
    unique, often = torch.unique(triples, dim=0, return_counts=True)
    matrices = rows[unique[often.argsort(dim=0, descending=True, stable=True)]]
    matrices = matrices[torch.linalg.det(matrices).abs() > 1e-6][:500]
    return rows.to(device), torch.linalg.inv(matrices).to(device)


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
    """Triclinic cells that explain the lowest peaks; arguments and result as in :func:`_solve`.

    Six unknowns at once would have too many assignments, and often the lowest peaks all lie in one
    plane of the reciprocal lattice. So planes come first, three unknowns that explain some of the
    peaks, and then the layer next to each, with three more: its first peak is called (0 0 1), two
    others get all small (h k 1). Source: de Wolff, Acta Cryst. 10, 590 (1957); Ito, Nature 164, 755
    (1949).
    """
    last = (observed.mask.sum(1, keepdim=True) - 1).clamp_min(0)
    places = torch.arange(ZONE_PEAKS, device=volume.device)[None].minimum(last)
    q, sigma = observed.q.gather(1, places), observed.sigma.gather(1, places)
    score, zones = find_zones(q, sigma)
    pairs = len(_layer_tables(q.device)[0])
    size = max(1, cells_at_once(q.device) // (6 * _ZONES * math.comb(6, 3) * pairs))
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
    size = cells_at_once(q.device) // (16 * len(rows))
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
    """Lattices that add a third direction to zones.

    Args:
        zones: A, B, F of the zones of ``B`` patterns, ``[B, Z, 3]``.
        good: Which of them to complete, bool ``[B, Z]``.
        q: Lowest peaks ``[B, P]``.
        sigma: Their standard deviations ``[B, P]``.
        volume: Predicted volumes ``[B]``.

    Returns:
        As :func:`_solve_by_zones`.
    """
    second, third, rows = _layer_tables(q.device)
    above, outside = outside_zones(zones, q, sigma)
    good = good & (outside >= 3)
    choices = torch.tensor(list(combinations(range(6), 3)), device=q.device)
    first, one, two = above[:, :, choices].unbind(-1)  # [B, Z, 20]
    in_plane = [
        zones @ torch.stack([h * h, k * k, h * k]) for h, k in (second.T, third.T)
    ]  # [B, Z, T] each
    left = (one - first)[..., None] - in_plane[0][:, :, None]  # [B, Z, 20, T]
    right = (two - first)[..., None] - in_plane[1][:, :, None]
    det = second[:, 0] * third[:, 1] - second[:, 1] * third[:, 0]
    e = (left * third[:, 1] - right * second[:, 1]) / det
    d = (right * second[:, 0] - left * third[:, 0]) / det
    a, b, f = (x[..., None, None].expand_as(d) for x in zones.unbind(-1))
    metric = torch.stack([a, b, first[..., None].expand_as(d), d, e, f], -1)
    ratio = metric_determinant(metric).rsqrt() / volume[:, None, None, None]
    possible = (ratio > VOLUME_RANGE[0]) & (ratio < VOLUME_RANGE[1])
    possible &= (e.abs() <= 1.5 * a) & (d.abs() <= 1.5 * b) & good[..., None, None]
    metric, possible = metric.flatten(1, 3), possible.flatten(1)  # [B, Z * 20 * T]
    score = score_where(possible, metric, rows, q, sigma, range(q.shape[1]))
    score, best = best_different(score, 3 * CELLS_KEPT)
    pattern, place = (score > -math.inf).nonzero().T
    return pattern, metric[pattern, best[pattern, place]]
