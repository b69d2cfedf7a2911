"""Crystals in, a small model of pattern and formula trained, and what it says of crystals out.

What the studies train is the grid's plainest cell, concatenation without alignment on clean
patterns: a training takes half a minute on a GPU, so that five seeds of many variants can be had.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from unimat_book.grid.cells import GridSettings
from unimat_book.grid.model import INPUTS, GridModel
from unimat_book.grid.scores import GIVEN
from unimat_book.grid.structure import model_shape
from unimat_book.grid.train import SYSTEM_WEIGHT
from unimat_book.grid.views import GridViews, grid_views, plain_views
from unimat_book.studies.trials import Outcome, Trial
from unimat_lib.crystals.table import CrystalTable
from unimat_lib.identity import short_hash
from unimat_lib.model import UniMatConfig
from unimat_lib.training.config import FitConfig, FitResult
from unimat_lib.views.effects import Measurement

RATE = 1.5e-3
"""Learning rate of all trainings of the studies: what the grid chose for its plainest cell."""

_CHUNK = 512
_ERRORS = {"scaled_length_mae": "scaled_lengths", "length_mae": "lengths", "angle_mae": "angles"}


def views_of(table: CrystalTable, settings: GridSettings, *, device: str) -> GridViews:
    """Clean patterns and formulas of a table, strained in training."""
    plain = plain_views(table, settings, device=device, modalities=INPUTS)
    return grid_views(plain, settings)


def plain_model(settings: GridSettings) -> GridModel:
    """The untrained model: concatenation, nothing aligned."""
    config = UniMatConfig(modalities=INPUTS, inputs=INPUTS, **model_shape(settings))
    return GridModel(config, fusion="concat", order="none")


def fit_config(settings: GridSettings, *, seed: int, crystals: int, like: int) -> FitConfig:
    """How to train: as many steps for some ``crystals`` as the grid takes for ``like`` of them."""
    return FitConfig(
        epochs=max(1, round(settings.epochs * like / crystals)),
        batch_size=min(settings.batch_size, crystals),
        lr=RATE,
        seed=seed,
        system_weight=SYSTEM_WEIGHT,
        modality_dropout=settings.modality_dropout,
        measurement=Measurement(fwhm=tuple(settings.fwhm_range), strain=settings.strain),
    )


@torch.no_grad()
def answers(
    model: GridModel, views: GridViews, rows: Tensor, *, given: Sequence[str] = INPUTS
) -> dict[str, np.ndarray]:
    """Errors and hits on some crystals, by metric, float32 ``[n]``.

    Args:
        model: The model; it is put in evaluation mode. Where it has a ``systems``, that turns its
            log-probabilities into probabilities of the crystal systems.
        views: The crystals; their targets hold true crystal systems.
        rows: Which of them, int64 ``[n]``.
        given: The views that the model sees.

    Returns:
        ``scaled_length_mae``, ``length_mae`` (angstrom), ``angle_mae`` (degrees), and
        ``crystal_system_accuracy`` (100 or 0).
    """
    model.eval()
    systems = getattr(model, "systems", torch.exp)
    parts = []
    for chunk in rows.to(views.device).split(_CHUNK):
        batch = views.batch(chunk, modalities=tuple(given))
        output = model(batch.views)
        cells = model.cell_scaler.decode(output.cell)
        off = [(cells[n] - getattr(batch.targets, n)).abs().mean(1) for n in _ERRORS.values()]
        said = systems(output.system_log_probs).argmax(1)
        right = (said == batch.targets.crystal_system).float()
        parts.append(torch.stack([*off, 100 * right], 1).cpu())
    columns = torch.cat(parts).float().numpy().T
    return dict(zip((*_ERRORS, "crystal_system_accuracy"), columns, strict=True))


def outcome(
    trial: Trial,
    model: GridModel,
    views: GridViews,
    table: CrystalTable,
    rows: Tensor,
    *,
    domain: str,
    fits: Sequence[FitResult] = (),
) -> Outcome:
    """What a trained model says of the crystals ``rows``, with both views and with either alone.

    The metrics of a view alone end in ``_no_formula`` and ``_no_pattern``; the macro accuracy is
    the mean of the accuracies of the crystal systems that occur.
    """
    values = answers(model, views, rows)
    for name, given in GIVEN.items():
        alone = answers(model, views, rows, given=given)
        shown = ("scaled_length_mae", "crystal_system_accuracy")
        values |= {f"{metric}_{name}": alone[metric] for metric in shown}
    return outcome_of(trial, values, table, rows, domain=domain, fits=fits)


def outcome_of(
    trial: Trial,
    values: Mapping[str, np.ndarray],
    table: CrystalTable,
    rows: Tensor,
    *,
    domain: str,
    fits: Sequence[FitResult],
) -> Outcome:
    """Values ``[n]`` of some crystals by metric, with their means and the macro accuracy."""
    scores = {metric: float(np.mean(x, dtype=np.float64)) for metric, x in values.items()}
    systems = table.crystal_system.cpu().numpy()[rows.numpy()]
    macro = macro_values(values["crystal_system_accuracy"], systems)
    scores["macro_system_accuracy"] = float(np.mean(macro, dtype=np.float64))
    return Outcome(
        trial=trial,
        domain=domain,
        asked=names_hash(table, rows),
        scores=scores,
        values=values,
        history=histories(fits),
        seconds=sum(fit.seconds for fit in fits),
    )


def macro_values(right: np.ndarray, systems: np.ndarray) -> np.ndarray:
    """Values ``[n]`` whose mean is the mean accuracy of the crystal systems that occur."""
    present, number, count = np.unique(systems, return_inverse=True, return_counts=True)
    return right * (len(systems) / (len(present) * count[number]))


def names_hash(table: CrystalTable, rows: Tensor) -> str:
    """Which crystals were asked about, in order."""
    return short_hash("\n".join(table.info["material_id"].astype(str).to_numpy()[rows.numpy()]))


def histories(fits: Sequence[FitResult]) -> list[dict[str, float]]:
    """Validation losses by epoch, all stages one after the other."""
    rows = []
    for stage, one in enumerate(fits):
        for row in one.history.to_dict("records"):
            known = {k: round(v, 5) for k, v in row.items() if k.startswith("val_") and v == v}
            rows.append(known | {"stage": stage})
    return rows
