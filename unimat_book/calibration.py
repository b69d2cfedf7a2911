"""An errors frame in, tables by crystal system and the calibration of its probabilities out."""

import numpy as np
import pandas as pd

from unimat_lib.crystals.table import CRYSTAL_SYSTEMS
from unimat_lib.evaluation.metrics import METRIC_UNITS, PROBABILITY_COLUMNS, cell_metrics

_BINS = 15  # of the confidence


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
