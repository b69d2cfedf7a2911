"""A model and the views of some crystals in, an errors frame out.

Predictions are collected once into an *errors frame*, one row per crystal: what was predicted and
how far off it was. Every published number is computed from such a frame.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from unimat_lib.crystals.table import CrystalTable
from unimat_lib.evaluation.metrics import (
    CELL_COLUMNS,
    PROBABILITY_COLUMNS,
    SCALED_COLUMNS,
    with_relative_errors,
)
from unimat_lib.model import UniMat, check_views
from unimat_lib.views.batch import CrystalViews

_BATCH = 512  # crystals that a model sees at once


@torch.no_grad()
def predict(
    model: UniMat,
    views: CrystalViews,
    table: CrystalTable,
    index: Tensor,
    *,
    modalities: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Errors frame of a model on some crystals.

    Args:
        model: The model; it is put in evaluation mode.
        views: Views of ``table``.
        table: The crystals, for names and sizes.
        index: Rows to predict, int64 ``[B]``.
        modalities: Inputs to give; by default all that the model reads. Leaving some out shows
            what happens when they are missing.

    Returns:
        One row per crystal, from its clean pattern: ``material_id``, ``num_atoms``,
        ``crystal_system`` (true index), ``predicted_system``, ``p_<system>``, predictions ``a`` ...
        ``gamma`` (angstrom, degrees)
        and ``scaled_a`` ..., their signed errors ``error_<name>``, the relative errors of the
        lengths ``relative_error_a`` ... and ``relative_error_volume``.

    Raises:
        ValueError: If ``index`` is empty or the model expects other views.
    """
    if len(index) == 0:
        raise ValueError("expected at least one crystal to predict, got none")
    check_views(model.config, views)
    model.eval()
    modalities = tuple(modalities or model.config.inputs)
    parts = []
    for chunk in index.to(views.device).split(_BATCH):
        batch = views.batch(chunk, modalities=modalities)
        output = model(batch.views)
        cell = model.cell_scaler.decode(output.cell)
        predicted = torch.cat([cell["lengths"], cell["angles"], cell["scaled_lengths"]], dim=1)
        truth = batch.targets
        true = torch.cat([truth.lengths, truth.angles, truth.scaled_lengths], dim=1)
        parts.append(torch.cat([predicted, true, output.system_log_probs.exp()], dim=1).cpu())
    values = torch.cat(parts).double().numpy()  # [B, 9 + 9 + 7]
    return frame_of_errors(values, table, index.cpu())


def frame_of_errors(values: np.ndarray, table: CrystalTable, index: Tensor) -> pd.DataFrame:
    rows = index.numpy()
    predicted, true, probabilities = values[:, :9], values[:, 9:18], values[:, 18:]
    names = CELL_COLUMNS + SCALED_COLUMNS
    frame = pd.DataFrame(
        {
            "material_id": table.info["material_id"].to_numpy()[rows],
            "num_atoms": table.num_atoms.cpu().numpy()[rows],
            "crystal_system": table.crystal_system.cpu().numpy()[rows],
            "predicted_system": probabilities.argmax(axis=1),
        }
    )
    columns = dict(zip(PROBABILITY_COLUMNS, probabilities.T, strict=True))
    columns |= dict(zip(names, predicted.T, strict=True))
    columns |= {f"error_{name}": x for name, x in zip(names, (predicted - true).T, strict=True)}
    return with_relative_errors(frame.assign(**columns))


@torch.no_grad()
def embed(
    model: UniMat,
    views: CrystalViews,
    index: Tensor,
) -> dict[str, Tensor]:
    """Points of the shared space, by modality.

    Args:
        model: The model; it is put in evaluation mode.
        views: The views.
        index: Rows, int64 ``[B]``.

    Returns:
        Name of each modality that has an encoder to unit vectors, float32 ``[B, projection_dim]``,
        on the CPU.
    """
    return {
        name: torch.nn.functional.normalize(
            encodings(model, views, index, name, projected=True), dim=-1
        )
        for name in model.config.modalities
    }


@torch.no_grad()
def encodings(
    model: UniMat,
    views: CrystalViews,
    index: Tensor,
    modality: str,
    *,
    projected: bool = False,
) -> Tensor:
    """What an encoder says of some crystals.

    Args:
        model: The model; it is put in evaluation mode.
        views: The views.
        index: Rows, int64 ``[B]``.
        modality: Which encoder.
        projected: Whether to map on into the shared space.

    Returns:
        float32 ``[B, dim]`` (projected: ``[B, projection_dim]``) on the CPU, not normalised.
    """
    check_views(model.config, views)
    model.eval()
    parts = []
    for chunk in index.to(views.device).split(_BATCH):
        view = views.batch(chunk, modalities=(modality,)).views[modality]
        vectors = model.encode(modality, view)
        parts.append((model.projections[modality](vectors) if projected else vectors).float().cpu())
    return torch.cat(parts)
