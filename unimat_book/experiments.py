"""Settings in, trained models of all seeds and their test predictions on file out."""

import dataclasses
import functools
import itertools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from unimat_book.ledger.predictions import load_predictions, save_predictions
from unimat_book.ledger.ranks import rank_frame
from unimat_book.smoothing import smoothed_labels
from unimat_book.statistics import summarize
from unimat_lib.crystals.table import CrystalTable
from unimat_lib.datasets.mp_extra import pretraining_pool
from unimat_lib.datasets.preparation import load_dataset
from unimat_lib.evaluation.predict import embed, predict
from unimat_lib.model import UniMat, UniMatConfig, load_model
from unimat_lib.training.config import FitConfig, FitResult
from unimat_lib.training.fit import fit
from unimat_lib.views.batch import CrystalViews, build_views

MAIN_METRICS = {
    "scaled_length_mae": ("scaled length MAE (Å)", ".3f"),
    "length_mae": ("length MAE (Å)", ".3f"),
    "length_median_ae": ("median length error (Å)", ".3f"),
    "angle_mae": ("angle MAE (°)", ".2f"),
    "crystal_system_accuracy": ("crystal system (%)", ".1f"),
}
"""Metrics of the chapters' main tables: heading and number format."""


@dataclass(frozen=True)
class Run:
    """One setting, trained once per seed; all lists in the order of the seeds."""

    fits: list[FitResult]  # history and cost of each training
    frames: list[pd.DataFrame]  # errors on the test crystals (empty where none were asked for)
    models: list[UniMat]  # at their best epochs
    seeds: list[int]

    @classmethod
    def load(
        cls, folder: str | os.PathLike[str], *, setting: str, variant: str, made_by: str
    ) -> "Run":
        """A setting that another chapter trained, see :func:`.load_predictions`."""
        frames = load_predictions(folder, setting=setting, variant=variant, made_by=made_by)
        return cls(fits=[], frames=list(frames.values()), models=[], seeds=list(frames))

    @property
    def model(self) -> UniMat:
        """The last seed's model."""
        return self.models[-1]

    @functools.cached_property
    def summary(self) -> pd.DataFrame:
        """:func:`.summarize` of the main metrics, indexed by metric."""
        return summarize(self.frames, list(MAIN_METRICS)).set_index("metric")


def split_rows(table: CrystalTable) -> tuple[Tensor, Tensor, Tensor]:
    """Rows of the training, validation and test crystals, int64 each."""
    names = table.info["split"].to_numpy()
    return tuple(torch.from_numpy(np.flatnonzero(names == s)) for s in ("train", "val", "test"))


def train_seeds(
    model: UniMatConfig,
    views: CrystalViews,
    table: CrystalTable,
    *,
    config: FitConfig,
    seeds: Sequence[int],
    run_dir: str | os.PathLike[str],
    predictions: str | os.PathLike[str] | None = None,
    setting: str = "",
    variant: str = "reproduction",
    rows: Tensor | None = None,
    start: Sequence[UniMat | Mapping[str, UniMat]] | None = None,
    labels: Tensor | None = None,
) -> Run:
    """Train one model per seed and predict the test crystals once with each.

    The seed decides the starting weights and everything random in training. Validation crystals
    choose the epoch (inside :func:`.fit`); test crystals are touched once, afterwards.

    Args:
        model: Description of the model.
        views: Views of ``table``.
        table: The crystals with their splits.
        config: Settings of the training; its seed is replaced by each of ``seeds``.
        seeds: One training run each.
        run_dir: Parent folder of the checkpoints.
        predictions: Folder of the predictions; ``None`` predicts nothing (for a model whose
            heads were not trained).
        setting: Name of the setting in the predictions' file names.
        variant: Name of the variant there.
        rows: Rows to train on, int64, where it is not the whole training split. Units of inputs and
            outputs come from that split all the same, so that one model can start from another.
        start: What each seed starts from. A model of the same description hands over everything,
            any other its encoders and projections; a mapping says for each modality from whose
            encoder. The rest starts from the seed.
        labels: What each crystal system's label becomes in training, see :func:`.smoothed_labels`.

    Raises:
        ValueError: If there is no seed or one comes twice, predictions have no setting, or there is
            not one start per seed.
    """
    if not seeds or len(set(seeds)) < len(seeds):
        raise ValueError(f"expected at least one seed and none twice, got {list(seeds)}")
    if predictions is not None and not setting:
        raise ValueError("expected the setting's name, which names the files of the predictions")
    if start is not None and len(start) != len(seeds):
        raise ValueError(f"expected one start per seed, got {len(start)} for {len(seeds)} seeds")
    train, val, test = split_rows(table)
    fits, frames, models = [], [], []
    for number, seed in enumerate(seeds):
        torch.manual_seed(seed)
        network = UniMat(model)
        network.fit_scalers(views, train)
        if start is not None:
            _take_over(start[number], network)
        if views.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(views.device)
        settings = dataclasses.replace(config, seed=seed)
        chosen = train if rows is None else rows
        with smoothed_labels(network, labels):
            one = fit(network, views, train=chosen, val=val, config=settings, run_dir=run_dir)
        fits.append(one)
        models.append(network)
        if predictions is not None:
            frames.append(predict(network, views, table, test))
    if predictions is not None:
        by_seed = dict(zip(seeds, frames, strict=True))
        save_predictions(by_seed, predictions, setting=setting, variant=variant)
        # What is reported is what lies on file, rounding included.
        kept = load_predictions(predictions, setting=setting, variant=variant, made_by="")
        frames = [kept[seed] for seed in seeds]
    return Run(fits=fits, frames=frames, models=models, seeds=list(seeds))


def _take_over(source: UniMat | Mapping[str, UniMat], target: UniMat) -> None:
    if isinstance(source, UniMat) and source.config == target.config:
        target.load_state_dict(source.state_dict())
        return
    for name, part in itertools.product(target.encoders, ("encoders", "projections")):
        model = source if isinstance(source, UniMat) else source.get(name)
        if model is not None:
            getattr(target, part)[name].load_state_dict(getattr(model, part)[name].state_dict())


def pretraining_data(
    table: CrystalTable, name: str, *, max_atoms: int, modalities: Sequence[str], **settings: object
) -> tuple[CrystalViews, CrystalTable, Tensor]:
    """Views and table of a data set and further crystals, and the rows to pretrain on, int64.

    Args:
        table: The data set with its splits.
        name: Data set of further crystals, empty for none.
        max_atoms: Largest of their cells.
        modalities: Views to build.
        settings: As of :func:`.build_views`.
    """
    extra = load_dataset(name) if name else None
    pool = pretraining_pool(table, extra, max_atoms=max_atoms)
    rows = torch.from_numpy(np.flatnonzero(pool.info["split"].isin(["train", "extra"])))
    return build_views(pool, modalities=modalities, **settings), pool, rows


def ranks_of_test(run: Run, views: CrystalViews, table: CrystalTable) -> dict[int, pd.DataFrame]:
    """Ranks of the test crystals of ``table`` in retrieval among themselves, by seed.

    ``run`` holds models with a contrastive loss; :func:`.save_ranks` takes the result.
    """
    test = split_rows(table)[2]
    names = table.info["material_id"].to_numpy()[test.numpy()]
    return {
        seed: rank_frame(embed(model, views, test), names)
        for seed, model in zip(run.seeds, run.models, strict=True)
    }


def load_starts(
    folder: str | os.PathLike[str], views: Sequence[str], seeds: Sequence[int], *, made_by: str
) -> list[dict[str, UniMat]]:
    """For each seed the models of single views that an earlier chapter left to start from.

    Args:
        folder: Where it saved ``<view>_seed<seed>.safetensors``.
        views: Names of the modalities.
        seeds: Which seeds.
        made_by: The exact command that makes the files, for the error message.

    Raises:
        FileNotFoundError: If a file is missing; the message holds the command.
    """
    paths = [{v: Path(folder) / f"{v}_seed{seed}.safetensors" for v in views} for seed in seeds]
    missing = [path for by_view in paths for path in by_view.values() if not path.is_file()]
    if missing:
        raise FileNotFoundError(f"{missing[0]} is missing. Make it with:\n    {made_by}")
    return [{view: load_model(path) for view, path in by_view.items()} for by_view in paths]
