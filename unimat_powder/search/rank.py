"""Fits of candidates in, the probability of each out, and that none of them is right."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from unimat_powder.search.candidates import Ranked

WEIGHTS = Path(__file__).with_name("weights.json")
"""Weights of the evidence, fitted by ``python -m benchmarks.calibrate_search``."""

EVIDENCE = ("residual", "cosine", "penalty", "texture", "freedom", "kinds")
"""What counts: minus ln of the profile residual, cosine of the root curves, minus the penalties of
cell and texture, minus the number of strains that the symmetry leaves, minus that of elements."""


@dataclass(frozen=True)
class Weights:
    """How evidence counts, in log odds.

    Attributes:
        evidence: One weight for each of :data:`EVIDENCE`.
        none: Log odds of "none of them" before any evidence: constant, and what it gains with the
            number of crystals that were asked (per ln).
    """

    evidence: tuple[float, ...]
    none: tuple[float, float]


def load_weights(setting: str) -> Weights:
    """Weights of ``"pattern"`` (nothing else is known) or of ``"elements"``."""
    found = json.loads(WEIGHTS.read_text(encoding="utf-8"))[setting]
    return Weights(tuple(found["evidence"]), tuple(found["none"]))


def evidence_of(ranked: Ranked) -> Tensor:
    """Evidence for each candidate, float64 ``[K, 6]``."""
    fits = ranked.fits
    columns = (
        -fits.residual.clamp_min(1e-6).log(),
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
