"""Questions about errors frames, on frames whose answers are known."""

import numpy as np
import pandas as pd
import pytest
import torch

from unimat_lib import diagnosis
from unimat_lib.crystals import CRYSTAL_SYSTEMS, CrystalTable
from unimat_lib.evaluate import CELL_COLUMNS, PROBABILITY_COLUMNS, SCALED_COLUMNS


def make_frame(truth, predicted, confidence=0.9):
    truth, predicted = np.asarray(truth), np.asarray(predicted)
    probabilities = np.full((len(truth), 7), (1 - confidence) / 6)
    probabilities[np.arange(len(truth)), predicted] = confidence
    frame = pd.DataFrame({"crystal_system": truth, "predicted_system": predicted})
    frame["material_id"] = [f"m{i}" for i in range(len(truth))]
    frame[list(PROBABILITY_COLUMNS)] = probabilities
    for name in CELL_COLUMNS + SCALED_COLUMNS:
        frame[name], frame[f"error_{name}"] = 5.0, 0.1
    for name in "abc":
        frame[f"relative_error_{name}"] = 0.02
    return frame.assign(relative_error_volume=0.0)


def test_relations_are_those_of_the_point_groups():
    pairs = {frozenset((i, j)) for i in range(7) for j in range(i) if diagnosis.related(i, j)}
    unrelated = {frozenset((i, j)) for i in range(7) for j in range(i)} - pairs
    index = CRYSTAL_SYSTEMS.index
    assert unrelated == {
        frozenset((index("orthorhombic"), index("trigonal"))),
        frozenset((index("tetragonal"), index("trigonal"))),
        frozenset((index("tetragonal"), index("hexagonal"))),
        frozenset((index("hexagonal"), index("cubic"))),
    }
    # A subsystem of a subsystem is a subsystem.
    for name, below in diagnosis.SUBSYSTEMS.items():
        for other in below:
            assert set(diagnosis.SUBSYSTEMS[other]) <= set(below), name


def test_related_share():
    cubic, hexagonal, tetragonal = (
        CRYSTAL_SYSTEMS.index(x) for x in ("cubic", "hexagonal", "tetragonal")
    )
    frame = make_frame([cubic] * 4, [tetragonal, tetragonal, hexagonal, cubic])
    share, chance = diagnosis.related_share(frame)
    assert share == pytest.approx(2 / 3) and chance == pytest.approx(2 / 3)
    assert np.isnan(diagnosis.related_share(make_frame([0, 1], [0, 1]))).all()


def test_scores_are_proper_and_bounded():
    sure = diagnosis.probability_scores(make_frame([0, 1, 6], [0, 1, 6], confidence=1.0))
    assert sure["accuracy"] == sure["macro accuracy"] == 100
    assert sure["log score"] == pytest.approx(0) and sure["Brier score"] == pytest.approx(0)
    # Accuracy counts crystals, macro accuracy counts systems.
    scores = diagnosis.probability_scores(make_frame([0] * 9 + [1], [0] * 10))
    assert scores["accuracy"] == 90 and scores["macro accuracy"] == 50
    # Honest doubt costs less than false certainty.
    truth, said = [0] * 6 + [1] * 4, [0] * 10
    honest = diagnosis.probability_scores(make_frame(truth, said, confidence=0.6))
    boastful = diagnosis.probability_scores(make_frame(truth, said, confidence=0.99))
    for name in ("log score", "Brier score", "ECE"):
        assert honest[name] < boastful[name]


def test_agreement_counts_every_crystal_once():
    truth = [0, 1, 2, 3, 4]
    frames = {
        "xrd": make_frame(truth, [0, 1, 2, 0, 0]),
        "composition": make_frame(truth, [0, 1, 0, 3, 0]),
    }
    table = diagnosis.agreement(frames, fused=make_frame(truth, [0, 1, 2, 0, 0]))
    table = table.set_index("right")
    assert table["n"].to_dict() == {"all": 2, "xrd only": 1, "composition only": 1, "none": 1}
    assert table.loc["xrd only", "fused right (%)"] == 100
    assert table.loc["composition only", "fused right (%)"] == 0


def make_table(formulas, groups, splits, spglib=None):
    info = pd.DataFrame(
        {
            "material_id": [str(i) for i in range(len(formulas))],
            "formula": formulas,
            "space_group": groups,
            "split": splits,
            "source": "made",
        }
    )
    if spglib is not None:
        info["space_group_spglib"] = spglib
    n = len(formulas)
    return CrystalTable(
        torch.full((n,), 11),
        torch.zeros(n, 3, dtype=torch.float64),
        4 * torch.eye(3, dtype=torch.float64).repeat(n, 1, 1),
        torch.arange(n + 1),
        info,
    )


def test_overlap_with_training_shows_empty_categories():
    table = make_table(
        ["NaCl", "NaCl", "NaCl", "KCl"], [225, 225, 221, 225], ["train", "test", "test", "val"]
    )
    overlap = diagnosis.training_overlap(table, [1, 2])
    assert list(overlap) == ["formula and space group", "formula only"]
    shown = diagnosis.overlap_table({"m": make_frame([6, 6], [6, 5])}, overlap)
    assert shown["n"].tolist() == [1, 1, 0]
    assert shown["m: system (%)"].tolist()[:2] == [100, 0] and np.isnan(shown.iloc[2, 2])


def test_labels_that_spglib_does_not_confirm():
    table = make_table(["Na"] * 3, [225, 225, 225], ["test"] * 3, spglib=[229, 139, None])
    assert list(diagnosis.symmetry_label_disagrees(table, [0, 1, 2])) == [False, True, False]
    without = make_table(["Na"], [225], ["test"])
    assert not diagnosis.symmetry_label_disagrees(without, [0]).any()


def test_an_empty_crystal_system_is_shown():
    shown = diagnosis.low_symmetry_table({"m": make_frame([6], [6])}, ["triclinic", "cubic"])
    assert shown["n"].tolist() == [0, 1]
    assert shown["most frequent wrong answer"].tolist() == ["–", "–"]


def test_kinds_of_cell_error():
    frame = make_frame([0] * 4, [0] * 4)
    frame["relative_error_volume"] = [-1.0, -0.5, 1.0, 0.0]
    words = diagnosis.what_happened(frame)
    assert words[0] == "predicted angles close no cell"
    assert "small" in words[1] and "large" in words[2] and words[3] == "volume right, shape wrong"
