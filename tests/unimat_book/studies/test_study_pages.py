"""What the page on open questions is made of, on the small studies of a session."""

from __future__ import annotations

import dataclasses
import importlib
import json

import numpy as np
import pandas as pd
import pytest

from unimat_book.figures.questions import plot_by_distance, plot_effects, plot_reach, plot_recall
from unimat_book.studies import pages
from unimat_book.studies.analysis import intervals
from unimat_book.studies.pages import Study, open_study, save_study_rows
from unimat_book.studies.queries import STRAINS
from unimat_book.studies.results import Mean
from unimat_book.studies.tables import (
    change_text,
    change_words,
    equal_compute_changes,
    judged,
    recall_panels,
    recall_table,
    scores_table,
    spread,
    systems_table,
    views_table,
)
from unimat_lib.crystals.table import CRYSTAL_SYSTEMS

METRICS = ("scaled_length_mae", "length_mae", "angle_mae", "crystal_system_accuracy")


def made_mean(variant: str, *, shift: float, domain: str = "test", n: int = 210) -> Mean:
    rng = np.random.default_rng(3)
    values = {m: shift + rng.uniform(0.1, 0.3, n) for m in METRICS[:3]}
    values["crystal_system_accuracy"] = 100.0 * (rng.uniform(size=n) < 0.9 - shift)
    for ending in ("_no_formula", "_no_pattern"):
        values[f"crystal_system_accuracy{ending}"] = values["crystal_system_accuracy"] / 2
    scores = {m: x.mean() + np.array([-1, 0, 1.0]) * 1e-3 for m, x in values.items()}
    scores["macro_system_accuracy"] = scores["crystal_system_accuracy"]
    known = {"study": "cure", "history": [], "seconds": 1.0, "stamp": {}, "asked": "x"}
    return Mean(
        variant=variant, domain=domain, seeds=[0, 1, 2], scores=scores, values=values, **known
    )


@pytest.fixture
def study() -> Study:
    systems = np.arange(210) % len(CRYSTAL_SYSTEMS)
    types = [f"type {k // 3}" for k in range(210)]
    means = [made_mean("base", shift=0.0), made_mean("worse", shift=0.2)]
    words = {"base": "nothing", "worse": "something"}
    return Study("cures", means, {"test": types}, {"test": systems}, words)


def test_a_variant_is_found_or_named(study):
    assert study.of("worse").variant == "worse"
    with pytest.raises(KeyError, match="cures has no other on test"):
        study.of("other")


def test_effects_have_the_names_of_tables_and_the_right_sign(study):
    frame = study.effects("base", "scaled_length_mae", ["worse"])
    assert list(frame["effect"]) == ["something"]
    assert frame["change"][0] == pytest.approx(0.2) and frame["verdict"][0] == "worse"
    assert change_words(frame, ".2f")[0].startswith("+0.20 (+")
    figure = plot_effects({"scaled": frame, "again": frame}, unit={"scaled": "Å", "again": "Å"})
    assert len(figure.axes) == 2
    other = frame.assign(effect="another")
    with pytest.raises(ValueError, match="other effects"):
        plot_effects({"scaled": frame, "again": other}, unit={"scaled": "Å", "again": "Å"})


def test_sentences_name_what_is_judged(study):
    frame = study.effects("base", "scaled_length_mae", ["worse"])
    assert judged(frame, "worse") == "something" and judged(frame, "better", "open") == "none"
    assert change_text(frame.iloc[0], ".1f", "Å") == "+0.2 Å (worse)"


def test_changes_against_equal_compute_are_corrected_together():
    ways = ("joint", "finetuned")
    means = [
        made_mean(f"{name}{ending}", shift=shift)
        for ending in ("", "_no_lattice")
        for name, shift in (("equal_compute", 0.0), ("joint", 0.2), ("finetuned", 0.0))
    ]
    words = {mean.variant: mean.variant for mean in means}
    types = {"test": [f"type {k // 3}" for k in range(210)]}
    study = Study("alignment", means, types, {}, words)
    frame = equal_compute_changes(study, ways)
    assert len(frame) == 12 and not frame.duplicated(["against equal compute", "metric"]).any()
    joint = frame["against equal compute"].str.startswith("joint")
    assert (frame[joint]["verdict"] == "worse").all()
    assert (frame[~joint]["p"] == 1).all() and (frame[joint]["p"] < 0.05).all()
    single = study.effects("equal_compute", "scaled_length_mae", ["joint"])["p"].item()
    assert frame["p"][0] >= single


def test_a_training_counts_once_whatever_it_was_asked():
    asked = {
        ("twice", "test"): 10.0,
        ("twice", "known"): 12.0,
        ("once", "test"): 5.0,
        ("physics", "test"): 1.0,
    }
    means = [
        dataclasses.replace(made_mean(variant, shift=0.0, domain=domain), seconds=seconds)
        for (variant, domain), seconds in asked.items()
    ]
    study = Study("retrieval", means, {}, {}, {})
    assert study.seconds == 12 + 5 + 1
    assert study.trainings == 2 * 3  # comparing patterns is no training


def test_rows_of_the_ledger_are_means_with_both_intervals(study, tmp_path):
    rows = study.rows
    assert {row["setting"] for row in rows} == {"cure_base", "cure_worse"}
    assert {row["metric"] for row in rows} >= set(METRICS)
    for row in rows:
        assert row["seeds"] == 3 and row["variant"] == "test"
        for low, high in (row["ci95"], row["ci95_types"]):
            assert low <= row["mean"] <= high
    path = save_study_rows([study], tmp_path / "rows.json")
    assert json.loads(path.read_text("utf-8")) == rows


def test_intervals_do_not_depend_on_what_is_asked_beside(study):
    both = intervals(study.means, study.types)
    alone = intervals(study.means[1:], study.types)
    pd.testing.assert_frame_equal(
        both[both["variant"] == "worse"].reset_index(drop=True), alone, check_exact=False
    )


def test_intervals_of_some_crystals_are_of_these_alone(study):
    mean = study.of("base")
    values = np.where(np.arange(210) < 60, mean.values["length_mae"], np.nan)
    some = dataclasses.replace(mean, values={"part": values}, scores={})
    row = intervals([some], study.types).iloc[0]
    assert row["n_test"] == 60 and row["ci_low"] < np.nanmean(values) < row["ci_high"]
    assert row["mean"] == pytest.approx(np.nanmean(values))


def test_tables_have_a_row_for_each_variant_and_system(study):
    frame = scores_table(study, ("base", "worse"), METRICS)
    assert list(frame["trained"]) == ["nothing", "something"] and len(frame.columns) <= 6
    assert spread(np.array([1.0]), ".1f") == "1.0"
    systems = systems_table(study, {"base": "nothing", "worse": "something"})
    assert len(systems) == 7 and (systems["something"] <= systems["nothing"] + 1e-9).all()
    views = views_table(study, "base")
    assert np.allclose(views["what the formula adds"], views["both"] / 2)


def test_search_tables_show_only_what_was_searched():
    kinds = [f"strain_{100 * s:g}" for s in STRAINS]
    kinds += [f"symmetry_strain_{100 * s:g}" for s in STRAINS[1:]] + ["laboratory"]
    means = []
    for domain in ("test", "known"):
        scores = {f"recall_at_1_{kind}": np.array([50.0, 52.0]) for kind in kinds}
        scores["ms_per_query"] = np.array([0.1, 0.3])
        mean = made_mean("computed", shift=0.0, domain=domain)
        means.append(dataclasses.replace(mean, scores=scores))
    means.append(dataclasses.replace(means[0], variant="shipped"))
    study = Study("retrieval", means, {}, {}, {})
    panels = recall_panels(study, [100 * s for s in STRAINS])
    assert len(panels) == 4 and all(x == 51 for p in panels.values() for y in p.values() for x in y)
    assert "the shipped model" not in panels["all known crystals; within symmetry"]
    assert len(recall_table(study, "test")) == 2 and len(recall_table(study, "known")) == 1
    assert recall_table(study, "test")["ms"][0] == "0.200"
    table = recall_table(study, "test")
    assert len(table.columns) <= 6 and (table["1 % in symmetry"] == "51.0 ± 1.4").all()
    assert len(plot_recall(panels, strains=[100 * s for s in STRAINS]).axes) == 4


def test_figures_of_reach_and_distance_take_gaps():
    reach = pd.DataFrame({"domain": ["a", "a", "b"], "model": ["x", "y", "x"]})
    reach = reach.assign(mean=[0.1, 0.2, 0.3], low=[0.09, np.nan, 0.2], high=[0.11, np.nan, 0.4])
    assert len(plot_reach(reach, label="error (Å)").axes) == 1
    part = {"crystals": [4, 5], "mean": [0.1, 0.2], "low": [0.05, 0.1], "high": [0.2, 0.3]}
    panels = {
        "one": pd.DataFrame({"distance": ["0", "0 to 0.1"], **part}),
        "other": pd.DataFrame({"distance": ["0 to 0.1", "0.5 to 1"], **part}),
    }
    axes = plot_by_distance(panels, label="error (Å)").axes[0]
    assert [x.get_text() for x in axes.get_xticklabels()] == ["0", "0 to 0.1", "0.5 to 1"]


def test_a_published_study_is_asked_for_by_its_command(settings, prototype_table, tmp_path):
    large = dataclasses.replace(settings, limit=0)
    where = {"results": tmp_path, "work": tmp_path / "work", "device": "cpu"}
    with pytest.raises(FileNotFoundError, match=r"python -m unimat_book\.studies cures"):
        open_study("cures", large, prototype_table, **where)


def test_every_study_has_a_setting_in_the_ledger():
    from unimat_book.studies.__main__ import STUDIES

    assert set(pages.SETTINGS) == set(STUDIES)
    for name in STUDIES:
        assert callable(importlib.import_module(f"unimat_book.studies.{name}").train)
