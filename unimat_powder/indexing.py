"""Peak positions and an expected volume in, candidate cells out: indexing of powder patterns.

With Q = 1/d^2 = 4 sin^2(theta) / lambda^2, every reflection (hkl) obeys

    Q = A h^2 + B k^2 + C l^2 + D kl + E hl + F hk,

linear in the six numbers of the reciprocal metric tensor, and in one to four of them where the
lattice is symmetric. :func:`search_cells` solves this equation exactly, for each of the fourteen
Bravais lattices, for the lowest peaks under many assignments of (hkl), keeps the cells whose volume
is possible, compares their lines with the lowest peaks and improves the best by least squares with
all peaks (:mod:`unimat_powder.fitting`). Where the lowest peaks may all lie in one plane of the
reciprocal lattice, a zone, it begins with zones. All patterns of a batch are worked on at once, on
the device that they lie on. What a predicted cell adds is in :mod:`unimat_powder.refinement`.

Sources: de Wolff, J. Appl. Cryst. 1, 108 (1968); Werner, Eriksson and Westdahl, J. Appl. Cryst. 18,
367 (1985); Le Bail, Powder Diffr. 19, 249 (2004).
"""

import functools
import math
from collections.abc import Iterator
from itertools import combinations

import torch
from torch import Tensor

from unimat_powder.bravais import BRAVAIS_LATTICES, TRICLINIC, lattice_basis, quadratic_terms
from unimat_powder.clean_peaks import PeaksInQ
from unimat_powder.fitting import (
    CELLS_KEPT,
    TOLERANCES,
    VOLUME_RANGE,
    FittedCells,
    batch_budget,
    best_cells,
    best_different,
    fit_cells,
    fits_volume,
    lowest_peaks,
    score_where,
)

MIN_PEAKS = 2  # without which no cell is searched for: one says nothing
_FIRST = 12  # peaks, from the lowest angle, that choose among the assignments
_SIFTED = (6, 7, 8, 9)  # those that choose first: the lower ones are what was solved for
_PASSED = 1024  # assignments per lattice that all twelve choose among
_ZONE_PEAKS = 20  # the same for zones, which explain only some of them
_ZONES = 16  # zones that are completed to lattices
_MISSED_SHARE = 0.3  # share of the lines that leave no peak, when assignments are listed
_SAME_VOLUME = (0.6, 1.6)  # times the predicted volume; beyond, other lattices are tried as well
_WIDE_VOLUME_RANGE = (0.25, 4.0)  # instead of VOLUME_RANGE where one or two numbers fix a lattice

# Which lattices are tried together: the next stage only runs where those before explain too little.
_STAGES = (range(0, 7), range(7, 11), range(11, 13), range(13, 14))

# By the number of free numbers k: random lattices to draw, assignments to keep per choice of peaks,
# lowest peaks to choose k from, bound on a line's coefficients.
_TABLES = {1: (200, 20, 3, 60), 2: (15000, 600, 4, 400), 3: (15000, 1500, 5, 60)}
_TABLES[4] = (40000, 5000, 6, 30)  # the triclinic lattice has none


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


def _lines_seen(lines: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """The first ``count`` of lines ``[n, m]`` by rising Q, after some were lost at random."""
    lost = torch.rand(lines.shape, generator=generator) < _MISSED_SHARE
    return lines.gather(1, lost.byte().argsort(dim=1, stable=True)[:, :count])


def _likely_inverses(seen: Tensor, rows: Tensor, limit: int) -> Tensor:
    """Inverse matrices ``[T, k, k]`` of the assignments ``[n, k]`` that were seen most often."""
    unique, often = torch.unique(seen, dim=0, return_counts=True)
    matrices = rows[unique[often.argsort(dim=0, descending=True, stable=True)]]
    return torch.linalg.inv(matrices[torch.linalg.det(matrices).abs() > 1e-6][:limit])


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
        seen.append(_lines_seen(order, first, generator))
    lines = torch.cat(seen)  # [count, first]
    return [
        (chosen, _likely_inverses(lines[:, chosen], rows, limit).to(device))
        for chosen in combinations(range(first), k)
    ]


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
    count = torch.arange(_FIRST, device=q.device)[None].minimum(last)
    return q.gather(1, place.gather(1, count))


def _solve(lattice: int, observed: PeaksInQ, volume: Tensor) -> tuple[Tensor, Tensor]:
    """Cells of one lattice that explain the lowest peaks.

    Args:
        lattice: Place in ``BRAVAIS_LATTICES``.
        observed: Peaks of ``B`` patterns.
        volume: Predicted volumes ``[B]``.

    Returns:
        Which pattern, int64 ``[M]``, and the reciprocal metrics ``[M, 6]``.
    """
    basis = lattice_basis(lattice).to(volume.device)
    q, sigma = lowest_peaks(observed, _FIRST)
    solutions = (
        torch.einsum("tkj,bj->btk", inverse, peaks[:, chosen])
        for peaks in (q, _without_orders(observed))
        for chosen, inverse in _assignments(lattice, volume.device)
    )
    free = torch.cat(list(solutions), dim=1)  # [B, T, k]
    bounds = VOLUME_RANGE if basis.shape[1] > 2 else _WIDE_VOLUME_RANGE
    possible = fits_volume(free @ basis.T, volume[:, None], bounds)
    rows = _lines(lattice).to(volume.device)
    if possible.shape[1] > 2 * _PASSED:
        sifted = score_where(possible, free, rows, q, sigma, _SIFTED).topk(_PASSED, dim=1)
        possible = torch.zeros_like(possible)
        possible.scatter_(1, sifted.indices, sifted.values > -math.inf)
    pattern, free = best_cells(possible, free, rows, q, sigma)
    return pattern, free @ basis.T


@functools.cache
def _zone_tables(device: torch.device) -> tuple[Tensor, Tensor]:
    """For zones, Q = A h^2 + B k^2 + F hk: lines ``[n, 3]`` and inverses ``[T, 3, 3]``.

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
    order = _lines_seen(order, 4, generator)
    triples = torch.cat([order[:, three] for three in combinations(range(4), 3)])
    return rows.to(device), _likely_inverses(triples, rows, 500).to(device)


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


def _solve_by_zones(observed: PeaksInQ, volume: Tensor) -> tuple[Tensor, Tensor]:
    """Triclinic cells that explain the lowest peaks; arguments and result as in :func:`_solve`.

    Six unknowns at once would have too many assignments, and often the lowest peaks all lie in one
    zone. So zones come first, three unknowns that explain some of the peaks, and then the layer
    next to each, with three more: its first peak is called (0 0 1), two others get all small
    (h k 1).

    Source: de Wolff, Acta Cryst. 10, 590 (1957); Ito, Nature 164, 755 (1949).
    """
    q, sigma = lowest_peaks(observed, _ZONE_PEAKS)
    score, zones = _find_zones(q, sigma)  # [B, Z, 3]
    second, third, rows = _layer_tables(q.device)
    above, outside = _outside_zones(zones, q, sigma)
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
    possible &= (e.abs() <= 1.5 * a) & (d.abs() <= 1.5 * b)
    possible &= ((score > 0) & (outside >= 3))[..., None, None]
    metric, possible = metric.flatten(1, 3), possible.flatten(1)  # [B, Z * 20 * T]
    return best_cells(possible, metric, rows, q, sigma, 3 * CELLS_KEPT)


def _find_zones(q: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    """The best zones of each pattern's peaks ``[B, P]``: score ``[B, Z]`` and A, B, F."""
    rows, inverses = _zone_tables(q.device)
    threes = (q[:, three] for three in combinations(range(7), 3))
    zones = torch.cat([torch.einsum("tkj,bj->btk", inverses, three) for three in threes], dim=1)
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


def _outside_zones(zones: Tensor, q: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    """The six lowest peaks ``[B, Z, 6]`` that zones do not explain, and how many there are."""
    plane, _ = _zone_tables(q.device)
    distance = (q[:, None, :, None] - (zones @ plane.T)[:, :, None]).abs().amin(3)  # [B, Z, P]
    inside = distance < (4 * sigma + 1e-4 * q)[:, None]
    order = inside.byte().argsort(dim=2, stable=True)[:, :, :6]
    return q[:, None].expand_as(inside).gather(2, order), (~inside).sum(2)


@functools.cache
def _stack_tables(lattice: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Monoclinic lines as coefficients of the free numbers ``[n, 4]``, (h, l) of the next layer.

    In conventional axes the zone is (h 0 l); a C lattice has its h even and those of (h 1 l) odd.
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
    q, sigma = lowest_peaks(observed, 2 * _ZONE_PEAKS)
    score, zones = _find_zones(q[:, :_ZONE_PEAKS], sigma[:, :_ZONE_PEAKS])
    above, outside = _outside_zones(zones, q, sigma)
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
    possible &= fits_volume(free @ basis.T, volume[:, None])
    pattern, free = best_cells(possible, free, rows, q, sigma)
    return pattern, free @ basis.T


def _starts(
    lattice: int, todo: Tensor, observed: PeaksInQ, volume: Tensor
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Pattern ``[M]``, metric ``[M, 6]`` and lattice ``[M]`` of cells of one lattice, in pieces."""
    budget = batch_budget(volume.device)
    if lattice == TRICLINIC:
        table = _ZONES * math.comb(6, 3) * len(_layer_tables(volume.device)[0])
        ways = [(_solve_by_zones, budget // (6 * table))]
    else:
        assignments = _assignments(lattice, volume.device)
        table = 2 * len(assignments) * max(len(matrices) for _, matrices in assignments)
        ways = [(functools.partial(_solve, lattice), budget // (6 * table))]
    if BRAVAIS_LATTICES[lattice][0] == "monoclinic":
        ways.insert(0, (functools.partial(_solve_by_stacking, lattice), budget // 2**17))
    for solve, size in ways:
        for some in todo.split(max(1, size)):
            which, metric = solve(observed.select(some), volume[some])
            yield some[which], metric, torch.full_like(which, lattice)


def search_cells(observed: PeaksInQ, volume: Tensor) -> FittedCells | None:
    """Cells of all Bravais lattices that might explain the peaks of ``B`` patterns.

    Args:
        observed: Their peaks, by rising Q; those that are none last.
        volume: Rough volumes of their primitive cells in cubic angstrom, float64 ``[B]``.

    Returns:
        The cells, or ``None`` if no pattern has any.
    """
    open_ = observed.mask.sum(1) >= MIN_PEAKS  # not explained yet
    found = []
    for stage in _STAGES:
        todo = open_.nonzero()[:, 0]
        if not len(todo):
            break
        starts = [x for lattice in stage for x in _starts(lattice, todo, observed, volume)]
        pattern, metric, lattice = (torch.cat(each) for each in zip(*starts, strict=True))
        if not len(pattern):
            continue
        fit = fit_cells(metric, lattice, pattern, observed, TOLERANCES)
        found.append(fit)
        # All peaks explained by a cell that does not have many more lines and about the volume that
        # is expected: nothing left to find.
        enough = fits_volume(fit.metric, volume[pattern], _SAME_VOLUME) & (fit.explained >= 0.99)
        enough &= fit.lines < 4 * observed.mask.sum(1)[pattern]
        open_[pattern[enough]] = False
    return FittedCells(*(torch.cat(x) for x in zip(*found, strict=True))) if found else None
