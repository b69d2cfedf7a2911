"""Errors frames refined: exact cells, predictions without the truth, and parts like the whole."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from lattices import CELLS, GRID, errors_frame

from unimat_book import refined
from unimat_book.chapters.refinement import failure_kinds
from unimat_book.figures.refinement import plot_error_shares, plot_peaks_and_lines
from unimat_book.ledger.predictions import load_predictions, save_predictions
from unimat_book.refined import atoms_of, refine_frame, refine_in_parts
from unimat_lib.evaluation.metrics import PROBABILITY_COLUMNS, cell_metrics
from unimat_lib.views.batch import build_views
from unimat_powder.bravais import lines_of
from unimat_powder.posterior import LatticeCounts

SOME = [1, 3, 6, 11]  # of the fourteen: cubic, hexagonal, tetragonal, monoclinic
SETTINGS = dict(grid=GRID, fwhm=0.1)


@pytest.fixture(scope="module")
def known(crystals):
    """Views, training counts, and an errors frame with errors of three per cent."""
    frame = errors_frame(crystals, stretched=[11])
    counts = LatticeCounts.of(crystals, torch.arange(len(CELLS)).repeat(20), device="cpu")
    views = build_views(crystals, grid=GRID, modalities=("xrd",))
    return views, counts, frame.iloc[SOME].reset_index(drop=True)


@pytest.fixture(scope="module")
def after(known):
    views, counts, frame = known
    return refine_frame(frame, views, torch.tensor(SOME), counts=counts)


def test_a_refined_frame_holds_the_exact_cells(crystals, known, after):
    *_, before = known
    assert list(after)[: before.shape[1]] == list(before)
    assert after["accepted"].tolist() == [True, True, True, False]
    right = after["accepted"].to_numpy()
    metrics = cell_metrics(after[right])
    assert metrics["length_mae"] < 1e-3 and metrics["scaled_length_mae"] < 1e-3
    assert metrics["within_1_percent"] == metrics["crystal_system_accuracy"] == 100
    pd.testing.assert_frame_equal(after.loc[~right, list(before)], before[~right])
    true = crystals.scaled_lengths[SOME].numpy()
    predicted = after[["scaled_a", "scaled_b", "scaled_c"]].to_numpy()
    errors = after[["error_scaled_a", "error_scaled_b", "error_scaled_c"]].to_numpy()
    np.testing.assert_allclose(predicted - errors, true, atol=1e-5)
    np.testing.assert_allclose(after[list(PROBABILITY_COLUMNS)].sum(axis=1), 1, atol=1e-5)


def test_the_truth_changes_no_prediction(known, after, monkeypatch):
    monkeypatch.setattr(refined, "_AT_ONCE", {"cpu": 3})
    views, counts, frame = known
    errors = [name for name in frame if "error" in name]
    lies = {name: frame[name] + 0.7 for name in errors}
    scrambled = frame.assign(
        num_atoms=frame["num_atoms"] * 3 + 1,
        crystal_system=(frame["crystal_system"] + 2) % 7,
        **lies,
    )
    again = refine_frame(scrambled, views, torch.tensor(SOME), counts=counts)
    truth = [*errors, "num_atoms", "crystal_system"]
    pd.testing.assert_frame_equal(again.drop(columns=truth), after.drop(columns=truth))


def test_refined_predictions_go_through_a_file(after, tmp_path):
    where = dict(setting="xrd", variant="ours_refined")
    save_predictions({3: after}, tmp_path, **where)
    read = load_predictions(tmp_path, **where, made_by="")[3]
    assert read["material_id"].tolist() == after["material_id"].tolist()
    for name in ("a", "gamma", "scaled_b", "error_c", "p_cubic", "predicted_system"):
        np.testing.assert_allclose(read[name], after[name], atol=6e-3 if name == "gamma" else 6e-5)


def test_what_became_of_each_cell(known, after):
    *_, before = known
    assert failure_kinds(after).tolist() == ["found"] * 3 + ["prediction kept"]
    atoms = atoms_of(after)[:3]
    np.testing.assert_allclose(atoms, before["num_atoms"][:3], rtol=1e-5)
    doubled = after.assign(relative_error_c=after["relative_error_c"] + 1)
    doubled["relative_error_volume"] = after["relative_error_volume"] + 1
    assert failure_kinds(doubled)[0] == "multiple of the volume"
    assert failure_kinds(after.assign(relative_error_c=0.1))[0] == "same volume, another cell"


def test_figures(known, after):
    *_, before = known
    lines = lines_of(torch.full((3,), 4.0), torch.full((3,), 90.0), 0.5).numpy()
    drawn = [
        plot_peaks_and_lines(lines, np.ones(len(lines)), {"a cube": lines}),
        plot_error_shares({"XRD": (before, after)}),
    ]
    for figure in drawn:
        assert figure.png().startswith(b"\x89PNG")


def test_frames_that_do_not_fit(known):
    views, counts, frame = known
    with pytest.raises(ValueError, match="one row per crystal"):
        refine_frame(frame, views, torch.tensor([0]), counts=counts)
    with pytest.raises(ValueError, match="'formulas': 1"):
        refine_frame(frame, views, torch.tensor(SOME), counts=counts, formulas=["Fe"])
    with pytest.raises(ValueError, match=r"it lacks \['scaled_a'\]"):
        less = frame.drop(columns="scaled_a")
        refine_frame(less, views, torch.tensor(SOME), counts=counts)


# ----------------------------------------------------------------------------------------- in parts


@pytest.fixture(scope="module")
def case(crystals):
    rows = torch.tensor([1, 3, 6])  # cubic, hexagonal, tetragonal
    counts = LatticeCounts.of(crystals, torch.arange(len(crystals)), device="cpu")
    return errors_frame(crystals).iloc[rows.numpy()], crystals, rows, counts


def test_parts_equal_the_whole(case, tmp_path, monkeypatch):
    frame, crystals, rows, counts = case
    views = build_views(crystals, modalities=("xrd",), **SETTINGS)
    whole = refine_frame(frame, views, rows, counts=counts)
    shared = dict(settings=SETTINGS, counts=counts, folder=tmp_path, size=2)
    first = refine_in_parts(frame, crystals, rows, **shared)  # two parts: two processes
    pd.testing.assert_frame_equal(first, whole, rtol=1e-5, atol=1e-5)

    made = []
    one = refined._refine_part
    monkeypatch.setattr(refined, "_refine_part", lambda *job: (made.append(job[0]), one(*job)))
    (lost, _) = sorted(tmp_path.glob("*/*.parquet"))
    lost.unlink()  # as after an interruption
    again = refine_in_parts(frame, crystals, rows, **shared)
    assert made == [lost]
    pd.testing.assert_frame_equal(again, first)

    other = frame.assign(a=frame["a"] * 1.001)
    refine_in_parts(other.iloc[:1], crystals, rows[:1], **shared)
    assert len(made) == 2  # another prediction is another refinement
