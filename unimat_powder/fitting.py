"""Trial cells and peaks in; the best cells, improved by least squares, and their scores out."""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from unimat_lib.views.bragg import half_sphere
from unimat_powder.bravais import lattice_bases, metric_determinant, metric_matrix, quadratic_terms
from unimat_powder.clean_peaks import PeaksInQ

OUTLIER = 0.01  # share of the peaks that no line need explain
TOLERANCES = (1e-3, 4e-4, 1.5e-4, 5e-5)  # relative errors of Q that the rounds of a fit allow for
CELLS_KEPT = 8  # cells per Bravais lattice that are refined
VOLUME_RANGE = (0.4, 2.2)  # times the predicted volume: where that of a trial cell may lie
_PER_PARAMETER = 4.0  # what one more free number must gain in log-likelihood


def lowest_peaks(observed: PeaksInQ, count: int) -> tuple[Tensor, Tensor]:
    """Q and its standard deviation of the lowest peaks, ``[B, count]`` each.

    A pattern with fewer shows its last one again: what is solved with it is wasted, not wrong.
    """
    last = (observed.mask.sum(1, keepdim=True) - 1).clamp_min(0)
    places = torch.arange(count, device=last.device)[None].minimum(last)
    return observed.q.gather(1, places), observed.sigma.gather(1, places)


def fits_volume(metric: Tensor, volume: Tensor, bounds: Iterable[float] = VOLUME_RANGE) -> Tensor:
    """Which metrics ``[..., 6]`` have a volume within bounds, as a part of that ``[...]`` given."""
    low, high = bounds
    ratio = metric_determinant(metric).rsqrt() / volume
    return (ratio > low) & (ratio < high)


def best_cells(
    possible: Tensor, free: Tensor, rows: Tensor, q: Tensor, sigma: Tensor, count: int = CELLS_KEPT
) -> tuple[Tensor, Tensor]:
    """The cells of each pattern that explain its peaks best, each once.

    Args:
        possible: Which of the cells to look at, bool ``[B, T]``.
        free: Their free numbers ``[B, T, k]``.
        rows: Lines as coefficients of the free numbers, ``[n, k]``.
        q: Peaks in Q ``[B, P]``, rising.
        sigma: Their standard deviations.
        count: Cells per pattern.

    Returns:
        Which pattern, int64 ``[M]``, and the free numbers ``[M, k]``.
    """
    score = score_where(possible, free, rows, q, sigma, range(q.shape[1]))
    score, best = best_different(score, count)
    pattern, place = (score > -math.inf).nonzero().T
    return pattern, free[pattern, best[pattern, place]]


def best_different(score: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Scores and places of the best of each row; equal scores are one cell, found several times."""
    score, order = score.topk(min(4 * count, score.shape[1]), dim=1)
    same = (score[:, :, None] - score[:, None, :]).abs() < 1e-3
    score = score.masked_fill(same.tril(-1).any(2), -math.inf)
    score, best = score.topk(min(count, score.shape[1]), dim=1)
    return score, order.gather(1, best)


def score_where(
    possible: Tensor, free: Tensor, rows: Tensor, q: Tensor, sigma: Tensor, places: Iterable[int]
) -> Tensor:
    """Log-likelihood ratios ``[B, T]`` of the peaks at some places; see :func:`best_cells`."""
    score = torch.full(possible.shape, -math.inf, device=q.device)
    pattern, place = possible.nonzero().T
    q, sigma = q.float(), sigma.float()
    size = batch_budget(q.device) // (16 * len(rows)) + 1
    for i, t in zip(pattern.split(size), place.split(size), strict=True):
        reach = q[i, -1] * 1.001
        calculated = (free[i, t] @ rows.T).float()  # a GPU's float32 products may be too coarse
        density = 1.5 * (1 + (calculated < reach[:, None]).sum(1)) / reach**1.5
        total = torch.zeros_like(density)
        for j in places:
            here = q[i, j]
            distance = (calculated - here[:, None]).abs_().amin(1)
            width2 = 2 * sigma[i, j].square() + (2e-4 * here).square()
            match = torch.exp(-distance.square() / (2 * width2)) / (2 * math.pi * width2).sqrt()
            total += torch.log(0.03 + match / (density * here.sqrt()))
        score[i, t] = total
    return score


class FittedCells(NamedTuple):
    """``M`` cells after a fit, ``[M]`` each."""

    pattern: Tensor  # whose peaks it explains, int64
    lattice: Tensor  # place in BRAVAIS_LATTICES, int64
    metric: Tensor  # reciprocal, float64 [M, 6]
    score: Tensor  # log-likelihood ratio
    lines: Tensor  # up to the last peak
    explained: Tensor  # share of the peaks


def _nearest_lines(metric: Tensor, observed: PeaksInQ, reach: Tensor) -> tuple[Tensor, ...]:
    """Coefficients of the line nearest to each peak, and the peak's distance from it.

    Returns:
        Coefficients ``[M, K, 6]``, distances ``[M, K]`` and the number of distinct lines up to
        ``reach``, ``[M]``.
    """
    cells = torch.arange(len(metric), device=metric.device)
    scaled = metric / reach[:, None]
    factor, _ = torch.linalg.cholesky_ex(metric_matrix(scaled))
    (h, k, el), g, cell = half_sphere(factor, 1.03)
    if not len(g):  # small cells, peaks at low angles only: all lines lie beyond
        far = reach[:, None].expand_as(observed.q)
        return observed.q.new_zeros(*far.shape, 6), far, torch.zeros_like(reach)
    key, order = (4.0 * cell + g.square()).sort()
    rows, cell = quadratic_terms(torch.stack([h, k, el], -1))[order], cell[order]
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
    metric: Tensor, lattice: Tensor, observed: PeaksInQ, tolerances: Sequence[float]
) -> tuple[Tensor, ...]:
    """The last four of :class:`FittedCells`, with one row of peaks ``[M, K]`` for each cell."""
    basis = lattice_bases(metric.device)[lattice]  # [M, 6, 6], columns beyond k are zero
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
    return metric, score, lines, matched / observed.mask.sum(1).clamp_min(1)


def fit_cells(
    metric: Tensor,
    lattice: Tensor,
    pattern: Tensor,
    observed: PeaksInQ,
    tolerances: Sequence[float],
) -> FittedCells:
    """Least squares within each cell's lattice, with ever closer matches, and the final score.

    The score is the logarithm of a likelihood ratio: each peak either lies at a line, with its own
    uncertainty, or anywhere; a line at random has the density of the cell's lines. So a cell with
    twice as many lines must explain the same peaks to half the distance.

    Args:
        metric: Reciprocal metrics ``[M, 6]``, positive definite.
        lattice: Places in ``BRAVAIS_LATTICES``, int64 ``[M]``.
        pattern: Whose peaks each cell explains, int64 ``[M]``.
        observed: Peaks of ``B`` patterns.
        tolerances: Relative error of Q that is allowed for in each round.
    """
    budget = batch_budget(metric.device)
    reach = torch.where(observed.mask, observed.q, 0.0).amax(1)[pattern]
    lines = line_count(metric_determinant(metric).rsqrt(), reach)
    parts = []
    for piece in torch.arange(len(metric), device=metric.device).split(budget // 2**11):
        # Large cells and wide patterns: fewer at once, for the memory.
        for i in piece.chunk(1 + int(lines[piece].sum() / (2 * budget))):
            peaks = observed.select(pattern[i])
            parts.append(_fit_piece(metric[i], lattice[i], peaks, tolerances))
    return FittedCells(pattern, lattice, *(torch.cat(x) for x in zip(*parts, strict=True)))


def line_count(volume: Tensor, q: Tensor) -> Tensor:
    """How many lines cells of these volumes have up to Q, on average: half a sphere's points."""
    return 2 * math.pi / 3 * volume * q.clamp_min(0).pow(1.5)


def batch_budget(device: torch.device) -> int:
    """Numbers to work on at once: a CPU likes them in its cache, a GPU likes many."""
    return 2**21 if device.type == "cpu" else 2**26
