"""Errors frames of some seeds in, means, spreads and bootstrap intervals out."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import pandas as pd

from unimat_lib.evaluation.metrics import cell_metrics, values_per_crystal


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
    values = np.mean([values_per_crystal(frame, metric) for frame in frames], axis=0)  # [n]
    return bootstrap_mean(values, num_resamples=num_resamples)


def bootstrap_mean(values: np.ndarray, *, num_resamples: int = 1000) -> tuple[float, float]:
    """95 % percentile interval of the mean of ``values`` ``[n]`` over resampled crystals."""
    return _interval(_resamples(len(values), num_resamples).astype(float) @ values / len(values))


@functools.lru_cache(maxsize=8)  # a ledger asks for the same ones for every metric and setting
def _resamples(n: int, num_resamples: int) -> np.ndarray:
    """How often each of ``n`` crystals is drawn in each resample, int16 ``[num_resamples, n]``."""
    rng = np.random.default_rng(0)
    return rng.multinomial(n, np.full(n, 1 / n), size=num_resamples).astype(np.int16)


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
        count = len(frames[0]) if pooled else len(values_per_crystal(frames[0], metric))
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
