"""Candidate cells and peaks in, least-squares fits with a score out."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from unimat_lib.views.bragg import half_sphere
from unimat_powder.bravais import lattice_bases, metric_determinant, metric_matrix, quadratic_terms
from unimat_powder.peaks import PeaksInQ

OUTLIER = 0.01
"""Share of the peaks that no line need explain."""
_PER_PARAMETER = 4.0  # what one more free number must gain in log-likelihood
TOLERANCES = (1e-3, 4e-4, 1.5e-4, 5e-5)  # relative errors of Q, round by round


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
    factor, _ = torch.linalg.cholesky_ex(metric_matrix(scaled))
    (h, k, el), g, cell = half_sphere(factor, 1.03)
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
    size = cells_at_once(metric.device) // 2**11
    parts = [
        _fit_piece(metric[i], lattice[i], observed.select(pattern[i]), tolerances=tolerances)
        for i in torch.arange(len(metric), device=metric.device).split(size)
    ]
    return Fit(*(torch.cat(each) for each in zip(*parts, strict=True)))


def cells_at_once(device: torch.device) -> int:
    """Numbers to work on at once: a CPU likes them in its cache, a GPU likes many."""
    return 2**21 if device.type == "cpu" else 2**26
