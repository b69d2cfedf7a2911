"""Crystals in, one trained structure encoder's embeddings of all of them, strained too, out.

The grid asks how patterns and formulas are best fused and aligned with structures, not how a
structure is best encoded. So one encoder is trained once, on the training split, to predict its own
cell and to find its own pattern, and then frozen: all trainings of the grid are aligned with the
same vectors. What it does badly it does badly for all of them.
"""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from unimat_book.grid.cells import GridSettings
from unimat_book.grid.views import plain_views, strain_levels
from unimat_lib.alignment import recall_at_k, retrieval_ranks
from unimat_lib.crystals.table import CrystalTable
from unimat_lib.evaluation.metrics import cell_metrics
from unimat_lib.evaluation.predict import embed, predict
from unimat_lib.files import replacing
from unimat_lib.model import UniMat, UniMatConfig, load_model, save_model
from unimat_lib.training.config import FitConfig
from unimat_lib.training.fit import fit
from unimat_lib.views.batch import CrystalViews
from unimat_lib.views.effects import Measurement

_CHUNK = 512
_SEED = 12_345


def make_structure(
    table: CrystalTable,
    settings: GridSettings,
    path: Path,
    *,
    rows: tuple[Tensor, Tensor, Tensor],
    device: str,
    run_dir: Path,
) -> dict[str, float]:
    """Train the structure encoder and leave the embeddings of all crystals at ``path``.

    The encoder itself, in half precision, is left beside it (:func:`model_path`). If it is there
    already, as from another machine, it is not trained again.

    Args:
        table: The crystals.
        settings: Of the grid.
        path: The file; what it holds besides is how good the encoder is.
        rows: Training, validation and test crystals; the last are only embedded.
        device: Where to train.
        run_dir: Folder of the checkpoints, removed at the end.

    Returns:
        On validation crystals: recall at 1 (per cent) of structures by patterns, and the error of
        scaled lengths (angstrom) read from the structure; and the seconds that it took.
    """
    started = time.perf_counter()
    train, val, _ = rows
    names = ("structure", "xrd")
    views = plain_views(table, settings, device=device, modalities=names)
    config = UniMatConfig(
        modalities=names,
        inputs=names[:1],
        start_scale=settings.start_scale,
        **model_shape(settings),
    )
    file = model_path(path)
    if not file.is_file():
        model = _trained(config, views, settings, train=train, val=val, run_dir=run_dir)
        save_model(model, file, half=True)
    model = load_model(file, device=device)
    embeddings = strained_embeddings(model, views, strain_levels(settings), train=train)
    points = embed(model, views, val)
    frame = predict(model, views, table, val)
    scores = {
        "val_recall_at_1": 100
        * recall_at_k(retrieval_ranks(points["xrd"], points["structure"]), 1),
        "val_scaled_length_mae": cell_metrics(frame)["scaled_length_mae"],
        "seconds": time.perf_counter() - started,
    }
    with replacing(path) as temporary:
        metadata = {
            "settings": settings.key,
            "crystals": views.crystals,
            "scores": json.dumps(scores),
        }
        save_file({"structure": embeddings}, temporary, metadata=metadata)
    return scores


def model_path(path: Path) -> Path:
    """Where the encoder lies whose embeddings are at ``path``."""
    return path.with_name(f"{path.stem}_model.safetensors")


def _trained(
    config: UniMatConfig,
    views: CrystalViews,
    settings: GridSettings,
    *,
    train: Tensor,
    val: Tensor,
    run_dir: Path,
) -> UniMat:
    how = FitConfig(
        epochs=settings.epochs_structure,
        batch_size=settings.batch_size,
        contrastive_weight=1.0,
        measurement=Measurement(fwhm=tuple(settings.fwhm_range), strain=settings.strain),
        seed=_SEED,
    )
    torch.manual_seed(_SEED)
    model = UniMat(config)
    model.fit_scalers(views, train)
    fit(model, views, train=train, val=val, config=how, run_dir=run_dir)
    shutil.rmtree(run_dir, ignore_errors=True)
    return model


def model_shape(settings: GridSettings) -> dict[str, object]:
    """What all models of the grid share, as arguments of :class:`.UniMatConfig`."""
    return dict(settings.model) | {"grid": settings.grid}


@torch.no_grad()
def strained_embeddings(
    model: UniMat, views: CrystalViews, strains: Tensor, *, train: Tensor
) -> Tensor:
    """Embeddings of all crystals at all strains, float16 ``[L, C, d]``.

    Each number has zero mean and unit spread over the unstrained crystals ``train``.
    """
    model.eval()
    rows = torch.arange(len(views), device=views.device)
    levels = []
    for strain in strains.tolist():
        parts = []
        for chunk in rows.split(_CHUNK):
            graph = views.graph.select(chunk)
            stretch = torch.full((len(chunk),), 1 + strain, device=views.device)
            parts.append(model.encode("structure", graph.scaled(stretch)).float().cpu())
        levels.append(torch.cat(parts))
    every = torch.stack(levels)
    known = every[0, train]
    return ((every - known.mean(0)) / known.std(0).clamp_min(1e-6)).clamp(-30, 30).half()


def load_structure(path: Path, settings: GridSettings, table: CrystalTable) -> Tensor:
    """The embeddings that :func:`make_structure` left.

    Raises:
        ValueError: They are of other settings or crystals.
    """
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        if (metadata["settings"], metadata["crystals"]) != (settings.key, table.content_hash()):
            raise ValueError(f"{path} is of other settings or crystals: remove it and run again")
        return file.get_tensor("structure")
