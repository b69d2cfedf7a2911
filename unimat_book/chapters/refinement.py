"""Refined frames in, the kinds of their failures out."""

import numpy as np
import pandas as pd

FAILURES = ("prediction kept", "multiple of the volume", "same volume, another cell", "other cell")
"""What may have happened where a cell is not within one per cent, see :func:`failure_kinds`."""


def failure_kinds(frame: pd.DataFrame) -> pd.Series:
    """What happened to each crystal of a refined frame: an entry of ``FAILURES``, or "found".

    A cell whose volume is a whole multiple or part of the true one (to two per cent) has lines
    too many or too few; one of the same volume explains the same peaks with other axes.
    """
    lengths = frame[[f"relative_error_{name}" for name in "abc"]].abs().to_numpy()
    ratio = 1 + frame["relative_error_volume"].to_numpy()
    size = np.maximum(ratio, 1 / np.maximum(ratio, 1e-3))
    kinds = [
        (lengths <= 0.01).all(1),
        ~frame["accepted"].to_numpy(bool),
        (size > 1.5) & (np.abs(size / size.round() - 1) < 0.02),
        size < 1.02,
    ]
    return pd.Series(np.select(kinds, ("found", *FAILURES[:3]), FAILURES[3]), index=frame.index)
