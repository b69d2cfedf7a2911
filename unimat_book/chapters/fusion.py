"""Fused models and their answers in, the tables of chapter 05 out; a scan to try them on."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from unimat_book.experiments import Run
from unimat_book.statistics import bootstrap_interval
from unimat_book.tables import means
from unimat_lib.crystals.table import CrystalTable
from unimat_lib.evaluation.metrics import cell_metrics
from unimat_lib.model import num_parameters
from unimat_lib.views.bragg import bragg_reflections, g_max_of
from unimat_lib.views.grid import Grid
from unimat_lib.views.render import render
from unimat_powder.identify import Identification


def cells_table(crystal: CrystalTable, predicted: Mapping[str, Identification]) -> pd.DataFrame:
    """The true cell of one crystal (first row) and predicted ones: a, b, c, alpha, beta, gamma."""
    cells = {"true": [*crystal.lengths[0].tolist(), *crystal.angles[0].tolist()]}
    cells |= {name: [*said.lengths, *said.angles] for name, said in predicted.items()}
    columns = ["a (Å)", "b (Å)", "c (Å)", "α (°)", "β (°)", "γ (°)"]
    return pd.DataFrame(cells.values(), index=list(cells), columns=columns).rename_axis("cell")


def strategies_table(
    runs: Mapping[tuple[str, str], Run], validation: Mapping[tuple[str, str], float]
) -> pd.DataFrame:
    """One row per fused model.

    Keys are the name of the strategy and a word for its alignment; ``validation`` is the loss by
    which the choice is made. ``low`` and ``high`` are the 95 % interval of the scaled length error.
    """
    rows = []
    for (fusion, alignment), run in runs.items():
        low, high = bootstrap_interval(run.frames, "scaled_length_mae")
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


def withheld_table(
    asked: Mapping[tuple[str, str], pd.DataFrame], metric: str, *, columns: Sequence[str]
) -> pd.DataFrame:
    """A metric (see :func:`.cell_metrics`) of models (rows) that are given some views (columns).

    Keys of ``asked`` are the model and the views that it was given.
    """
    values = {key: cell_metrics(frame)[metric] for key, frame in asked.items()}
    models = dict.fromkeys(model for model, _ in asked)
    return pd.DataFrame(
        {given: [values.get((model, given), np.nan) for model in models] for given in columns},
        index=list(models),
    )


def write_simulated_scan(
    crystal: CrystalTable,
    path: str | os.PathLike[str],
    *,
    two_theta_range: tuple[float, float],
    fwhm: float,
) -> Path:
    """Write what a diffractometer might: two columns of text, 2theta in steps of 0.02° and counts.

    Counting noise at 8,000 counts for the highest peak, over a background that slopes from 300 to
    100 counts.

    Args:
        crystal: One crystal.
        path: The file.
        two_theta_range: Ends of the scan, degrees.
        fwhm: Width of the peaks, degrees.
    """
    low, high = two_theta_range
    bench = Grid(low, high, round((high - low) / 0.02) + 1)
    reflections = bragg_reflections(crystal, g_max=g_max_of(bench))
    clean = render(reflections, torch.tensor([0]), bench, fwhm=fwhm)[0]
    expected = 8000 * clean + torch.linspace(300, 100, bench.num_points)
    counts = torch.poisson(expected, generator=torch.Generator().manual_seed(0))
    columns = torch.stack([bench.two_theta, counts.double()], dim=1)
    np.savetxt(path, columns.numpy(), fmt="%.3f")
    return Path(path)
