"""Means of a study in, tables with intervals and effects with verdicts out.

As in the grid, two things are random: the test crystals, which are resampled by structure types
because those of one type are right or wrong together, and the seeds, whose variance is estimated
from the few that there are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from scipy.stats import t as student

from unimat_book.grid.analysis import holm, resampled_means, verdict
from unimat_book.ledger.rows import ledger_row
from unimat_book.statistics import combined_error
from unimat_book.studies.models import macro_values
from unimat_book.studies.results import Mean
from unimat_lib.crystals.table import CRYSTAL_SYSTEMS

SHARE = 0.05
"""Share of the base's error that a difference has to exceed to matter."""

POINTS = 0.5
"""Points of per cent that a difference between shares of right answers has to exceed."""


def is_error(metric: str) -> bool:
    """Whether smaller is better."""
    return metric.rpartition("_no_")[0].endswith("mae") or metric.endswith("mae")


def with_systems(mean: Mean, systems: np.ndarray) -> Mean:
    """A mean with the macro accuracy per crystal, and the accuracy of each crystal system.

    ``systems`` are the true crystal systems of the crystals asked about, int64 ``[n]``. Accuracies
    of systems have values for their own crystals alone, NaN elsewhere, and no scores by seed.
    """
    right = mean.values["crystal_system_accuracy"]
    values = dict(mean.values) | {"macro_system_accuracy": macro_values(right, systems)}
    for number, name in enumerate(CRYSTAL_SYSTEMS):
        if (systems == number).any():
            values[f"crystal_system_accuracy_{name}"] = np.where(systems == number, right, np.nan)
    return Mean(**vars(mean) | {"values": values})


def intervals(means: Sequence[Mean], types: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    """Mean, spread over seeds and both 95 % intervals of every metric.

    Args:
        means: Variants, of any domains.
        types: Structure types of the crystals of each domain.

    Returns:
        A row per variant, domain and metric: ``variant``, ``domain``, ``metric``, ``mean``, ``std``
        over seeds (NaN for one), ``seeds``, ``ci_low``, ``ci_high`` (crystals resampled),
        ``types_low``, ``types_high`` (structure types resampled), ``n_test``.
    """
    columns = [(mean, metric) for mean in means for metric in mean.values]
    alike: dict[tuple[str, bytes], list[int]] = {}
    for k, (mean, metric) in enumerate(columns):  # crystals are drawn once for all that have them
        missing = np.isnan(mean.values[metric])
        alike.setdefault((mean.domain, missing.tobytes()), []).append(k)
    rows: list[dict[str, object]] = [{} for _ in columns]
    for (domain, missing), members in alike.items():
        here = np.flatnonzero(~np.frombuffer(missing, bool))
        values = np.stack([columns[k][0].values[columns[k][1]][here] for k in members], axis=1)
        names = np.asarray(types[domain])[here]
        ends = [
            np.percentile(resampled_means(values, clusters), [2.5, 97.5], axis=0)
            for clusters in (np.arange(len(here)), names)
        ]
        for i, k in enumerate(members):
            mean, metric = columns[k]
            per_seed = mean.scores.get(metric)
            known = None if per_seed is None or len(per_seed) < 2 else per_seed.std(ddof=1)
            rows[k] = {
                "variant": mean.variant,
                "domain": domain,
                "metric": metric,
                "mean": values[:, i].mean() if per_seed is None else per_seed.mean(),
                "std": np.nan if known is None else known,
                "seeds": len(mean.seeds),
                "ci_low": ends[0][0, i],
                "ci_high": ends[0][1, i],
                "types_low": ends[1][0, i],
                "types_high": ends[1][1, i],
                "n_test": len(here),
            }
    return pd.DataFrame(rows)


def ledger_rows_of_study(frame: pd.DataFrame, setting: str, variant: str) -> list[dict]:
    """Rows of the ledger of one variant and domain of :func:`intervals`."""
    return [
        ledger_row(
            *(setting, variant, row.metric, row.mean),
            std=None if np.isnan(row.std) else float(row.std),
            seeds=int(row.seeds),
            ci95=[float(row.ci_low), float(row.ci_high)],
            n_test=int(row.n_test),
        )
        | {"ci95_types": [float(row.types_low), float(row.types_high)]}
        for row in frame.itertuples()
    ]


def effects(means: Sequence[Mean], base: Mean, types: Sequence[str], metric: str) -> pd.DataFrame:
    """What each variant changes against a base that was asked about the same crystals.

    Returns:
        A row per variant: ``variant``, ``change``, ``low``, ``high`` (95 %, over structure types
        and seeds), ``p`` (two-sided, Holm over the rows) and ``verdict``, see
        :func:`unimat_book.grid.analysis.verdict`; the attribute ``margin`` of the frame is what a
        difference has to exceed to matter.

    Raises:
        ValueError: A variant was asked about other crystals than the base.
    """
    lower = is_error(metric)
    margin = SHARE * float(base.scores[metric].mean()) if lower else POINTS
    rows = [_effect(mean, base, np.asarray(types), metric) for mean in means]
    frame = pd.DataFrame(rows)
    frame["p"] = holm(frame["p"].to_numpy())
    several = min(len(m.seeds) for m in (*means, base)) > 1
    frame["verdict"] = [
        verdict(row.low, row.high, row.p, margin=margin, lower_is_better=lower)
        if several
        else "one seed: not judged"
        for row in frame.itertuples()
    ]
    frame.attrs["margin"] = margin
    return frame


def _effect(mean: Mean, base: Mean, types: np.ndarray, metric: str) -> dict[str, object]:
    if mean.asked != base.asked:
        raise ValueError(
            f"{mean.variant} and {base.variant} were asked about different crystals of "
            f"{mean.domain} and {base.domain}"
        )
    change = float(mean.scores[metric].mean() - base.scores[metric].mean())
    gap = mean.values[metric] - base.values[metric]
    parts = [(resampled_means(gap[:, None], types).var(ddof=1), len(np.unique(types)) - 1)]
    for each in (mean, base):
        scores = each.scores[metric]
        if len(scores) > 1:
            parts.append((scores.var(ddof=1) / len(scores), len(scores) - 1))
    error, freedom = combined_error(parts)
    half = error * float(student.ppf(0.975, freedom))
    p = 2 * float(student.sf(abs(change) / error, freedom)) if error else 1.0
    found = {"change": change, "low": change - half, "high": change + half, "p": p}
    return {"variant": mean.variant} | found
