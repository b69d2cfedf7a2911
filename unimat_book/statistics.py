"""Errors frames of some seeds in, means, spreads and intervals out."""

import functools
import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.stats import binomtest
from scipy.stats import t as student

from unimat_lib.crystals.table import CRYSTAL_SYSTEMS
from unimat_lib.evaluation.metrics import PER_CRYSTAL, cell_metrics


def over_seeds(frames: Sequence[pd.DataFrame], metric: str = "scaled_length_mae") -> np.ndarray:
    """A metric of each crystal (of :data:`.PER_CRYSTAL`), mean over seeds, ``[n]``."""
    return np.mean([PER_CRYSTAL[metric](frame) for frame in frames], axis=0)


def values_per_crystal(frame: pd.DataFrame, metric: str) -> np.ndarray:
    """The values whose mean is a metric, one for each crystal that it is about.

    Raises:
        ValueError: There is no such metric, or it is the median, which is no mean.
    """
    if metric in PER_CRYSTAL:
        return PER_CRYSTAL[metric](frame).to_numpy()
    prefix = "crystal_system_accuracy_"
    names = [prefix + system for system in CRYSTAL_SYSTEMS]
    if metric in names:
        number = names.index(metric)
        part = frame[frame["crystal_system"] == number]
        return 100 * (part["predicted_system"] == number).to_numpy(dtype=float)
    raise ValueError(
        f"unknown metric {metric!r}: expected one of {[*PER_CRYSTAL, 'length_median_ae']} or "
        f"{prefix}<{'|'.join(CRYSTAL_SYSTEMS)}>"
    )


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
        return _middle(np.array(draws))
    values = np.mean([values_per_crystal(frame, metric) for frame in frames], axis=0)  # [n]
    return bootstrap_mean(values, num_resamples=num_resamples)


def bootstrap_mean(values: np.ndarray, *, num_resamples: int = 1000) -> tuple[float, float]:
    """95 % percentile interval of the mean of ``values`` ``[n]`` over resampled crystals."""
    return _middle(_resamples(len(values), num_resamples).astype(float) @ values / len(values))


@functools.lru_cache(maxsize=8)  # a ledger asks for the same ones for every metric and setting
def _resamples(n: int, num_resamples: int) -> np.ndarray:
    """How often each of ``n`` crystals is drawn in each resample, int16 ``[num_resamples, n]``."""
    rng = np.random.default_rng(0)
    return rng.multinomial(n, np.full(n, 1 / n), size=num_resamples).astype(np.int16)


def _middle(draws: np.ndarray) -> tuple[float, float]:
    low, high = np.percentile(draws, [2.5, 97.5])
    return float(low), float(high)


def wilson_interval(percent: float, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval, in percent, of a share (in percent) of ``n`` cases.

    Source: Wilson, J. Am. Stat. Assoc. 22 (1927) 209.
    """
    interval = binomtest(round(percent * n / 100), n).proportion_ci(method="wilson")
    return 100 * float(interval.low), 100 * float(interval.high)


def summarize(
    frames: Sequence[pd.DataFrame], metrics: Sequence[str], *, num_resamples: int = 1000
) -> pd.DataFrame:
    """Mean and standard deviation over seeds with a bootstrap interval, one row per metric.

    Args:
        frames: Errors frames of the seeds.
        metrics: Names as in :func:`.cell_metrics`.
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
        std = values.std(ddof=1) if len(values) > 1 else float("nan")
        pooled = metric == "length_median_ae"
        count = len(frames[0]) if pooled else len(values_per_crystal(frames[0], metric))
        ends = bootstrap_interval(frames, metric, num_resamples=num_resamples)
        rows.append((metric, values.mean(), std, len(values), *ends, count))
    columns = ["metric", "mean", "std", "seeds", "ci_low", "ci_high", "n_test"]
    return pd.DataFrame(rows, columns=columns)


def combined_error(parts: Sequence[tuple[float, int]]) -> tuple[float, float]:
    """Standard error and degrees of freedom of a sum of independent terms.

    Args:
        parts: Variance of each term, and the degrees of freedom that it was estimated with.

    Source: Welch, Biometrika 34 (1947) 28; Satterthwaite, Biometrics Bull. 2 (1946) 110.
    """
    total = sum(variance for variance, _ in parts)
    spread = sum(variance**2 / freedom for variance, freedom in parts if variance and freedom)
    return math.sqrt(total), total**2 / spread if spread else 1.0


def welch_interval(values: np.ndarray, reference: np.ndarray) -> tuple[float, float, float]:
    """Difference of two means, ``values`` less ``reference``, and its 95 % interval by Welch.

    Args:
        values: Independent values of one kind, ``[n]``, such as the losses of some seeds.
        reference: Those of the other kind, ``[m]``; the spreads may differ.

    Raises:
        ValueError: A kind has fewer than two values, so that its spread is unknown.

    Source: Welch, Biometrika 34 (1947) 28.
    """
    if min(len(values), len(reference)) < 2:
        came = f"{len(values)} and {len(reference)}"
        raise ValueError(f"expected two or more values of each kind, got {came}: add seeds")
    difference = float(np.mean(values) - np.mean(reference))
    parts = [(float(np.var(x, ddof=1)) / len(x), len(x) - 1) for x in (values, reference)]
    error, freedom = combined_error(parts)
    half = error * float(student.ppf(0.975, freedom))
    return difference, difference - half, difference + half
