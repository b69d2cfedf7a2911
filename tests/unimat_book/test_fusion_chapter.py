"""What chapter 05 tries its models on, and how it shows their answers."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from small import make_model

from unimat_book.chapters.fusion import (
    cells_table,
    count_verdicts,
    disturbed_patterns,
    effects_table,
    grid_table,
    hardships_table,
    library_choice,
    save_rows,
)
from unimat_book.figures.fusion import plot_grid
from unimat_book.grid.analysis import METRICS, Cells
from unimat_book.grid.cells import FUSIONS, ORDERS, cell_names
from unimat_lib.datasets.prototypes import worked_crystal
from unimat_lib.views.grid import Grid


def test_disturbed_patterns_keep_the_strongest_line():
    grid = Grid()
    patterns = disturbed_patterns(worked_crystal(), grid, fwhm=0.2)
    for name, pattern in patterns.items():
        assert float(grid.two_theta[pattern.argmax()]) == pytest.approx(27.4, abs=0.1), name
        assert float(pattern.min()) >= 0 and float(pattern.max()) == pytest.approx(1), name
    last = grid.two_theta > 60
    assert not patterns["up to 60°"][last].any() and patterns["clean"][last].max() > 0.1
    # The doublet splits lines at high angles: the curve is lower and wider there.
    assert patterns["K-alpha doublet"][last].max() < patterns["clean"][last].max()


def test_cells_beside_the_truth():
    rutile = worked_crystal()
    model = make_model(("xrd", "composition"))
    patterns = {"zeros": torch.zeros(model.config.grid.num_points)}
    table = cells_table(model, rutile, patterns, formula="TiO2")
    assert table.index.tolist() == ["true cell", "zeros"]
    assert table.loc["true cell", "a (Å)"] == pytest.approx(float(rutile.lengths[0, 0]))
    assert table.loc["true cell", "crystal system"] == "tetragonal"
    assert table.loc["zeros", "a (Å)"] > 0


@pytest.fixture
def scores():
    """What `intervals` gives, all cells alike; nothing is retrieved without alignment."""
    look = {"mean": 0.1, "std": 0.002, "seeds": 5, "n_test": 9}
    look |= {"ci_low": 0.09, "ci_high": 0.11, "types_low": 0.08, "types_high": 0.12}
    return pd.DataFrame(
        {"fusion": fusion, "order": order, "metric": metric} | look
        for fusion, order in cell_names()
        for metric in METRICS
        if not (metric == "recall_at_1" and order == "none")
    )


def test_tables_have_a_row_per_cell_and_fit_the_page(scores):
    for make in (grid_table, hardships_table):
        table = make(scores)
        assert table.shape == (20, 6)
    first = grid_table(scores).iloc[0]
    assert first["scaled length MAE (Å)"] == "0.1000 ± 0.0020"
    assert first["95 %, types"] == "0.080 to 0.120"
    assert (hardships_table(scores)["recall@1 (%)"] == "–").sum() == len(FUSIONS)
    one = grid_table(scores.assign(seeds=1, std=np.nan)).iloc[0]
    assert one["scaled length MAE (Å)"] == "0.1000"


def test_rows_of_the_ledger_are_written(scores, tmp_path):
    path = save_rows({"clean": scores, "laboratory": scores}, tmp_path / "rows.json")
    rows = json.loads(path.read_text("utf-8"))
    assert len(rows) == 2 * len(scores)
    assert rows[0] == {
        "setting": "fusion_early_none",
        "variant": "clean",
        "metric": "scaled_length_mae",
        "mean": 0.1,
        "std": 0.002,
        "seeds": 5,
        "ci95": [0.09, 0.11],
        "n_test": 9,
        "ci95_types": [0.08, 0.12],
    }


def test_effects_of_both_kinds_side_by_side():
    look = {"change": -0.01, "low": -0.02, "high": -0.005}
    clean = pd.DataFrame([{"effect": "gated", "verdict": "better"} | look])
    more = {"effect": "the chosen cell", "verdict": "better, size open"}
    both = {"clean": clean, "laboratory": pd.concat([clean, pd.DataFrame([more | look])])}
    table = effects_table(both, spec=".3f")
    assert table["effect"].tolist() == ["gated", "the chosen cell"]
    assert table.loc[0, "clean patterns"] == "-0.010 (-0.020 to -0.005)"
    assert table.loc[1, "clean patterns"] == "–"
    assert count_verdicts(both) == {"confirmed": 2, "none": 0, "open": 1}


def test_final_model_uses_what_the_library_has():
    losses = np.ones((20, 2))
    names = list(cell_names())
    for cell, loss in ((("early", "none"), 0.1), (("gated", "fused"), 0.2)):
        losses[names.index(cell)] = loss
    losses[names.index(("cross_attention", "simultaneous"))] = 0.5
    cells = Cells([0, 1], {}, {}, losses, [])
    assert cells.chosen == ("early", "none")
    assert library_choice(cells) == ("cross_attention", True)


def test_figure_of_the_grid(scores):
    frame = scores[scores["metric"] == "scaled_length_mae"]
    look = {"rows": FUSIONS, "columns": ORDERS, "label": "error"}
    figure = plot_grid({"clean": frame}, chosen={"clean": ("late", "fused")}, **look)
    (axes,) = figure.axes
    assert len(axes.texts) == 20 and axes.texts[0].get_text() == "0.1000 ± 0.0020"
    assert axes.get_title(loc="left") == "clean: error"
    (frame_,) = axes.patches
    assert frame_.get_xy() == pytest.approx((2.52, 3.54))
