"""Fits of candidates in, the probability of each out, and that of the cell that they agree on.

Two questions, two calibrated answers. Which crystal is it? Neighbours in the periodic table make
isostructural crystals that no powder pattern tells apart, so their probabilities are shared. Which
cell and crystal system is it? There they count together, and a crystal that nobody knows may still
be answered through a relative that has its cell.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from unimat_powder.search.candidates import Ranked
from unimat_powder.search.cells import same_cells

WEIGHTS = Path(__file__).with_name("weights.json")
"""Weights of the evidence, fitted by ``benchmarks/calibrate_search.py``."""

EVIDENCE = ("residual", "weighted", "cosine", "penalty", "texture", "freedom", "kinds")
"""What counts: minus ln of the two profile residuals, cosine of the root curves, minus the
penalties of cell and texture, minus the number of free strains, minus that of elements."""

AGREEMENT = ("lead", "residual", "weighted", "cosine", "penalty", "freedom", "one")
"""What counts for a cell: by how much its crystals lead all others (in log odds), and the evidence
of the best of them."""


@dataclass(frozen=True)
class Weights:
    """How evidence counts, in log odds.

    Attributes:
        evidence: One weight for each of :data:`EVIDENCE`.
        none: Log odds of "none of them" before any evidence: constant, and what it gains with the
            number of crystals that were asked (per ln).
        cell: One weight for each of :data:`AGREEMENT`.
    """

    evidence: tuple[float, ...]
    none: tuple[float, float]
    cell: tuple[float, ...]


def load_weights(setting: str) -> Weights:
    """Weights of ``"pattern"`` (nothing else is known) or of ``"elements"``."""
    found = json.loads(WEIGHTS.read_text(encoding="utf-8"))[setting]
    return Weights(tuple(found["evidence"]), tuple(found["none"]), tuple(found["cell"]))


def evidence_of(ranked: Ranked) -> Tensor:
    """Evidence for each candidate, float64 ``[K, 7]``."""
    fits = ranked.fits
    columns = (
        -fits.residual.clamp_min(1e-6).log(),
        -fits.weighted.clamp_min(1e-6).log(),
        fits.cosine,
        -fits.penalty,
        -fits.texture,
        -ranked.freedom,
        -ranked.kinds.double(),
    )
    return torch.stack([column.double() for column in columns], dim=1)


def probabilities(evidence: Tensor, weights: Weights, *, asked: int) -> tuple[Tensor, float]:
    """Probability of each candidate ``[K]``, and that none is right; together they are 1.

    Args:
        evidence: Of :func:`evidence_of`.
        weights: How it counts.
        asked: Crystals that were searched: among more, one fits by chance more often.
    """
    odds = evidence @ torch.tensor(weights.evidence, dtype=torch.float64)
    constant, per_log = weights.none
    none = torch.tensor([constant + per_log * np.log(max(asked, 1))], dtype=torch.float64)
    shares = torch.softmax(torch.cat([odds, none]), dim=0)
    return shares[:-1], float(shares[-1])


def cell_probability(
    evidence: Tensor, cells: np.ndarray, space_group: Tensor, weights: Weights
) -> float:
    """Probability that cell and crystal system of the best candidate are right.

    Args:
        evidence: Of :func:`evidence_of`.
        cells: Of :func:`.relaxed_cells`.
        space_group: International numbers, int64 ``[K]``.
        weights: How evidence counts.
    """
    facts = agreement_of(evidence, cells, space_group, weights.evidence)
    return float(1 / (1 + np.exp(-np.clip(facts @ np.array(weights.cell), -50, 50))))


def agreement_of(
    evidence: Tensor, cells: np.ndarray, space_group: Tensor, weights: tuple[float, ...]
) -> np.ndarray:
    """The facts of :data:`AGREEMENT`, float64 ``[7]``."""
    odds = evidence @ torch.tensor(weights, dtype=torch.float64)
    best = int(odds.argmax())
    together = torch.from_numpy(same_cells(cells, space_group, best))
    rest = torch.logsumexp(odds[~together], 0) if bool((~together).any()) else odds[best] - 20
    lead = float((torch.logsumexp(odds[together], 0) - rest).clamp(-20, 20))
    residual, weighted, cosine, penalty, _, freedom, _ = evidence[best].tolist()
    return np.array([lead, residual, weighted, cosine, penalty, freedom, 1.0])
