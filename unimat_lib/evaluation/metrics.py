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
    """An errors frame with ``relative_error_a``, ``_b``, ``_c`` and ``_volume``, floats in float32.

    They follow from the predictions ``a`` ... ``gamma`` and their errors.
    """
    predicted = frame[list(CELL_COLUMNS)].to_numpy(dtype=float)  # [n, 6]
    true = predicted - frame[[f"error_{name}" for name in CELL_COLUMNS]].to_numpy(dtype=float)
    relative = (predicted[:, :3] - true[:, :3]) / true[:, :3]
    columns = {f"relative_error_{n}": x for n, x in zip("abc", relative.T, strict=True)}
    volume = cell_volume(true[:, :3], true[:, 3:])
    came = cell_volume(predicted[:, :3], predicted[:, 3:])
    frame = frame.assign(**columns, relative_error_volume=(came - volume) / volume)
    floats = frame.columns[frame.dtypes == np.float64]
    return frame.astype(dict.fromkeys(floats, np.float32))


def cell_volume(lengths: np.ndarray, angles: np.ndarray) -> np.ndarray:
    """Volume in cubic angstrom from lengths ``[n, 3]`` and angles ``[n, 3]`` in degrees.

    Angles that close no cell (as a network may predict) give the volume zero.
    """
    cosines = np.cos(np.radians(angles))
    squared = 1 - (cosines**2).sum(axis=1) + 2 * cosines.prod(axis=1)
    return lengths.prod(axis=1) * np.sqrt(np.clip(squared, 0, None))


def _abs(frame: pd.DataFrame, names: Sequence[str], prefix: str = "error_") -> pd.DataFrame:
    return frame[[f"{prefix}{name}" for name in names]].abs()


# One value per crystal; the metric is their mean. The median is apart because it pools lengths.
PER_CRYSTAL: Mapping[str, Callable[[pd.DataFrame], pd.Series]] = {
    "scaled_length_mae": lambda f: _abs(f, SCALED_COLUMNS).mean(axis=1),
    "length_mae": lambda f: _abs(f, "abc").mean(axis=1),
    "length_mape": lambda f: 100 * _abs(f, "abc", "relative_error_").mean(axis=1),
    "angle_mae": lambda f: _abs(f, ("alpha", "beta", "gamma")).mean(axis=1),
    "volume_mape": lambda f: 100 * f["relative_error_volume"].abs(),
    "within_1_percent": lambda f: 100.0 * (_abs(f, "abc", "relative_error_") <= 0.01).all(axis=1),
    "crystal_system_accuracy": lambda f: 100.0 * (f["predicted_system"] == f["crystal_system"]),
}

METRIC_UNITS = {
    "scaled_length_mae": "Å", "length_mae": "Å", "length_median_ae": "Å", "length_mape": "%",
    "angle_mae": "°", "volume_mape": "%", "within_1_percent": "%", "crystal_system_accuracy": "%",
}  # fmt: skip

LOWER_IS_BETTER = frozenset(name for name in METRIC_UNITS if name.endswith(("mae", "ae", "mape")))
"""The metrics that are errors; the others are shares of what is right."""


def cell_metrics(frame: pd.DataFrame) -> dict[str, float]:
    """All metrics of an errors frame, in ``METRIC_UNITS``.

    Also ``crystal_system_accuracy_<name>`` in percent for every crystal system that occurs.

    Raises:
        ValueError: If the frame is empty.
    """
    if frame.empty:
        raise ValueError("expected at least one prediction, got an empty frame")
    metrics = {name: float(values(frame).mean()) for name, values in PER_CRYSTAL.items()}
    metrics["length_median_ae"] = float(np.median(_abs(frame, "abc").to_numpy()))
    for number, name in enumerate(CRYSTAL_SYSTEMS):
        part = frame[frame["crystal_system"] == number]
        if len(part):
            right = (part["predicted_system"] == number).mean()
            metrics[f"crystal_system_accuracy_{name}"] = 100 * float(right)
    return metrics


def values_per_crystal(frame: pd.DataFrame, metric: str) -> np.ndarray:
    """The values whose mean is a metric, one for each crystal that it is about.

    Raises:
        ValueError: There is no such metric, or it is the median, which is no mean.
    """
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
    """Metrics by true crystal system, from low to high symmetry, and the number ``n`` of crystals.

    A system without crystals has a row with ``n = 0`` and empty metrics: it is shown, not dropped.
    """
    rows = []
    names = [name for name in METRIC_UNITS if name != "within_1_percent"]
    for number, system in enumerate(CRYSTAL_SYSTEMS):
        part = frame[frame["crystal_system"] == number]
        metrics = cell_metrics(part) if len(part) else {}
        row = {name: metrics.get(name, float("nan")) for name in names}
        rows.append({"crystal system": system, "n": len(part)} | row)
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
