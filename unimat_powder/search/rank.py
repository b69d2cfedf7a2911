"""Fits of candidates in, the probability of each out, and that of the cell that they agree on.

Two questions, two calibrated answers. Which crystal is it? Neighbours in the periodic table make
isostructural crystals that no powder pattern tells apart, so their probabilities are shared. Which
cell and crystal system is it? There they count together, and a crystal that nobody knows may still
be answered through a relative that has its cell, whatever its elements.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from unimat_powder.search.candidates import Ranked
from unimat_powder.search.cells import relaxed_cells, same_cells, volumes

WEIGHTS = Path(__file__).with_name("weights.json")
"""Weights of the evidence, fitted by ``benchmarks/calibrate_search.py``."""

EVIDENCE = (
    *("residual", "weighted", "cosine", "penalty", "texture", "freedom", "kinds"),
    *("met", "spare", "settled", "kinship", "asked"),
)
"""What counts: minus ln of the two profile residuals, cosine of the root curves, minus the
penalties of cell and texture, minus the number of free strains, minus that of elements; minus ln of
the share of measured peaks without a line, and of the share of the pattern that is near to one;
minus how nearly the lattice has more symmetry than its space group; the share of elements in
common with what was asked for, and whether all are."""

AGREEMENT = (
    *("lead", *EVIDENCE, "gap_residual", "gap_weighted", "gap_cosine", "gap_met"),
    *("alike", "volume", "number", "rivals", "one"),
)
"""What counts for a cell: by how much its crystals lead all others (in log odds); the evidence of
the best of them, and how much better that is than the best of the others; ln of the number of its
crystals, of its volume, and of the number of crystals that were asked; how many candidates come
within one unit of the best."""

_NO_RIVAL = 20.0, (2.0, 2.0, 0.5, 2.0)  # lead and gaps where all candidates agree
_GAPS = [EVIDENCE.index(name[4:]) for name in AGREEMENT if name.startswith("gap_")]
_UNMET, _NEAR = 0.03, 0.02  # added to shares of which the logarithm is taken
_EXCESS = 1e-4, 3e-3  # a lattice is as good as symmetric; is clearly not


@dataclass(frozen=True)
class Weights:
    """How evidence counts, in log odds.

    Attributes:
        crystal: One weight for each of :data:`EVIDENCE`: which of the candidates it is.
        lattice: The same: which of them has its cell and space group.
        none: One for each of :data:`AGREEMENT`: that it is none of those that were asked for.
        cell: The same: that cell and crystal system of the likeliest are right.
    """

    crystal: tuple[float, ...]
    lattice: tuple[float, ...]
    none: tuple[float, ...]
    cell: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class Facts:
    """What is known of ``K`` candidates.

    Attributes:
        evidence: Columns of :data:`EVIDENCE`, float64 ``[K, 12]``.
        same: Which have one cell and crystal system, bool ``[K, K]``.
        volume: Of the cells, cubic angstrom, float64 ``[K]``.
        asked: Number of crystals that were searched for the first question.
    """

    evidence: Tensor
    same: Tensor
    volume: Tensor
    asked: int


@dataclass(frozen=True, eq=False)
class Judgement:
    """What the candidates are worth.

    Attributes:
        crystals: float64 ``[K]``, probability that each is the sample's crystal.
        none: Probability that none of them is; with these, 1.
        lattices: float64 ``[K]``, share of each in the question of cell and space group; sum 1.
        cell: Probability that cell and crystal system of the likeliest are right.
        best: Place of the likeliest in that question: the best of those that agree on a cell.
    """

    crystals: Tensor
    none: float
    lattices: Tensor
    cell: float
    best: int


def load_weights(setting: str) -> Weights:
    """Weights of ``"pattern"`` (nothing else is known) or of ``"elements"``."""
    found = json.loads(WEIGHTS.read_text(encoding="utf-8"))[setting]
    return Weights(**{name: tuple(column) for name, column in found.items()})


def facts_of(ranked: Ranked, *, asked: int) -> tuple[Facts, np.ndarray]:
    """What is known of candidates, and their cells, see :func:`.relaxed_cells`.

    Args:
        ranked: The candidates.
        asked: Crystals that were searched: among more, one fits by chance more often.
    """
    fits = ranked.fits
    cells, excess = relaxed_cells(ranked)
    low, high = _EXCESS
    columns = (
        -fits.residual.clamp_min(1e-6).log(),
        -fits.weighted.clamp_min(1e-6).log(),
        fits.cosine,
        -fits.penalty,
        -fits.texture,
        -ranked.freedom,
        -ranked.kinds.double(),
        -(1 - fits.met + _UNMET).log(),
        -(fits.covered + _NEAR).log(),
        (excess.clamp(low, high) / high).log(),
        ranked.kinship,
        ranked.asked,
    )
    evidence = torch.stack([column.double() for column in columns], dim=1)
    same = torch.from_numpy(same_cells(cells, ranked.candidates.table.space_group))
    return Facts(evidence, same, torch.from_numpy(volumes(cells)), asked), cells


def judge(facts: Facts, weights: Weights) -> Judgement:
    """Turn what is known into probabilities."""
    asked = facts.evidence[:, -1] > 0
    odds = facts.evidence @ torch.tensor(weights.lattice, dtype=torch.float64)
    best = likeliest(odds, facts.same)
    cell = _logistic(agreement_of(facts, odds, best), weights.cell)
    crystals, none = torch.zeros_like(odds), 1.0
    if asked.any():
        of = facts.evidence @ torch.tensor(weights.crystal, dtype=torch.float64)
        of = of.masked_fill(~asked, -torch.inf)
        none = _logistic(agreement_of(facts, of, int(of.argmax())), weights.none)
        crystals = torch.softmax(of, dim=0) * (1 - none)
    return Judgement(crystals, none, torch.softmax(odds, dim=0), cell, best)


def likeliest(odds: Tensor, same: Tensor) -> int:
    """The best candidate of those that agree on a cell and together are likelier than others."""
    together = torch.logsumexp(odds[None].expand_as(same).masked_fill(~same, -torch.inf), dim=1)
    inside = same[int(together.argmax())]
    return int(odds.masked_fill(~inside, -torch.inf).argmax())


def agreement_of(facts: Facts, odds: Tensor, best: int) -> np.ndarray:
    """The columns of :data:`AGREEMENT`, float64 ``[22]``.

    Args:
        facts: Of all candidates.
        odds: What each is worth, float64 ``[K]``; minus infinity: out of the question.
        best: The one that is asked about.
    """
    evidence, together = facts.evidence, facts.same[best]
    others = ~together & odds.isfinite()
    lead, gaps = _NO_RIVAL
    if others.any():
        lead = float(torch.logsumexp(odds[together], 0) - torch.logsumexp(odds[others], 0))
    if not together.all():
        gaps = (evidence[best, _GAPS] - evidence[~together][:, _GAPS].amax(0)).tolist()
    return np.array(
        [
            np.clip(lead, -20, 20),
            *evidence[best].tolist(),
            *gaps,
            np.log(int(together.sum())),
            np.log(float(facts.volume[best])),
            np.log(max(facts.asked, 1)),
            float((odds > odds[best] - 1).sum()),
            1.0,
        ]
    )


def _logistic(columns: np.ndarray, weights: tuple[float, ...]) -> float:
    return float(1 / (1 + np.exp(-np.clip(columns @ np.array(weights), -50, 50))))
