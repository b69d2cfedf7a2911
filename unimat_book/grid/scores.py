"""A trained cell of the grid in, its scores on the test crystals and small codes of errors out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from unimat_book.grid.model import INPUTS, GridModel
from unimat_book.grid.views import GridViews
from unimat_lib.alignment import retrieval_ranks

CONDITIONS: Mapping[str, str] = {
    "both": "both views",
    "no_formula": "no formula",
    "no_pattern": "no pattern",
    "typo": "wrong formula",
}
"""What a model is given, and how it is called in tables."""

GIVEN = {"no_formula": ("xrd",), "no_pattern": ("composition",)}

_CHUNK = 512
_SMALLEST, _RATIO, _LEVELS = 1e-3, 1.3, 42  # of the codes of errors: up to 50
_HEAVIEST = 94


@dataclass(frozen=True)
class Answers:
    """What a model says of ``n`` test crystals under one condition.

    Attributes:
        length, scaled, angle: Mean absolute error of the three lengths (angstrom), the same scaled,
            and of the angles (degrees), float64 ``[n]``.
        right: Whether the crystal system is right, bool ``[n]``.
    """

    length: np.ndarray
    scaled: np.ndarray
    angle: np.ndarray
    right: np.ndarray


@torch.no_grad()
def ask(model: GridModel, views: GridViews, rows: Tensor, *, typos: Tensor) -> dict[str, Answers]:
    """Ask a model about some crystals under all conditions.

    Args:
        model: The model; it is put in evaluation mode.
        views: The crystals.
        rows: Which of them, int64 ``[n]``.
        typos: Magpie features ``[n, F]`` of their formulas with one element wrong.

    """
    model.eval()
    found: dict[str, list[Tensor]] = {name: [] for name in CONDITIONS}
    for chunk, wrong in zip(rows.split(_CHUNK), typos.split(_CHUNK), strict=True):
        batch = views.batch(chunk.to(views.device), modalities=INPUTS)
        plain = batch.views
        given = {name: {n: plain[n] for n in GIVEN.get(name, INPUTS)} for name in CONDITIONS}
        given["typo"] = plain | {"composition": wrong.to(views.device)}
        for name, seen in given.items():
            output = model(seen)
            cells = model.cell_scaler.decode(output.cell)
            columns = [
                (cells[n] - getattr(batch.targets, n)).abs().mean(1)
                for n in ("lengths", "scaled_lengths", "angles")
            ]
            right = output.system_log_probs.argmax(1) == batch.targets.crystal_system
            found[name].append(torch.stack([*columns, right.float()], 1).cpu())
    answers = {}
    for name, parts in found.items():
        columns = torch.cat(parts).double().numpy().T
        answers[name] = Answers(*columns[:3], columns[3] > 0.5)
    return answers


@torch.no_grad()
def own_ranks(model: GridModel, views: GridViews, rows: Tensor) -> np.ndarray | None:
    """Rank of each crystal's own structure among those of all ``rows``, int64 ``[n]``; 1 is best.

    The query is the fused vector where that is aligned, else the pattern; ``None`` where nothing
    is.
    """
    if model.order == "none":
        return None
    model.eval()
    queries, gallery = [], []
    for chunk in rows.split(_CHUNK):
        batch = views.batch(chunk.to(views.device), modalities=("structure", *INPUTS))
        points = model(batch.views).projections
        queries.append(points["fused" if "fused" in points else "xrd"].float())
        gallery.append(points["structure"].float())
    return retrieval_ranks(torch.cat(queries), torch.cat(gallery)).cpu().numpy()


_SCORES = ("scaled_length_mae", "length_mae", "angle_mae", "system", "macro_system")


def scores_of(
    answers: Mapping[str, Answers], ranks: np.ndarray | None, systems: np.ndarray
) -> dict[str, float]:
    """Mean scores, angstrom, degrees, per cent: ``<score>_<condition>``, and ``recall_at_1``.

    ``systems`` are the true crystal systems, int64 ``[n]``. The macro accuracy is the mean of the
    accuracies of those that occur.
    """
    scores = {}
    for name, a in answers.items():
        macro = np.mean([a.right[systems == s].mean() for s in np.unique(systems)])
        values = a.scaled.mean(), a.length.mean(), a.angle.mean(), 100 * a.right.mean(), 100 * macro
        scores |= {f"{s}_{name}": float(v) for s, v in zip(_SCORES, values, strict=True)}
    if ranks is not None:
        scores["recall_at_1"] = float(100 * (ranks == 1).mean())
    return scores


def encode_errors(errors: np.ndarray) -> bytes:
    """Errors ``[n]`` as one byte each, in steps of 30 %; only means of many are of use."""
    code = 1 + np.floor(np.log(np.maximum(errors, 1e-12) / _SMALLEST) / np.log(_RATIO))
    return np.clip(code, 0, _LEVELS - 1).astype(np.uint8).tobytes()


def decode_errors(code: bytes, *, mean: float) -> np.ndarray:
    """Errors ``[n]`` that :func:`encode_errors` wrote, brought to the mean that they had."""
    low = _SMALLEST * _RATIO ** np.arange(-1.0, _LEVELS - 1)
    middle = low * (_RATIO - 1) / np.log(_RATIO)  # mean of what is even in the logarithm
    middle[0] = _SMALLEST / 2
    values = middle[np.frombuffer(code, dtype=np.uint8)]
    return values * (mean / values.mean())


def encode_flags(flags: np.ndarray) -> bytes:
    """Bools ``[n]`` as bits."""
    return np.packbits(flags).tobytes()


def decode_flags(code: bytes, n: int) -> np.ndarray:
    """Bools ``[n]`` from bits."""
    return np.unpackbits(np.frombuffer(code, dtype=np.uint8), count=n).astype(bool)


def wrong_formulas(formulas: Sequence[str], *, seed: int = 0) -> list[str]:
    """Each formula with one of its elements replaced by the one before or after it.

    Neither one that the formula already has nor one beyond plutonium comes in.
    """
    from pymatgen.core import Composition, Element

    rng = np.random.default_rng(seed)
    found = []
    for formula in formulas:
        amounts = {e.Z: x for e, x in Composition(formula).items()}
        choices = [
            (z, z + step)
            for z in amounts
            for step in (-1, 1)
            if 1 <= z + step <= _HEAVIEST and z + step not in amounts
        ]
        old, new = choices[rng.integers(len(choices))]
        amounts[new] = amounts.pop(old)
        found.append("".join(f"{Element.from_Z(z).symbol}{x:g}" for z, x in amounts.items()))
    return found
