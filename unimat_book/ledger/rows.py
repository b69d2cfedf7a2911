"""Prediction files and published numbers in, rows of the ledger out."""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pandas as pd
import yaml

from unimat_book.ledger.settings import CELL_METRICS
from unimat_book.record import product
from unimat_book.statistics import summarize
from unimat_lib.evaluation.metrics import cell_metrics
from unimat_lib.files import replacing


def ledger_row(
    setting: str,
    variant: str,
    metric: str,
    mean: float,
    *,
    std: float | None = None,
    seeds: int | None = None,
    ci95: Sequence[float] | None = None,
    n_test: int | None = None,
) -> dict[str, object]:
    """The one form of a number in the ledger; what is not known is ``None``.

    ``std`` is over seeds (``None`` for one seed), ``ci95`` is ``[low, high]``.
    """
    key = {"setting": setting, "variant": variant, "metric": metric, "mean": float(mean)}
    return key | {"std": std, "seeds": seeds, "ci95": ci95 and list(ci95), "n_test": n_test}


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
        One :func:`ledger_row` per metric. For the accuracy within one crystal system ``n_test``
        counts the crystals of that system; a system without test crystals has no row.
    """
    systems = [name for name in cell_metrics(frames[0]) if "crystal_system" in name]
    table = summarize(frames, [*CELL_METRICS, *systems], num_resamples=num_resamples)
    return [
        ledger_row(
            *(setting, variant, row.metric, row.mean),
            std=float(row.std) if row.seeds > 1 else None,
            seeds=int(row.seeds),
            ci95=[float(row.ci_low), float(row.ci_high)],
            n_test=int(row.n_test),
        )
        for row in table.itertuples()
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
        ledger_row(claim["setting"], "paper", claim["metric"], claim["value"])
        for claim in claims
        if claim["kind"] == "value"
    ]


def write_rows(rows: Iterable[Mapping[str, object]], path: Path) -> None:
    """Write rows of the ledger, each on a line of its own, where a chapter publishes ``path``."""
    lines = ",\n ".join(json.dumps(row, allow_nan=False) for row in rows)
    with replacing(product(path)) as temporary:
        temporary.write_text(f"[\n {lines}\n]\n", encoding="utf-8")
