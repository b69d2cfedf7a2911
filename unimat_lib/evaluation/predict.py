"""A model and the views of some crystals in, an *errors frame* out.

It holds what was predicted and how far off it was; every published number is computed from one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional

from unimat_lib.crystals.table import CrystalTable
from unimat_lib.evaluation import metrics
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
    """Errors frame of a model on the rows ``index``, int64 ``[B]``, of a table and its views.

    See :func:`frame_of_errors`; patterns are clean. The model is put in evaluation mode and given
    the inputs ``modalities``, by default all that it reads. An empty ``index`` is a ``ValueError``,
    and so are views that the model does not expect.
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
        cells = model.cell_scaler.decode(output.cell), vars(batch.targets)
        columns = [x[name] for x in cells for name in ("lengths", "angles", "scaled_lengths")]
        parts.append(torch.cat([*columns, output.system_log_probs.exp()], dim=1).cpu())
    values = torch.cat(parts).double().numpy()  # [B, 9 + 9 + 7]
    return frame_of_errors(values, table, index.cpu())


def frame_of_errors(values: np.ndarray, table: CrystalTable, index: Tensor) -> pd.DataFrame:
    """Errors frame of predictions.

    Args:
        values: ``[B, 9 + 9 + 7]``: predicted and true cells (lengths, angles, scaled lengths), and
            the probabilities of the crystal systems.
        table: The crystals.
        index: Their rows, int64 ``[B]``.

    Returns:
        One row per crystal: ``material_id``, ``num_atoms``, ``crystal_system`` (true index),
        ``predicted_system``, ``p_<system>``, predictions ``a`` ... ``gamma`` (angstrom, degrees)
        and ``scaled_a`` ..., their signed errors ``error_<name>``, and what
        :func:`.with_relative_errors` adds.
    """
    rows = index.numpy()
    predicted, true, probabilities = values[:, :9], values[:, 9:18], values[:, 18:]
    names = metrics.CELL_COLUMNS + metrics.SCALED_COLUMNS
    frame = pd.DataFrame(
        {
            "material_id": table.info["material_id"].to_numpy()[rows],
            "num_atoms": table.num_atoms.cpu().numpy()[rows],
            "crystal_system": table.crystal_system.cpu().numpy()[rows],
            "predicted_system": probabilities.argmax(axis=1),
        }
    )
    columns = dict(zip(metrics.PROBABILITY_COLUMNS, probabilities.T, strict=True))
    columns |= dict(zip(names, predicted.T, strict=True))
    columns |= {f"error_{name}": x for name, x in zip(names, (predicted - true).T, strict=True)}
    return metrics.with_relative_errors(frame.assign(**columns))


def embed(model: UniMat, views: CrystalViews, index: Tensor) -> dict[str, Tensor]:
    """Points of the shared space: unit vectors, float32 ``[B, projection_dim]``, by modality.

    Arguments are those of :func:`encodings`; every modality that has an encoder is there.
    """
    names = model.config.modalities
    points = {name: encodings(model, views, index, name, projected=True) for name in names}
    return {name: functional.normalize(x, dim=-1) for name, x in points.items()}


@torch.no_grad()
def encodings(
    model: UniMat, views: CrystalViews, index: Tensor, modality: str, *, projected: bool = False
) -> Tensor:
    """What the encoder of a modality says of the crystals ``index``, int64 ``[B]``.

    The model is put in evaluation mode. Float32 ``[B, dim]`` on the CPU, not normalised;
    ``projected`` maps on into the shared space, ``[B, projection_dim]``.
    """
    check_views(model.config, views)
    model.eval()
    parts = []
    for chunk in index.to(views.device).split(_BATCH):
        view = views.batch(chunk, modalities=(modality,)).views[modality]
        vectors = model.encode(modality, view)
        parts.append((model.projections[modality](vectors) if projected else vectors).float().cpu())
    return torch.cat(parts)
