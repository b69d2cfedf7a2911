"""Fits of candidates in, the probability of each out, and that of the cell that they agree on.

Two questions, two calibrated answers. Which crystal is it? Neighbours in the periodic table make
isostructural crystals that no powder pattern tells apart, so their probabilities are shared. Which
cell and crystal system is it? There they count together, and a crystal that nobody knows may still
be answered through a relative that has its cell.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from unimat_powder.search.candidates import Ranked
from unimat_powder.search.cells import same_cells, volumes

WEIGHTS = Path(__file__).with_name("weights.json")
"""Weights of the evidence, fitted by ``benchmarks/calibrate_search.py``."""

EVIDENCE = ("residual", "weighted", "cosine", "penalty", "texture", "freedom", "kinds")
"""What counts: minus ln of the two profile residuals, cosine of the root curves, minus the
penalties of cell and texture, minus the number of free strains, minus that of elements."""

AGREEMENT = (
    *("lead", *EVIDENCE, "gap_residual", "gap_weighted", "gap_cosine"),
    *("alike", "volume", "asked", "rivals", "one"),
)
"""What counts for a cell: by how much its crystals lead all others (in log odds); the evidence of
the best of them, and how much better that is than the best of the others; ln of the number of its
crystals, of its volume, and of the number of crystals that were asked; how many candidates come
within one unit of the best."""


_NO_RIVAL = 20.0, (2.0, 2.0, 0.5)  # lead and gaps where all candidates agree


@dataclass(frozen=True)
class Weights:
    """How evidence counts, in log odds.

    Attributes:
        evidence: One weight for each of :data:`EVIDENCE`: which of the candidates it is.
        none: One for each of :data:`AGREEMENT`: that it is none of them.
        cell: The same: that cell and crystal system of the best are right.
    """

    evidence: tuple[float, ...]
    none: tuple[float, ...]
    cell: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class Judgement:
    """What the candidates are worth.

    Attributes:
        shares: float64 ``[K]``, probability that each is the sample's crystal.
        none: Probability that none of them is; with the shares, 1.
        cell: Probability that cell and crystal system of the likeliest are right.
    """

    shares: Tensor
    none: float
    cell: float


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


def judge(
    evidence: Tensor, cells: np.ndarray, space_group: Tensor, weights: Weights, *, asked: int
) -> Judgement:
    """Turn evidence into probabilities.

    Args:
        evidence: Of :func:`evidence_of`.
        cells: Of :func:`.relaxed_cells`.
        space_group: International numbers, int64 ``[K]``.
        weights: How evidence counts.
        asked: Crystals that were searched: among more, one fits by chance more often.
    """
    facts = agreement_of(evidence, cells, space_group, weights.evidence, asked=asked)
    none, cell = (
        float(1 / (1 + np.exp(-np.clip(facts @ np.array(column), -50, 50))))
        for column in (weights.none, weights.cell)
    )
    odds = evidence @ torch.tensor(weights.evidence, dtype=torch.float64)
    return Judgement(torch.softmax(odds, dim=0) * (1 - none), none, cell)


def agreement_of(
    evidence: Tensor,
    cells: np.ndarray,
    space_group: Tensor,
    weights: Sequence[float],
    *,
    asked: int,
) -> np.ndarray:
    """The facts of :data:`AGREEMENT`, float64 ``[16]``; see :func:`judge`."""
    odds = evidence @ torch.tensor(weights, dtype=torch.float64)
    best = int(odds.argmax())
    together = torch.from_numpy(same_cells(cells, space_group, best))
    inside = torch.logsumexp(odds[together], 0)
    if bool(together.all()):
        lead, gaps = _NO_RIVAL
    else:
        lead = float(inside - torch.logsumexp(odds[~together], 0))
        gaps = (evidence[best, :3] - evidence[~together, :3].amax(0)).tolist()
    return np.array(
        [
            np.clip(lead, -20, 20),
            *evidence[best].tolist(),
            *gaps,
            np.log(int(together.sum())),
            np.log(volumes(cells)[best]),
            np.log(max(asked, 1)),
            float((odds > odds[best] - 1).sum()),
            1.0,
        ]
    )
