"""What a measurement does to the worked crystal's pattern, and the figures of that chapter."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from unimat_book.chapters.measurement_effects import (
    EFFECTS,
    effect_instruments,
    effects_table,
    measured_step_by_step,
)
from unimat_book.figures.measured import (
    plot_effects,
    plot_fits,
    plot_measured_summary,
    plot_reliability,
)
from unimat_lib.datasets.prototypes import worked_crystal
from unimat_lib.views.bragg import bragg_reflections, g_max_of
from unimat_lib.views.grid import Grid
from unimat_powder.library.lines import line_index
from unimat_powder.search.shifts import LineIndex

GRID = Grid(5.0, 90.0, 8501)


@pytest.fixture(scope="module")
def curves():
    reflections = bragg_reflections(worked_crystal(), g_max=1.06 * g_max_of(GRID))
    return measured_step_by_step(reflections, GRID, seed=0)


def test_effects_are_added_one_at_a_time(curves):
    instruments = effect_instruments(GRID)
    assert len(instruments) == len(EFFECTS) == len(curves)
    assert torch.isfinite(curves).all()
    peak = curves.argmax(dim=1)
    assert peak[0] != peak[3]  # the smaller cell moves the lines
    noise = [float((row[:1000] - row[:1000].mean()).abs().max() / row.max()) for row in curves]
    assert max(noise[:5]) < 0.02 < noise[5]


def test_a_shift_repairs_what_a_strain_breaks(curves):
    stored = line_index(worked_crystal())
    amounts = stored.amplitude.float(), stored.overlap.float()
    lines = LineIndex(stored.offsets.int(), stored.position.int(), *amounts)
    table = effects_table(curves, GRID, lines)
    moved = table.iloc[3]
    assert moved["point by point"] < 0.3
    assert moved["root sticks"] < 0.7 < 0.8 < moved["best shift"]
    assert (table["best shift"] >= table["root sticks"]).all()


def test_figures_show_what_they_are_given(curves):
    columns = ["metric", "setting", "variant", "mean", "low", "high"]
    names = {"first": "structure first, where it is (%)", "sure": "confident (%)"}
    rows = [(m, s, v, 50.0, 40.0, 60.0) for m in names for s in "ab" for v in ("this book", "?")]
    drawn = plot_measured_summary(pd.DataFrame(rows, columns=columns), metrics=names)
    assert [axes.get_title(loc="left") for axes in drawn.axes] == ["a", "b"]
    assert len(plot_effects(GRID.two_theta, curves, EFFECTS).axes) == len(EFFECTS)
    x = np.linspace(5, 90, 50)
    fit = {"two_theta": x, "measured": x, "computed": x, "background": 0 * x, "ticks": x[:3]}
    assert len(plot_fits({"one": fit, "two": fit}).axes) == 2
    said = {"setting": ["a", "b"], "said": [10.0, 90.0], "happened": [0.0, 100.0], "n": [3, 4]}
    panels = {"structure": pd.DataFrame(said | {"low": [0.0, 50.0], "high": [40.0, 100.0]})}
    (axes,) = plot_reliability(panels).axes
    assert axes.get_xlabel()
    with pytest.raises(ValueError, match="lacks"):
        plot_reliability({"structure": pd.DataFrame(said)})
