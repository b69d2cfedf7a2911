"""Labelled patterns: what counts as right, what is kept on file, and what the chapter shows."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from unimat_book.chapters.measured_patterns import (
    AIMS,
    failures_table,
    halves_table,
    label_facts,
    labelled_patterns,
    main_table,
    missed_aims,
    network_failures_table,
    open_library,
    reliability,
    reliability_table,
    search_all,
    taken_out_table,
    typical_places,
)
from unimat_book.ledger.measured import (
    FIRST_HALF,
    MEASURED_METRICS,
    MEASURED_SETTINGS,
    MEASURED_VARIANTS,
    TAKEN_OUT,
    calibration_error,
    load_outcomes,
    measured_metrics,
    measured_rows,
    save_outcomes,
    scored,
)
from unimat_book.measured import (
    KINDS,
    NETWORK_READ_BY_HAND,
    READ_BY_HAND,
    Labelled,
    bare_formula,
    cell_is_right,
    load_rruff,
    outcomes,
    right_rows,
    simulated_measurements,
    stray_of_label,
)
from unimat_book.record import project_root
from unimat_lib.crystals.table import CRYSTAL_SYSTEMS
from unimat_powder.answer import Cell
from unimat_powder.network.predict import read_pattern
from unimat_powder.pattern import Pattern
from unimat_powder.witnesses import Lines, shipped_reader

RESULTS = project_root() / "data/results"
PATTERN = Pattern(torch.linspace(5, 90, 100, dtype=torch.float64), torch.ones(100).double())
RUTILE = Labelled("x", PATTERN, "TiO2", 136, (2.9587, 4.5937, 4.5937), (90.0, 90.0, 90.0))


@pytest.fixture(scope="module")
def library():
    return open_library("simulated")


@pytest.fixture(scope="module")
def found(library):
    """What a search says of three simulated patterns."""
    return search_all(simulated_measurements(library, 3, seed=0), library)


def frame_of(**columns) -> pd.DataFrame:
    """Outcomes of as many patterns as the columns have, right and confident unless they say no."""
    n = len(next(iter(columns.values())))
    usual = {
        **{"in_library": True, "rank": 0, "probability": 0.95, "cell_rank": 0, "p_cell": 0.95},
        **{"system_right": True, "p_system": 0.97, "confident": True, "answer_right": True},
        **{"residual": 0.2, "kind": 0, "group_right": True, "p_answer": 0.95},
    }
    return pd.DataFrame({name: [value] * n for name, value in usual.items()} | columns)


def outcomes_of(**columns):
    """The same frame for all settings and variants."""
    frame = frame_of(**columns)
    bare = frame[["in_library", "rank", "system_right"]]
    variants = {"ours": frame, TAKEN_OUT: frame, "baseline": bare}
    return {(s, v): part for s in MEASURED_SETTINGS for v, part in variants.items()}


# ---------------------------------------------------------------- what is right


def rutile_row(library) -> int:
    return next(i for i in range(len(library)) if library.material_id(i).endswith("f_a:TiO2"))


def test_the_same_crystal_is_right_and_its_polymorph_is_not(library):
    (row,) = right_rows(RUTILE, library)
    assert row == rutile_row(library)
    assert sum(library.formula(i) == "TiO2" for i in range(len(library))) > 1


@pytest.mark.parametrize(("scale", "right"), [(1.03, True), (1.2, False)])
def test_a_cell_that_is_too_far_off_is_another_crystal(library, scale, right):
    lengths = tuple(scale * x for x in RUTILE.lengths)
    one = dataclasses.replace(RUTILE, lengths=lengths)
    assert bool(right_rows(one, library)) == right


def test_another_formula_is_another_crystal(library):
    assert right_rows(dataclasses.replace(RUTILE, formula="SnO2"), library) != [rutile_row(library)]


def test_hydrogen_is_not_asked_for():
    assert bare_formula("Cu3As2H2PbO10") == bare_formula("Cu3As2PbO10")
    assert bare_formula("H2") == "H2"


@pytest.mark.parametrize(
    ("stretch", "tilt", "right"),
    [(1.0, 0.0, True), (1.009, 0.9, True), (1.012, 0.0, False), (1.0, 1.2, False)],
)
def test_a_cell_is_right_within_one_per_cent_and_one_degree(stretch, tilt, right):
    a, b, c = RUTILE.lengths
    cell = Cell((a * stretch, b, c), (90.0, 90.0, 90.0 + tilt), 1.0, 1.0, 1.0)
    assert cell_is_right(cell, RUTILE) == right


def test_simulated_cells_are_those_of_the_strained_crystals(library):
    for one in simulated_measurements(library, 6, seed=1):
        rows = right_rows(one, library)
        assert rows, one.formula
        own = library.crystals(rows).lengths.sort(dim=1).values
        change = (own / torch.tensor(sorted(one.lengths)) - 1).abs().max(dim=1).values.min()
        assert 1e-4 < change < 0.03


# ---------------------------------------------------------------- what a search says


def test_a_search_finds_simulated_crystals_and_misses_what_was_taken_out(found):
    ours, missing = (found["measured_elements", v] for v in ("ours", TAKEN_OUT))
    assert ours["in_library"].all()
    assert (ours["rank"] == 0).all()
    assert (ours["kind"] == KINDS.index("right")).all()
    assert not missing["in_library"].any()
    assert (missing["rank"] == -1).all()
    assert not (missing["kind"] == KINDS.index("right")).any()


def test_outcomes_are_numbers_and_probabilities_are_some(found):
    for (_, variant), frame in found.items():
        assert {x.kind for x in frame.dtypes} <= set("bif")
        for name in ("probability", "p_cell", "p_system") * (variant != "baseline"):
            assert frame[name].between(0, 1).all()


def test_a_right_answer_has_the_right_cell_and_system(found):
    frame = found["measured_pattern", "ours"]
    expected = (frame["cell_rank"] == 0) & frame["system_right"]
    assert (frame["answer_right"] == expected).all()


def test_without_patterns_there_is_nothing(library):
    assert all(len(frame) == 0 for frame in outcomes([], library).values())


# ---------------------------------------------------------------- metrics, files and rows


def test_metrics_count_what_they_say():
    frame = frame_of(
        rank=[0, 3, 7, -1],
        in_library=[True, True, True, False],
        confident=[True, False, True, False],
        answer_right=[True, True, False, False],
        cell_rank=[0, 0, 2, -1],
        system_right=[True, True, False, False],
    )
    means = {name: values.mean() for name, values in measured_metrics(frame).items()}
    assert means == pytest.approx(
        {
            "structure_first": 100 / 3,
            "structure_among_5": 200 / 3,
            "crystal_system_accuracy": 50,
            "space_group_accuracy": 100,
            "cell_first": 50,
            "cell_among_5": 75,
            "wrong_among_confident": 50,
            "confident_share": 50,
        }
    )


def test_a_cell_of_an_unknown_structure_counts_where_it_was_taken_out():
    found = measured_metrics(frame_of(rank=[0, 0]), frame_of(cell_rank=[0, 3]))
    assert found["cell_first_unknown_structure"].mean() == 50


def test_calibration_error_is_the_distance_of_said_and_happened():
    frame = frame_of(p_answer=[0.95] * 4 + [0.25] * 4, answer_right=[True] * 4 + [False] * 4)
    assert calibration_error(frame) == pytest.approx((5 + 25) / 2)
    honest = frame_of(p_answer=[0.75] * 4, answer_right=[True, True, True, False])
    assert calibration_error(honest) == pytest.approx(0, abs=1e-9)


def test_the_half_that_was_looked_at_is_not_scored():
    frame = frame_of(rank=list(range(FIRST_HALF + 3)))
    assert scored(frame)["rank"].tolist() == [FIRST_HALF, FIRST_HALF + 1, FIRST_HALF + 2]
    assert len(scored(frame[:8])) == 8


def test_files_come_back_and_hold_no_text(tmp_path):
    saved = outcomes_of(rank=[0, 1, -1], probability=[0.1, 0.123456789, 1.0])
    save_outcomes(saved, tmp_path)
    loaded = load_outcomes(tmp_path, made_by="make", taken_out=True)
    assert set(loaded) == set(saved)
    for key, frame in saved.items():
        pd.testing.assert_frame_equal(loaded[key], frame)
    saved["measured_pattern", "ours"]["sample"] = "a name"
    with pytest.raises(ValueError, match="numbers and flags, got \\['sample'\\]"):
        save_outcomes(saved, tmp_path)


def test_a_missing_file_names_the_command(tmp_path):
    with pytest.raises(FileNotFoundError, match="unimat-book run 08"):
        load_outcomes(tmp_path, made_by="unimat-book run 08")


def test_rows_have_every_metric_an_interval_and_no_empty_ones():
    rows = measured_rows(outcomes_of(rank=[0, 0, 1, -1]), num_resamples=200)
    keys = {(row["setting"], row["variant"], row["metric"]) for row in rows}
    assert {m for _, v, m in keys if v == "ours"} == set(MEASURED_METRICS)
    assert {m for _, v, m in keys if v == "baseline"} == set(list(MEASURED_METRICS)[:3])
    assert len(keys) == len(rows) == 2 * (len(MEASURED_METRICS) + 3)
    for row in rows:
        low, high = row["ci95"]
        assert low <= row["mean"] <= high
        assert row["seeds"] == 1
    none_wrong = measured_rows(outcomes_of(confident=[True] * 33), num_resamples=50)
    (row, _) = [row for row in none_wrong if row["metric"] == "wrong_among_confident"]
    assert row["mean"] == 0 and row["ci95"] == pytest.approx([0, 10.4], abs=0.1)  # Wilson's
    nobody = measured_rows(outcomes_of(confident=[False, False]), num_resamples=50)
    assert "wrong_among_confident" not in {row["metric"] for row in nobody}


# ---------------------------------------------------------------- tables


def test_the_main_table_has_all_that_the_rows_have():
    rows = outcomes_of(rank=[0, 0, 1, -1])
    table = main_table(rows, num_resamples=100)
    assert list(table["measured"]) == list(MEASURED_METRICS.values())
    assert table.shape[1] == 1 + 2 * 3
    assert table["pattern alone: this book"].iloc[0] == "50.0 [15, 85], 2 of 4"
    assert table["pattern alone: plain cosine"].iloc[0] == "50.0 [15, 85]"
    assert (table["pattern alone: plain cosine"].iloc[3:] == "–").all()
    assert set(AIMS) == set(MEASURED_METRICS)


def test_halves_are_cut_where_looking_ends():
    number = FIRST_HALF + 4
    table = halves_table(outcomes_of(rank=[0] * FIRST_HALF + [1] * (number - FIRST_HALF)))
    first = table.iloc[0]
    assert first["pattern alone, first half"] == 100
    assert first["pattern alone, second half"] == 0
    short = halves_table(outcomes_of(rank=[0, 1]))
    assert np.isnan(short["pattern alone, second half"]).all()


def test_reliability_sorts_by_what_was_said():
    rows = outcomes_of(rank=[0, 1, 0, 0], probability=[0.3, 0.3, 0.95, 1.0])
    table = reliability(rows, said="probability", happened="rank")
    part = table[table["setting"] == "pattern alone"]
    assert part["n"].tolist() == [2, 1, 1]
    assert part["happened"].tolist() == [50, 100, 100]
    assert part["said"].tolist() == pytest.approx([30, 95, 100])
    assert (part["low"] < part["happened"] + 1e-9).all()


def test_strangers_that_are_answered_are_counted():
    table = taken_out_table(
        outcomes_of(confident=[True, True, False], answer_right=[True, False, False])
    )
    assert table["confident"].tolist() == [2, 2]
    assert table["cell or system wrong"].tolist() == [1, 1]


def test_what_was_looked_at_is_not_counted_where_there_is_more():
    half = [False] * FIRST_HALF
    frames = outcomes_of(confident=[*half, True, True], answer_right=[*half, True, False])
    assert taken_out_table(frames)["patterns"].tolist() == [2, 2]
    rows = reliability(frames, said="p_answer", happened="answer_right")
    assert rows["n"].tolist() == [2, 2] and rows["happened"].tolist() == [50, 50]
    table = reliability_table({"verdict": rows, "crystal": rows})
    assert table["probability of"].tolist()[::2] == [
        "verdict, pattern alone",
        "crystal, pattern alone",
    ]


def test_labels_are_held_against_the_lines():
    frames = outcomes_of(
        confident=[True, True, True, False],
        answer_right=[True, False, False, False],
        label_stray=[0.3, 0.3, 0.05, np.nan],
        answer_stray=[0.1, 0.1, 0.1, 0.1],
    )
    facts = label_facts(frames)
    assert facts == {"labels_off": 2, "sure_wrong": 2, "sure_wrong_better": 1}


def test_aims_that_are_missed_are_named():
    assert missed_aims(outcomes_of(rank=[0] * 100, p_answer=[1.0] * 100)) == "none"
    first, *others = missed_aims(outcomes_of(rank=[0, 0, 0, 7], p_answer=[1.0] * 4)).split("; ")
    assert first == "structure first, where the library has it (with the elements)"
    assert len(others) == 1 and "among five" in others[0]
    wrong = missed_aims(outcomes_of(answer_right=[True, False], p_answer=[1.0] * 2))
    assert wrong.startswith("cell or system wrong, among confident (pattern alone and with the")


def test_the_sample_s_own_cell_explains_its_lines_and_a_stranger_s_does_not(library):
    one = simulated_measurements(library, 3, seed=0)[0]
    lines = Lines(one.pattern)
    own = stray_of_label(one, lines)
    stranger = dataclasses.replace(one, lengths=tuple(1.07 * x for x in one.lengths))
    assert own < 0.1 < stray_of_label(stranger, lines)


def test_failures_come_from_the_first_half_only_the_surest_first():
    rank = [0, 1, -1] + [0] * (FIRST_HALF - 3) + [1, 1]
    probability = [0.9, 0.2, 0.4] + [0.9] * (FIRST_HALF - 3) + [0.99, 0.99]
    frame = frame_of(rank=rank, probability=probability, kind=[1] * len(rank))
    table = failures_table(frame, {3: "seen"}, number=10)
    assert table["pattern"].tolist() == [3, 2]
    assert table["read by hand"].tolist() == ["seen", "not read"]
    assert table["right one at"].tolist() == ["not among ten", 2]
    assert len(failures_table(frame_of(rank=[0, 0]), {}, number=10)) == 1


def test_what_the_network_reads_wrongly_is_listed(library):
    """It is asked again, so that what the page says of it is what it says."""
    labelled = simulated_measurements(library, 2, seed=0)
    labelled += [labelled[0]] * (FIRST_HALF - 1)  # one in the second half
    right = [True, False] + [True] * (FIRST_HALF - 2) + [False]
    outcomes = outcomes_of(network_system=right)
    told = "measured_elements", "ours"
    outcomes[told] = outcomes[told].assign(network_system=True)
    table, facts = network_failures_table(labelled, outcomes, {2: "seen"})
    assert table["pattern"].tolist() == [2] and table["read by hand"].tolist() == ["seen"]
    assert table["with the elements"].tolist() == ["right"]
    reading = read_pattern(shipped_reader(), labelled[1].pattern)
    said = CRYSTAL_SYSTEMS[reading.system.argmax()]
    assert table["pattern alone"][0] == f"{said}, {100 * reading.system.max():.0f} %"
    assert facts["num_misread"] == 1
    assert facts["misread_middle"] == pytest.approx(100 * reading.system.max())
    table, facts = network_failures_table(labelled, outcomes_of(network_system=[True]), {})
    assert len(table) == 1 and np.isnan(facts["misread_middle"])


def test_what_was_read_by_hand_may_be_looked_at():
    assert set(READ_BY_HAND) | set(NETWORK_READ_BY_HAND) <= set(range(1, FIRST_HALF + 1))
    assert len(READ_BY_HAND) >= 10


def test_typical_places_are_of_rightly_named_patterns_of_the_first_half():
    rank = [0, 0, 0, 1, 0] + [0] * FIRST_HALF
    frame = frame_of(rank=rank, residual=list(np.linspace(0.1, 0.9, len(rank))))
    places = typical_places(frame)
    assert all(place < FIRST_HALF and rank[place] == 0 for place in places.values())
    assert list(places.values()) == sorted(places.values())
    assert len(typical_places(frame_of(rank=[1, 1]))) == 1


def test_measured_patterns_are_asked_for_by_name(monkeypatch, tmp_path, library):
    monkeypatch.setenv("UNIMAT_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="UNIMAT_DATA"):
        labelled_patterns("rruff", library, number=3, seed=0)
    monkeypatch.setenv("UNIMAT_LIBRARY", str(library.path))
    with pytest.raises(ValueError, match="unimat library build mp"):
        open_library("rruff")


def test_other_files_than_the_published_ones_are_refused(tmp_path):
    (tmp_path / "rruff_labelled.csv").write_text("sample\n")
    with pytest.raises(ValueError, match="expected sha256"):
        load_rruff(tmp_path)


def test_measured_patterns_are_whole(real_data_dir: Path):
    found = load_rruff(real_data_dir / "experimental")
    assert len(found) == 113
    assert [one.sample for one in found] == sorted(one.sample for one in found)
    for one in found[:FIRST_HALF]:
        assert (one.pattern.two_theta.diff() > 0).all()
        assert len(one.pattern.intensity) > 5000


# ---------------------------------------------------------------- the published run

needs_outcomes = pytest.mark.skipif(
    not (RESULTS / "measured/measured_pattern-ours.parquet").is_file(),
    reason="no published outcomes: unimat-book run 08 --profile full",
)


@needs_outcomes
def test_published_tables_follow_from_the_published_outcomes():
    loaded = load_outcomes(RESULTS / "measured", made_by="unimat-book run 08", taken_out=True)
    recorded = json.loads((RESULTS / "08_measured_patterns.json").read_text("utf-8"))
    assert {v for _, v in loaded} == {*MEASURED_VARIANTS, TAKEN_OUT}
    assert len({len(frame) for frame in loaded.values()}) == 1
    for name, frame in (("alone", "measured_pattern"), ("told", "measured_elements")):
        ours, without = (scored(loaded[frame, v]) for v in ("ours", TAKEN_OUT))
        for metric, values in measured_metrics(ours, without).items():
            if len(values):
                assert recorded[f"{name}_{metric}"] == pytest.approx(values.mean())
    halves = halves_table(loaded).astype(object).where(lambda x: x.notna(), None)
    assert recorded["measured_halves"] == halves.to_dict("records")
    assert recorded["measured_taken_out"] == taken_out_table(loaded).to_dict("records")


@needs_outcomes
def test_published_rows_are_counted_anew_from_the_files():
    """Means and counts once more, past the ledger's own code."""
    rows = json.loads((RESULTS / "ledger.json").read_text("utf-8"))
    rows = [row for row in rows if row["setting"] in MEASURED_SETTINGS]
    for row in rows:
        files = RESULTS / "measured"
        frame = pd.read_parquet(files / f"{row['setting']}-{row['variant']}.parquet")[56:]
        out = pd.read_parquet(files / f"{row['setting']}-ours_taken_out.parquet")[56:]
        hits = {
            "structure_first": frame.loc[frame["in_library"], "rank"].eq(0),
            "structure_among_5": frame.loc[frame["in_library"], "rank"].isin(range(5)),
            "crystal_system_accuracy": frame["system_right"],
        }
        if row["variant"] == "ours":
            sure = frame.query("confident")
            hits["space_group_accuracy"] = frame["group_right"]
            hits["cell_first"] = frame["cell_rank"].eq(0)
            hits["cell_among_5"] = frame["cell_rank"].isin(range(5))
            hits["cell_first_unknown_structure"] = out["cell_rank"].eq(0)
            hits["wrong_among_confident"] = ~sure["answer_right"]
            hits["confident_share"] = frame["confident"]
        if row["metric"] == "calibration_error":
            places = np.minimum(np.floor(10 * frame["p_answer"]), 9)
            parts = [frame[places == i] for i in range(10)]
            off = sum(abs((part["p_answer"] - part["answer_right"]).sum()) for part in parts)
            assert row["mean"] == pytest.approx(100 * off / len(frame))
            continue
        flags = hits[row["metric"]]
        assert row["n_test"] == len(flags), row
        assert row["mean"] == pytest.approx(100 * flags.sum() / len(flags)), row
