"""Fused models and their answers in, the tables of chapter 05 out; patterns to try them on."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from unimat_book.experiments import Run
from unimat_book.statistics import bootstrap_interval
from unimat_book.tables import means
from unimat_lib.crystals.table import CRYSTAL_SYSTEMS, CrystalTable
from unimat_lib.evaluation.metrics import cell_metrics
from unimat_lib.model import UniMat, num_parameters
from unimat_lib.views.bragg import bragg_reflections, g_max_of
from unimat_lib.views.composition import magpie_features
from unimat_lib.views.grid import WAVELENGTHS, Grid
from unimat_lib.views.render import render


@torch.no_grad()
def cells_table(
    model: UniMat, crystal: CrystalTable, patterns: Mapping[str, Tensor], *, formula: str
) -> pd.DataFrame:
    """The true cell of one crystal (first row) and what a model says of some patterns ``[P]``.

    Columns: a, b, c (angstrom), alpha, beta, gamma (degrees) and the likeliest crystal system.
    """
    rows = [[*crystal.lengths[0].tolist(), *crystal.angles[0].tolist()]]
    composition = magpie_features([formula]).expand(len(patterns), -1)
    output = model.eval()({"xrd": torch.stack(list(patterns.values())), "composition": composition})
    cells = model.cell_scaler.decode(output.cell)
    rows += torch.cat([cells["lengths"], cells["angles"]], dim=1).tolist()
    systems = [int(crystal.crystal_system[0]), *output.system_log_probs.argmax(1).tolist()]
    columns = ["a (Å)", "b (Å)", "c (Å)", "α (°)", "β (°)", "γ (°)"]
    table = pd.DataFrame(rows, index=["true cell", *patterns], columns=columns)
    table["crystal system"] = [CRYSTAL_SYSTEMS[i] for i in systems]
    return table.rename_axis("pattern")


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


def disturbed_patterns(crystal: CrystalTable, grid: Grid, *, fwhm: float) -> dict[str, Tensor]:
    """One crystal's pattern ``[P]`` as the training saw it, and as three instruments would show it.

    Noise is that of 8,000 counts in the highest peak over a background of 300 falling to 100; the
    background is then taken off by its true value. The doublet is Cu K-alpha 1 and 2, two to one.
    """
    reflections = bragg_reflections(crystal, g_max=1.01 * g_max_of(grid))
    first = torch.tensor([0])
    clean = render(reflections, first, grid, fwhm=fwhm)[0]
    background = torch.linspace(300, 100, grid.num_points)
    generator = torch.Generator().manual_seed(0)
    noisy = torch.poisson(8000 * clean + background, generator=generator) - background
    lines = (
        render(reflections, first, replace(grid, wavelength=WAVELENGTHS[name]), fwhm=fwhm)[0]
        for name in ("CuKa1", "CuKa2")
    )
    doublet = next(lines) + next(lines) / 2
    return {
        "clean": clean,
        "noise": noisy.clamp_min(0) / noisy.max(),
        "K-alpha doublet": doublet / doublet.max(),
        "up to 60°": clean * (grid.two_theta <= 60),
    }
