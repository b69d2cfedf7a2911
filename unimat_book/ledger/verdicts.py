"""Rows of the ledger in, differences and verdicts out."""

import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from scipy.stats import norm
from scipy.stats import t as student

from unimat_book.ledger.predictions import check_same_crystals
from unimat_book.ledger.rows import find_row
from unimat_book.ledger.settings import SETTINGS, VARIANTS
from unimat_book.statistics import over_seeds
from unimat_lib.evaluation.metrics import LOWER_IS_BETTER, PER_CRYSTAL

Row = Mapping[str, object]
Frames = Sequence[pd.DataFrame]
ByKey = Mapping[tuple[str, str], Frames]
"""(setting, variant) to a frame per seed."""

_INTERVAL_Z = float(norm.ppf(0.975))
_NONE = ("–", "not measured")  # number and verdict where there is no number


def half_width(variances: Sequence[tuple[float, int]], *, level: float) -> float:
    """Half of the two-sided Student interval of a sum of independent parts.

    Args:
        variances: Per part the variance of its mean and its degrees of freedom (three seeds have
            two, which makes their share of the interval much wider than a normal one).
        level: Coverage.

    Source: Welch, Biometrika 34 (1947) 28, with Satterthwaite's degrees of freedom.
    """
    total = sum(variance for variance, _ in variances)
    if total == 0:
        return 0.0
    freedom = total**2 / sum(variance**2 / df for variance, df in variances if variance)
    return float(student.ppf((1 + level) / 2, freedom)) * math.sqrt(total)


def paper_verdict(
    row: Row | None,
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
    low, high = row["ci95"]
    parts = [(((high - low) / (2 * _INTERVAL_Z)) ** 2, max(row["n_test"] - 1, 1))]
    if row["seeds"] > 1:
        parts.append((row["std"] ** 2 / row["seeds"], row["seeds"] - 1))
    half = half_width(parts, level=1 - 0.05 / num_claims)
    if row["mean"] - half > published + rounding:
        return "worse" if lower_is_better else "better"
    if row["mean"] + half < published - rounding:
        return "better" if lower_is_better else "worse"
    return "agrees"


def paired_difference(
    first: Frames, second: Frames, metric: str, *, level: float = 0.95
) -> tuple[float, float, float]:
    """How much a metric changes from one model to another on the same crystals.

    ``second`` minus ``first`` (errors frames of the seeds of two models, a key of
    :data:`.PER_CRYSTAL`), and the ends of its interval over crystals and seeds. Each crystal is
    compared with itself, so what all models find hard cancels; seeds do not. With a single seed on
    one side their spread is unknown and both ends are NaN.

    Raises:
        ValueError: If the crystals differ.
    """
    check_same_crystals(*first, *second)
    change = over_seeds(second, metric) - over_seeds(first, metric)  # [n]
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
    """What the interval of a change (see :func:`paired_difference`) says.

    ``"improves"``, ``"worsens"``, ``"no clear change"``, or ``"one seed: not judged"`` where the
    ends are NaN.
    """
    if math.isnan(low):
        return "one seed: not judged"
    if low <= 0 <= high:
        return "no clear change"
    return "improves" if (high < 0) == lower_is_better else "worsens"


def judge_claim(
    claim: Row, rows: Sequence[Row], frames: ByKey, *, variant: str, num_claims: int
) -> tuple[str, str]:
    """Our number for a claim, with its interval, and the verdict.

    Args:
        claim: One claim of ``data/published.yml``.
        rows: The ledger.
        frames: (setting, variant) to errors frames of the seeds, for claims about changes.
        variant: Which of our variants. Changes and orders are taken between settings of this
            variant; where a setting lacks it, the next plainer variant stands in and the text
            says so.
        num_claims: Verdicts given together, see :func:`paper_verdict`.

    Returns:
        Two texts; a dash and ``"not measured"`` where we have no number.
    """
    metric = claim["metric"]
    lower = metric in LOWER_IS_BETTER
    if claim["kind"] == "value":
        row = find_row(rows, setting=claim["setting"], variant=variant, metric=metric)
        if row is None:
            return _NONE
        spec = ".3f" if lower else ".1f"
        low, high = (format(x, spec) for x in row["ci95"])
        options = {"rounding": claim["rounding"], "num_claims": num_claims}
        word = paper_verdict(row, claim["value"], lower_is_better=lower, **options)
        return f"{row['mean']:{spec}} [{low}, {high}]", word
    if claim["kind"] == "order":
        return _judge_order(claim, rows, frames, variant=variant)
    return _judge_change(claim, frames, variant=variant, num_claims=num_claims, lower=lower)


def judge_claims(
    claims: Sequence[Row], rows: Sequence[Row], frames: ByKey
) -> tuple[pd.DataFrame, int]:
    """All verdicts on some claims, which hold together at the family-wise level of 95 %.

    Args:
        claims: Claims of ``data/published.yml``.
        rows: The ledger.
        frames: (setting, variant) to errors frames of the seeds.

    Returns:
        ``id``, ``variant``, ``number`` and ``verdict`` per claim and variant; and how many of them
        were judged with an interval, which is what Bonferroni's correction counts (an order of
        means has none, and what was not measured is no comparison).
    """
    pairs = [(claim, variant) for claim in claims for variant in VARIANTS]
    measured = [
        claim["kind"] != "order"
        and judge_claim(claim, rows, frames, variant=v, num_claims=1)[0] != "–"
        for claim, v in pairs
    ]
    count = max(sum(measured), 1)
    judged = [
        (c["id"], v, *judge_claim(c, rows, frames, variant=v, num_claims=count)) for c, v in pairs
    ]
    return pd.DataFrame(judged, columns=["id", "variant", "number", "verdict"]), count


def _chosen(settings: Sequence[str], frames: ByKey, variant: str) -> tuple[list, str] | None:
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
        return _NONE
    found = [find_row(rows, setting=s, variant=v, metric=claim["metric"]) for s, v in chosen[0]]
    pairs = list(itertools.combinations([row["mean"] for row in found], 2))
    same = sum(a < b for a, b in pairs)
    word = {0: "contradicted", len(pairs): "confirmed"}.get(same, "partly")
    return f"{same} of {len(pairs)} pairs in this order{chosen[1]}", word


def _judge_change(claim, frames, *, variant: str, num_claims: int, lower: bool) -> tuple[str, str]:
    chosen = _chosen((claim["before"], claim["after"]), frames, variant)
    if chosen is None:
        return _NONE
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
