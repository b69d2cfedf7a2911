"""Peaks and predicted cells in, cells that put their lines on the peaks out.

A network reads a cell off a powder pattern to a few per cent. The positions of the peaks know it to
parts in ten thousand, if one knows which peak is which. :func:`refine_cells` lets
:mod:`unimat_powder.indexing` list cells that explain the peaks and weighs fit against prediction.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from unimat_lib.crystals.table import CRYSTAL_SYSTEMS
from unimat_powder.bravais import (
    BRAVAIS_LATTICES,
    TRICLINIC,
    lattice_bases,
    metric_determinant,
    niggli_cells,
    reciprocal_metric,
)
from unimat_powder.clean_peaks import ObservedPeaks, PeaksInQ, in_q
from unimat_powder.fitting import OUTLIER, fit_cells, line_count
from unimat_powder.indexing import search_cells

_COMPARED = 6  # best cells of each pattern that are compared with the prediction
_MARGIN = 10.0  # by how much a refined cell must score better than the prediction
_EXPLAINED = 0.8  # share of the peaks that it must explain
_LENGTH_ERROR = 0.05  # typical (median) relative error of the predicted lengths
_ANGLE_ERROR = 3.0  # typical error of the predicted angles, degrees
_MOST_LINES = 20_000  # of the predicted cell: peaks beyond lie near some line of any such cell

# Crystal systems that a Bravais lattice may belong to, where they are not its family alone.
_SYSTEMS = {("hexagonal", "P"): ("hexagonal", "trigonal"), ("hexagonal", "R"): ("trigonal",)}


class RefinedCells(NamedTuple):
    """Cells of ``B`` crystals after the search, float64 but for ``accepted``."""

    lengths: Tensor  # [B, 3], a, b, c in angstrom
    angles: Tensor  # [B, 3], alpha, beta, gamma in degrees
    score: Tensor  # [B], of the best cell found, see refine_cells
    accepted: Tensor  # bool [B]; where false, lengths and angles are the prediction itself
    explained: Tensor  # [B], share of the peaks that the best cell explains


def refine_cells(
    lengths: Tensor, angles: Tensor, peaks: ObservedPeaks, *, system_probs: Tensor | None = None
) -> RefinedCells:
    """Replace predicted cells by ones that explain the observed peaks, where there is one.

    The score of a cell is the log-likelihood ratio of the peaks (see :func:`.fit_cells`) plus the
    logarithm of how far the network's errors make such a cell likely: its crystal system's
    probability, and a heavy-tailed law of lengths and angles around the prediction. The best cell
    replaces the prediction if it explains four fifths of the peaks, scores better than chance, and
    clearly better than the prediction; otherwise the prediction comes back unchanged.

    Args:
        lengths: Predicted a, b, c of the Niggli cell in angstrom, ``[B, 3]``.
        angles: Predicted alpha, beta, gamma in degrees, ``[B, 3]``; they need not close a cell.
        peaks: Observed peaks, see :func:`.find_peaks`; their order within a row does not matter.
        system_probs: Predicted probabilities in the order of ``CRYSTAL_SYSTEMS``, ``[B, 7]``.

    Raises:
        ValueError: Shapes do not fit, or predictions are not finite or not positive.
    """
    _check_input(lengths, angles, peaks, system_probs)
    device = peaks.two_theta.device
    lengths, angles = (x.to(device, torch.float64) for x in (lengths, angles))
    volume = _volume(lengths, angles)
    key = torch.where(peaks.mask, peaks.two_theta.double(), math.inf)
    order = key.argsort(dim=1, stable=True)  # by rising angle, those that are none last
    q, sigma, mask = (each.gather(1, order) for each in in_q(peaks))
    observed = PeaksInQ(q, sigma, mask & (line_count(volume[:, None], q) < _MOST_LINES))
    score, explained = _score_before(observed, lengths, angles), torch.zeros_like(volume)
    found = search_cells(observed, volume)
    if found is None:
        return RefinedCells(lengths, angles, score, torch.zeros_like(volume).bool(), explained)
    prior = _log_system(torch.ones(len(lengths), 7) if system_probs is None else system_probs)
    scores = found.score + prior.to(device)[found.pattern, found.lattice]

    # The best few of each pattern, in Niggli form, against the predicted cell.
    order = _best_of_each(found.pattern, scores, found.lattice, count=_COMPARED)
    pattern, lattice = found.pattern[order], found.lattice[order]
    cell = niggli_cells(found.metric[order])
    longer = (cell[:, :3] / lengths[pattern]).log() / _LENGTH_ERROR
    apart = torch.cat([longer, (cell[:, 3:] - angles[pattern]) / _ANGLE_ERROR], dim=1)
    weight = lengths.new_tensor([1, 1, 1, 0.5, 0.5, 0.5])
    free = (lattice_bases(device)[lattice].abs().sum(1) > 0).double().sum(1)  # 1 to 6 numbers
    independent = free.clamp_max(3) / 3
    scores = scores[order] - independent * (weight * torch.log1p(apart.square())).sum(1)
    best = _best_of_each(pattern, scores, lattice, count=1)
    row = pattern[best]

    explained = explained.index_copy(0, row, found.explained[order[best]])
    after = score.index_copy(0, row, scores[best])
    accepted = (after > score + _MARGIN) & (after > 0) & (explained >= _EXPLAINED)
    before = torch.cat([lengths, angles], 1)
    cells = torch.where(accepted[:, None], before.index_copy(0, row, cell[best]), before)
    return RefinedCells(cells[:, :3], cells[:, 3:], after, accepted, explained)


def _volume(lengths: Tensor, angles: Tensor) -> Tensor:
    """Volumes ``[B]``; where the predicted angles close no cell, that of a typical one."""
    inverse = metric_determinant(reciprocal_metric(lengths, angles)).sqrt()
    typical = 0.8 * lengths.prod(1)
    return torch.where(inverse > 0, 1 / inverse, typical).maximum(0.25 * typical)


def _best_of_each(pattern: Tensor, score: Tensor, lattice: Tensor, *, count: int) -> Tensor:
    """Which of ``M`` cells are the best ``count`` of their pattern, by pattern and falling score.

    A cell that was reached from several starts counts once.
    """
    order = score.argsort(descending=True, stable=True)
    order = order[pattern[order].argsort(stable=True)]
    again = torch.zeros_like(order, dtype=torch.bool)
    again[1:] = (pattern[order].diff() == 0) & (lattice[order].diff() == 0)
    again[1:] &= score[order].diff().abs() < 0.02
    order = order[~again]
    counts = torch.bincount(pattern[order])
    first = counts.cumsum(0) - counts
    rank = torch.arange(len(order), device=order.device) - first[pattern[order]]
    return order[rank < count]


def _score_before(observed: PeaksInQ, lengths: Tensor, angles: Tensor) -> Tensor:
    """Score ``[B]`` of the prediction as it stands, without any prior against it."""
    score = (observed.mask.sum(1) * math.log(OUTLIER)).double()  # a cell that explains nothing
    metric = reciprocal_metric(lengths, angles)
    row = ((metric_determinant(metric) > 0) & observed.mask.any(1)).nonzero()[:, 0]
    if not len(row):
        return score
    fit = fit_cells(metric[row], torch.full_like(row, TRICLINIC), row, observed, ())
    return score.index_copy(0, row, fit.score)


def _log_system(system_probs: Tensor) -> Tensor:
    """Log-probability ``[B, 14]`` of each Bravais lattice's crystal systems; never hopeless."""
    probs = system_probs.double()
    systems = (_SYSTEMS.get(lattice, lattice[:1]) for lattice in BRAVAIS_LATTICES)
    places = ([CRYSTAL_SYSTEMS.index(name) for name in names] for names in systems)
    return torch.stack([probs[:, some].sum(1) for some in places], 1).clamp(1e-3, 1).log()


def _check_input(
    lengths: Tensor, angles: Tensor, peaks: ObservedPeaks, system_probs: Tensor | None
) -> None:
    batch = len(peaks.two_theta)
    wanted = {"lengths": (lengths, 3), "angles": (angles, 3)}
    if system_probs is not None:
        wanted["system_probs"] = system_probs, 7
    for name, (value, width) in wanted.items():
        if value.shape != (batch, width):
            raise ValueError(
                f"expected {name} of shape [{batch}, {width}] for the peaks of {batch} patterns, "
                f"got {tuple(value.shape)}"
            )
        if not bool(torch.isfinite(value).all()):
            raise ValueError(f"expected finite {name}: repair or leave out the broken predictions")
    if bool((lengths <= 0).any()):
        raise ValueError(f"expected positive lengths in angstrom, the least is {lengths.min():.3g}")
