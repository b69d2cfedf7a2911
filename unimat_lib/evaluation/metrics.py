"""An errors frame in, metrics, tables by crystal system and calibration out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd

from unimat_lib.crystals.table import CRYSTAL_SYSTEMS

CELL_COLUMNS = ("a", "b", "c", "alpha", "beta", "gamma")
SCALED_COLUMNS = ("scaled_a", "scaled_b", "scaled_c")
PROBABILITY_COLUMNS = tuple(f"p_{name}" for name in CRYSTAL_SYSTEMS)

_BINS = 15  # of the confidence, for the calibration


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


def values_per_crystal(frame: pd.DataFrame, metric: str) -> np.ndarray:
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


def confusion_counts(frame: pd.DataFrame) -> np.ndarray:
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
