"""Metrics, per-crystal-system tables, bootstrap intervals, calibration.

Predictions are collected once into an *errors frame*, one row per crystal: what was predicted and
how far off it was. Every published number is computed from such a frame, so it can be recomputed
from the file that a chapter leaves under ``data/results/predictions/``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from unimat_lib.crystals import CRYSTAL_SYSTEMS, CrystalTable
from unimat_lib.model import UniMat, check_views
from unimat_lib.views import CrystalViews

CELL_COLUMNS = ("a", "b", "c", "alpha", "beta", "gamma")
SCALED_COLUMNS = ("scaled_a", "scaled_b", "scaled_c")
PROBABILITY_COLUMNS = tuple(f"p_{name}" for name in CRYSTAL_SYSTEMS)

_BATCH = 512  # crystals that a model sees at once
_BINS = 15  # of the confidence, for the calibration


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
    return _errors_frame(values, table, index.cpu())


def _errors_frame(values: np.ndarray, table: CrystalTable, index: Tensor) -> pd.DataFrame:
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


def with_relative_errors(frame: pd.DataFrame) -> pd.DataFrame:
    """Add the relative errors of lengths and volume, which follow from the other columns.

    Args:
        frame: Errors frame with the predictions ``a`` ... ``gamma`` and their errors.

    Returns:
        The frame with ``relative_error_a`` ... ``relative_error_volume``, all numbers float32.
    """
    predicted = frame[list(CELL_COLUMNS)].to_numpy(dtype=float)  # [n, 6]
    true = predicted - frame[[f"error_{name}" for name in CELL_COLUMNS]].to_numpy(dtype=float)
    relative = (predicted[:, :3] - true[:, :3]) / true[:, :3]
    columns = {f"relative_error_{n}": x for n, x in zip("abc", relative.T, strict=True)}
    volume = cell_volume(true[:, :3], true[:, 3:])
    columns["relative_error_volume"] = (
        cell_volume(predicted[:, :3], predicted[:, 3:]) - volume
    ) / volume
    frame = frame.assign(**columns)
    floats = frame.columns[frame.dtypes == np.float64]
    return frame.astype(dict.fromkeys(floats, np.float32))


def cell_volume(lengths: np.ndarray, angles: np.ndarray) -> np.ndarray:
    """Volume in cubic angstrom from lengths ``[n, 3]`` and angles ``[n, 3]`` in degrees.

    Angles that close no cell (as a network may predict) give the volume zero.
    """
    cosines = np.cos(np.radians(angles))
    squared = 1 - (cosines**2).sum(axis=1) + 2 * cosines.prod(axis=1)
    return lengths.prod(axis=1) * np.sqrt(np.clip(squared, 0, None))


def _mean_abs(frame: pd.DataFrame, names: Sequence[str], prefix: str = "error_") -> pd.Series:
    return frame[[f"{prefix}{name}" for name in names]].abs().mean(axis=1)


def _within_one_percent(frame: pd.DataFrame) -> pd.Series:
    errors = frame[[f"relative_error_{name}" for name in "abc"]].abs()
    return (errors <= 0.01).all(axis=1).astype(float)


# One value per crystal; the metric is their mean. The median is apart because it pools lengths.
PER_CRYSTAL: Mapping[str, Callable[[pd.DataFrame], pd.Series]] = {
    "scaled_length_mae": lambda f: _mean_abs(f, SCALED_COLUMNS),
    "length_mae": lambda f: _mean_abs(f, ("a", "b", "c")),
    "length_mape": lambda f: 100 * _mean_abs(f, ("a", "b", "c"), "relative_error_"),
    "angle_mae": lambda f: _mean_abs(f, ("alpha", "beta", "gamma")),
    "volume_mape": lambda f: 100 * f["relative_error_volume"].abs(),
    "within_1_percent": lambda f: 100 * _within_one_percent(f),
    "crystal_system_accuracy": lambda f: (
        100 * (f["predicted_system"] == f["crystal_system"]).astype(float)
    ),
}

LOWER_IS_BETTER = frozenset(
    (
        "scaled_length_mae",
        "length_mae",
        "length_median_ae",
        "length_mape",
        "angle_mae",
        "volume_mape",
    )
)
"""The metrics that are errors; the others are shares of what is right."""

METRIC_UNITS = {
    "scaled_length_mae": "Å",
    "length_mae": "Å",
    "length_median_ae": "Å",
    "length_mape": "%",
    "angle_mae": "°",
    "volume_mape": "%",
    "within_1_percent": "%",
    "crystal_system_accuracy": "%",
}


def cell_metrics(frame: pd.DataFrame) -> dict[str, float]:
    """All metrics of an errors frame.

    Returns:
        ``scaled_length_mae``, ``length_mae``, ``length_median_ae`` (angstrom), ``angle_mae``
        (degrees), ``length_mape``, ``volume_mape``, ``within_1_percent`` and
        ``crystal_system_accuracy`` (percent), and ``crystal_system_accuracy_<name>`` for every
        crystal system that occurs.

    Raises:
        ValueError: If the frame is empty.
    """
    if frame.empty:
        raise ValueError("expected at least one prediction, got an empty frame")
    metrics = {name: float(values(frame).mean()) for name, values in PER_CRYSTAL.items()}
    metrics["length_median_ae"] = length_median(frame)
    for number, name in enumerate(CRYSTAL_SYSTEMS):
        part = frame[frame["crystal_system"] == number]
        if len(part):
            right = (part["predicted_system"] == number).mean()
            metrics[f"crystal_system_accuracy_{name}"] = 100 * float(right)
    return metrics


def length_median(frame: pd.DataFrame) -> float:
    """Median absolute error over all lengths a, b, c of all crystals, angstrom."""
    return float(np.median(frame[["error_a", "error_b", "error_c"]].abs().to_numpy()))


def bootstrap_interval(
    frames: Sequence[pd.DataFrame], metric: str, *, num_resamples: int = 1000
) -> tuple[float, float]:
    """95 % percentile interval of a metric over resampled test crystals.

    Args:
        frames: Errors frames of the seeds, same crystals in the same order; the metric is
            averaged over the seeds for each resample, so the interval speaks of the crystals and
            the standard deviation over seeds (reported beside it) of the training.
        metric: A key of ``PER_CRYSTAL``, ``length_median_ae`` or
            ``crystal_system_accuracy_<name>``.
        num_resamples: Bootstrap samples.

    Raises:
        ValueError: If the metric is unknown, there is no frame or the frames differ in length.

    Source: Efron, Annals of Statistics 7 (1979) 1.
    """
    if not frames or len({len(frame) for frame in frames}) != 1:
        raise ValueError(
            f"expected frames of one length, got lengths {[len(frame) for frame in frames]}"
        )
    if metric == "length_median_ae":
        rng = np.random.default_rng(0)
        errors = np.stack([f[["error_a", "error_b", "error_c"]].abs().to_numpy() for f in frames])
        n = errors.shape[1]
        draws = [
            np.median(errors[:, rng.integers(0, n, n)].reshape(len(frames), -1), axis=1).mean()
            for _ in range(num_resamples)
        ]
        return _interval(np.array(draws))
    values = np.mean([_per_crystal(frame, metric) for frame in frames], axis=0)  # [n]
    return bootstrap_mean(values, num_resamples=num_resamples)


def bootstrap_mean(values: np.ndarray, *, num_resamples: int = 1000) -> tuple[float, float]:
    """95 % percentile interval of the mean of ``values`` ``[n]`` over resampled crystals."""
    return _interval(_resamples(len(values), num_resamples).astype(float) @ values / len(values))


@functools.lru_cache(maxsize=8)  # a ledger asks for the same ones for every metric and setting
def _resamples(n: int, num_resamples: int) -> np.ndarray:
    """How often each of ``n`` crystals is drawn in each resample, int16 ``[num_resamples, n]``."""
    rng = np.random.default_rng(0)
    return rng.multinomial(n, np.full(n, 1 / n), size=num_resamples).astype(np.int16)


def _per_crystal(frame: pd.DataFrame, metric: str) -> np.ndarray:
    prefix = "crystal_system_accuracy_"
    if metric in PER_CRYSTAL:
        return PER_CRYSTAL[metric](frame).to_numpy()
    if metric.startswith(prefix) and metric.removeprefix(prefix) in CRYSTAL_SYSTEMS:
        number = CRYSTAL_SYSTEMS.index(metric.removeprefix(prefix))
        part = frame[frame["crystal_system"] == number]
        return 100 * (part["predicted_system"] == number).to_numpy(dtype=float)
    raise ValueError(
        f"unknown metric {metric!r}: expected one of {[*PER_CRYSTAL, 'length_median_ae']} or "
        f"{prefix}<{'|'.join(CRYSTAL_SYSTEMS)}>"
    )


def _interval(draws: np.ndarray) -> tuple[float, float]:
    low, high = np.percentile(draws, [2.5, 97.5])
    return float(low), float(high)


def summarize(
    frames: Sequence[pd.DataFrame], metrics: Sequence[str], *, num_resamples: int = 1000
) -> pd.DataFrame:
    """Mean and standard deviation over seeds with a bootstrap interval, one row per metric.

    Args:
        frames: Errors frames of the seeds.
        metrics: Names as in :func:`cell_metrics`.
        num_resamples: Bootstrap samples.

    Returns:
        Columns ``metric``, ``mean``, ``std`` (NaN for one seed: their spread is unknown),
        ``seeds``, ``ci_low``, ``ci_high``, ``n_test`` (the crystals that the metric speaks of).

    Raises:
        ValueError: If a metric is unknown or no crystal belongs to its crystal system.
    """
    per_seed = [cell_metrics(frame) for frame in frames]
    rows = []
    for metric in metrics:
        if metric not in per_seed[0]:
            raise ValueError(
                f"no value for {metric!r}: expected one of {sorted(per_seed[0])} (a crystal "
                "system without crystals has none)"
            )
        values = np.array([m[metric] for m in per_seed])
        pooled = metric == "length_median_ae"
        count = len(frames[0]) if pooled else len(_per_crystal(frames[0], metric))
        low, high = bootstrap_interval(frames, metric, num_resamples=num_resamples)
        rows.append(
            {
                "metric": metric,
                "mean": values.mean(),
                "std": values.std(ddof=1) if len(values) > 1 else float("nan"),
                "seeds": len(values),
                "ci_low": low,
                "ci_high": high,
                "n_test": count,
            }
        )
    return pd.DataFrame(rows)


def per_system_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Metrics by true crystal system, from low to high symmetry.

    Returns:
        Index ``crystal system``; ``n`` and the metrics of :func:`cell_metrics` that make sense
        for one class. A system without crystals has a row with ``n = 0`` and empty metrics: it
        is shown, not dropped.
    """
    rows = []
    names = [name for name in METRIC_UNITS if name != "within_1_percent"]
    for number, system in enumerate(CRYSTAL_SYSTEMS):
        part = frame[frame["crystal_system"] == number]
        metrics = cell_metrics(part) if len(part) else {}
        rows.append(
            {"crystal system": system, "n": len(part)}
            | {name: metrics.get(name, float("nan")) for name in names}
        )
    return pd.DataFrame(rows).set_index("crystal system")


def confusion(frame: pd.DataFrame) -> np.ndarray:
    """Counts ``[7, 7]``: rows are true crystal systems, columns predicted ones."""
    matrix = np.zeros((len(CRYSTAL_SYSTEMS),) * 2, dtype=np.int64)
    np.add.at(matrix, (frame["crystal_system"], frame["predicted_system"]), 1)
    return matrix


def expected_calibration_error(frame: pd.DataFrame) -> float:
    """Mean gap between confidence and accuracy of the crystal system, in [0, 1].

    Source: Guo et al., arXiv 1706.04599, eq. 3 (equal-width bins).
    """
    return float(reliability(frame).eval("share * abs(accuracy - confidence)").sum())


def reliability(frame: pd.DataFrame) -> pd.DataFrame:
    """Accuracy against confidence of the predicted crystal system.

    Returns:
        One row per non-empty bin: ``confidence``, ``accuracy`` (means), ``share`` of crystals.
    """
    confidence = frame[list(PROBABILITY_COLUMNS)].max(axis=1)
    right = frame["predicted_system"] == frame["crystal_system"]
    bins = np.minimum((confidence * _BINS).astype(int), _BINS - 1)
    grouped = pd.DataFrame({"confidence": confidence, "accuracy": right}).groupby(bins)
    return grouped.mean().assign(share=grouped.size() / len(frame)).reset_index(drop=True)


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


def linear_probe(
    model: UniMat,
    views: CrystalViews,
    table: CrystalTable,
    *,
    train: Tensor,
    test: Tensor,
    modality: str,
) -> pd.DataFrame:
    """Errors frame of linear models on what a frozen encoder says.

    The cell comes from ridge regression, the crystal system from logistic regression, both on
    standardised embeddings; the strength of the ridge is chosen by leave-one-out on ``train``.

    Args:
        model: Its encoder stays as it is; its heads are not used.
        views: Views of ``table``.
        table: The crystals.
        train: Rows to fit on, int64 ``[T]``.
        test: Rows to predict, int64 ``[B]``.
        modality: Which encoder.

    Returns:
        As :func:`predict`.

    Source: the linear evaluation protocol of Alain and Bengio, arXiv 1610.01644.
    """
    from sklearn.linear_model import LogisticRegression, RidgeCV  # a second, needed here alone

    known, asked = (encodings(model, views, rows, modality).numpy() for rows in (train, test))
    mean, std = known.mean(axis=0), known.std(axis=0) + 1e-6
    known, asked = (known - mean) / std, (asked - mean) / std
    truth = [_true_cells(views, rows.to(views.device)) for rows in (train, test)]
    ridge = RidgeCV(alphas=np.logspace(-1, 4, 11), alpha_per_target=True)
    cells = ridge.fit(known, truth[0]).predict(asked)
    systems = table.crystal_system.cpu().numpy()
    classifier = LogisticRegression(max_iter=300).fit(known, systems[train.cpu().numpy()])
    probabilities = np.zeros((len(asked), len(CRYSTAL_SYSTEMS)))
    probabilities[:, classifier.classes_] = classifier.predict_proba(asked)
    values = np.concatenate([cells, truth[1], probabilities], axis=1)
    return _errors_frame(values, table, test.cpu())


def _true_cells(views: CrystalViews, rows: Tensor) -> np.ndarray:
    """Lengths, angles and scaled lengths ``[B, 9]``, the order of the errors frame."""
    t = views.targets.select(rows)
    return torch.cat([t.lengths, t.angles, t.scaled_lengths], dim=1).double().cpu().numpy()
