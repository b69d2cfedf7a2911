"""Prediction files and published numbers in, rows of the ledger out."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from unimat_book.ledger.settings import CELL_METRICS
from unimat_book.statistics import summarize
from unimat_lib.crystals.table import CRYSTAL_SYSTEMS


def ledger_rows(
    frames: Sequence[pd.DataFrame], *, setting: str, variant: str, num_resamples: int = 1000
) -> list[dict[str, object]]:
    """All numbers of one setting and variant, as the ledger file holds them.

    Args:
        frames: Errors frames of the seeds.
        setting: Name of the setting.
        variant: Name of the variant.
        num_resamples: Bootstrap samples.

    Returns:
        One dictionary per metric: ``setting``, ``variant``, ``metric``, ``mean``, ``std`` over
        seeds (``None`` for one seed), ``seeds``, ``ci95`` ``[low, high]``, ``n_test``. For the
        accuracy within one crystal system ``n_test`` counts the crystals of that system; a system
        without test crystals has no row.
    """
    present = frames[0]["crystal_system"].value_counts()
    counts = {
        f"crystal_system_accuracy_{name}": int(present[number])
        for number, name in enumerate(CRYSTAL_SYSTEMS)
        if number in present.index
    }
    metrics = [*CELL_METRICS, "crystal_system_accuracy", *counts]
    table = summarize(frames, metrics, num_resamples=num_resamples)
    return [
        {
            "setting": setting,
            "variant": variant,
            "metric": row["metric"],
            "mean": float(row["mean"]),
            "std": float(row["std"]) if row["seeds"] > 1 else None,
            "seeds": int(row["seeds"]),
            "ci95": [float(row["ci_low"]), float(row["ci_high"])],
            "n_test": counts.get(row["metric"], int(row["n_test"])),
        }
        for row in table.to_dict("records")
    ]


def find_row(
    rows: Sequence[Mapping[str, object]], *, setting: str, variant: str, metric: str
) -> Mapping[str, object] | None:
    """The ledger row of a setting, variant and metric, or ``None``."""
    wanted = {"setting": setting, "variant": variant, "metric": metric}
    return next((r for r in rows if all(r[k] == v for k, v in wanted.items())), None)


def load_published(path: str | os.PathLike[str]) -> dict[str, dict[str, object]]:
    """Read ``data/published.yml``: source to its ``source`` text and its list of ``claims``.

    Raises:
        FileNotFoundError: If the file is missing.
        ValueError: If a claim lacks a field or two claims have one id.
    """
    import yaml

    content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    needed = {
        "value": {"setting", "metric", "value", "rounding"},
        "change": {"before", "after", "metric", "value", "rounding"},
        "order": {"settings", "metric"},
    }
    claims = [claim for entry in content.values() for claim in entry["claims"]]
    for claim in claims:
        lacking = needed.get(claim.get("kind"), {"kind"}) | {"id", "statement", "reason"}
        lacking -= set(claim)
        if lacking:
            raise ValueError(f"{path}: the claim {claim} lacks {sorted(lacking)}")
    ids = [claim["id"] for claim in claims]
    if len(set(ids)) < len(ids):
        raise ValueError(f"{path}: two claims have one id among {ids}")
    return content


def rows_of_claims(claims: Sequence[Mapping[str, object]]) -> list[dict[str, object]]:
    """Ledger rows of the published values (variant ``paper``)."""
    return [
        {
            "setting": claim["setting"],
            "variant": "paper",
            "metric": claim["metric"],
            "mean": float(claim["value"]),
            "std": None,
            "seeds": None,
            "ci95": None,
            "n_test": None,
        }
        for claim in claims
        if claim["kind"] == "value"
    ]
