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
from unimat_book.statistics import bootstrap_mean
from unimat_lib.files import replacing

MEASURED_SETTINGS: Mapping[str, str] = {
    "measured_pattern": "pattern alone",
    "measured_elements": "with the elements",
}
"""Settings of the search and how they are called in tables."""

MEASURED_VARIANTS: Mapping[str, str] = {"ours": "this book", "baseline": "plain cosine"}
"""Variants of the search that the ledger counts, and how they are called in tables."""

TAKEN_OUT = "ours_taken_out"
"""The variant whose library lacks the right crystal: kept on file, no row of the ledger."""

MEASURED_METRICS: Mapping[str, str] = {
    "structure_first": "structure first, where the library has it (%)",
    "structure_among_5": "structure among five, where the library has it (%)",
    "crystal_system_accuracy": "crystal system (%)",
    "cell_first": "cell right, first answer (%)",
    "wrong_among_confident": "cell or system wrong, among confident (%)",
    "confident_share": "confident (%)",
}
"""Metrics of the search and how they are called in tables."""

Outcomes = Mapping[tuple[str, str], pd.DataFrame]
"""(setting, variant) to outcomes, one row a pattern."""


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


def measured_metrics(frame: pd.DataFrame) -> dict[str, np.ndarray]:
    """The values of each metric, in per cent, one for each pattern that it speaks of.

    A metric's value is the mean. Frames of the baseline, which gives no verdict and no cell, have
    the first three of :data:`MEASURED_METRICS`.
    """
    there = frame[frame["in_library"]]
    values = {
        "structure_first": there["rank"] == 0,
        "structure_among_5": there["rank"].between(0, 4),
        "crystal_system_accuracy": frame["system_right"],
    }
    if "confident" in frame:
        values["cell_first"] = frame["cell_rank"] == 0
        values["wrong_among_confident"] = ~frame.loc[frame["confident"], "answer_right"]
        values["confident_share"] = frame["confident"]
    return {name: 100.0 * np.asarray(x, dtype=float) for name, x in values.items()}


def measured_rows(outcomes: Outcomes, *, num_resamples: int) -> list[dict[str, object]]:
    """Rows of the ledger, see :func:`.ledger_row`, with 95 % intervals over patterns.

    A search has no seed, so ``seeds`` is 1. A metric without any pattern has no row.
    """
    return [
        ledger_row(
            *(setting, variant, metric, float(values.mean())),
            seeds=1,
            ci95=bootstrap_mean(values, num_resamples=num_resamples),
            n_test=len(values),
        )
        for setting in MEASURED_SETTINGS
        for variant in MEASURED_VARIANTS
        for metric, values in measured_metrics(outcomes[setting, variant]).items()
        if len(values)
    ]
