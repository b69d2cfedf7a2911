"""The ledger: prediction files in, every number of the book's result table out, with a verdict.

A *setting* says what a model was given and how it was trained; a *variant* says whose choices it
follows (``reproduction``: the paper's, ``ours``: this book's). The test-set predictions of every
setting, variant and seed lie in one Parquet file, an errors frame of
:func:`unimat_lib.evaluate.predict`, so every number can be computed again without a model.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from scipy.stats import norm
from scipy.stats import t as student

from unimat_lib.crystals import CRYSTAL_SYSTEMS
from unimat_lib.evaluate import (
    LOWER_IS_BETTER,
    PER_CRYSTAL,
    PROBABILITY_COLUMNS,
    SCALED_COLUMNS,
    summarize,
    with_relative_errors,
)
from unimat_lib.files import replacing

SETTINGS: Mapping[str, str] = {
    "structure": "structure",
    "structure_aligned_xrd": "structure, aligned with XRD",
    "xrd": "XRD",
    "composition": "composition",
    "xrd_composition_aligned_fused": "XRD + composition, aligned and fused",
    "all_three": "structure + XRD + composition",
}
"""Settings and how they are called in tables."""

VARIANTS = ("reproduction", "ours")

CELL_METRICS = (
    "scaled_length_mae",
    "length_mae",
    "length_median_ae",
    "angle_mae",
    "length_mape",
    "volume_mape",
    "within_1_percent",
)

RESOLUTION: Mapping[str, float] = {
    **dict.fromkeys((*"abc", *SCALED_COLUMNS), 1e-4),
    **dict.fromkeys(("alpha", "beta", "gamma"), 1e-2),
    **{f"error_{name}": 1e-4 for name in (*"abc", *SCALED_COLUMNS)},
    **{f"error_{name}": 1e-2 for name in ("alpha", "beta", "gamma")},
    **dict.fromkeys(PROBABILITY_COLUMNS, 1e-6),
}
"""Steps to which predictions are kept: angstrom, degrees, probability."""

_INTERVAL_Z = float(norm.ppf(0.975))


def save_predictions(
    frames: Mapping[int, pd.DataFrame],
    folder: str | os.PathLike[str],
    *,
    setting: str,
    variant: str,
) -> list[Path]:
    """Write the errors frames of all seeds of a setting; files of other seeds are removed.

    Numbers are rounded to the steps of ``RESOLUTION``, far below any error that is reported, so
    that the files are a quarter of their plain size. What is published is computed from the files.

    Args:
        frames: Seed to errors frame.
        folder: The ``predictions`` folder; it is made.
        setting: Name of the setting.
        variant: Name of the variant.

    Returns:
        The files, in the order of ``frames``.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for seed, frame in frames.items():
        path = folder / f"{setting}-{variant}-seed{seed}.parquet"
        with replacing(path) as temporary:
            _write_packed(frame, temporary)
        written.append(path)
    for path in _files(folder, setting, variant):  # seeds of an earlier run would mix in
        if path not in written:
            path.unlink()
    return written


def _write_packed(frame: pd.DataFrame, path: Path) -> None:
    """Whole multiples of ``RESOLUTION``, byte by byte beside each other, which compresses well."""
    labels = ["material_id", "num_atoms", "crystal_system", "predicted_system"]
    packed = frame[labels].astype(dict.fromkeys(labels[1:], np.int16))
    steps = {
        name: (frame[name] / step).round().astype(np.int32) for name, step in RESOLUTION.items()
    }
    table = pa.Table.from_pandas(packed.assign(**steps), preserve_index=False)
    pq.write_table(
        table,
        path,
        compression="zstd",
        compression_level=12,
        use_dictionary=False,
        column_encoding=dict.fromkeys(RESOLUTION, "BYTE_STREAM_SPLIT"),
    )


def _read_packed(path: Path) -> pd.DataFrame:
    frame = pd.read_parquet(path)
    values = {name: frame[name] * step for name, step in RESOLUTION.items()}
    for name in PROBABILITY_COLUMNS:  # a logarithm will be taken of them
        values[name] = values[name].clip(lower=RESOLUTION[name] / 2)
    labels = {name: frame[name].astype(np.int64) for name in frame.columns[1:4]}
    return with_relative_errors(frame.assign(**labels, **values))


def load_predictions(
    folder: str | os.PathLike[str], *, setting: str, variant: str, made_by: str
) -> dict[int, pd.DataFrame]:
    """Read the errors frames of all seeds of a setting.

    Args:
        folder: The ``predictions`` folder.
        setting: Name of the setting.
        variant: Name of the variant.
        made_by: The exact command that makes the files, for the error message.

    Returns:
        Seed to errors frame, by rising seed.

    Raises:
        FileNotFoundError: If there is no file; the message holds the command.
        ValueError: If the seeds predict different crystals.
    """
    files = _files(Path(folder), setting, variant)
    if not files:
        raise FileNotFoundError(
            f"{Path(folder) / f'{setting}-{variant}-seed*.parquet'} is missing. Make it with:\n"
            f"    {made_by}"
        )
    frames = {_seed(path): _read_packed(path) for path in files}
    frames = dict(sorted(frames.items()))
    check_same_crystals(*frames.values())
    return frames


def available(folder: str | os.PathLike[str]) -> list[tuple[str, str]]:
    """The (setting, variant) pairs of ``SETTINGS`` and ``VARIANTS`` that have files, in order."""
    folder = Path(folder)
    return [(s, v) for s in SETTINGS for v in VARIANTS if _files(folder, s, v)]


def _files(folder: Path, setting: str, variant: str) -> list[Path]:
    return sorted(folder.glob(f"{setting}-{variant}-seed*.parquet"))


def _seed(path: Path) -> int:
    return int(path.stem.rsplit("-seed", 1)[1])


def check_same_crystals(*frames: pd.DataFrame) -> None:
    """Refuse to compare predictions of different crystals.

    Raises:
        ValueError: If the ``material_id`` columns differ.
    """
    first = frames[0]["material_id"].to_numpy()
    for frame in frames[1:]:
        other = frame["material_id"].to_numpy()
        if len(first) != len(other) or (first != other).any():
            raise ValueError(
                f"expected predictions of the same crystals in the same order, got {len(first)} "
                f"and {len(other)} that differ: run the chapters that wrote them on one data set"
            )


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


def half_width(variances: Sequence[tuple[float, int]], *, level: float) -> float:
    """Half of the two-sided Student interval of a sum of independent parts.

    Args:
        variances: Per part the variance of its mean and its degrees of freedom. Three seeds have
            two, which makes their share of the interval much wider than a normal one.
        level: Coverage.

    Source: Welch, Biometrika 34 (1947) 28, with Satterthwaite's degrees of freedom.
    """
    total = sum(variance for variance, _ in variances)
    if total == 0:
        return 0.0
    freedom = total**2 / sum(variance**2 / df for variance, df in variances if variance)
    return float(student.ppf((1 + level) / 2, freedom)) * math.sqrt(total)


def _row_variances(row: Mapping[str, object]) -> list[tuple[float, int]]:
    """Variance of a ledger row from its crystals and, where there are several, its seeds."""
    low, high = row["ci95"]
    parts = [(((high - low) / (2 * _INTERVAL_Z)) ** 2, max(row["n_test"] - 1, 1))]
    if row["seeds"] > 1:
        parts.append((row["std"] ** 2 / row["seeds"], row["seeds"] - 1))
    return parts


def verdict(
    row: Mapping[str, object] | None,
    published: float,
    *,
    rounding: float,
    lower_is_better: bool,
    num_claims: int = 1,
) -> str:
    """Compare one of our numbers with a published one.

    The published value is taken as an interval of plus or minus ``rounding`` (half a unit of its
    last printed digit); ours as a two-sided Student interval over crystals and seeds at the level
    1 - 0.05 / ``num_claims`` (Bonferroni), so that all verdicts of a ledger hold together with
    95 % confidence. The interval of a row with one seed speaks of the crystals only.

    Args:
        row: Our ledger row, or ``None`` where there is no such number.
        published: The published value.
        rounding: Half a unit of its last digit.
        lower_is_better: True for errors.
        num_claims: Verdicts given together.

    Returns:
        ``"better"``, ``"worse"``, ``"agrees"`` or ``"not measured"``.
    """
    if row is None:
        return "not measured"
    half = half_width(_row_variances(row), level=1 - 0.05 / num_claims)
    if row["mean"] - half > published + rounding:
        return "worse" if lower_is_better else "better"
    if row["mean"] + half < published - rounding:
        return "better" if lower_is_better else "worse"
    return "agrees"


def paired_difference(
    first: Sequence[pd.DataFrame],
    second: Sequence[pd.DataFrame],
    metric: str,
    *,
    level: float = 0.95,
) -> tuple[float, float, float]:
    """How much a metric changes from one model to another on the same crystals.

    Args:
        first: Errors frames of the seeds of one model.
        second: Those of the other; the number of seeds may differ.
        metric: A key of :data:`unimat_lib.evaluate.PER_CRYSTAL`.
        level: Coverage of the interval.

    Returns:
        ``second`` minus ``first`` and the ends of its interval over crystals and seeds. Each
        crystal is compared with itself, so what all models find hard cancels; seeds do not. With
        a single seed on one side their spread is unknown and both ends are NaN.

    Raises:
        ValueError: If the crystals differ.
    """
    check_same_crystals(*first, *second)
    a, b = (np.mean([PER_CRYSTAL[metric](f) for f in frames], axis=0) for frames in (first, second))
    change = b - a  # [n]
    mean, n = float(change.mean()), len(change)
    if min(len(first), len(second)) < 2:
        return mean, math.nan, math.nan
    parts = [(float(change.var(ddof=1)) / n, n - 1)]
    for frames in (first, second):
        seeds = [float(PER_CRYSTAL[metric](frame).mean()) for frame in frames]
        parts.append((float(np.var(seeds, ddof=1)) / len(seeds), len(seeds) - 1))
    half = half_width(parts, level=level)
    return mean, mean - half, mean + half


def change_verdict(low: float, high: float, *, lower_is_better: bool) -> str:
    """What the interval of a change says.

    Args:
        low: Lower end, see :func:`paired_difference`.
        high: Upper end.
        lower_is_better: True for errors.

    Returns:
        ``"improves"``, ``"worsens"``, ``"no clear change"``, or ``"one seed: not judged"`` where
        the ends are NaN.
    """
    if math.isnan(low):
        return "one seed: not judged"
    if low <= 0 <= high:
        return "no clear change"
    return "improves" if (high < 0) == lower_is_better else "worsens"


# ---- claims of other people


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


def published_rows(claims: Sequence[Mapping[str, object]]) -> list[dict[str, object]]:
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


def share_row(
    percent: float, n_test: int, *, setting: str, variant: str, metric: str
) -> dict[str, object]:
    """Ledger row of a share of ``n_test`` cases from one model, with Wilson's 95 % interval.

    Args:
        percent: The share in per cent.
        n_test: Number of cases.
        setting: Name of the setting.
        variant: Name of the variant.
        metric: Name of the metric.

    Source: Wilson, J. Am. Stat. Assoc. 22 (1927) 209.
    """
    p, z2 = percent / 100, _INTERVAL_Z**2
    middle = (p + z2 / (2 * n_test)) / (1 + z2 / n_test)
    half = math.sqrt(p * (1 - p) / n_test + z2 / (4 * n_test**2)) * _INTERVAL_Z / (1 + z2 / n_test)
    return {
        "setting": setting,
        "variant": variant,
        "metric": metric,
        "mean": float(percent),
        "std": None,
        "seeds": 1,
        "ci95": [100 * (middle - half), 100 * (middle + half)],
        "n_test": int(n_test),
    }


def judge(
    claim: Mapping[str, object],
    rows: Sequence[Mapping[str, object]],
    frames: Mapping[tuple[str, str], Sequence[pd.DataFrame]],
    *,
    variant: str,
    num_claims: int,
) -> tuple[str, str]:
    """Our number for a claim, with its interval, and the verdict.

    Args:
        claim: One claim of ``data/published.yml``.
        rows: The ledger.
        frames: (setting, variant) to errors frames of the seeds, for claims about changes.
        variant: Which of our variants. A change is taken between two settings of this variant;
            where a setting lacks it, its other variant stands in and the text says so.
        num_claims: Verdicts given together, see :func:`verdict`.

    Returns:
        Two texts; a dash and ``"not measured"`` where we have no number.
    """
    none = ("–", "not measured")
    metric = claim["metric"]
    lower = metric in LOWER_IS_BETTER
    if claim["kind"] == "value":
        row = find_row(rows, setting=claim["setting"], variant=variant, metric=metric)
        if row is None:
            return none
        spec = ".3f" if lower else ".1f"
        low, high = (format(x, spec) for x in row["ci95"])
        word = verdict(
            row,
            claim["value"],
            rounding=claim["rounding"],
            lower_is_better=lower,
            num_claims=num_claims,
        )
        return f"{row['mean']:{spec}} [{low}, {high}]", word
    if claim["kind"] == "order":
        means = [
            find_row(rows, setting=s, variant=v, metric=metric)
            for s in claim["settings"]
            for v in [variant if (s, variant) in frames else _other(variant)]
        ]
        if None in means:
            return none
        values = [row["mean"] for row in means]
        pairs = [(a, b) for i, a in enumerate(values) for b in values[i + 1 :]]
        same = sum(a < b for a, b in pairs)
        word = "confirmed" if same == len(pairs) else "partly" if same else "contradicted"
        return f"{same} of {len(pairs)} pairs in this order", word
    return _judge_change(claim, frames, variant=variant, num_claims=num_claims, lower=lower)


def _other(variant: str) -> str:
    return VARIANTS[1 - VARIANTS.index(variant)]


def _judge_change(claim, frames, *, variant: str, num_claims: int, lower: bool) -> tuple[str, str]:
    chosen, notes = [], ""
    for setting in (claim["before"], claim["after"]):
        key = (setting, variant)
        if key not in frames:
            key = (setting, _other(variant))
            notes = f" ({_other(variant)} of {SETTINGS.get(setting, setting)})"
        if key not in frames:
            return "–", "not measured"
        chosen.append(key)
    if all(key[1] != variant for key in chosen):
        return "–", "not measured"
    before, after = (list(frames[key]) for key in chosen)
    start = float(np.mean([PER_CRYSTAL[claim["metric"]](frame).mean() for frame in before]))
    change, low, high = (100 * x / start for x in paired_difference(before, after, claim["metric"]))
    _, wide_low, wide_high = paired_difference(
        before, after, claim["metric"], level=1 - 0.05 / num_claims
    )
    claimed = "improves" if (claim["value"] < 0) == lower else "worsens"
    found = change_verdict(wide_low, wide_high, lower_is_better=lower)
    words = {"improves": "contradicted", "worsens": "contradicted"} | {claimed: "confirmed"}
    interval = "" if math.isnan(low) else f" [{low:+.1f}, {high:+.1f}]"
    return f"{change:+.1f} %{interval}{notes}", words.get(found, found)
