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
from scipy.stats import binomtest, norm
from scipy.stats import t as student
from torch import Tensor

from unimat_lib.alignment import retrieval_ranks
from unimat_lib.crystals import CRYSTAL_SYSTEMS
from unimat_lib.evaluate import (
    LOWER_IS_BETTER,
    PER_CRYSTAL,
    PROBABILITY_COLUMNS,
    SCALED_COLUMNS,
    bootstrap_mean,
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

VARIANTS: Mapping[str, str] = {
    "reproduction": "reproduction",
    "ours": "ours",
    "ours_refined": "ours + refinement",
}
"""Variants and how they are called in tables."""

DIRECTIONS: Mapping[str, str] = {
    "xrd_to_structure": "pattern finds structure",
    "structure_to_xrd": "structure finds pattern",
    "composition_to_structure": "formula finds structure",
    "structure_to_composition": "structure finds formula",
}
"""Directions of a retrieval, query first, and how they are called in tables."""

_FUSED = "xrd_composition_aligned_fused"
_CHAPTERS = {"structure_aligned_xrd": "04", _FUSED: "05", "all_three": "05"}  # others: 03

PREDICTIONS: Mapping[tuple[str, str], str] = {
    **{(s, "reproduction"): _CHAPTERS.get(s, "03") for s in SETTINGS if s != "all_three"},
    **{(s, "ours"): _CHAPTERS.get(s, "03") for s in SETTINGS},
    **{(s, "ours_refined"): "09" for s in ("xrd", _FUSED)},
}
"""(setting, variant) of every model of the ledger, and the chapter that writes its predictions."""

RANKS: Mapping[tuple[str, str], str] = {
    ("structure_aligned_xrd", "reproduction"): "04",
    ("structure_aligned_xrd", "ours"): "04",
    ("all_three", "ours"): "05",
}
"""(setting, variant) of every retrieval of the ledger, and the chapter that writes its ranks."""

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
    return _save(frames, Path(folder), setting, variant, write=_write_packed)


def _save(by_seed, folder: Path, setting: str, variant: str, *, write) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for seed, frame in by_seed.items():
        path = folder / f"{setting}-{variant}-seed{seed}.parquet"
        with replacing(path) as temporary:
            write(frame, temporary)
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
    return _load(Path(folder), setting, variant, made_by, read=_read_packed)


def _load(folder: Path, setting: str, variant: str, made_by: str, *, read):
    files = _files(folder, setting, variant)
    if not files:
        raise FileNotFoundError(
            f"{folder / f'{setting}-{variant}-seed*.parquet'} is missing. Make it with:\n"
            f"    {made_by}"
        )
    frames = {_seed(path): read(path) for path in files}
    frames = dict(sorted(frames.items()))
    check_same_crystals(*frames.values())
    return frames


def load_all(
    folder: str | os.PathLike[str], *, profile: str
) -> tuple[dict[tuple[str, str], list[pd.DataFrame]], dict[tuple[str, str], list[pd.DataFrame]]]:
    """Read everything that the ledger counts.

    Args:
        folder: The ``results`` folder of a profile.
        profile: Its name, for the command in an error message.

    Returns:
        (setting, variant) to errors frames of the seeds, and the same to rank frames, in the order
        of the tables.

    Raises:
        FileNotFoundError: If a file is missing; the message holds the command that makes it.
        ValueError: If two files speak of different crystals.
    """
    found = []
    for kind, chapters, load in (
        ("predictions", PREDICTIONS, load_predictions),
        ("ranks", RANKS, load_ranks),
    ):
        keys = [(s, v) for s in SETTINGS for v in VARIANTS if (s, v) in chapters]
        commands = {k: f"python tools/book.py run {chapters[k]} --profile {profile}" for k in keys}
        found.append(
            {
                (s, v): list(
                    load(Path(folder) / kind, setting=s, variant=v, made_by=commands[s, v]).values()
                )
                for s, v in keys
            }
        )
    check_same_crystals(*(frame for part in found for seeds in part.values() for frame in seeds))
    return found[0], found[1]


def all_rows(
    frames: Mapping[tuple[str, str], Sequence[pd.DataFrame]],
    ranks: Mapping[tuple[str, str], Sequence[pd.DataFrame]],
    *,
    num_resamples: int = 1000,
) -> list[dict[str, object]]:
    """The rows of everything that :func:`load_all` read: predictions first, then recalls."""
    return [
        row
        for count, part in ((ledger_rows, frames), (recall_rows, ranks))
        for (setting, variant), seeds in part.items()
        for row in count(seeds, setting=setting, variant=variant, num_resamples=num_resamples)
    ]


# ---- retrieval


def rank_frame(points: Mapping[str, Tensor], material_id: Sequence[str]) -> pd.DataFrame:
    """Ranks of the right partner in every direction of ``DIRECTIONS`` that the points allow.

    Args:
        points: View name to points of the shared space ``[n, d]``, see
            :func:`unimat_lib.evaluate.embed`; all test crystals, which are also the gallery.
        material_id: Their names.

    Returns:
        One row per crystal: ``material_id`` and an int32 column per direction, 1 = first. Ties
        count against us.
    """
    ends = {name: name.split("_to_") for name in DIRECTIONS}
    ranks = {
        name: retrieval_ranks(points[query], points[gallery]).cpu().numpy().astype(np.int32)
        for name, (query, gallery) in ends.items()
        if query in points and gallery in points
    }
    return pd.DataFrame({"material_id": list(material_id)} | ranks)


def save_ranks(
    by_seed: Mapping[int, pd.DataFrame],
    folder: str | os.PathLike[str],
    *,
    setting: str,
    variant: str,
) -> list[Path]:
    """Write the retrieval ranks of all seeds of a setting; files of other seeds are removed.

    Args:
        by_seed: Seed to a frame as :func:`rank_frame` makes it.
        folder: The ``ranks`` folder; it is made.
        setting: Name of the setting.
        variant: Name of the variant.

    Returns:
        The files, in the order of ``by_seed``.

    Raises:
        ValueError: If a frame has no or unknown directions, or a rank outside 1 to ``n``.
    """
    for seed, frame in by_seed.items():
        _check_ranks(frame, f"{setting}-{variant}-seed{seed}")
    return _save(by_seed, Path(folder), setting, variant, write=_write_ranks)


def _check_ranks(frame: pd.DataFrame, name: str) -> None:
    directions = list(frame.columns.drop("material_id"))
    if not directions or not set(directions) <= set(DIRECTIONS):
        raise ValueError(
            f"{name}: expected material_id and columns of {list(DIRECTIONS)}, got "
            f"{list(frame.columns)}: make the frame with ledger.rank_frame"
        )
    ranks = frame[directions].to_numpy()
    if len(ranks) == 0 or ranks.min() < 1 or ranks.max() > len(ranks):
        raise ValueError(
            f"{name}: expected ranks from 1 to the {len(ranks)} crystals of the gallery: queries "
            "and gallery must be all test crystals"
        )


def _write_ranks(frame: pd.DataFrame, path: Path) -> None:
    directions = frame.columns.drop("material_id")
    table = pa.Table.from_pandas(
        frame.astype(dict.fromkeys(directions, np.int32)), preserve_index=False
    )
    pq.write_table(table, path, compression="zstd", compression_level=12)


def load_ranks(
    folder: str | os.PathLike[str], *, setting: str, variant: str, made_by: str
) -> dict[int, pd.DataFrame]:
    """Read the retrieval ranks of all seeds of a setting.

    Args:
        folder: The ``ranks`` folder.
        setting: Name of the setting.
        variant: Name of the variant.
        made_by: The exact command that makes the files, for the error message.

    Returns:
        Seed to rank frame, see :func:`rank_frame`, by rising seed.

    Raises:
        FileNotFoundError: If there is no file; the message holds the command.
        ValueError: If the seeds rank different crystals.
    """
    return _load(Path(folder), setting, variant, made_by, read=pd.read_parquet)


def recall_metric(direction: str, k: int) -> str:
    """Name of a recall in the ledger; the direction of a user, pattern to structure, has none."""
    return f"recall_at_{k}" + ("" if direction == "xrd_to_structure" else f"_{direction}")


def recall_rows(
    frames: Sequence[pd.DataFrame], *, setting: str, variant: str, num_resamples: int = 1000
) -> list[dict[str, object]]:
    """Recall at 1 and at 10 in every direction, per cent, as the ledger file holds it.

    Args:
        frames: Rank frames of the seeds, same crystals in the same order.
        setting: Name of the setting.
        variant: Name of the variant.
        num_resamples: Bootstrap samples where there are several seeds; the interval of one seed
            is Wilson's.

    Returns:
        Rows as of :func:`ledger_rows`; metrics ``recall_at_<k>`` (pattern to structure) and
        ``recall_at_<k>_<direction>``.
    """
    rows = []
    for direction in (name for name in DIRECTIONS if name in frames[0]):
        ranks = np.stack([frame[direction].to_numpy() for frame in frames])  # [seeds, n]
        for k in (1, 10):
            found = 100.0 * (ranks <= k)
            per_seed, n = found.mean(axis=1), found.shape[1]
            metric = recall_metric(direction, k)
            row = share_row(per_seed.mean(), n, setting=setting, variant=variant, metric=metric)
            if len(frames) > 1:
                interval = bootstrap_mean(found.mean(axis=0), num_resamples=num_resamples)
                row |= {"std": float(per_seed.std(ddof=1)), "seeds": len(frames)}
                row["ci95"] = list(interval)
            rows.append(row)
    return rows


# ---- files


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
    interval = binomtest(round(percent * n_test / 100), n_test).proportion_ci(method="wilson")
    return {
        "setting": setting,
        "variant": variant,
        "metric": metric,
        "mean": float(percent),
        "std": None,
        "seeds": 1,
        "ci95": [100 * float(interval.low), 100 * float(interval.high)],
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
        variant: Which of our variants. Changes and orders are taken between settings of this
            variant; where a setting lacks it, the next plainer variant stands in and the text
            says so.
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
        return _judge_order(claim, rows, frames, variant=variant)
    return _judge_change(claim, frames, variant=variant, num_claims=num_claims, lower=lower)


def judge_claims(
    claims: Sequence[Mapping[str, object]],
    rows: Sequence[Mapping[str, object]],
    frames: Mapping[tuple[str, str], Sequence[pd.DataFrame]],
) -> tuple[pd.DataFrame, int]:
    """All verdicts on some claims, which hold together at the family-wise level of 95 %.

    Args:
        claims: Claims of ``data/published.yml``.
        rows: The ledger.
        frames: (setting, variant) to errors frames of the seeds.

    Returns:
        One row per claim and variant: ``id``, ``variant``, ``number``, ``verdict``; and how many of
        them were judged with an interval, which is the number that Bonferroni's correction counts
        (an order of means has none, and what was not measured is no comparison).
    """
    pairs = [(claim, variant) for claim in claims for variant in VARIANTS]
    measured = [
        claim["kind"] != "order" and judge(claim, rows, frames, variant=v, num_claims=1)[0] != "–"
        for claim, v in pairs
    ]
    count = max(sum(measured), 1)
    judged = [(c["id"], v, *judge(c, rows, frames, variant=v, num_claims=count)) for c, v in pairs]
    return pd.DataFrame(judged, columns=["id", "variant", "number", "verdict"]), count


def _chosen(
    settings: Sequence[str], frames: Mapping[tuple[str, str], object], variant: str
) -> tuple[list[tuple[str, str]], str] | None:
    """Keys of the settings in a variant or what stands in for it, and a note that says so.

    ``None`` where a setting has neither, or where no setting has the variant itself.
    """
    plainer = list(VARIANTS)[list(VARIANTS).index(variant) :: -1]  # the variant first
    keys = [next(((s, v) for v in plainer if (s, v) in frames), None) for s in settings]
    if None in keys or all(v != variant for _, v in keys):
        return None
    others = [f"{VARIANTS[v]} of {SETTINGS.get(s, s)}" for s, v in keys if v != variant]
    return keys, f" ({'; '.join(others)})" if others else ""


def _judge_order(claim, rows, frames, *, variant: str) -> tuple[str, str]:
    chosen = _chosen(claim["settings"], frames, variant)
    if chosen is None:
        return "–", "not measured"
    values = [
        find_row(rows, setting=s, variant=v, metric=claim["metric"])["mean"] for s, v in chosen[0]
    ]
    pairs = [(a, b) for i, a in enumerate(values) for b in values[i + 1 :]]
    same = sum(a < b for a, b in pairs)
    word = "confirmed" if same == len(pairs) else "partly" if same else "contradicted"
    return f"{same} of {len(pairs)} pairs in this order{chosen[1]}", word


def _judge_change(claim, frames, *, variant: str, num_claims: int, lower: bool) -> tuple[str, str]:
    chosen = _chosen((claim["before"], claim["after"]), frames, variant)
    if chosen is None:
        return "–", "not measured"
    keys, note = chosen
    before, after = (list(frames[key]) for key in keys)
    start = float(np.mean([PER_CRYSTAL[claim["metric"]](frame).mean() for frame in before]))
    change, low, high = (100 * x / start for x in paired_difference(before, after, claim["metric"]))
    _, wide_low, wide_high = paired_difference(
        before, after, claim["metric"], level=1 - 0.05 / num_claims
    )
    claimed = "improves" if (claim["value"] < 0) == lower else "worsens"
    found = change_verdict(wide_low, wide_high, lower_is_better=lower)
    words = {"improves": "contradicted", "worsens": "contradicted"} | {claimed: "confirmed"}
    interval = "" if math.isnan(low) else f" [{low:+.1f}, {high:+.1f}]"
    return f"{change:+.1f} %{interval}{note}", words.get(found, found)
