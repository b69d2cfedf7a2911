"""A job of the grid in, its training done, its result out; what trainings share is made once."""

from __future__ import annotations

import dataclasses
import functools
import gc
import json
import shutil
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from unimat_book.experiments import split_rows
from unimat_book.grid.cells import ALIGNMENT_SHARE, GridSettings, Job
from unimat_book.grid.model import INPUTS, GridModel
from unimat_book.grid.results import Result, code_identity, device_name
from unimat_book.grid.scores import (
    ask,
    encode_errors,
    encode_flags,
    own_ranks,
    scores_of,
    wrong_formulas,
)
from unimat_book.grid.structure import load_structure, model_path, model_shape
from unimat_book.grid.views import GridViews, grid_views, plain_views, simulate_laboratory
from unimat_lib.alignment import recall_at_k
from unimat_lib.crystals.table import CrystalTable
from unimat_lib.files import file_hash
from unimat_lib.model import UniMatConfig
from unimat_lib.training.config import FitConfig, FitResult
from unimat_lib.training.fit import fit
from unimat_lib.views.composition import magpie_features
from unimat_lib.views.effects import Measurement

SYSTEM_WEIGHT = 0.5  # of the supervised loss, as in the library


def limited_rows(table: CrystalTable, settings: GridSettings) -> tuple[Tensor, Tensor, Tensor]:
    """Rows of the training, validation and test crystals that are used, int64 each."""
    limit = settings.limit
    return tuple(
        rows[:: max(1, len(rows) // limit)][:limit] if limit else rows for rows in split_rows(table)
    )


class Shared:
    """What the trainings of one process share; each part is made when it is first asked for."""

    def __init__(
        self, table: CrystalTable, settings: GridSettings, *, device: str, structure: Path
    ) -> None:
        self.table, self.settings, self.device = table, settings, device
        self._structure = structure

    @functools.cached_property
    def rows(self) -> tuple[Tensor, Tensor, Tensor]:
        """Rows of training, validation and test crystals."""
        return limited_rows(self.table, self.settings)

    @functools.cached_property
    def plain(self):
        """Reflections and compositions on the device."""
        return plain_views(self.table, self.settings, device=self.device, modalities=INPUTS)

    @functools.cached_property
    def laboratory(self):
        """Simulated measurements."""
        train, *others = self.rows
        rows = {"train": train, "others": torch.cat(others)}
        return simulate_laboratory(self.table, self.settings, device=self.device, **rows)

    @functools.cached_property
    def structure(self) -> Tensor:
        """Embeddings of the structures, on the device."""
        return load_structure(self._structure, self.settings, self.table).to(self.device)

    @functools.cached_property
    def structure_hash(self) -> str:
        """Twelve digits that tell one structure encoder from another."""
        return file_hash(model_path(self._structure))[:12]

    @functools.cached_property
    def typos(self) -> Tensor:
        """Features of the test crystals' formulas with one element wrong."""
        formulas = self.table.info["formula"].to_numpy()[self.rows[2].numpy()]
        return magpie_features(wrong_formulas(list(formulas)), cache_dir="data/cache")

    @functools.cached_property
    def systems(self) -> np.ndarray:
        """Crystal systems of the test crystals."""
        return self.table.crystal_system.cpu().numpy()[self.rows[2].numpy()]

    def views(self, job: Job) -> GridViews:
        """The views that a job is trained on."""
        laboratory = self.laboratory if job.kind == "laboratory" else None
        structure = self.structure if job.needs_structure else None
        return grid_views(self.plain, self.settings, structure=structure, laboratory=laboratory)


def train_job(job: Job, shared: Shared, *, rate: float, run_dir: Path) -> Result:
    """Train a cell once; a final training is also asked about the test crystals.

    Args:
        job: Which training.
        shared: What it is trained on.
        rate: Its learning rate.
        run_dir: Folder of checkpoints, removed when all is done.
    """
    started = time.perf_counter()
    settings, (train, val, test) = shared.settings, shared.rows
    views = shared.views(job)
    torch.manual_seed(job.seed)
    model = make_model(job, settings)
    model.fit_scalers(views, train)
    fits, scores = [], {}
    for config in stages(job, settings, rate=rate):
        model.aligning = config.cell_weight == 0
        fits.append(fit(model, views, train=train, val=val, config=config, run_dir=run_dir))
        if model.aligning and job.purpose == "final":
            ranks = own_ranks(model, views, val)  # how far it came, before it is forgotten again
            scores["val_recall_at_1_aligned"] = 100 * recall_at_k(torch.from_numpy(ranks), 1)
    last = fits[-1]
    row = last.history.loc[last.best_epoch]
    scores |= {
        "val_supervised": float(row["val_cell"] + SYSTEM_WEIGHT * row["val_system"]),
        "moves_in_last_quarter": _moves(last),
    }
    codes = {}
    if job.purpose == "final":
        answers = ask(model, views, test, typos=shared.typos)
        ranks = own_ranks(model, views, test)
        scores |= scores_of(answers, ranks, shared.systems)
        codes["length_both"] = encode_errors(answers["both"].length)
        for name, a in answers.items():
            codes[f"scaled_{name}"] = encode_errors(a.scaled)
            codes[f"right_{name}"] = encode_flags(a.right)
        if ranks is not None:
            codes["found"] = encode_flags(ranks == 1)
            scores["recall_at_10"] = 100 * recall_at_k(torch.from_numpy(ranks), 10)
    shutil.rmtree(run_dir, ignore_errors=True)
    result = Result(
        job=job,
        rate=rate,
        settings=settings.key,
        crystals=views.crystals,
        code=code_identity(),
        device=device_name(shared.device),
        seconds=time.perf_counter() - started,
        history=_short(fits),
        scores=scores,
        codes=codes,
        structure=shared.structure_hash if job.needs_structure else "",
    )
    if shared.device == "cuda":
        del model, views
        gc.collect()  # the recorded graphs of a training keep its memory
        torch.cuda.empty_cache()
    return result


def structure_result(scores: dict[str, float], settings: GridSettings, shared: Shared) -> Result:
    """What is noted of the structure encoder that :func:`.make_structure` trained."""
    return Result(
        job=Job("structure"),
        rate=FitConfig(epochs=1).lr,
        settings=settings.key,
        crystals=shared.table.content_hash(),
        code=code_identity(),
        device=device_name(shared.device),
        seconds=scores["seconds"],
        history=[],
        scores=scores,
        codes={},
    )


def make_model(job: Job, settings: GridSettings) -> GridModel:
    """The untrained model of a job's cell."""
    config = UniMatConfig(
        modalities=(*(("structure",) if job.needs_structure else ()), *INPUTS),
        inputs=INPUTS,
        start_scale=settings.start_scale,
        **model_shape(settings),
    )
    return GridModel(config, fusion=job.fusion, order=job.order)


def stages(job: Job, settings: GridSettings, *, rate: float) -> list[FitConfig]:
    """What is trained one after the other; the epochs add up to the same for all cells."""
    epochs = settings.epochs_tuning if job.purpose == "tuning" else settings.epochs
    epochs *= 2 if job.purpose == "longer" else 1
    base = FitConfig(
        epochs=epochs,
        batch_size=settings.batch_size,
        lr=rate,
        seed=job.seed,
        system_weight=SYSTEM_WEIGHT,
        modality_dropout=settings.modality_dropout,
        measurement=Measurement(fwhm=tuple(settings.fwhm_range), strain=settings.strain),
    )
    if job.order in ("simultaneous", "fused"):
        return [dataclasses.replace(base, contrastive_weight=settings.contrastive_weight)]
    if job.order == "none":
        return [base]
    first = max(1, round(ALIGNMENT_SHARE * epochs))
    weights = {"cell_weight": 0.0, "system_weight": 0.0, "contrastive_weight": 1.0}
    return [
        dataclasses.replace(base, epochs=first, modality_dropout=0.0, **weights),
        dataclasses.replace(base, epochs=max(1, epochs - first)),
    ]


def _moves(last: FitResult) -> float:
    """Share of the validation loss by which its last quarter of epochs still lowered it."""
    losses = last.history["val_cell"] + SYSTEM_WEIGHT * last.history["val_system"]
    before = losses.iloc[: max(1, round(0.75 * len(losses)))].min()
    return float((before - losses.min()) / losses.min())


def _short(fits: list[FitResult]) -> list[dict[str, float]]:
    """Validation losses by epoch, all stages one after the other."""
    names = ["val_cell", "val_system", "val_contrastive"]
    frames = [f.history.reindex(columns=names).assign(stage=n) for n, f in enumerate(fits)]
    every = pd.concat(frames, ignore_index=True)
    rows = json.loads(every.round(5).to_json(orient="records"))
    return [{k: v for k, v in row.items() if v is not None} for row in rows]
