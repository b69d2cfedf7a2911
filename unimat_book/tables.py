"""Runs and errors frames in, the tables that several chapters print out."""

import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd

from unimat_book.experiments import MAIN_METRICS, Run, split_rows
from unimat_book.ledger.verdicts import change_verdict, paired_difference, paper_verdict
from unimat_book.statistics import over_seeds, summarize
from unimat_lib.crystals.table import CRYSTAL_SYSTEMS, CrystalTable
from unimat_lib.evaluation.metrics import LOWER_IS_BETTER, PER_CRYSTAL, cell_metrics
from unimat_lib.model import num_parameters

_OTHER_DATA = "not comparable: other data"


def main_table(runs: Mapping[str, Run], *, first_column: str = "view") -> pd.DataFrame:
    """One row per run: mean ± standard deviation over seeds [95 % interval over crystals].

    One seed has no standard deviation, and none is printed.
    """
    rows = []
    for name, run in runs.items():
        row, summary = {first_column: name}, run.summary
        for metric, (label, spec) in MAIN_METRICS.items():
            columns = ["mean", "std", "ci_low", "ci_high"]
            mean, std, low, high = (format(x, spec) for x in summary.loc[metric, columns])
            spread = f" ± {std}" if len(run.frames) > 1 else ""
            row[label] = f"{mean}{spread} [{low}, {high}]"
        rows.append(row)
    return pd.DataFrame(rows)


def cost_table(runs: Mapping[str, Run]) -> pd.DataFrame:
    """One row per run: size, epochs, speed, memory, time per seed."""
    return pd.DataFrame(
        {
            "model": name,
            "parameters": num_parameters(run.model.encoders),
            "epochs": len(run.fits[0].history),
            "crystals/s": round(float(np.median([f.throughput for f in run.fits]))),
            "peak memory (GiB)": max(f.peak_memory_gib for f in run.fits),
            "seconds per seed": float(np.mean([f.seconds for f in run.fits])),
        }
        for name, run in runs.items()
    )


def change_table(
    before: Run | Sequence[pd.DataFrame], after: Run | Sequence[pd.DataFrame]
) -> pd.DataFrame:
    """Paired changes of the main metrics between two settings (the median is left out).

    Both are runs, or errors frames of their seeds, on the same crystals. The index names the
    metric; the columns hold texts, the last one a :func:`.change_verdict`.
    """
    old, new = (list(getattr(x, "frames", x)) for x in (before, after))
    rows = {}
    for metric, (label, spec) in MAIN_METRICS.items():
        if metric not in PER_CRYSTAL:
            continue
        means = [np.mean([cell_metrics(f)[metric] for f in fs]) for fs in (old, new)]
        change, low, high = paired_difference(old, new, metric)
        values = [format(x, spec) for x in means]
        word = change_verdict(low, high, lower_is_better=metric in LOWER_IS_BETTER)
        interval = "–" if np.isnan(low) else f"{low:+{spec}} to {high:+{spec}}"
        rows[metric] = [label, *values, f"{change:+{spec}}", interval, word]
    columns = ["metric", "before", "after", "change", "95 % interval", "verdict"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns)


def worst_table(frames: Sequence[pd.DataFrame], table: CrystalTable, *, n: int = 6) -> pd.DataFrame:
    """The ``n`` test crystals with the largest length error (mean over seeds) and their rows."""
    test = split_rows(table)[2].numpy()
    error = over_seeds(frames, "length_mae")
    order = np.argsort(-error, kind="stable")[:n]
    guess = np.mean([frame[list("abc")].to_numpy()[order] for frame in frames], axis=0)
    rows = test[order]
    return pd.DataFrame(
        {
            "row": rows,
            "formula": table.info["formula"].to_numpy()[rows],
            "crystal system": [CRYSTAL_SYSTEMS[k] for k in table.crystal_system[rows].tolist()],
            "atoms": table.num_atoms[rows].tolist(),
            "true a, b, c (Å)": [_triple(x) for x in table.lengths[rows].tolist()],
            "predicted a, b, c (Å)": [_triple(x) for x in guess],
            "mean error (Å)": error[order],
        }
    )


def stacked(frame: pd.DataFrame, above: str, below: str) -> list[str]:
    """Cells for a page: some columns of a row in one, the second text under the first, small.

    Args:
        frame: The whole table.
        above: What stands first, with columns in braces: ``"{n:,}"``. (Names of columns may have
            no colon, dot or bracket then.)
        below: The same for the small print. A missing number becomes a dash.
    """
    text = f"{above}<br><small>{below}</small>"
    return [re.sub(r"\bnan\b", "–", text.format_map(row)) for row in frame.to_dict("records")]


def means(run: Run) -> dict[str, float]:
    """The main metrics of a run, mean over seeds, without any interval."""
    per_seed = [cell_metrics(frame) for frame in run.frames]
    return {name: float(np.mean([m[name] for m in per_seed])) for name in MAIN_METRICS}


def frames_table(frames: Mapping[str, pd.DataFrame], *, first_column: str) -> pd.DataFrame:
    """The main metrics of single errors frames, one row each."""
    return pd.DataFrame(
        {first_column: name}
        | {MAIN_METRICS[key][0]: cell_metrics(frame)[key] for key in MAIN_METRICS}
        for name, frame in frames.items()
    )


def paper_table(
    entries: Iterable[tuple[Mapping[str, str], str, float, Sequence[pd.DataFrame]]],
    *,
    columns: Mapping[str, str],
    rounding: float,
    comparable: bool,
    num_claims: int = 1,
) -> pd.DataFrame:
    """Published values beside those of this book.

    Args:
        entries: For each row its labels (heading to text), the metric, the published value and the
            errors frames of the seeds.
        columns: What stands between labels and verdict, and its heading: ``paper``, ``ours`` (mean
            over seeds), ``interval`` (95 %), ``delta``, or a metric of :func:`.cell_metrics`.
        rounding: Half a unit of the last published digit.
        comparable: False on other data than the paper's: then there are no verdicts.
        num_claims: Verdicts given together, see :func:`.paper_verdict`.
    """
    rows = []
    for labels, metric, published, frames in entries:
        per_seed = [cell_metrics(frame) for frame in frames]
        values = {name: float(np.mean([m.get(name, np.nan) for m in per_seed])) for name in columns}
        row, ours, interval = None, np.nan, "–"
        if metric in per_seed[0]:  # a crystal system without crystals has no accuracy
            row = summarize(frames, [metric]).iloc[0].to_dict()
            row["ci95"] = row["ci_low"], row["ci_high"]
            ours, interval = row["mean"], "{:.1f} to {:.1f}".format(*row["ci95"])
        values |= {"paper": published, "ours": ours, "delta": ours - published}
        values["interval"] = interval
        shown = {heading: values[key] for key, heading in columns.items()}
        options = {"rounding": rounding, "num_claims": num_claims}
        word = paper_verdict(row, published, lower_is_better=metric in LOWER_IS_BETTER, **options)
        rows.append({**labels, **shown, "verdict": word if comparable else _OTHER_DATA})
    return pd.DataFrame(rows)


def _triple(values: Sequence[float]) -> str:
    return ", ".join(f"{x:.2f}" for x in values)
