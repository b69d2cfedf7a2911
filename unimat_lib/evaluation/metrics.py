"""An errors frame in, metrics out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd

from unimat_lib.crystals.table import CRYSTAL_SYSTEMS

CELL_COLUMNS = ("a", "b", "c", "alpha", "beta", "gamma")
SCALED_COLUMNS = ("scaled_a", "scaled_b", "scaled_c")
PROBABILITY_COLUMNS = tuple(f"p_{name}" for name in CRYSTAL_SYSTEMS)


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

    Also ``crystal_system_accuracy_<name>``, percent, of each that occurs; empty: ``ValueError``.
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
