"""What a search answered to labelled patterns in, its files and its rows of the ledger out.

An outcome is a row of numbers and flags for one pattern: no name, no formula, no point of a curve
that others measured.
"""

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from unimat_book.ledger.rows import ledger_row
from unimat_book.record import product, require_file
from unimat_book.statistics import wilson_interval
from unimat_lib.files import replacing

FIRST_HALF = 56
"""Patterns by sorted name that may be looked at; the others are scored once per number."""

MEASURED_SETTINGS: Mapping[str, str] = {
    "measured_pattern": "pattern alone",
    "measured_elements": "with the elements",
}
"""Settings of the search and how they are called in tables."""

MEASURED_VARIANTS: Mapping[str, str] = {"ours": "this book", "baseline": "plain cosine"}
"""Variants of the search that the ledger counts, and how they are called in tables."""

TAKEN_OUT = "ours_taken_out"
"""The variant whose library lacks the right crystal: one metric of ours, no row of its own."""

MEASURED_METRICS: Mapping[str, str] = {
    "structure_first": "structure first, where the library has it (%)",
    "structure_among_5": "structure among five, where the library has it (%)",
    "crystal_system_accuracy": "crystal system (%)",
    "space_group_accuracy": "space group (%)",
    "cell_first": "cell right, first answer (%)",
    "cell_among_5": "cell right, among five (%)",
    "cell_first_unknown_structure": "cell right first, its structure not in the library (%)",
    "wrong_among_confident": "cell or system wrong, among confident (%)",
    "confident_share": "confident (%)",
    "calibration_error": "expected calibration error of the verdict (%)",
}
"""Metrics of the search and how they are called in tables."""

Outcomes = Mapping[tuple[str, str], pd.DataFrame]
"""(setting, variant) to outcomes, one row a pattern."""


def scored(frame: pd.DataFrame) -> pd.DataFrame:
    """The patterns that nobody looked at; all of them where there are no others."""
    return frame.iloc[FIRST_HALF:] if len(frame) > FIRST_HALF else frame


def save_outcomes(outcomes: Outcomes, folder: str | os.PathLike[str]) -> list[Path]:
    """Write one Parquet file per setting and variant into ``folder``, which is made.

    Raises:
        ValueError: A frame holds text: who measured patterns keeps their names.
    """
    paths = []
    for (setting, variant), frame in outcomes.items():
        words = [n for n in frame if frame[n].dtype.kind not in "biuf"]
        if words:
            raise ValueError(f"{setting}, {variant}: expected numbers and flags, got {words}")
        path = product(Path(folder) / f"{setting}-{variant}.parquet")
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            frame.to_parquet(temporary, index=False)
        paths.append(path)
    return paths


def load_outcomes(
    folder: str | os.PathLike[str], *, made_by: str, taken_out: bool = False
) -> dict[tuple[str, str], pd.DataFrame]:
    """Read what :func:`save_outcomes` wrote.

    Args:
        folder: Where it was written to.
        made_by: The command that makes the files, for the error message.
        taken_out: Whether the variant :data:`TAKEN_OUT` is read too.

    Raises:
        FileNotFoundError: A file is missing.
    """
    variants = [*MEASURED_VARIANTS, *[TAKEN_OUT] * taken_out]
    return {
        (s, v): pd.read_parquet(require_file(Path(folder) / f"{s}-{v}.parquet", made_by=made_by))
        for s in MEASURED_SETTINGS
        for v in variants
    }


def measured_metrics(
    frame: pd.DataFrame, taken_out: pd.DataFrame | None = None
) -> dict[str, np.ndarray]:
    """The values of each metric, in per cent, one for each pattern that it speaks of.

    A metric's value is the mean; that of ``calibration_error`` is no mean, see
    :func:`calibration_error`. Frames of the baseline, which gives no verdict and no cell, have the
    first three of :data:`MEASURED_METRICS`.

    Args:
        frame: Outcomes of one setting and variant.
        taken_out: Outcomes of the same patterns with their crystals taken out of the library.
    """
    there = frame[frame["in_library"]]
    values = {
        "structure_first": there["rank"] == 0,
        "structure_among_5": there["rank"].between(0, 4),
        "crystal_system_accuracy": frame["system_right"],
    }
    if "confident" in frame:
        values["space_group_accuracy"] = frame["group_right"]
        values["cell_first"] = frame["cell_rank"] == 0
        values["cell_among_5"] = frame["cell_rank"].between(0, 4)
        if taken_out is not None:
            values["cell_first_unknown_structure"] = taken_out["cell_rank"] == 0
        values["wrong_among_confident"] = ~frame.loc[frame["confident"], "answer_right"]
        values["confident_share"] = frame["confident"]
    return {name: 100.0 * np.asarray(x, dtype=float) for name, x in values.items()}


def calibration_error(frame: pd.DataFrame) -> float:
    """Expected calibration error of the verdict's probability, per cent.

    Mean over ten equal bins of what was said, weighted with their patterns, of the distance between
    what was said and what was right (Naeini et al., AAAI 2015). With few patterns chance alone
    makes it several per cent.
    """
    bins = (10 * frame["p_answer"]).astype(int).clip(0, 9)
    off = (frame["p_answer"] - frame["answer_right"]).groupby(bins).sum().abs()
    return float(100 * off.sum() / len(frame))


def calibration_error_by_chance(frame: pd.DataFrame, *, draws: int = 1000) -> float:
    """What :func:`calibration_error` would be on average if every probability were exactly right.

    Few patterns make it several per cent: right and wrong come in whole numbers.
    """
    random = np.random.default_rng(0)
    said = frame["p_answer"].to_numpy()
    happened = random.random((draws, len(said))) < said
    return float(
        np.mean([calibration_error(frame.assign(answer_right=right)) for right in happened])
    )


def measured_rows(outcomes: Outcomes, *, num_resamples: int) -> list[dict[str, object]]:
    """Rows of the ledger, see :func:`.ledger_row`, with 95 % intervals over patterns.

    They are about the patterns of :func:`scored`. A search has no seed, so ``seeds`` is 1. A metric
    without any pattern has no row. Intervals are Wilson's, which stay honest where few patterns or
    none are wrong; that of the calibration error is over ``num_resamples`` drawn sets of patterns.
    """
    outcomes = {key: scored(frame) for key, frame in outcomes.items()}
    rows = []
    for setting in MEASURED_SETTINGS:
        for variant in MEASURED_VARIANTS:
            frame = outcomes[setting, variant]
            taken_out = outcomes.get((setting, TAKEN_OUT)) if variant == "ours" else None
            values = measured_metrics(frame, taken_out)
            rows += [
                ledger_row(
                    *(setting, variant, metric, float(x.mean())),
                    seeds=1,
                    ci95=wilson_interval(float(x.mean()), len(x)),
                    n_test=len(x),
                )
                for metric, x in values.items()
                if len(x)
            ]
            if variant == "ours":
                error, ends = _calibration(frame, num_resamples=num_resamples)
                about = dict(seeds=1, ci95=ends, n_test=len(frame))
                rows.append(ledger_row(setting, variant, "calibration_error", error, **about))
    return rows


def _calibration(frame: pd.DataFrame, *, num_resamples: int) -> tuple[float, tuple[float, float]]:
    """Calibration error and its 95 % interval over resampled patterns."""
    random = np.random.default_rng(0)
    draws = [
        calibration_error(frame.iloc[random.integers(0, len(frame), len(frame))])
        for _ in range(num_resamples)
    ]
    low, high = np.quantile(draws, [0.025, 0.975])
    error = calibration_error(frame)
    return error, (min(float(low), error), max(float(high), error))
