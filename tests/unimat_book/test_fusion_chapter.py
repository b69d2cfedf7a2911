"""What chapter 05 tries its models on, and how it shows their answers."""

import pytest
import torch
from small import make_model

from unimat_book.chapters.fusion import cells_table, disturbed_patterns
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
