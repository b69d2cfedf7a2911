"""Peak positions and an expected volume in, candidate cells out."""

from __future__ import annotations

import functools
import math
from itertools import combinations
from typing import NamedTuple

import torch
from torch import Tensor

from unimat_powder.bravais import (
    BRAVAIS_LATTICES,
    TRICLINIC,
    lattice_basis,
    metric_determinant,
    quadratic_terms,
)
from unimat_powder.fitting import TOLERANCES, Fit, cells_at_once, fit_cells
from unimat_powder.peaks import PeaksInQ
from unimat_powder.scoring import (
    CELLS_KEPT,
    MISSED_SHARE,
    VOLUME_RANGE,
    best_different,
    score_where,
)
from unimat_powder.zones import ZONE_PEAKS, find_zones, outside_zones, solve_by_zones

_FIRST = 12  # peaks, from the lowest angle, that choose among the assignments
_SIFTED = (6, 7, 8, 9)  # those that choose first: the lower ones are what was solved for
_PASSED = 1024  # assignments per lattice that all twelve choose among


_SAME_VOLUME = (0.6, 1.6)  # times the predicted volume; beyond, other lattices are tried as well
_WIDE_VOLUME_RANGE = (0.25, 4.0)  # the same where one or two numbers fix a lattice

_STAGES = (range(0, 7), range(7, 11), range(11, 13), range(13, 14))

# By the number of free numbers k, for all lattices but the triclinic: random lattices to draw,
# assignments to keep per choice of peaks,
# lowest peaks to choose k from, bound on a line's coefficients.
_TABLES = {
    1: (200, 20, 3, 60),
    2: (15000, 600, 4, 400),
    3: (15000, 1500, 5, 60),
    4: (40000, 5000, 6, 30),
}


@functools.cache
def _lines(lattice: int) -> Tensor:
    """Distinct lines of low index as coefficients of the k free numbers, ``[n, k]``."""
    basis = lattice_basis(lattice)
    steps, more = (torch.arange(-n, n + 1.0, dtype=torch.float64) for n in (8, 24))
    rows = (quadratic_terms(torch.cartesian_prod(steps, steps, more)) @ basis).round(decimals=6)
    size = rows.abs().sum(1)
    return torch.unique(rows[(size > 0) & (size <= _TABLES[basis.shape[1]][3])], dim=0)


def _random_lattices(lattice: int, count: int, generator: torch.Generator) -> Tensor:
    """Free numbers ``[count, k]`` of lattices with all kinds of axial ratios."""
    family, centring = BRAVAIS_LATTICES[lattice]
    draw = torch.randn(count, 3, generator=generator, dtype=torch.float64)
    angle = torch.rand(count, 1, generator=generator, dtype=torch.float64)
    one = torch.ones(count, 1, dtype=torch.float64)
    if family == "cubic":
        return one
    if family in ("hexagonal", "tetragonal"):
        return torch.cat([one, (0.15 if centring == "R" else 0.5) * torch.exp(draw[:, :1])], 1)
    axes = torch.exp(0.8 * draw)
    if family == "orthorhombic":
        return axes
    bound = 2 * (axes[:, :1] * axes[:, 2:]).sqrt()
    cosine = 0.7 * (2 * angle - 1 if centring == "C" else angle)
    return torch.cat([axes, bound * cosine], 1)


@functools.cache
def _assignments(lattice: int, device: torch.device) -> list[tuple[tuple[int, ...], Tensor]]:
    """Which peaks to solve for, and the inverse matrices ``[T, k, k]`` of the likely assignments.

    Lattices are drawn at random, each loses some of its lines, and what is then found at the places
    of the chosen peaks is counted.
    """
    rows = _lines(lattice)
    k = rows.shape[1]
    count, limit, first, _ = _TABLES[k]
    generator = torch.Generator().manual_seed(lattice)
    seen = []
    for free in _random_lattices(lattice, count, generator).split(2000):
        q = free @ rows.T
        q = torch.where(q > 1e-9, q, math.inf)
        order = q.topk(min(24, q.shape[1]), dim=1, largest=False).indices
        lost = torch.rand(order.shape, generator=generator) < MISSED_SHARE
        seen.append(order.gather(1, lost.byte().argsort(dim=1, stable=True)[:, :first]))
    lines = torch.cat(seen)  # [count, first]
    table = []
    for chosen in combinations(range(first), k):
        unique, often = torch.unique(lines[:, chosen], dim=0, return_counts=True)
        matrices = rows[unique[often.argsort(dim=0, descending=True, stable=True)]]  # [T, k, k]
        matrices = matrices[torch.linalg.det(matrices).abs() > 1e-6][:limit]
        table.append((chosen, torch.linalg.inv(matrices).to(device)))
    return table


def _without_orders(observed: PeaksInQ) -> Tensor:
    """The lowest peaks without higher orders of a peak before them, ``[B, 12]``, in Q.

    Layered crystals begin with a long row (00l), which fixes one number only.
    """
    q = observed.q[:, : 2 * _FIRST]
    n = torch.arange(1.0, 13.0, dtype=q.dtype, device=q.device)
    ratio = torch.unique((n[:, None] / n[None, :4]).square())
    ratio = ratio[ratio > 1]  # (n / m)^2: the fundamental itself may be absent
    expected = q[:, None, :, None] * ratio  # [B, 1, j, r]
    width = 3 * observed.sigma[:, : q.shape[1], None, None] + 1e-4 * expected
    order = ((q[:, :, None, None] - expected).abs() < width).any(3)  # [B, i, j]
    keep = ~order.tril(-1).any(2) & observed.mask[:, : q.shape[1]]
    place = (~keep).byte().argsort(dim=1, stable=True)[:, :_FIRST]
    last = (keep.sum(1, keepdim=True) - 1).clamp_min(0)
    count = torch.arange(place.shape[1], device=q.device)[None].minimum(last)
    return q.gather(1, place.gather(1, count))


def _solve(lattice: int, observed: PeaksInQ, volume: Tensor) -> tuple[Tensor, Tensor]:
    """Cells of one lattice that explain the lowest peaks.

    Args:
        lattice: Place in ``BRAVAIS_LATTICES``.
        observed: Peaks of ``B`` patterns.
        volume: Predicted volumes, ``[B]``.

    Returns:
        Which pattern, int64 ``[M]``, at most ``_KEPT`` each, and the reciprocal metrics ``[M, 6]``.
    """
    basis = lattice_basis(lattice).to(volume.device)
    # A pattern with few peaks shows its last one again: those assignments are wasted, not wrong.
    last = (observed.mask.sum(1, keepdim=True) - 1).clamp_min(0)
    places = torch.arange(_FIRST, device=volume.device)[None].minimum(last)  # [B, 12]
    q, sigma = observed.q.gather(1, places), observed.sigma.gather(1, places)
    new = _without_orders(observed)
    free = torch.cat(
        [
            torch.einsum("tkj,bj->btk", inverse, peaks[:, chosen])
            for peaks in (q, new)
            for chosen, inverse in _assignments(lattice, volume.device)
        ],
        dim=1,
    )  # [B, T, k]
    inverse_volume2 = metric_determinant(free @ basis.T)
    volumes = VOLUME_RANGE if basis.shape[1] > 2 else _WIDE_VOLUME_RANGE
    low, high = (1 / (volume[:, None] * factor).square() for factor in volumes)
    possible = (inverse_volume2 < low) & (inverse_volume2 > high)
    rows = _lines(lattice).to(volume.device)
    if possible.shape[1] > 2 * _PASSED:
        sifted = score_where(possible, free, rows, q, sigma, _SIFTED).topk(_PASSED, dim=1)
        possible = torch.zeros_like(possible)
        possible.scatter_(1, sifted.indices, sifted.values > -math.inf)
    score = score_where(possible, free, rows, q, sigma, range(_FIRST))
    score, best = best_different(score, CELLS_KEPT)
    pattern, place = (score > -math.inf).nonzero().T
    return pattern, free[pattern, best[pattern, place]] @ basis.T


@functools.cache
def _stack_tables(lattice: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Monoclinic lines as coefficients of the free numbers ``[n, 4]``, (h, l) of the next layer.

    In conventional axes the zone is (h 0 l); with a C lattice its h are even and those of (h 1 l)
    odd.
    """
    centred = BRAVAIS_LATTICES[lattice][1] == "C"
    steps = torch.arange(-10.0, 11.0, dtype=torch.float64)
    hkl = torch.cartesian_prod(steps, torch.arange(3.0, dtype=torch.float64), steps[4:-4])
    hkl = hkl[(hkl[:, :2].sum(1) % 2 == 0) | torch.tensor(not centred)]
    hkl = hkl[hkl[:, 0].abs() <= (10 if centred else 6)]
    rows = torch.unique(quadratic_terms(hkl)[:, [0, 1, 2, 4]], dim=0)
    next_layer = hkl[(hkl[:, 1] == 1) & (hkl[:, 0].abs() <= 5) & (hkl[:, 2].abs() <= 2)]
    next_layer = next_layer[next_layer[:, 0].abs() <= (5 if centred else 2)]
    return rows[rows.abs().sum(1) > 0].to(device), next_layer[:, [0, 2]].to(device)


def _solve_by_stacking(lattice: int, observed: PeaksInQ, volume: Tensor) -> tuple[Tensor, Tensor]:
    """Monoclinic cells with a short axis b; arguments and result as in :func:`_solve`.

    Their lowest peaks all lie in the zone (h 0 l), a dominant zone. So the zone comes first, and
    one peak that it does not explain, called (h 1 l), gives the distance of the next layer, which
    lies straight above.
    """
    last = (observed.mask.sum(1, keepdim=True) - 1).clamp_min(0)
    places = torch.arange(2 * ZONE_PEAKS, device=volume.device)[None].minimum(last)
    q, sigma = observed.q.gather(1, places), observed.sigma.gather(1, places)
    score, zones = find_zones(q[:, :ZONE_PEAKS], sigma[:, :ZONE_PEAKS])
    above, outside = outside_zones(zones, q, sigma)
    good = (score > 0) & (outside > 0)

    a, b, f = zones.unbind(-1)
    choices = [(a, b, f)]
    if BRAVAIS_LATTICES[lattice][1] == "C":  # any of three vectors of the zone may be 2 a*
        choices = [(a / 4, b, f / 2), (b / 4, a, f / 2), ((a + b + f) / 4, b, f / 2 + b)]
    rows, next_layer = _stack_tables(lattice, q.device)
    h, el = next_layer.T
    free, possible = [], []
    for a, c, e in choices:
        zone = torch.stack([a, c, e], -1) @ torch.stack([h * h, el * el, h * el])  # [B, Z, T]
        layer = above[..., None] - zone[:, :, None]  # [B, Z, 6, T]
        a, c, e, ok = (x[..., None, None].expand_as(layer) for x in (a, c, e, good))
        free.append(torch.stack([a, layer, c, e], -1).flatten(1, 3))
        possible.append(ok.flatten(1))
    free, possible = torch.cat(free, 1), torch.cat(possible, 1)
    basis = lattice_basis(lattice).to(q.device)
    ratio = metric_determinant(free @ basis.T).rsqrt() / volume[:, None]
    possible &= (ratio > VOLUME_RANGE[0]) & (ratio < VOLUME_RANGE[1])
    score = score_where(possible, free, rows, q, sigma, range(q.shape[1]))
    score, best = best_different(score, CELLS_KEPT)
    pattern, place = (score > -math.inf).nonzero().T
    return pattern, free[pattern, best[pattern, place]] @ basis.T


class Candidates(NamedTuple):
    """Cells found: whose pattern, which of ``BRAVAIS_LATTICES``, and the fit, ``[M]`` each."""

    pattern: Tensor
    lattice: Tensor
    fit: Fit


def search_cells(observed: PeaksInQ, volume: Tensor) -> Candidates | None:
    """Cells of all Bravais lattices that might explain the peaks of ``B`` patterns.

    Args:
        observed: Their peaks.
        volume: Rough volumes of their primitive cells in cubic angstrom, float64 ``[B]``.

    Returns:
        The cells, or ``None`` if no pattern has any.
    """
    open_ = observed.mask.sum(1) >= 2  # not explained yet; one peak says nothing
    found = []
    for stage in _STAGES:
        todo = open_.nonzero()[:, 0]
        starts = []
        for lattice in stage if len(todo) else ():
            if lattice == TRICLINIC:
                which, metric = solve_by_zones(observed.select(todo), volume[todo])
                starts.append((todo[which], metric, torch.full_like(which, lattice)))
                continue
            if BRAVAIS_LATTICES[lattice][0] == "monoclinic":
                for some in todo.split(max(1, cells_at_once(volume.device) // 2**17)):
                    which, metric = _solve_by_stacking(lattice, observed.select(some), volume[some])
                    starts.append((some[which], metric, torch.full_like(which, lattice)))
            assignments = _assignments(lattice, volume.device)
            table = 2 * len(assignments) * max(len(m) for _, m in assignments)
            for some in todo.split(max(1, cells_at_once(volume.device) // (6 * table))):
                which, metric = _solve(lattice, observed.select(some), volume[some])
                starts.append((some[which], metric, torch.full_like(which, lattice)))
        if not starts or not sum(len(p) for p, _, _ in starts):
            continue
        pattern, metric, lattice = (torch.cat(each) for each in zip(*starts, strict=True))
        fit = fit_cells(metric, lattice, pattern, observed, tolerances=TOLERANCES)
        found.append(Candidates(pattern, lattice, fit))
        # All peaks explained by a cell that does not have many more lines and about the volume that
        # is expected: nothing left to find.
        enough = fit.lines < 4 * observed.mask.sum(1)[pattern]
        ratio = metric_determinant(fit.metric).rsqrt() / volume[pattern]
        enough &= (ratio > _SAME_VOLUME[0]) & (ratio < _SAME_VOLUME[1])
        open_[pattern[(fit.explained >= 0.99) & enough]] = False
    if not found:
        return None
    pattern, lattice, fits = zip(*found, strict=True)
    fit = Fit(*(torch.cat(each) for each in zip(*fits, strict=True)))
    return Candidates(torch.cat(pattern), torch.cat(lattice), fit)
