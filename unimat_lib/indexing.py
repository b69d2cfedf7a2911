"""Indexing of powder patterns: from peak positions and a rough volume to unit cells.

With Q = 1/d^2 = 4 sin^2(theta) / lambda^2, every reflection (hkl) obeys

    Q = A h^2 + B k^2 + C l^2 + D kl + E hl + F hk,

linear in the six numbers of the reciprocal metric tensor, and in one to four of them where the
lattice is symmetric. :func:`search_cells` solves this equation exactly, for each of the fourteen
Bravais lattices, for the lowest peaks under many assignments of (hkl), keeps the cells whose volume
is possible, compares their lines with all peaks and improves the best by least squares. Where the
lowest peaks may all lie in one plane of the reciprocal lattice, it begins with planes. All
patterns of a batch are worked on at once, on the device that they lie on.

Metrics are the six numbers A ... F of a primitive cell, in 1/angstrom^2. What a predicted cell adds
to this is in :mod:`unimat_lib.refine`.

Sources: de Wolff, J. Appl. Cryst. 1, 108 (1968); Werner, Eriksson and Westdahl, J. Appl. Cryst. 18,
367 (1985); Le Bail, Powder Diffr. 19, 249 (2004).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from unimat_lib.bragg import _half_sphere
from unimat_lib.crystals import CrystalError, _niggli_cell
from unimat_lib.patterns import Grid

_NUM_PEAKS = 40  # that are kept of a pattern, the ones at lowest angle
_MIN_HEIGHT = 3e-5  # of a peak
_NOISY = 1e-4  # noise above this part of the highest peak makes smoothing worth its blur
_FIRST = 12  # peaks, from the lowest angle, that choose among the assignments
_SIFTED = (6, 7, 8, 9)  # those that choose first: the lower ones are what was solved for
_PASSED = 1024  # assignments per lattice that all twelve choose among
_ZONE_PEAKS = 20  # the same for zones, which explain only some of them
_ZONES = 16  # zones that are completed to lattices
_KEPT = 8  # cells per Bravais lattice that are refined
_MISSED = 0.3  # share of the lines that leave no peak, when assignments are listed
OUTLIER = 0.01
"""Share of the peaks that no line need explain."""
_PER_PARAMETER = 4.0  # what one more free number must gain in log-likelihood
_TOLERANCES = (1e-3, 4e-4, 1.5e-4, 5e-5)  # relative errors of Q, round by round
_RIGHT_ANGLE = 0.05  # degrees from 90 that count as none, when cells are put in their setting
_VOLUME_RANGE = (0.4, 2.2)  # times the predicted volume
_SAME_VOLUME = (0.6, 1.6)  # times the predicted volume; beyond, other lattices are tried as well
_WIDE_VOLUME_RANGE = (0.25, 4.0)  # the same where one or two numbers fix a lattice


class ObservedPeaks(NamedTuple):
    """Peaks of ``B`` patterns by rising angle, filled up to ``K``.

    Attributes:
        two_theta: float64 ``[B, K]``, degrees; 0 where there is no peak.
        height: float64 ``[B, K]``, in units of the pattern.
        sigma: float64 ``[B, K]``, standard deviation of the position, degrees; large where a peak
            is wider than its neighbours and hence holds several reflections.
        mask: bool ``[B, K]``, where there is a peak.
        wavelength: X-ray wavelength in angstrom.
    """

    two_theta: Tensor
    height: Tensor
    sigma: Tensor
    mask: Tensor
    wavelength: float


# -------------------------------------------------------------------------------------------- peaks


def find_peaks(
    pattern: Tensor,
    grid: Grid,
    *,
    position_error: float = 1e-3,
) -> ObservedPeaks:
    """Find the first ``K`` = 40 peaks of patterns, to a small part of the grid's step.

    A peak is a local maximum of some height; where there is noise, it must also be clear of it by
    six standard deviations of its curvature. The parabola through the logarithms of its three
    highest points, exact for a Gaussian, gives position and width; noisy patterns are smoothed
    before. Peaks that are wider than the narrow ones of their pattern hold several reflections; the
    surplus is the uncertainty of their position.

    Args:
        pattern: ``[B, P]``, maximum 1, any floating type.
        grid: The grid it lies on.
        position_error: What positions are off by beside noise and overlap, degrees. Rendered
            patterns are exact; with a zero shift or another misalignment, name its size.

    Raises:
        ValueError: The patterns are not ``[B, P]`` on this grid, or not finite.
    """
    if pattern.ndim != 2 or pattern.shape[1] != grid.num_points:
        raise ValueError(
            f"expected patterns of shape [B, {grid.num_points}], got {tuple(pattern.shape)}"
        )
    if not bool(torch.isfinite(pattern).all()):
        raise ValueError("expected finite intensities: repair or leave out the broken patterns")
    x = pattern.double()
    noise = _noise(x)  # [B, P]
    noisy = noise.amax(1, keepdim=True) > _NOISY * x.amax(1, keepdim=True)
    x = torch.where(noisy, _filtered(x, [1, 4, 6, 4, 1]) / 16, x)
    left, centre, right = (x[:, i : i + x.shape[1] - 2] for i in range(3))
    noise = noise[:, 1:-1]
    # The second difference of smoothed noise has a third of the noise's standard deviation.
    clear = (2 * centre - left - right > 6 * 0.33 * noise) & (centre > _MIN_HEIGHT)
    found = (centre > left) & (centre >= right) & clear

    places = x.shape[1] - 2
    index = torch.arange(places, device=x.device)
    order = torch.where(found, index, places).sort(dim=1).values[:, :_NUM_PEAKS]  # [B, K]
    mask = order < places
    order = order.clamp_max(places - 1)
    left, height, right, noise = (each.gather(1, order) for each in (left, centre, right, noise))
    left, centre, right = (each.clamp_min(1e-12).log() for each in (left, height, right))
    bend = (2 * centre - left - right).clamp_min(1e-9)
    offset = ((right - left) / (2 * bend)).clamp(-0.5, 0.5)
    two_theta = grid.two_theta_min + (order + 1 + offset) * grid.step
    width2 = grid.step**2 / bend  # variance of the Gaussian
    narrow = torch.where(mask, width2, math.nan).nanquantile(0.25, dim=1, keepdim=True)
    surplus = (width2 - narrow).clamp_min(0)
    surplus = torch.where(surplus > 0.02 * narrow, surplus, 0.0)
    # A slope that is off by n moves the maximum of a Gaussian by n * variance / height.
    jitter = 0.3 * noise / height.clamp_min(1e-12) * width2 / grid.step
    sigma = (position_error**2 + surplus + jitter**2).sqrt()
    return ObservedPeaks(
        two_theta=torch.where(mask, two_theta, 0.0),
        height=torch.where(mask, height, 0.0),
        sigma=torch.where(mask, sigma, 1.0),
        mask=mask,
        wavelength=grid.wavelength,
    )


def _noise(pattern: Tensor) -> Tensor:
    """Standard deviation of the noise near each point, ``[B, P]``, from differences of high order.

    Neighbouring points of noise are independent, those of peaks are not: of a peak as wide as four
    points or more, a difference of sixteenth order leaves less than a thousandth.
    """
    order = 16
    weights = [(-1) ** i * math.comb(order, i) for i in range(order + 1)]
    rough = _filtered(pattern, weights) / math.sqrt(math.comb(2 * order, order))
    window = 4 * order + 1
    mean = functional.avg_pool1d(rough.square()[:, None], window, 1, window // 2)[:, 0]
    return mean.sqrt()


def _filtered(rows: Tensor, weights: list[int]) -> Tensor:
    """Rows ``[B, P]`` convolved with a symmetric filter; the ends are continued."""
    half = len(weights) // 2
    kernel = torch.tensor(weights, dtype=rows.dtype, device=rows.device)[None, None]
    padded = functional.pad(rows[:, None], (half, half), mode="replicate")
    return functional.conv1d(padded, kernel)[:, 0]


# ---------------------------------------------------------------------------- lattices and metrics

# Conventional reciprocal metrics (A, B, C, D, E, F) that each family may have, and the primitive
# vectors of each centring in units of the conventional ones.
_FAMILIES = {
    "cubic": [[1, 1, 1, 0, 0, 0]],
    "hexagonal": [[1, 1, 0, 0, 0, 1], [0, 0, 1, 0, 0, 0]],
    "tetragonal": [[1, 1, 0, 0, 0, 0], [0, 0, 1, 0, 0, 0]],
    "orthorhombic": np.eye(6)[:3].tolist(),
    "monoclinic": np.eye(6)[[0, 1, 2, 4]].tolist(),
    "triclinic": np.eye(6).tolist(),
}
_CENTRINGS = {
    "P": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
    "C": [[0.5, 0.5, 0], [-0.5, 0.5, 0], [0, 0, 1]],
    "I": [[-0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0.5, 0.5, -0.5]],
    "F": [[0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]],
    "R": [[2 / 3, 1 / 3, 1 / 3], [-1 / 3, 1 / 3, 1 / 3], [-1 / 3, -2 / 3, 1 / 3]],
}
_FAMILY_CENTRINGS = {
    "cubic": "PIF",
    "hexagonal": "PR",
    "tetragonal": "PI",
    "orthorhombic": "PCIF",
    "monoclinic": "PC",
    "triclinic": "P",
}
BRAVAIS_LATTICES = tuple((f, c) for f, letters in _FAMILY_CENTRINGS.items() for c in letters)
"""The fourteen Bravais lattices, by falling symmetry."""

# Which lattices are tried together: the next stage only runs where those before explain too little.
_TRICLINIC = len(BRAVAIS_LATTICES) - 1
_STAGES = (range(0, 7), range(7, 11), range(11, 13), range(13, 14))


def _quadratic(hkl: Tensor) -> Tensor:
    """``[..., 3]`` -> the six products h^2, k^2, l^2, kl, hl, hk, ``[..., 6]``."""
    h, k, el = hkl.unbind(-1)
    return torch.stack([h * h, k * k, el * el, k * el, h * el, h * k], dim=-1)


def _matrix(metric: Tensor) -> Tensor:
    """``[..., 6]`` -> symmetric matrices ``[..., 3, 3]``."""
    a, b, c, d, e, f = metric.unbind(-1)
    return torch.stack([a, f / 2, e / 2, f / 2, b, d / 2, e / 2, d / 2, c], -1).unflatten(
        -1, (3, 3)
    )


def _six(matrix: Tensor) -> Tensor:
    """The inverse of :func:`_matrix`."""
    i, j = (0, 1, 2, 1, 0, 0), (0, 1, 2, 2, 2, 1)
    factor = torch.tensor([1.0, 1, 1, 2, 2, 2], dtype=matrix.dtype, device=matrix.device)
    return matrix[..., i, j] * factor


def metric_determinant(metric: Tensor) -> Tensor:
    """Determinants ``[...]`` of metrics ``[..., 6]``, 0 where one is not positive definite."""
    a, b, c, d, e, f = metric.unbind(-1)
    det = a * b * c + (d * e * f - a * d * d - b * e * e - c * f * f) / 4
    good = (a > 0) & (b > 0) & (c > 0)
    good &= (4 * a * b > f * f) & (4 * b * c > d * d) & (4 * a * c > e * e) & (det > 0)
    return torch.where(good, det, 0.0)


def reciprocal_metric(lengths: Tensor, angles: Tensor) -> Tensor:
    """``[B, 6]`` of cells, NaN where the angles close none."""
    cosine = torch.deg2rad(angles).cos()
    a, b, c = lengths.unbind(-1)
    products = 2 * torch.stack([b * c, a * c, a * b], -1) * cosine
    direct = torch.cat([lengths.square(), products], -1)
    good = (metric_determinant(direct) > 0)[..., None]
    one = torch.tensor([1.0, 1, 1, 0, 0, 0], dtype=direct.dtype, device=direct.device)
    safe = torch.where(good, direct, one)
    return torch.where(good, _six(torch.linalg.inv(_matrix(safe))), math.nan)


@functools.cache
def _basis(lattice: int) -> Tensor:
    """``[6, k]``: reciprocal metrics of a lattice's primitive cells, by its k free numbers."""
    family, centring = BRAVAIS_LATTICES[lattice]
    conventional = _matrix(torch.tensor(_FAMILIES[family], dtype=torch.float64))
    inverse = torch.linalg.inv(torch.tensor(_CENTRINGS[centring], dtype=torch.float64))
    return _six(inverse.T @ conventional @ inverse).T.contiguous()


@functools.cache
def _bases(device: torch.device) -> Tensor:
    """:func:`_basis` of all Bravais lattices, ``[14, 6, 6]``, filled up with zeros."""
    bases = torch.zeros(len(BRAVAIS_LATTICES), 6, 6, dtype=torch.float64)
    for i in range(len(bases)):
        bases[i, :, : _basis(i).shape[1]] = _basis(i)
    return bases.to(device)


def free_numbers(device: torch.device) -> Tensor:
    """How many numbers fix a cell of each Bravais lattice, float64 ``[14]``."""
    return (_bases(device).abs().sum(1) > 0).double().sum(1)


def lines_of(lengths: Tensor, angles: Tensor, reach: float) -> Tensor:
    """Q of all distinct lines of one cell up to ``reach``, rising, ``[n]``.

    Args:
        lengths: a, b, c in angstrom, ``[3]``.
        angles: alpha, beta, gamma in degrees, ``[3]``.
        reach: In 1/angstrom^2.
    """
    metric = reciprocal_metric(lengths[None].double(), angles[None].double())
    _, g, _ = _half_sphere(torch.linalg.cholesky(_matrix(metric)), math.sqrt(reach))
    q = g.square().sort().values
    return q[torch.cat([q[:1] > 0, q.diff() > 1e-6])]


# ------------------------------------------------------------------------------ exact assignments

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
    basis = _basis(lattice)
    steps, more = (torch.arange(-n, n + 1.0, dtype=torch.float64) for n in (8, 24))
    rows = (_quadratic(torch.cartesian_prod(steps, steps, more)) @ basis).round(decimals=6)
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
        lost = torch.rand(order.shape, generator=generator) < _MISSED
        seen.append(order.gather(1, lost.byte().argsort(dim=1, stable=True)[:, :first]))
    lines = torch.cat(seen)  # [count, first]
    table = []
    for chosen in combinations(range(first), k):
        unique, often = torch.unique(lines[:, chosen], dim=0, return_counts=True)
        matrices = rows[unique[often.argsort(dim=0, descending=True, stable=True)]]  # [T, k, k]
        matrices = matrices[torch.linalg.det(matrices).abs() > 1e-6][:limit]
        table.append((chosen, torch.linalg.inv(matrices).to(device)))
    return table


class PeaksInQ(NamedTuple):
    """Peaks in Q, float64 ``[B, K]`` in 1/angstrom^2: position, standard deviation, and which."""

    q: Tensor
    sigma: Tensor
    mask: Tensor

    def select(self, index: Tensor) -> PeaksInQ:
        """Those of some patterns."""
        return PeaksInQ(*(each[index] for each in self))


def in_q(peaks: ObservedPeaks) -> PeaksInQ:
    """Positions in 1/d^2."""
    theta = torch.deg2rad(peaks.two_theta.double() / 2)
    q = (2 * theta.sin() / peaks.wavelength).square()
    slope = 2 * (2 * theta).sin() / peaks.wavelength**2  # dQ / d(2 theta), per radian
    return PeaksInQ(q, slope * torch.deg2rad(peaks.sigma.double()), peaks.mask)


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
    basis = _basis(lattice).to(volume.device)
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
    volumes = _VOLUME_RANGE if basis.shape[1] > 2 else _WIDE_VOLUME_RANGE
    low, high = (1 / (volume[:, None] * factor).square() for factor in volumes)
    possible = (inverse_volume2 < low) & (inverse_volume2 > high)
    rows = _lines(lattice).to(volume.device)
    if possible.shape[1] > 2 * _PASSED:
        sifted = _score_where(possible, free, rows, q, sigma, _SIFTED).topk(_PASSED, dim=1)
        possible = torch.zeros_like(possible)
        possible.scatter_(1, sifted.indices, sifted.values > -math.inf)
    score = _score_where(possible, free, rows, q, sigma, range(_FIRST))
    score, best = _best_different(score, _KEPT)
    pattern, place = (score > -math.inf).nonzero().T
    return pattern, free[pattern, best[pattern, place]] @ basis.T


def _best_different(score: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Scores and places of the best of each row; equal scores are one cell, found several times."""
    score, order = score.topk(min(4 * count, score.shape[1]), dim=1)
    same = (score[:, :, None] - score[:, None, :]).abs() < 1e-3
    score = score.masked_fill(same.tril(-1).any(2), -math.inf)
    score, best = score.topk(min(count, score.shape[1]), dim=1)
    return score, order.gather(1, best)


def _score_where(
    possible: Tensor, free: Tensor, rows: Tensor, q: Tensor, sigma: Tensor, places: Sequence[int]
) -> Tensor:
    """:func:`_quick_score` of the possible ones ``[B, T]`` of cells ``[B, T, k]``, else -inf."""
    score = torch.full(possible.shape, -math.inf, device=q.device)
    pattern, place = possible.nonzero().T
    q, sigma = q.float(), sigma.float()
    size = _chunk(q.device) // (16 * len(rows)) + 1
    for i, t in zip(pattern.split(size), place.split(size), strict=True):
        score[i, t] = _quick_score(free[i, t], rows, q[i], sigma[i], places)
    return score


def _quick_score(
    free: Tensor, rows: Tensor, q: Tensor, sigma: Tensor, places: Sequence[int]
) -> Tensor:
    """Log-likelihood ratio ``[M]`` of some of the peaks ``[M, P]``, as in :func:`_fit_piece`."""
    reach = q[:, -1:] * 1.001
    calculated = (free @ rows.T).float()  # [M, n]; a GPU's float32 products may be too coarse
    density = 1.5 * (1 + (calculated < reach).sum(1)) / reach[:, 0] ** 1.5
    score = torch.zeros_like(density)
    for place in places:
        here = q[:, place]
        distance = (calculated - here[:, None]).abs_().amin(1)
        width2 = 2 * sigma[:, place].square() + (2e-4 * here).square()
        match = torch.exp(-distance.square() / (2 * width2)) / (2 * math.pi * width2).sqrt()
        score += torch.log(0.03 + match / (density * here.sqrt()))
    return score


# ------------------------------------------------------------------------------ zone by zone


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
    lost = torch.rand(order.shape, generator=generator) < _MISSED
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
    rows = _quadratic(torch.cartesian_prod(steps, steps, steps[2:-2]))
    rows = torch.unique(rows[rows[:, :3].sum(1) > 0], dim=0)
    keep = independent & half
    return second[keep].to(device), third[keep].to(device), rows.to(device)


def _solve_by_zones(observed: PeaksInQ, volume: Tensor) -> tuple[Tensor, Tensor]:
    """Triclinic cells that explain the lowest peaks; arguments and result as in :func:`_solve`.

    Six unknowns at once would have too many assignments, and often the lowest peaks all lie in one
    plane of the reciprocal lattice. So planes come first, three unknowns that explain some of the
    peaks, and then the layer next to each, with three more: its first peak is called (0 0 1), two
    others get all small (h k 1). Source: de Wolff, Acta Cryst. 10, 590 (1957); Ito, Nature 164, 755
    (1949).
    """
    last = (observed.mask.sum(1, keepdim=True) - 1).clamp_min(0)
    places = torch.arange(_ZONE_PEAKS, device=volume.device)[None].minimum(last)
    q, sigma = observed.q.gather(1, places), observed.sigma.gather(1, places)
    score, zones = _find_zones(q, sigma)
    pairs = len(_layer_tables(q.device)[0])
    size = max(1, _chunk(q.device) // (6 * _ZONES * math.comb(6, 3) * pairs))
    found = []
    for some in torch.arange(len(q), device=q.device).split(size):
        which, metric = _complete(zones[some], score[some] > 0, q[some], sigma[some], volume[some])
        found.append((some[which], metric))
    return tuple(torch.cat(each) for each in zip(*found, strict=True))


def _find_zones(q: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
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
    size = _chunk(q.device) // (16 * len(rows))
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
    score, best = _best_different(score, _ZONES)
    return score, zones.gather(1, best[..., None].expand(-1, -1, 3))


def _outside(zones: Tensor, q: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
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
    above, outside = _outside(zones, q, sigma)
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
    possible = (ratio > _VOLUME_RANGE[0]) & (ratio < _VOLUME_RANGE[1])
    possible &= (e.abs() <= 1.5 * a) & (d.abs() <= 1.5 * b) & good[..., None, None]
    metric, possible = metric.flatten(1, 3), possible.flatten(1)  # [B, Z * 20 * T]
    score = _score_where(possible, metric, rows, q, sigma, range(q.shape[1]))
    score, best = _best_different(score, 3 * _KEPT)
    pattern, place = (score > -math.inf).nonzero().T
    return pattern, metric[pattern, best[pattern, place]]


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
    rows = torch.unique(_quadratic(hkl)[:, [0, 1, 2, 4]], dim=0)
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
    places = torch.arange(2 * _ZONE_PEAKS, device=volume.device)[None].minimum(last)
    q, sigma = observed.q.gather(1, places), observed.sigma.gather(1, places)
    score, zones = _find_zones(q[:, :_ZONE_PEAKS], sigma[:, :_ZONE_PEAKS])
    above, outside = _outside(zones, q, sigma)
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
    basis = _basis(lattice).to(q.device)
    ratio = metric_determinant(free @ basis.T).rsqrt() / volume[:, None]
    possible &= (ratio > _VOLUME_RANGE[0]) & (ratio < _VOLUME_RANGE[1])
    score = _score_where(possible, free, rows, q, sigma, range(q.shape[1]))
    score, best = _best_different(score, _KEPT)
    pattern, place = (score > -math.inf).nonzero().T
    return pattern, free[pattern, best[pattern, place]] @ basis.T


# ---------------------------------------------------------------------------------- least squares


class Fit(NamedTuple):
    """Refined cells: metric ``[M, 6]``, log-likelihood ratio, lines, share of peaks explained."""

    metric: Tensor
    score: Tensor
    lines: Tensor
    explained: Tensor


def _nearest_lines(metric: Tensor, observed: PeaksInQ, reach: Tensor):
    """The line nearest to each peak.

    Returns:
        Coefficients of the nearest line ``[M, K, 6]``, the peak's distance from it ``[M, K]`` and
        the number of distinct lines up to ``reach``, ``[M]``.
    """
    cells = torch.arange(len(metric), device=metric.device)
    scaled = metric / reach[:, None]
    factor, _ = torch.linalg.cholesky_ex(_matrix(scaled))
    (h, k, el), g, cell = _half_sphere(factor, 1.03)
    key, order = (4.0 * cell + g.square()).sort()
    rows, cell = _quadratic(torch.stack([h, k, el], -1))[order], cell[order]
    first = torch.ones_like(cell, dtype=torch.bool)
    first[1:] = key.diff() > 1e-7
    first &= key - 4.0 * cell <= 1 + 1e-4  # a fitted line may lie just beyond its peak
    lines = torch.zeros_like(reach).index_add_(0, cell, first.double())

    wanted = 4.0 * cells[:, None] + (observed.q / reach[:, None]).clamp_max(1.02)
    right = torch.searchsorted(key, wanted).clamp(1, len(key) - 1)
    left = right - 1
    nearest = torch.where((key[right] - wanted).abs() < (key[left] - wanted).abs(), right, left)
    residual = observed.q - (rows[nearest] * metric[:, None]).sum(-1)
    usable = observed.mask & (cell[nearest] == cells[:, None])
    return rows[nearest], torch.where(usable, residual, reach[:, None]), lines


def _fit_piece(
    metric: Tensor, lattice: Tensor, observed: PeaksInQ, *, tolerances: tuple[float, ...]
) -> Fit:
    """Least squares within each cell's lattice, with ever closer matches, and the final score.

    The score is the logarithm of a likelihood ratio: each peak either lies at a line, with its own
    uncertainty, or anywhere; a line at random has the density of the cell's lines. So a cell with
    twice as many lines must explain the same peaks to half the distance.

    Args:
        metric: Reciprocal metrics ``[M, 6]``, positive definite.
        lattice: Places in ``BRAVAIS_LATTICES``, int64 ``[M]``.
        observed: Peaks of the patterns these cells belong to, ``[M, K]``.
        tolerances: Relative error of Q that is allowed for in each round.
    """
    basis = _bases(metric.device)[lattice]  # [M, 6, 6], columns beyond k are zero
    free = (basis.abs().sum(1) > 0).double()  # [M, 6]
    reach = torch.where(observed.mask, observed.q, 0.0).amax(1).clamp_min(1e-6)
    for tolerance in tolerances:
        rows, residual, _ = _nearest_lines(metric, observed, reach)
        width2 = observed.sigma.square() + (tolerance * observed.q).square()
        weight = torch.exp(-residual.square() / (2 * width2)) / width2 * observed.mask
        design = rows @ basis  # [M, K, 6]
        normal = (design * weight[..., None]).mT @ design
        right = (design * (weight * residual)[..., None]).sum(1)
        size = normal.diagonal(dim1=1, dim2=2).amax(1, keepdim=True).clamp_min(1e-30)
        normal = normal + torch.diag_embed(size * (1e-9 * free + (1 - free)))
        step = (basis @ torch.linalg.solve(normal, right)[..., None])[..., 0]
        old, new = metric_determinant(metric), metric_determinant(metric + step)
        metric = torch.where(((new > old / 2) & (new < old * 2))[:, None], metric + step, metric)

    _, residual, lines = _nearest_lines(metric, observed, reach)
    density = 1.5 * (lines[:, None] + 1) * observed.q.sqrt() / reach[:, None] ** 1.5
    width = (observed.sigma.square() + (3e-5 * observed.q).square()).sqrt().clamp_min(1e-12)
    z = residual / width
    match = 0.97 * torch.exp(-z.square() / 2) + 0.02 / 8 * torch.exp(-z.square() / 128)
    peak = torch.log(OUTLIER + match / (math.sqrt(2 * math.pi) * width * density.clamp_min(1e-9)))
    score = torch.where(observed.mask, peak, 0.0).sum(1) - _PER_PARAMETER * free.sum(1)
    matched = ((z.abs() < 3) & observed.mask).double().sum(1)
    # So far each peak chose its line by itself, (1 / n)^m. But m of n lines show, each once, and
    # how many do is unknown: 1 / ((n + 1) binomial(n, m)), which rewards a cell without gaps.
    n = lines.maximum(matched)
    choices = torch.lgamma(n + 1) - torch.lgamma(matched + 1) - torch.lgamma(n - matched + 1)
    score = score + (matched - 1) * torch.log(n + 1) - choices
    return Fit(metric, score, lines, matched / observed.mask.sum(1).clamp_min(1))


def fit_cells(
    metric: Tensor,
    lattice: Tensor,
    pattern: Tensor,
    observed: PeaksInQ,
    *,
    tolerances: tuple[float, ...],
) -> Fit:
    """:func:`_fit_piece` piece by piece; ``pattern`` says whose peaks each cell explains."""
    size = _chunk(metric.device) // 2**11
    parts = [
        _fit_piece(metric[i], lattice[i], observed.select(pattern[i]), tolerances=tolerances)
        for i in torch.arange(len(metric), device=metric.device).split(size)
    ]
    return Fit(*(torch.cat(each) for each in zip(*parts, strict=True)))


def _chunk(device: torch.device) -> int:
    """Numbers to work on at once: a CPU likes them in its cache, a GPU likes many."""
    return 2**21 if device.type == "cpu" else 2**26


# ----------------------------------------------------------------------------------------- search


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
            if lattice == _TRICLINIC:
                which, metric = _solve_by_zones(observed.select(todo), volume[todo])
                starts.append((todo[which], metric, torch.full_like(which, lattice)))
                continue
            if BRAVAIS_LATTICES[lattice][0] == "monoclinic":
                for some in todo.split(max(1, _chunk(volume.device) // 2**17)):
                    which, metric = _solve_by_stacking(lattice, observed.select(some), volume[some])
                    starts.append((some[which], metric, torch.full_like(which, lattice)))
            assignments = _assignments(lattice, volume.device)
            table = 2 * len(assignments) * max(len(m) for _, m in assignments)
            for some in todo.split(max(1, _chunk(volume.device) // (6 * table))):
                which, metric = _solve(lattice, observed.select(some), volume[some])
                starts.append((some[which], metric, torch.full_like(which, lattice)))
        if not starts or not sum(len(p) for p, _, _ in starts):
            continue
        pattern, metric, lattice = (torch.cat(each) for each in zip(*starts, strict=True))
        fit = fit_cells(metric, lattice, pattern, observed, tolerances=_TOLERANCES)
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


# ---------------------------------------------------------------------------- reduction


def niggli_cells(metric: Tensor) -> Tensor:
    """Lengths and angles ``[M, 6]`` of the Niggli cells of reciprocal metrics ``[M, 6]``.

    The same reduction as in :func:`unimat_lib.crystals.reduce_crystal`, one by one on the CPU. A
    cell that it cannot reduce comes back as it is.
    """
    direct = torch.linalg.inv(_matrix(metric.detach().cpu().double()))
    lattices = torch.linalg.cholesky(direct).numpy()
    reduced = np.empty_like(lattices)
    for i, lattice in enumerate(lattices):
        try:
            reduced[i] = _niggli_cell(lattice)
        except CrystalError:
            reduced[i] = lattice
    lengths = np.linalg.norm(reduced, axis=-1)  # [M, 3]
    unit = reduced / lengths[..., None]
    cosine = (unit[:, [1, 0, 0]] * unit[:, [2, 2, 1]]).sum(-1).clip(-1, 1)
    angles = _obtuse_setting(torch.from_numpy(np.degrees(np.arccos(cosine))))
    return torch.cat([torch.from_numpy(lengths), angles], dim=1).to(metric.device)


def _obtuse_setting(angles: Tensor) -> Tensor:
    """Angles ``[M, 3]`` of reduced cells, not acute where one is a right angle.

    The angles of a Niggli cell are all acute, or none is. Where one is a right angle, the cell with
    the others obtuse is the reduced one; an error of that angle in the last digits would turn it
    into the acute one, which reversing an axis leads back from.
    """
    signs = torch.tensor([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]], device=angles.device)
    settings = 90 + signs * (angles[:, None] - 90)  # [M, 4, 3]
    obtuse = (settings >= 90 - _RIGHT_ANGLE).all(2)
    first = obtuse.byte().argmax(1)  # the setting as it is, where none is obtuse
    return settings[torch.arange(len(angles), device=angles.device), first]
