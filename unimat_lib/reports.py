"""Tables of the fusion chapter: strategies compared, the paper beside us, a view withheld."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from unimat_lib import evaluate, ledger
from unimat_lib.experiments import MAIN_METRICS, Run
from unimat_lib.model import num_parameters


def means(run: Run) -> dict[str, float]:
    """The main metrics of a run, mean over seeds, without any interval."""
    per_seed = [evaluate.cell_metrics(frame) for frame in run.frames]
    return {name: float(np.mean([m[name] for m in per_seed])) for name in MAIN_METRICS}


def strategies_table(
    runs: Mapping[tuple[str, str], Run], validation: Mapping[tuple[str, str], float]
) -> pd.DataFrame:
    """One row per fused model.

    Args:
        runs: (name of the strategy, word for its alignment) to run.
        validation: The same keys to the loss by which the choice is made.

    Returns:
        ``fusion``, ``alignment``, ``weights of the fusion``, ``validation loss``, the test errors,
        and ``low`` and ``high``, the 95 % interval of the scaled length error.
    """
    rows = []
    for (fusion, alignment), run in runs.items():
        low, high = evaluate.bootstrap_interval(run.frames, "scaled_length_mae")
        found = means(run)
        rows.append(
            {
                "fusion": fusion,
                "alignment": alignment,
                "weights of the fusion": num_parameters(run.model.fusion),
                "validation loss": validation[fusion, alignment],
                "scaled length MAE (Å)": found["scaled_length_mae"],
                "length MAE (Å)": found["length_mae"],
                "crystal system (%)": found["crystal_system_accuracy"],
                "low": low,
                "high": high,
            }
        )
    return pd.DataFrame(rows)


def paper_table(
    entries: Mapping[str, tuple[float, Run, Run | None]], *, comparable: bool
) -> pd.DataFrame:
    """The paper's length errors beside both of our variants.

    Args:
        entries: Setting to (published value with two decimals, reproduction, ours or ``None``).
        comparable: False on other data than the paper's: then there are no verdicts.

    Returns:
        One row per setting and variant: values in both units, difference and verdict (for this
        row alone; the ledger chapter judges all claims together).
    """
    rows = []
    for setting, (published, reproduction, ours) in entries.items():
        for variant, run in (("reproduction", reproduction), ("ours", ours)):
            if run is None:
                continue
            found = evaluate.summarize(run.frames, ["scaled_length_mae"]).iloc[0].to_dict()
            found["ci95"] = [found["ci_low"], found["ci_high"]]
            word = ledger.verdict(found, published, rounding=0.005, lower_is_better=True)
            rows.append(
                {
                    "setting": setting,
                    "variant": variant,
                    "paper (Å)": published,
                    "scaled (Å)": found["mean"],
                    "delta (Å)": found["mean"] - published,
                    "plain (Å)": means(run)["length_mae"],
                    "verdict": word if comparable else "not comparable: other data",
                }
            )
    return pd.DataFrame(rows)


def withheld_table(
    asked: Mapping[tuple[str, str], pd.DataFrame], metric: str, *, columns: Sequence[str]
) -> pd.DataFrame:
    """A metric of models (rows) that are given some of their views (columns).

    Args:
        asked: (model, views given) to errors frame.
        metric: A key of :func:`unimat_lib.evaluate.cell_metrics`.
        columns: Order of the columns.
    """
    models = list(dict.fromkeys(model for model, _ in asked))
    values = {key: evaluate.cell_metrics(frame)[metric] for key, frame in asked.items()}
    return pd.DataFrame(
        [[values.get((model, given), np.nan) for given in columns] for model in models],
        index=models,
        columns=list(columns),
    )
