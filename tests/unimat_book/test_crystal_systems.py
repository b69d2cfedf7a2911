"""Questions about errors frames, on frames whose answers are known."""

import numpy as np
import pandas as pd
import pytest
import torch

from unimat_book import novelty as novelty_module
from unimat_book.chapters.crystal_systems import (
    SUBSYSTEMS,
    WRONG_CELLS,
    agreement,
    circumstances,
    fusion_facts,
    low_symmetry_table,
    novelty_facts,
    novelty_table,
    probability_scores,
    related,
    related_share,
    symmetry_label_disagrees,
    system_table,
    view_errors,
    worst_counts,
    worst_errors,
    worst_first,
    worst_share,
    wrong_cells,
)
from unimat_book.novelty import (
    NOVELTY,
    known_crystals,
    novelty,
    structure_types,
)
from unimat_book.tables import paper_table
from unimat_lib.crystals.reduction import reduced_formula
from unimat_lib.crystals.table import CRYSTAL_SYSTEMS, CrystalTable
from unimat_lib.datasets.report import DataError
from unimat_lib.evaluation.metrics import (
    CELL_COLUMNS,
    PROBABILITY_COLUMNS,
    SCALED_COLUMNS,
    with_relative_errors,
)


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
    pairs = {frozenset((i, j)) for i in range(7) for j in range(i) if related(i, j)}
    unrelated = {frozenset((i, j)) for i in range(7) for j in range(i)} - pairs
    index = CRYSTAL_SYSTEMS.index
    assert unrelated == {
        frozenset((index("orthorhombic"), index("trigonal"))),
        frozenset((index("tetragonal"), index("trigonal"))),
        frozenset((index("tetragonal"), index("hexagonal"))),
        frozenset((index("hexagonal"), index("cubic"))),
    }
    # A subsystem of a subsystem is a subsystem.
    for name, below in SUBSYSTEMS.items():
        for other in below:
            assert set(SUBSYSTEMS[other]) <= set(below), name


def test_related_share():
    cubic, hexagonal, tetragonal = (
        CRYSTAL_SYSTEMS.index(x) for x in ("cubic", "hexagonal", "tetragonal")
    )
    frame = make_frame([cubic] * 4, [tetragonal, tetragonal, hexagonal, cubic])
    share, chance = related_share(frame)
    assert share == pytest.approx(2 / 3) and chance == pytest.approx(2 / 3)
    assert np.isnan(related_share(make_frame([0, 1], [0, 1]))).all()


def test_scores_are_proper_and_bounded():
    sure = probability_scores(make_frame([0, 1, 6], [0, 1, 6], confidence=1.0))
    assert sure["accuracy"] == sure["macro accuracy"] == 100
    assert sure["log score"] == pytest.approx(0) and sure["Brier score"] == pytest.approx(0)
    # Accuracy counts crystals, macro accuracy counts systems.
    scores = probability_scores(make_frame([0] * 9 + [1], [0] * 10))
    assert scores["accuracy"] == 90 and scores["macro accuracy"] == 50
    # Honest doubt costs less than false certainty.
    truth, said = [0] * 6 + [1] * 4, [0] * 10
    honest = probability_scores(make_frame(truth, said, confidence=0.6))
    boastful = probability_scores(make_frame(truth, said, confidence=0.99))
    for name in ("log score", "Brier score", "ECE"):
        assert honest[name] < boastful[name]


def test_agreement_counts_every_crystal_once():
    truth = [0, 1, 2, 3, 4]
    frames = {
        "xrd": make_frame(truth, [0, 1, 2, 0, 0]),
        "composition": make_frame(truth, [0, 1, 0, 3, 0]),
    }
    table = agreement(frames, fused=make_frame(truth, [0, 1, 2, 0, 0]))
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


def crystals(*atoms, groups, lengths=None, splits=None):
    """A table of orthogonal cells with the atoms given as lists of atomic numbers."""
    edges = torch.tensor(lengths or [[4.0, 4.0, 4.0]] * len(atoms), dtype=torch.float64)
    counts = torch.tensor([0, *(len(x) for x in atoms)])
    info = pd.DataFrame(
        {
            "material_id": [str(i) for i in range(len(atoms))],
            "formula": [reduced_formula(x) for x in atoms],
            "space_group": groups,
            "split": splits or ["train"] * len(atoms),
            "source": "made",
        }
    )
    numbers = torch.tensor([z for x in atoms for z in x])
    coords = torch.zeros(len(numbers), 3, dtype=torch.float64)
    return CrystalTable(numbers, coords, torch.diag_embed(edges), counts.cumsum(0), info)


def test_structure_types_forget_the_elements():
    table = crystals(
        [11, 17], [17, 11, 11, 17], [22, 8, 8], [8, 9, 22, 22, 9, 9, 9], groups=[225] * 4
    )
    types, elements = structure_types(table)
    assert types[:3] == ["AB, 225, 2", "AB, 225, 4", "AB2, 225, 3"]
    assert types[3] == "AB2C4, 225, 7"
    assert elements[0] == elements[1] == {11, 17}


def test_novelty_names_the_nearest_relative():
    known = crystals([11, 17], [22, 8, 8], groups=[225, 136])
    test = crystals(
        [11, 17], [11, 17], [17, 11], [19, 9], [3, 11], [8, 22],
        groups=[225, 225, 221, 225, 225, 62],
        lengths=[[4.05, 4, 4], [4.2, 4, 4], [4, 4, 4], [4, 4, 4], [4, 4, 4], [4, 4, 4]],
    )  # fmt: skip
    kinds = novelty(test, known, tolerance=0.02)
    twin, formula, known_type, new_type = NOVELTY
    assert kinds["category"].tolist() == [twin, formula, formula, known_type, known_type, new_type]
    assert kinds["elements"].tolist() == ["known"] * 3 + ["new", "new", "known"]
    frame = make_frame([6] * 6, [6, 6, 6, 6, 5, 5])
    frame["error_scaled_a"] = [0.1, 0.1, 0.1, 0.1, 0.1, 1.0]
    table = novelty_table({"m": [frame, frame]}, kinds)
    assert table["n"].tolist() == [1, 2, 0, 2, 1, 0, 6] and np.isnan(table["m: error (Å)"][2])
    assert table["share of the error (%)"][:6].sum() == pytest.approx(100)
    facts = novelty_facts([frame], kinds)
    assert facts.loc["not_twins", "share"] == pytest.approx(500 / 6)
    assert facts.loc["new_type", "error"] == pytest.approx(0.4)
    assert facts.loc["all", "system"] == pytest.approx(400 / 6)


def test_known_crystals_say_what_is_among_them(monkeypatch):
    table = crystals([11, 17], [22, 8, 8], groups=[225, 136], splits=["train", "test"])
    known, words = known_crystals(table, "", max_atoms=20)
    assert len(known) == 1 and "no pretraining" in words
    extra = crystals([19, 17], groups=[225], splits=["extra"])
    extra.info["material_id"] = "other"
    monkeypatch.setattr(novelty_module, "load_dataset", lambda name: extra)
    known, words = known_crystals(table, "mp_extra", max_atoms=20)
    assert len(known) == 2 and words == "with those of pretraining"

    def missing(name):
        raise DataError(name)

    monkeypatch.setattr(novelty_module, "load_dataset", missing)
    known, words = known_crystals(table, "mp_extra", max_atoms=20)
    assert len(known) == 1 and "not on this computer" in words


def test_views_that_err_alike_and_otherwise():
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(3, 400))
    frames = {}
    for name, values in (("a", noise[0]), ("same", noise[0]), ("other", 3 * noise[1])):
        frames[name] = make_frame([6] * 400, [6] * 400)
        for column in SCALED_COLUMNS:
            frames[name][f"error_{column}"] = values
    table, oracle = view_errors(frames)
    assert table.loc["a", "with same"] == pytest.approx(1)
    assert abs(table.loc["a", "with other"]) < 0.1 and np.isnan(table.loc["a", "with a"])
    assert table["smallest error (%)"].sum() == pytest.approx(100)
    assert oracle < table["error (Å)"].min()
    with pytest.raises(ValueError, match="at least two views"):
        view_errors({"a": frames["a"]})


def test_what_fusion_makes_of_the_views():
    truth = [0, 1, 2, 3]
    facts = fusion_facts(
        make_frame(truth, [0, 0, 0, 3]),
        make_frame(truth, [0, 1, 2, 0]),
        make_frame(truth, [0, 1, 0, 0]),
    )
    expected = {"formula_only": 50, "formula_only_fused": 50, "fusion_won": 25, "fusion_lost": 25}
    assert facts == expected
    right = make_frame(truth, truth)
    assert np.isnan(fusion_facts(right, right, right)["formula_only_fused"])


def test_labels_that_spglib_does_not_confirm():
    table = make_table(["Na"] * 3, [225, 225, 225], ["test"] * 3, spglib=[229, 139, None])
    assert list(symmetry_label_disagrees(table, [0, 1, 2])) == [False, True, False]
    without = make_table(["Na"], [225], ["test"])
    assert not symmetry_label_disagrees(without, [0]).any()


def test_an_empty_crystal_system_is_shown():
    shown = low_symmetry_table({"m": make_frame([6], [6])}, ["triclinic", "cubic"])
    assert shown["n"].tolist() == [0, 1]
    assert shown["most frequent wrong answer"].tolist() == ["–", "–"]


def cells_frame(said, true):
    """Errors frame of predicted and true cells, rows of lengths and angles."""
    said, true = np.array(said, dtype=float), np.array(true, dtype=float)
    frame = make_frame([0] * len(said), [0] * len(said))
    for k, name in enumerate(CELL_COLUMNS):
        frame[name], frame[f"error_{name}"] = said[:, k], said[:, k] - true[:, k]
    return with_relative_errors(frame)


def test_kinds_of_wrong_cells():
    true = [4.0, 5.0, 7.0, 90, 90, 90]
    said = {
        "predicted angles close no cell": [4, 5, 7, 150, 150, 150],
        "same lattice, another cell": [4, np.hypot(4, 5), 7, 90, 90, np.degrees(np.arctan2(5, -4))],
        "whole multiple or part of the cell": [4, 5, 14, 90, 90, 90],
        "two lengths right, the third wrong": [4, 5, 8.8, 90, 90, 90],
        "right volume, another lattice": [5, 5.3, 5.3, 90, 90, 90],
        "volume too small": [3, 4, 5, 90, 90, 90],
        "volume too large": [5, 6, 9, 90, 90, 90],
    }
    assert tuple(said) == WRONG_CELLS
    frame = cells_frame(list(said.values()), [true] * len(said))
    assert wrong_cells(frame) == list(said)
    half = cells_frame([[4, 5, 3.55, 90, 90, 90]], [true])
    assert wrong_cells(half) == ["whole multiple or part of the cell"]


def test_worst_errors_are_counted_and_listed():
    lengths = [[4.0, 5.0, 7.0], [4.0, 4.01, 7.0], [4.0, 5.0, 30.0], [4.0, 5.0, 6.0]]
    table = crystals(*[[11]] * 4, groups=[16] * 4, lengths=lengths, splits=["test"] * 4)
    train = crystals(*[[11]] * 3, groups=[16] * 3, lengths=[[3, 3, 5], [4, 5, 6], [8, 9, 10]])
    reasons = circumstances(
        table, train, lines_per_degree=np.array([0.1, 0.1, 0.1, 3.0]), dense=2.0,
        ambiguous=np.array([True, False, False, False]),
    )  # fmt: skip
    label, almost, pattern, lines, axis = reasons.columns
    assert not reasons[label].any()
    assert reasons[almost].tolist() == [False, True, False, False]
    assert reasons[pattern].tolist() == [True, False, False, False]
    assert reasons[lines].tolist() == [False, False, False, True] and "2 lines" in lines
    assert reasons[axis].tolist() == [False, False, True, False]

    true = np.concatenate([lengths, np.full((4, 3), 90)], axis=1)
    said = true.copy()
    said[:, 2] *= [1.3, 1.01, 2.0, 1.0]
    frame = cells_frame(said, true)
    assert list(worst_first(frame, n=2)) == [2, 0]
    counts = worst_counts({"m": frame}, reasons, n=2)
    assert counts["m"].iloc[: len(WRONG_CELLS)].sum() == 2
    assert counts.loc["whole multiple or part of the cell", "m"] == 1
    assert counts.loc[axis].tolist() == [1, 25.0]
    assert counts["m"].iloc[-1] == 0
    assert worst_share(frame, n=4) == pytest.approx(100)
    assert 99 < worst_share(frame, n=2) < 100
    worst = worst_errors(frame, table, reasons, n=2)
    assert worst.index.tolist() == [2, 0]
    assert worst["what may have made it hard"].tolist() == [axis, pattern]


def test_system_table_shows_what_is_asked_for():
    frames = {"m": [make_frame([6, 6], [6, 5]), make_frame([6, 6], [6, 6])]}
    shown = system_table(frames, {"crystal_system_accuracy": ("m",), "angle_mae": ("m",)})
    assert list(shown) == ["n", "m: right (%)", "m: angle MAE (°)"]
    assert list(shown.index) == list(CRYSTAL_SYSTEMS)
    assert shown.loc["cubic", "m: right (%)"] == 75 and np.isnan(shown.iloc[0, 1])


def test_paper_table_gives_verdicts_only_where_it_may():
    frames = [make_frame([6] * 50 + [1] * 50, [6] * 50 + [1] * 50)]
    systems = {"all": "", "cubic": "_cubic", "trigonal": "_trigonal"}
    metrics = {name: f"crystal_system_accuracy{end}" for name, end in systems.items()}
    for comparable, words in ((True, ["better", "better", "not measured"]), (False, ["not"] * 3)):
        table = paper_table(
            [({"among": name}, metric, 85.1, frames) for name, metric in metrics.items()],
            columns={"ours": "here", "delta": "more", "interval": "ends", "length_mae": "length"},
            rounding=0.05,
            comparable=comparable,
        )
        assert list(table) == ["among", "here", "more", "ends", "length", "verdict"]
        assert table["among"].tolist() == list(systems)
        assert all(x.startswith(y) for x, y in zip(table["verdict"], words, strict=True))
        first, _, last = table.iloc
        assert (first["here"], first["ends"]) == (100, "100.0 to 100.0")
        assert first["more"] == pytest.approx(14.9) and first["length"] == pytest.approx(0.1)
        assert np.isnan(last["here"]) and last["ends"] == "–"
