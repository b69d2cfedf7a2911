"""Results of the grid in, means with intervals, effects with verdicts and the chosen cell out.

Two things are random: which crystals were tested, and what the seeds did. Crystals are resampled,
once one by one and once by structure types, because crystals of one type are right or wrong
together; the same resamples serve all cells, so that differences are paired. What the seeds did is
a variance per cell, estimated from its few seeds and added with its few degrees of freedom.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import t as student

from unimat_book.grid.cells import CHECKED, FUSIONS, ORDERS, cell_names
from unimat_book.grid.results import Result
from unimat_book.grid.scores import decode_errors, decode_flags
from unimat_book.ledger.rows import ledger_row

METRICS: Mapping[str, tuple[str, str]] = {
    "scaled_length_mae": ("scaled_length_mae_both", "scaled_both"),
    "length_mae": ("length_mae_both", "length_both"),
    "crystal_system_accuracy": ("system_both", "right_both"),
    "macro_system_accuracy": ("macro_system_both", "right_both"),
    "recall_at_1": ("recall_at_1", "found"),
    "scaled_length_mae_no_formula": ("scaled_length_mae_no_formula", "scaled_no_formula"),
    "scaled_length_mae_no_pattern": ("scaled_length_mae_no_pattern", "scaled_no_pattern"),
    "scaled_length_mae_typo": ("scaled_length_mae_typo", "scaled_typo"),
    "crystal_system_accuracy_no_formula": ("system_no_formula", "right_no_formula"),
    "crystal_system_accuracy_no_pattern": ("system_no_pattern", "right_no_pattern"),
    "crystal_system_accuracy_typo": ("system_typo", "right_typo"),
}
"""Metrics of the ledger: the score of a training that is its mean, and its code per crystal."""

MARGINS: Mapping[str, float] = {"scaled_length_mae": 0.05, "crystal_system_accuracy": 0.5}
"""What a difference has to exceed to matter: a share of the error, and points of per cent."""

BASE = ("concat", "none")
"""The cell that others are compared with: the paper's fusion, and nothing aligned."""

_RESAMPLES = 1000
_CELLS = tuple(cell_names())


@dataclass(frozen=True)
class Cells:
    """The 20 cells on one kind of patterns, in the order of :func:`.cell_names`.

    Attributes:
        seeds: Seeds that all cells have.
        means: By metric the exact mean of each training, ``[20, S]``, NaN where there is none.
        values: By metric the mean over seeds for each test crystal, ``[20, n]``.
        losses: Supervised validation losses, ``[20, S]``.
        rates: Learning rate of each cell.
    """

    seeds: list[int]
    means: dict[str, np.ndarray]
    values: dict[str, np.ndarray]
    losses: np.ndarray
    rates: list[float]

    @property
    def names(self) -> tuple[tuple[str, str], ...]:
        """Fusion and order of each cell."""
        return _CELLS

    @property
    def chosen(self) -> tuple[str, str]:
        """Fusion and order of the smallest validation loss, mean over seeds."""
        return _CELLS[int(self.losses.mean(axis=1).argmin())]


def cells_of(results: Sequence[Result], kind: str, systems: np.ndarray) -> Cells:
    """Gather the final trainings on one kind of patterns.

    Args:
        results: All results.
        kind: A key of :data:`.KINDS`.
        systems: Crystal systems of the test crystals, int64 ``[n]``.

    Raises:
        ValueError: There is no seed that all cells have.
    """
    final = [r for r in results if r.job.purpose == "final" and r.job.kind == kind]
    found = {(r.job.fusion, r.job.order, r.job.seed): r for r in final}
    every = sorted({seed for *_, seed in found})
    seeds = [s for s in every if all((*cell, s) in found for cell in _CELLS)]
    if not seeds:
        missing = [c for c in _CELLS if not any((*c, s) in found for s in every)]
        raise ValueError(f"no seed of {kind} has all 20 cells; without any are {missing}")
    rows = [[found[(*cell, seed)] for seed in seeds] for cell in _CELLS]
    means, values = {}, {}
    for metric, (score, code) in METRICS.items():
        means[metric] = np.array([[r.scores.get(score, np.nan) for r in row] for row in rows])
        values[metric] = np.stack(
            [
                np.mean([_per_crystal(r, metric, score, code, systems) for r in row], 0)
                for row in rows
            ]
        )
    losses = np.array([[r.scores["val_supervised"] for r in row] for row in rows])
    return Cells(seeds, means, values, losses, [row[0].rate for row in rows])


def _per_crystal(
    result: Result, metric: str, score: str, code: str, systems: np.ndarray
) -> np.ndarray:
    """Values ``[n]`` whose mean is the metric; NaN where there is none."""
    if code not in result.codes:
        return np.full(len(systems), np.nan)
    if code.startswith(("scaled", "length")):
        return decode_errors(result.codes[code], mean=result.scores[score])
    flags = 100.0 * decode_flags(result.codes[code], len(systems))
    if metric == "macro_system_accuracy":  # each system counts alike
        number = np.bincount(systems)[systems]
        flags *= len(systems) / (len(np.unique(systems)) * number)
    return flags


def resampled_means(values: np.ndarray, clusters: np.ndarray) -> np.ndarray:
    """Means of the columns of ``values`` ``[n, k]`` over resampled clusters, ``[R, k]``.

    ``clusters`` says which of them each row belongs to, int64 ``[n]``. The draws depend on the
    number of clusters alone, so that calls for the same crystals are paired.
    """
    _, clusters = np.unique(clusters, return_inverse=True)
    number = int(clusters.max()) + 1
    sums = np.zeros((number, values.shape[1]))
    np.add.at(sums, clusters, values)
    rng = np.random.default_rng(0)
    draws = rng.multinomial(number, np.full(number, 1 / number), size=_RESAMPLES).astype(float)
    return (draws @ sums) / (draws @ np.bincount(clusters))[:, None]


def intervals(cells: Cells, types: Sequence[str]) -> pd.DataFrame:
    """One row per cell and metric: mean and spread over seeds, both 95 % intervals.

    Columns: ``fusion``, ``order``, ``metric``, ``mean``, ``std``, ``seeds``, ``ci_low``,
    ``ci_high`` (over crystals), ``types_low``, ``types_high`` (over structure types), ``n_test``.
    A cell without a shared space has no row of retrieval.
    """
    names = np.unique(np.asarray(types), return_inverse=True)[1]
    rows = []
    for metric, values in cells.values.items():
        here = np.flatnonzero(~np.isnan(values).any(axis=1))
        ends = [
            np.percentile(resampled_means(values[here].T, clusters), [2.5, 97.5], axis=0)
            for clusters in (np.arange(values.shape[1]), names)
        ]
        for k, cell in enumerate(here):
            fusion, order = _CELLS[cell]
            per_seed = cells.means[metric][cell]
            rows.append(
                {
                    "fusion": fusion,
                    "order": order,
                    "metric": metric,
                    "mean": per_seed.mean(),
                    "std": per_seed.std(ddof=1) if len(per_seed) > 1 else np.nan,
                    "seeds": len(per_seed),
                    **{f"ci_{end}": ends[0][i, k] for i, end in enumerate(("low", "high"))},
                    **{f"types_{end}": ends[1][i, k] for i, end in enumerate(("low", "high"))},
                    "n_test": values.shape[1],
                }
            )
    return pd.DataFrame(rows)


def ledger_rows_of_grid(frame: pd.DataFrame, kind: str) -> list[dict[str, object]]:
    """Rows of the ledger: settings ``fusion_<fusion>_<order>``, the kind of patterns as variant."""
    return [
        ledger_row(
            *(f"fusion_{row.fusion}_{row.order}", kind, row.metric, row.mean),
            std=float(row.std) if row.seeds > 1 else None,
            seeds=int(row.seeds),
            ci95=[float(row.ci_low), float(row.ci_high)],
            n_test=int(row.n_test),
        )
        | {"ci95_types": [float(row.types_low), float(row.types_high)]}
        for row in frame.itertuples()
    ]


def contrasts(cells: Cells) -> dict[str, np.ndarray]:
    """What is compared: weights of the 20 cells ``[20]`` by name, each with the sum zero.

    Orders against none, mean over the fusions; fusions against concatenation, mean over the orders;
    and the cell that validation chose against ``BASE``.
    """

    def share(test) -> np.ndarray:
        picked = np.array([float(test(*cell)) for cell in _CELLS])
        return picked / picked.sum()

    none, concat = share(lambda f, o: o == "none"), share(lambda f, o: f == "concat")
    found = {
        ORDERS[order]: share(lambda f, o, order=order: o == order) - none
        for order in ORDERS
        if order != "none"
    }
    found |= {
        FUSIONS[fusion]: share(lambda f, o, fusion=fusion: f == fusion) - concat
        for fusion in FUSIONS
        if fusion != "concat"
    }
    if cells.chosen != BASE:
        found["the chosen cell"] = share(lambda *c: c == cells.chosen) - share(lambda *c: c == BASE)
    return found


def effects(cells: Cells, types: Sequence[str], metric: str) -> pd.DataFrame:
    """The effect of each of :func:`contrasts` on a metric, with verdicts.

    Columns: ``effect`` (the name), ``change``, ``low``, ``high`` (95 %, over structure types and
    seeds), ``p`` (two-sided, Holm), ``verdict``, see :func:`verdict`; the attribute ``margin`` of
    the frame is what matters.
    """
    lower = metric.endswith("mae")
    base = cells.means[metric][_CELLS.index(BASE)].mean()
    margin = MARGINS[metric] * (base if lower else 1.0)
    names = np.unique(np.asarray(types), return_inverse=True)[1]
    drawn = resampled_means(cells.values[metric].T, names)  # [R, 20]
    seeds = len(cells.seeds)
    per_cell = cells.means[metric].var(axis=1, ddof=1) / seeds if seeds > 1 else np.zeros(20)
    rows = []
    for name, weights in contrasts(cells).items():
        change = float(weights @ cells.means[metric].mean(axis=1))
        parts = [((drawn @ weights).var(ddof=1), len(set(names.tolist())) - 1)]
        parts += [(w**2 * v, seeds - 1) for w, v in zip(weights, per_cell, strict=True)]
        error, freedom = _combined(parts)
        half = error * float(student.ppf(0.975, freedom))
        p = 2 * float(student.sf(abs(change) / error, freedom)) if error else 1.0
        rows.append(
            {"effect": name, "change": change, "low": change - half, "high": change + half, "p": p}
        )
    frame = pd.DataFrame(rows)
    frame["p"] = holm(frame["p"].to_numpy())
    frame["verdict"] = [
        verdict(row.low, row.high, row.p, margin=margin, lower_is_better=lower)
        if seeds > 1
        else "one seed: not judged"
        for row in frame.itertuples()
    ]
    frame.attrs["margin"] = margin
    return frame


def _combined(parts: Sequence[tuple[float, int]]) -> tuple[float, float]:
    """Standard error and degrees of freedom of a sum (Welch, Satterthwaite)."""
    total = sum(v for v, _ in parts)
    spread = sum(v**2 / df for v, df in parts if v and df)
    return math.sqrt(total), total**2 / spread if spread else 1.0


def holm(p: np.ndarray) -> np.ndarray:
    """p-values corrected for their number. Source: Holm, Scand. J. Statist. 6 (1979) 65."""
    order = np.argsort(p)
    scaled = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    corrected = np.empty(len(p))
    corrected[order] = np.minimum(scaled, 1.0)
    return corrected


def verdict(low: float, high: float, p: float, *, margin: float, lower_is_better: bool) -> str:
    """What a 95 % interval of a change says beside the margin of what matters.

    "better" and "worse" are confirmed in size: the whole interval lies beyond the margin, and p
    (corrected) is below 0.05. "no difference" is confirmed too: the whole interval lies inside.
    """
    if -margin < low and high < margin:
        return "no difference"
    words = ("better", "worse") if lower_is_better else ("worse", "better")
    if p < 0.05 and high < 0:
        return words[0] if high <= -margin else f"{words[0]}, size open"
    if p < 0.05 and low > 0:
        return words[1] if low >= margin else f"{words[1]}, size open"
    return "open"


def convergence(results: Sequence[Result]) -> pd.DataFrame:
    """Validation losses of cells that were also trained twice as long, one row each.

    Columns: ``kind``, ``fusion``, ``order``, ``loss``, ``longer``, and ``change`` in per cent.
    """
    by_job = {
        (r.job.purpose, r.job.kind, r.job.fusion, r.job.order, r.job.seed): r for r in results
    }
    rows = []
    for (purpose, *cell, seed), longer in by_job.items():
        usual = by_job.get(("final", *cell, seed))
        if purpose != "longer" or usual is None or tuple(cell[1:]) not in CHECKED:
            continue
        pair = [r.scores["val_supervised"] for r in (usual, longer)]
        names = dict(zip(("kind", "fusion", "order"), cell, strict=True))
        change = 100 * (pair[1] / pair[0] - 1)
        rows.append(names | {"loss": pair[0], "longer": pair[1], "change": change})
    return pd.DataFrame(rows, columns=["kind", "fusion", "order", "loss", "longer", "change"])
