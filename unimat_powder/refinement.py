"""Patterns and predicted cells in, cells that put their lines on the peaks out."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from unimat_lib.crystals.table import CRYSTAL_SYSTEMS
from unimat_powder.bravais import (
    BRAVAIS_LATTICES,
    free_numbers,
    metric_determinant,
    niggli_cells,
    reciprocal_metric,
)
from unimat_powder.fitting import OUTLIER, fit_cells
from unimat_powder.indexing import search_cells
from unimat_powder.peaks import ObservedPeaks, PeaksInQ, in_q

_COMPARED = 6  # best cells of each pattern that are compared with the prediction
_MARGIN = 10.0  # by how much a refined cell must score better than the prediction

_LENGTH_ERROR = 0.05  # typical (median) relative error of the predicted lengths
_ANGLE_ERROR = 3.0  # typical error of the predicted angles, degrees


class RefinedCells(NamedTuple):
    """Cells of ``B`` crystals after the search.

    Attributes:
        lengths: float64 ``[B, 3]``, a, b, c in angstrom.
        angles: float64 ``[B, 3]``, alpha, beta, gamma in degrees.
        score: float64 ``[B]``, of the best cell found, see :func:`refine_cells`.
        accepted: bool ``[B]``; where false, lengths and angles are the prediction itself.
        system: int64 ``[B]``, crystal system that the metric of the best cell suggests (trigonal
            and hexagonal cells of a primitive hexagonal lattice look alike and come as hexagonal).
        explained: float64 ``[B]``, share of the peaks that the best cell explains.
    """

    lengths: Tensor
    angles: Tensor
    score: Tensor
    accepted: Tensor
    system: Tensor
    explained: Tensor


def _volume(lengths: Tensor, angles: Tensor) -> Tensor:
    """Volumes ``[B]``; where the predicted angles close no cell, that of a typical one."""
    inverse = metric_determinant(reciprocal_metric(lengths, angles)).sqrt()
    typical = 0.8 * lengths.prod(1)
    return torch.where(inverse > 0, 1 / inverse, typical).maximum(0.25 * typical)


def refine_cells(
    lengths: Tensor,
    angles: Tensor,
    peaks: ObservedPeaks,
    *,
    system_probs: Tensor | None = None,
) -> RefinedCells:
    """Replace predicted cells by ones that explain the observed peaks, where there is one.

    The score of a cell is the log-likelihood ratio of the peaks (see
    :func:`.fit_cells`) plus the logarithm of how far the network's errors make
    such a cell likely: its crystal system's probability, and a heavy-tailed law of lengths and
    angles around the prediction. The best cell
    replaces the prediction if it explains four fifths of the peaks, scores better than chance, and
    clearly better than the prediction; otherwise the prediction comes back unchanged.

    Args:
        lengths: Predicted a, b, c of the Niggli cell in angstrom, ``[B, 3]``.
        angles: Predicted alpha, beta, gamma in degrees, ``[B, 3]``; they need not close a cell.
        peaks: Observed peaks, see :func:`find_peaks`; their order within a row does not matter.
        system_probs: Predicted probabilities in the order of ``CRYSTAL_SYSTEMS``, ``[B, 7]``.

    Raises:
        ValueError: Shapes do not fit, or predictions are not finite or not positive.
    """
    _check_input(lengths, angles, peaks, system_probs)
    dtype, device = torch.float64, peaks.two_theta.device
    lengths, angles = lengths.to(device, dtype), angles.to(device, dtype)
    peaks = _sorted(peaks)
    observed = in_q(peaks)
    before = _score_before(observed, lengths, angles)
    unchanged = RefinedCells(
        lengths=lengths,
        angles=angles,
        score=before,
        accepted=torch.zeros(len(lengths), dtype=torch.bool, device=device),
        system=torch.full((len(lengths),), -1, device=device),
        explained=torch.zeros_like(before),
    )
    found = search_cells(observed, _volume(lengths, angles))
    if found is None:
        return unchanged
    prior = _log_system(system_probs, len(lengths), device)[found.pattern, found.lattice]
    score = found.fit.score + prior

    # The best few of each pattern, in Niggli form, against the predicted cell.
    order = _best_of_each(found.pattern, score, found.lattice, count=_COMPARED)
    pattern, score = found.pattern[order], score[order]
    cell = niggli_cells(found.fit.metric[order])
    apart = torch.cat(
        [
            (cell[:, :3] / lengths[pattern]).log() / _LENGTH_ERROR,
            (cell[:, 3:] - angles[pattern]) / _ANGLE_ERROR,
        ],
        dim=1,
    )
    weight = torch.tensor([1, 1, 1, 0.5, 0.5, 0.5], dtype=dtype, device=device)
    independent = free_numbers(device)[found.lattice[order]].clamp_max(3) / 3
    score = score - independent * (weight * torch.log1p(apart.square())).sum(1)
    best = _best_of_each(pattern, score, found.lattice[order], count=1)
    row, chosen = pattern[best], order[best]

    score_after = before.clone().index_copy(0, row, score[best])
    explained = unchanged.explained.index_copy(0, row, found.fit.explained[chosen])
    system = unchanged.system.index_copy(0, row, _system_of(device)[found.lattice[chosen]])
    accepted = (score_after > before + _MARGIN) & (score_after > 0) & (explained >= 0.8)
    refined = torch.cat([lengths, angles], 1).index_copy(0, row, cell[best])
    return RefinedCells(
        lengths=torch.where(accepted[:, None], refined[:, :3], lengths),
        angles=torch.where(accepted[:, None], refined[:, 3:], angles),
        score=score_after,
        accepted=accepted,
        system=system,
        explained=explained,
    )


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
    score = observed.mask.sum(1) * math.log(OUTLIER)  # a cell that explains nothing
    metric = reciprocal_metric(lengths, angles)
    good = (metric_determinant(metric) > 0) & observed.mask.any(1)
    row = good.nonzero()[:, 0]
    if not len(row):
        return score.double()
    lattice = torch.full_like(row, len(BRAVAIS_LATTICES) - 1)
    fit = fit_cells(metric[row], lattice, row, observed, tolerances=())
    return score.double().index_copy(0, row, fit.score)


_FAMILY_SYSTEMS = {
    ("hexagonal", "P"): ("hexagonal", "trigonal"),
    ("hexagonal", "R"): ("trigonal",),
}


def _systems(lattice: int) -> list[int]:
    """Crystal systems that a Bravais lattice can belong to, the usual one first."""
    name = BRAVAIS_LATTICES[lattice]
    return [CRYSTAL_SYSTEMS.index(s) for s in _FAMILY_SYSTEMS.get(name, (name[0],))]


def _system_of(device: torch.device) -> Tensor:
    """The usual crystal system of each Bravais lattice, int64 ``[14]``."""
    return torch.tensor([_systems(i)[0] for i in range(len(BRAVAIS_LATTICES))], device=device)


def _log_system(system_probs: Tensor | None, count: int, device: torch.device) -> Tensor:
    """Log-probability ``[B, 14]`` of each Bravais lattice's crystal systems; never hopeless."""
    if system_probs is None:
        return torch.zeros(count, len(BRAVAIS_LATTICES), dtype=torch.float64, device=device)
    probs = system_probs.to(device, torch.float64)
    of_lattice = [probs[:, _systems(i)].sum(1) for i in range(len(BRAVAIS_LATTICES))]
    return torch.stack(of_lattice, 1).clamp(1e-3, 1).log()


def _sorted(peaks: ObservedPeaks) -> ObservedPeaks:
    """By rising angle, those that are none last."""
    key = torch.where(peaks.mask, peaks.two_theta.double(), math.inf)
    order = key.argsort(dim=1, stable=True)
    rows = (each.gather(1, order) for each in peaks[:4])
    return ObservedPeaks(*rows, peaks.wavelength)


def _check_input(
    lengths: Tensor, angles: Tensor, peaks: ObservedPeaks, system_probs: Tensor | None
) -> None:
    batch = len(peaks.two_theta)
    wanted = {"lengths": (lengths, 3), "angles": (angles, 3), "system_probs": (system_probs, 7)}
    for name, (value, width) in wanted.items():
        if value is None:
            continue
        if tuple(value.shape) != (batch, width):
            raise ValueError(
                f"expected {name} of shape [{batch}, {width}] for the peaks of {batch} patterns, "
                f"got {tuple(value.shape)}"
            )
        if not bool(torch.isfinite(value).all()):
            raise ValueError(f"expected finite {name}: repair or leave out the broken predictions")
    if bool((lengths <= 0).any()):
        raise ValueError(f"expected positive lengths in angstrom, the least is {lengths.min():.3g}")
