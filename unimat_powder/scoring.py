"""Trial metrics and peaks in, which of them explain the peaks out."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from unimat_powder.fitting import cells_at_once

CELLS_KEPT = 8  # cells per Bravais lattice that are refined


MISSED_SHARE = 0.3  # share of the lines that leave no peak, when assignments are listed


VOLUME_RANGE = (0.4, 2.2)  # times the predicted volume


def best_different(score: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Scores and places of the best of each row; equal scores are one cell, found several times."""
    score, order = score.topk(min(4 * count, score.shape[1]), dim=1)
    same = (score[:, :, None] - score[:, None, :]).abs() < 1e-3
    score = score.masked_fill(same.tril(-1).any(2), -math.inf)
    score, best = score.topk(min(count, score.shape[1]), dim=1)
    return score, order.gather(1, best)


def score_where(
    possible: Tensor, free: Tensor, rows: Tensor, q: Tensor, sigma: Tensor, places: Sequence[int]
) -> Tensor:
    """:func:`_quick_score` of the possible ones ``[B, T]`` of cells ``[B, T, k]``, else -inf."""
    score = torch.full(possible.shape, -math.inf, device=q.device)
    pattern, place = possible.nonzero().T
    q, sigma = q.float(), sigma.float()
    size = cells_at_once(q.device) // (16 * len(rows)) + 1
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
