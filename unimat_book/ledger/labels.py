"""Answers to measured patterns in, the same apart by whether their labels fit the lines out."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from unimat_book.ledger.measured import (
    MEASURED_METRICS,
    MEASURED_SETTINGS,
    Outcomes,
    measured_metrics,
    scored,
)
from unimat_powder.answer import LEFT_OVER

LABELS: Mapping[str, bool] = {"label explains the lines": False, "label leaves more": True}
"""Whether the labelled cell leaves more of the lines than a confident answer may."""

_SHOWN = (
    *("crystal_system_accuracy", "cell_first", "cell_among_5"),
    *("confident_share", "wrong_among_confident"),
)


def by_label(outcomes: Outcomes) -> pd.DataFrame:
    """Our metrics of scored patterns whose labelled cell explains their lines, and of the others.

    A row per metric, ``measured``, and a column per setting and entry of :data:`LABELS` with per
    cent and counts. A pattern with too few lines to say it is counted with the first.
    """
    rows = [{"measured": MEASURED_METRICS[metric]} for metric in _SHOWN]
    for setting, words in MEASURED_SETTINGS.items():
        frame = scored(outcomes[setting, "ours"])
        for name, wanted in LABELS.items():
            values = measured_metrics(frame[(frame["label_stray"] > LEFT_OVER) == wanted])
            for row, metric in zip(rows, _SHOWN, strict=True):
                row[f"{words}, {name}"] = _text(values[metric])
    return pd.DataFrame(rows)


def _text(values: np.ndarray) -> str:
    if not len(values):
        return "–"
    return f"{values.mean():.1f}, {round(values.sum() / 100)} of {len(values)}"
