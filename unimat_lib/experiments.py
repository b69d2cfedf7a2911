"""What every training chapter does around `fit`: seeds, predictions on file, tables, comparisons.

A chapter names the settings and says what the results mean; the loops over seeds and the shape of
the tables are here, so that all chapters report alike.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from unimat_lib import datasets, evaluate, ledger
from unimat_lib.alignment import recall_at_k, retrieval_ranks
from unimat_lib.crystals import CRYSTAL_SYSTEMS, CrystalTable
from unimat_lib.model import UniMat, UniMatConfig, load_model, num_parameters
from unimat_lib.train import FitConfig, FitResult, fit
from unimat_lib.views import CrystalViews, build_views

# Metrics of the chapters' main tables: heading and number format.
MAIN_METRICS = {
    "scaled_length_mae": ("scaled length MAE (Å)", ".3f"),
    "length_mae": ("length MAE (Å)", ".3f"),
    "length_median_ae": ("median length error (Å)", ".3f"),
    "angle_mae": ("angle MAE (°)", ".2f"),
    "crystal_system_accuracy": ("crystal system (%)", ".1f"),
}


@dataclass(frozen=True)
class Run:
    """One setting, trained once per seed.

    Attributes:
        fits: History and cost of each seed's training.
        frames: Errors frame of each seed on the test crystals (empty where none were asked for).
        models: Each seed's model, best epoch.
        seeds: The seeds, in the order of the other lists.
    """

    fits: list[FitResult]
    frames: list[pd.DataFrame]
    models: list[UniMat]
    seeds: list[int]

    @classmethod
    def load(
        cls, folder: str | os.PathLike[str], *, setting: str, variant: str, made_by: str
    ) -> Run:
        """A setting that another chapter trained, see :func:`ledger.load_predictions`."""
        frames = ledger.load_predictions(folder, setting=setting, variant=variant, made_by=made_by)
        return cls(fits=[], frames=list(frames.values()), models=[], seeds=list(frames))

    @property
    def model(self) -> UniMat:
        """The last seed's model."""
        return self.models[-1]

    @functools.cached_property
    def summary(self) -> pd.DataFrame:
        """:func:`evaluate.summarize` of the main metrics, indexed by metric."""
        return evaluate.summarize(self.frames, list(MAIN_METRICS)).set_index("metric")


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
) -> Run:
    """Train one model per seed and predict the test crystals once with each.

    The seed decides the starting weights and everything random in training. Validation crystals
    choose the epoch (inside :func:`fit`); test crystals are touched once, afterwards.

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
        variant: Name of the variant.
        rows: Rows to train on, int64, where it is not the whole training split (part of it, or
            crystals for pretraining beside it). Units of inputs and outputs come from the training
            split all the same, so that one model can start from another.
        start: What each seed starts from, one entry per seed. A model of the same description
            hands over everything, any other its encoders and projections; a mapping says for each
            modality from whose encoder. The rest starts from the seed.

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
        fits.append(fit(network, views, train=chosen, val=val, config=settings, run_dir=run_dir))
        models.append(network)
        if predictions is not None:
            frames.append(evaluate.predict(network, views, table, test))
    if predictions is not None:
        by_seed = dict(zip(seeds, frames, strict=True))
        ledger.save_predictions(by_seed, predictions, setting=setting, variant=variant)
        # What is reported is what lies on file, rounding included.
        kept = ledger.load_predictions(predictions, setting=setting, variant=variant, made_by="")
        frames = [kept[seed] for seed in seeds]
    return Run(fits=fits, frames=frames, models=models, seeds=list(seeds))


def _take_over(source: UniMat | Mapping[str, UniMat], target: UniMat) -> None:
    if isinstance(source, UniMat) and source.config == target.config:
        target.load_state_dict(source.state_dict())
        return
    for name in target.encoders:
        model = source if isinstance(source, UniMat) else source.get(name)
        if model is not None:
            for part in ("encoders", "projections"):
                weights = getattr(model, part)[name].state_dict()
                getattr(target, part)[name].load_state_dict(weights)


def pretraining_data(
    table: CrystalTable,
    name: str,
    *,
    max_atoms: int,
    modalities: Sequence[str],
    **settings: object,
) -> tuple[CrystalViews, CrystalTable, Tensor]:
    """What a model is pretrained on: views, table, and the rows to train on.

    Args:
        table: The data set with its splits.
        name: Data set of further crystals, empty for none.
        max_atoms: Largest of their cells.
        modalities: Views to build.
        settings: As of :func:`unimat_lib.views.build_views`.

    Returns:
        Views and table of both data sets together, and the rows of the training split and of the
        further crystals, int64.
    """
    extra = datasets.load(name) if name else None
    pool = datasets.pretraining_pool(table, extra, max_atoms=max_atoms)
    rows = torch.from_numpy(np.flatnonzero(pool.info["split"].isin(["train", "extra"])))
    return build_views(pool, modalities=modalities, **settings), pool, rows


def test_ranks(run: Run, views: CrystalViews, table: CrystalTable) -> dict[int, pd.DataFrame]:
    """Ranks of the test crystals in retrieval among themselves, by seed.

    Args:
        run: Trained models with a contrastive loss.
        views: Views of ``table``.
        table: The crystals.

    Returns:
        As :func:`ledger.save_ranks` takes it.
    """
    test = split_rows(table)[2]
    names = table.info["material_id"].to_numpy()[test.numpy()]
    return {
        seed: ledger.rank_frame(evaluate.embed(model, views, test), names)
        for seed, model in zip(run.seeds, run.models, strict=True)
    }


def load_starts(
    folder: str | os.PathLike[str], views: Sequence[str], seeds: Sequence[int], *, made_by: str
) -> list[dict[str, UniMat]]:
    """The models of single views that an earlier chapter left for others to start from.

    Args:
        folder: Where it saved ``<view>_seed<seed>.safetensors``.
        views: Names of the modalities.
        seeds: Which seeds.
        made_by: The exact command that makes the files, for the error message.

    Returns:
        For each seed what :func:`train_seeds` takes as a start.

    Raises:
        FileNotFoundError: If a file is missing; the message holds the command.
    """
    paths = [{v: Path(folder) / f"{v}_seed{seed}.safetensors" for v in views} for seed in seeds]
    missing = [path for by_view in paths for path in by_view.values() if not path.is_file()]
    if missing:
        raise FileNotFoundError(f"{missing[0]} is missing. Make it with:\n    {made_by}")
    return [{view: load_model(path) for view, path in by_view.items()} for by_view in paths]


def main_table(runs: Mapping[str, Run], *, first_column: str = "view") -> pd.DataFrame:
    """One row per run: mean ± standard deviation over seeds [95 % interval over crystals].

    One seed has no standard deviation, and none is printed.
    """
    rows = []
    for name, run in runs.items():
        row, summary = {first_column: name}, run.summary
        for metric, (label, spec) in MAIN_METRICS.items():
            columns = ["mean", "std", "ci_low", "ci_high"]
            mean, std, low, high = (format(x, spec) for x in summary.loc[metric, columns])
            spread = f" ± {std}" if len(run.frames) > 1 else ""
            row[label] = f"{mean}{spread} [{low}, {high}]"
        rows.append(row)
    return pd.DataFrame(rows)


def cost_table(runs: Mapping[str, Run]) -> pd.DataFrame:
    """One row per run: size, epochs, speed, memory, time per seed."""
    return pd.DataFrame(
        {
            "model": name,
            "parameters": num_parameters(run.model.encoders),
            "epochs": len(run.fits[0].history),
            "crystals/s": round(float(np.median([f.throughput for f in run.fits]))),
            "peak memory (GiB)": max(f.peak_memory_gib for f in run.fits),
            "seconds per seed": float(np.mean([f.seconds for f in run.fits])),
        }
        for name, run in runs.items()
    )


def change_table(
    before: Run | Sequence[pd.DataFrame], after: Run | Sequence[pd.DataFrame]
) -> pd.DataFrame:
    """Paired changes of the main metrics between two settings (the median is left out).

    Args:
        before: A run, or the errors frames of its seeds.
        after: Another one on the same crystals.

    Returns:
        Index: the metric's name. Columns ``metric`` (heading), ``before``, ``after``, ``change``,
        ``95 % interval`` (text) and ``verdict``, see :func:`ledger.change_verdict`.
    """
    old, new = (list(getattr(x, "frames", x)) for x in (before, after))
    rows = {}
    for metric, (label, spec) in MAIN_METRICS.items():
        if metric not in evaluate.PER_CRYSTAL:
            continue
        means = [np.mean([evaluate.cell_metrics(f)[metric] for f in fs]) for fs in (old, new)]
        change, low, high = ledger.paired_difference(old, new, metric)
        values = [format(x, spec) for x in means]
        word = ledger.change_verdict(low, high, lower_is_better=metric in evaluate.LOWER_IS_BETTER)
        interval = "–" if np.isnan(low) else f"{low:+{spec}} to {high:+{spec}}"
        rows[metric] = [label, *values, f"{change:+{spec}}", interval, word]
    columns = ["metric", "before", "after", "change", "95 % interval", "verdict"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns)


def worst_table(frames: Sequence[pd.DataFrame], table: CrystalTable, *, n: int = 6) -> pd.DataFrame:
    """The ``n`` test crystals with the largest length error (mean over seeds) and their rows."""
    test = split_rows(table)[2].numpy()
    error = np.mean([evaluate.PER_CRYSTAL["length_mae"](frame) for frame in frames], axis=0)
    order = np.argsort(-error, kind="stable")[:n]
    guess = np.mean([frame[list("abc")].to_numpy()[order] for frame in frames], axis=0)
    rows = test[order]
    return pd.DataFrame(
        {
            "row": rows,
            "formula": table.info["formula"].to_numpy()[rows],
            "crystal system": [CRYSTAL_SYSTEMS[k] for k in table.crystal_system[rows].tolist()],
            "atoms": table.num_atoms[rows].tolist(),
            "true a, b, c (Å)": [_triple(x) for x in table.lengths[rows].tolist()],
            "predicted a, b, c (Å)": [_triple(x) for x in guess],
            "mean error (Å)": error[order],
        }
    )


def _triple(values: Sequence[float]) -> str:
    return ", ".join(f"{x:.2f}" for x in values)


def retrieval_table(
    points: Mapping[str, Tensor], *, ks: Sequence[int] = (1, 3, 5, 10)
) -> pd.DataFrame:
    """Recall of every ordered pair of views, the whole set as gallery, ties against us.

    Args:
        points: View name to points of the shared space ``[n, d]``, same crystals in each.
        ks: Depths.

    Returns:
        Columns ``query``, ``gallery``, ``recall@<k> (%)`` and ``median rank``.
    """
    rows = []
    for query in points:
        for gallery in points:
            if query != gallery:
                ranks = retrieval_ranks(points[query], points[gallery])
                recalls = {f"recall@{k} (%)": 100 * recall_at_k(ranks, k) for k in ks}
                median = float(ranks.double().median())
                rows.append({"query": query, "gallery": gallery, **recalls, "median rank": median})
    return pd.DataFrame(rows)


def retrieval_examples(
    queries: Sequence[int],
    similarity: Tensor,
    patterns: Tensor,
    names: Sequence[str],
    *,
    ranks: Tensor,
) -> list[dict[str, object]]:
    """What :func:`figures.retrieval_examples` draws: queries with their five best candidates.

    Args:
        queries: Rows of ``similarity``.
        similarity: Patterns against structures of the same crystals ``[n, n]``.
        patterns: Their patterns ``[n, P]``.
        names: Their names.
        ranks: Rank of the right structure of each pattern ``[n]``, for the titles.
    """
    examples = []
    for query in queries:
        scores, top = similarity[query].topk(min(5, len(similarity)))
        place = (top == query).nonzero().flatten().tolist()
        examples.append(
            {
                "query": patterns[query],
                "candidates": patterns[top],
                "labels": [names[i] for i in top.tolist()],
                "scores": scores,
                "correct": place[0] if place else None,
                "title": f"{names[query]}, rank {int(ranks[query]):,}",
            }
        )
    return examples


def preferred_wrong(similarity: Tensor, patterns: Tensor, table: CrystalTable) -> pd.DataFrame:
    """For every pattern the wrong structure that is most similar, and how alike the patterns are.

    Args:
        similarity: Patterns against structures of the same crystals ``[n, n]``.
        patterns: Their patterns ``[n, P]``.
        table: The same crystals.

    Returns:
        One row per crystal: ``query``, ``space group``, ``preferred structure``, ``its space
        group``, ``same group``, and the cosine ``pattern similarity`` of the two patterns.
    """
    wrong = similarity.clone().fill_diagonal_(-2).argmax(dim=1)
    unit = torch.nn.functional.normalize(patterns, dim=1)
    formula, group = table.info["formula"].to_numpy(), table.space_group.numpy()
    other = wrong.numpy()
    return pd.DataFrame(
        {
            "query": formula,
            "space group": group,
            "preferred structure": formula[other],
            "its space group": group[other],
            "same group": group == group[other],
            "pattern similarity": (unit * unit[wrong]).sum(dim=1).numpy(),
        }
    )
