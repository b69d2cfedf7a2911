"""Conformal intervals of the cell: how far the true lengths may lie from the predicted ones.

Errors of crystals that were not trained on say what to expect of the next one, if that one is drawn
like them. No assumption about the model is needed, and none about the distribution of its errors.
"""

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from unimat_book.statistics import wilson_interval
from unimat_lib.crystals.table import CRYSTAL_SYSTEMS
from unimat_lib.evaluation.metrics import PROBABILITY_COLUMNS

INTERVALS = ("absolute", "relative", "relative, by predicted system", "relative, by doubt")
"""Kinds of conformal intervals, see :func:`half_widths`."""

_DOUBT_CLASSES = 5
_MIN_LENGTH = 0.1  # angstrom; a network's length can be anything


def conformal_quantile(scores: np.ndarray, coverage: float) -> float:
    """The score that a new crystal stays below with at least the probability ``coverage``.

    The ``ceil((n + 1) coverage)``-th smallest of the scores ``[n]`` of crystals that were not
    trained on: if the new score is exchangeable with them, its rank among all ``n + 1`` is uniform.
    Infinite where ``n`` is too small to tell.

    Raises:
        ValueError: If the coverage lies outside (0, 1) or a score is not a number.

    Source: Vovk, Gammerman and Shafer, Algorithmic Learning in a Random World (2005); Lei et al.,
        J. Am. Stat. Assoc. 113, 1094 (2018), algorithm 2.
    """
    scores = np.sort(np.asarray(scores, dtype=float))
    if not 0 < coverage < 1 or np.isnan(scores).any():
        raise ValueError(
            f"expected a coverage in (0, 1) and scores that are numbers, got {coverage} and "
            f"{int(np.isnan(scores).sum())} NaN: leave broken predictions out"
        )
    rank = math.ceil((len(scores) + 1) * coverage - 1e-9)  # 0.9 of ten is nine, not ten
    return float(scores[rank - 1]) if rank <= len(scores) else math.inf


def half_widths(
    calibration: pd.DataFrame, frame: pd.DataFrame, *, coverage: float, kind: str
) -> np.ndarray:
    """Half widths of intervals that hold all three lengths of a crystal together.

    Split conformal prediction. The score of a crystal is its largest length error: in angstrom
    ("absolute", one width for everybody), or as a part of the predicted length ("relative"). With
    "by predicted system" and "by doubt" (fifths by the entropy of the crystal-system probabilities)
    each group has its own quantile, so that the promise holds within each group (Mondrian).

    Args:
        calibration: Errors frame of crystals that were not trained on.
        frame: That of the ``n`` crystals to judge; their errors are not read.
        coverage: Share of the crystals that is promised, in (0, 1).
        kind: One of ``INTERVALS``.

    Returns:
        Angstrom ``[n, 3]``; infinite where a group has too few crystals to promise anything.

    Raises:
        ValueError: If the kind is unknown or the coverage lies outside (0, 1).

    Source: Lei et al., J. Am. Stat. Assoc. 113, 1094 (2018); Angelopoulos and Bates, arXiv
        2107.07511, sections 2.3 and 4.1; Mondrian: Vovk, Gammerman and Shafer (2005).
    """
    if kind not in INTERVALS:
        raise ValueError(f"unknown kind {kind!r}: expected one of {list(INTERVALS)}")
    errors = calibration[["error_a", "error_b", "error_c"]].abs().to_numpy(dtype=float)
    scores = (errors / _width_scale(calibration, kind)).max(axis=1)
    known, asked = (_interval_groups(calibration, some, kind) for some in (calibration, frame))
    quantile = np.empty(len(frame))
    for group in np.unique(asked):
        quantile[asked == group] = conformal_quantile(scores[known == group], coverage)
    return quantile[:, None] * _width_scale(frame, kind)


def _width_scale(frame: pd.DataFrame, kind: str) -> np.ndarray:
    lengths = frame[list("abc")].to_numpy(dtype=float)
    return np.ones_like(lengths) if kind == "absolute" else lengths.clip(min=_MIN_LENGTH)


def _interval_groups(calibration: pd.DataFrame, frame: pd.DataFrame, kind: str) -> np.ndarray:
    if kind.endswith("by predicted system"):
        return frame["predicted_system"].to_numpy()
    if kind.endswith("by doubt"):
        shares = np.arange(1, _DOUBT_CLASSES) / _DOUBT_CLASSES
        return np.digitize(_entropy(frame), np.quantile(_entropy(calibration), shares))
    return np.zeros(len(frame), dtype=int)


def _entropy(frame: pd.DataFrame) -> np.ndarray:
    """Entropy of the crystal-system probabilities, nats ``[n]``."""
    probabilities = frame[list(PROBABILITY_COLUMNS)].to_numpy(dtype=float).clip(1e-9, 1)
    return -(probabilities * np.log(probabilities)).sum(axis=1)


def covered(frame: pd.DataFrame, widths: np.ndarray) -> np.ndarray:
    """Which crystals have all three true lengths inside their intervals, bool ``[n]``."""
    errors = frame[["error_a", "error_b", "error_c"]].abs().to_numpy(dtype=float)
    return (errors <= widths).all(axis=1)


def interval_table(
    calibration: pd.DataFrame, frame: pd.DataFrame, *, coverages: Sequence[float]
) -> pd.DataFrame:
    """What every kind of interval promises and keeps, one row per kind and coverage in (0, 1).

    Frames as of :func:`half_widths`; ``worst system (%)`` is the lowest coverage among the crystal
    systems. A width that is unbounded for half of the crystals is NaN.
    """
    rows = []
    lengths = frame[list("abc")].to_numpy(dtype=float).clip(min=_MIN_LENGTH)
    for kind, coverage in itertools.product(INTERVALS, coverages):
        widths = half_widths(calibration, frame, coverage=coverage, kind=kind)
        inside = covered(frame, widths)
        by_system = pd.Series(inside).groupby(frame["crystal_system"].to_numpy()).mean()
        rows.append(
            {
                "interval": kind,
                "promised (%)": 100 * coverage,
                "covered (%)": 100 * inside.mean(),
                "median half width (Å)": np.median(widths.mean(axis=1)),
                "median half width (%)": 100 * np.median((widths / lengths).mean(axis=1)),
                "worst system (%)": 100 * by_system.min(),
            }
        )
    return pd.DataFrame(rows).replace(np.inf, np.nan)


def coverage_by_system(
    calibration: pd.DataFrame, frame: pd.DataFrame, *, coverage: float, kinds: Sequence[str]
) -> pd.DataFrame:
    """Coverage in each true crystal system that occurs, with Wilson's 95 % interval.

    Arguments as of :func:`half_widths`, ``kinds`` are some of ``INTERVALS``. One row per system and
    kind: ``crystal system`` (with its number of crystals), ``interval``, ``value``, ``low``,
    ``high`` in percent, as :func:`.plot_fusion_comparison` draws it.
    """
    rows = []
    systems = frame["crystal_system"].to_numpy()
    for number, kind in itertools.product(np.unique(systems), kinds):
        inside = covered(frame, half_widths(calibration, frame, coverage=coverage, kind=kind))
        n, share = int((systems == number).sum()), inside[systems == number].mean()
        low, high = wilson_interval(100 * share, n)
        rows.append((f"{CRYSTAL_SYSTEMS[number]} ({n:,})", kind, 100 * share, low, high))
    return pd.DataFrame(rows, columns=["crystal system", "interval", "value", "low", "high"])
