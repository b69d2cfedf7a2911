"""Indexing on the page of unknown cells: what is told, what is counted, what DICVOL answered."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure

from unimat_book.chapters import unknown_cells
from unimat_book.chapters.refinement import (
    changes,
    dicvol_answers,
    lines_failures,
    merits_table,
    patterns_to_index,
    summary,
    systems_table,
    ways_table,
)
from unimat_book.chapters.unknown_cells import (
    KNOWN,
    LISTS,
    added,
    hints,
    line_lists,
    search_cells,
    search_sums,
    true_evidence,
    volume_of,
)
from unimat_book.figures.refinement import plot_ways
from unimat_book.record import project_root
from unimat_powder.pattern import Pattern

READING = SimpleNamespace(
    volume=70.0,
    volume_error=0.2,
    cells=[SimpleNamespace(lengths=(3.0, 4.0, 5.0), angles=(90.0, 90.0, 100.0))] * 14,
)


@pytest.fixture(scope="module")
def one():
    (found,), about = patterns_to_index("simulated", number=1, seed=0)
    assert about["patterns"] == {"simulated": 1} and "library" not in about
    return found


def frame_of(**columns) -> pd.DataFrame:
    """Rows of a search: every way and list of two patterns, right first unless it says no."""
    rows = [
        {"pattern": p, "list": name, "known": known, "system": "cubic", "lines": 20}
        | {"angles": 900.0, "evidence": 9.0, "m20": 30.0, "f20": 50.0, "volume": 1.0}
        | {"rank": 0 if name == "measured" else -1, "accepted": name == "measured"}
        for p in (0, 1)
        for name in LISTS
        for known in KNOWN
    ]
    return pd.DataFrame(rows).assign(**columns)


def test_hints_say_what_their_names_say(one):
    told = {known: hints(one, known, READING, np.random.default_rng(0)) for known in KNOWN}
    assert told["nothing"] == {}
    assert told["read_volume"] == {"volume": [(70.0, 0.2)]}
    assert told["read_cell"]["seeds"].shape == (3, 6)
    ((volume, error),) = told["volume"]["volume"]
    assert error == 0.1 and 0 < abs(np.log(volume / volume_of(one))) < 0.5
    (cell,) = told["cell"]["seeds"]
    assert 0 < np.abs(cell[:3] / one.lengths - 1).max() <= 0.05
    assert (cell[3:][np.array(one.angles) == 90] == 90).all()


def test_random_lists_are_like_the_pattern_and_are_made_again(one):
    lists, again = line_lists(one.pattern, 3), line_lists(one.pattern, 3)
    assert list(lists) == list(LISTS)
    for name, observed in lists.items():
        assert len(observed) == len(lists["measured"])
        assert np.array_equal(observed.two_theta, again[name].two_theta)
        if name != "measured":
            assert not np.allclose(observed.two_theta, lists["measured"].two_theta)
    gaps = [np.sort(np.diff(lists[name].two_theta)) for name in ("measured", "shuffled")]
    if len(lists["measured"]) < 40:  # else each list ends where its forty lines do
        assert np.allclose(*gaps)


def test_a_simulated_pattern_is_found_and_described(one, monkeypatch):
    monkeypatch.setattr(unknown_cells, "KNOWN", {"nothing": "nothing", "cell": "the cell"})
    found = search_cells([one], random_lists=0)
    assert found["known"].tolist() == ["nothing", "cell"] and (found["list"] == "measured").all()
    assert (found["rank"] == 0).all() and found["accepted"].all()
    assert found["volume"].to_numpy() == pytest.approx(1, abs=0.03)
    observed = line_lists(one.pattern, 0)["measured"]
    assert found["lines"][0] == len(observed)
    # Its prior apart, the true cell is as good as the one that was found.
    assert abs(true_evidence(one, observed) - found["evidence"][0]) < 8


def test_sums_of_patterns(one):
    two_theta = torch.linspace(10, 80, 700, dtype=torch.float64)
    flat = Pattern(two_theta, torch.full_like(two_theta, 7.0))
    total = added(one.pattern, flat)
    assert float(total.intensity.max()) == pytest.approx(2.0)
    found = search_sums([one, one], number=1)
    assert found["accepted"].all() and not found["neither"].any()


def test_shares_are_counted_by_hand():
    frame = frame_of()
    here = (frame["known"] == "nothing") & (frame["list"] == "measured")
    frame.loc[here & (frame["pattern"] == 1), "rank"] = 3
    random = (frame["known"] == "nothing") & (frame["list"] == "scattered")
    frame.loc[random & (frame["pattern"] == 0), "accepted"] = True
    share = summary(frame).set_index(["way", "measure"])["share"]["nothing"]
    assert share.to_dict() == dict(first=50, five=100, accepted=100, wrong=50, random=25)
    table = ways_table(summary(frame))
    assert table["known"].tolist() == list(KNOWN.values()) and len(table.columns) == 6
    assert table.iloc[0, 1].startswith("50 [")
    assert changes(frame, "read_volume") == (1, 0, 1.0)
    assert systems_table(frame)["nothing"].tolist() == [50.0]
    merits = merits_table(frame).set_index("first cell")
    assert merits["n"].to_dict() == {"right": 1, "wrong": 1, "of random lines": 4}


def test_without_random_lists_there_is_a_dash_and_a_figure():
    found = summary(frame_of()[lambda rows: rows["list"] == "measured"])
    assert (ways_table(found)["random lists accepted (%)"] == "–").all()
    assert isinstance(plot_ways(found), Figure)


def test_failures_are_listed_the_surest_first():
    frame = frame_of(evidence=[float(i) for i in range(len(frame_of()))])
    assert (lines_failures(frame, {}, number=9) == "–").all(axis=None)
    frame["rank"] = -1
    rows = lines_failures(frame, {2: "a subcell"}, number=9)
    assert rows["pattern"].tolist() == [2, 1]
    assert rows["read by hand"].tolist() == ["a subcell", "not read"]


def write_answers(root, **changes):
    answers = [
        {"pattern": p, "list": name, "settings": settings, "lines": 20, "angles": 900.1}
        | {"rank": 0 if settings == "good" else -1, "m20": 12.0 if p else None}
        | changes
        for p in (0, 1)
        for name in LISTS
        for settings in ("bad", "good")
    ]
    (root / "benchmarks").mkdir(exist_ok=True)
    (root / "benchmarks/dicvol.json").write_text(json.dumps({"answers": answers}))


def test_dicvol_answers_to_the_same_lists_or_to_none(tmp_path, monkeypatch):
    monkeypatch.setenv("UNIMAT_ROOT", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"benchmarks/indexing\.py dicvol"):
        dicvol_answers(frame_of())
    write_answers(tmp_path)
    found = dicvol_answers(frame_of())
    assert set(found["settings"]) == {"good"} and len(found) == 2 * len(LISTS)
    assert found["accepted"].tolist() == [False] * 3 + [True] * 3
    assert "nothing, DICVOL" in set(summary(frame_of(), found)["way"])
    write_answers(tmp_path, angles=950.0)
    with pytest.raises(ValueError, match="other lists"):
        dicvol_answers(frame_of())


def test_the_file_of_dicvol_holds_numbers_only():
    path = project_root() / "benchmarks/dicvol.json"
    found = json.loads(path.read_text("utf-8"))
    assert found["pyobjcryst"] and found["date"]
    names = {"pattern", "list", "settings", "lines", "angles", "rank", "m20"}
    assert all(set(row) == names for row in found["answers"])
    assert {row["list"] for row in found["answers"]} == set(LISTS)
    assert max(row["pattern"] for row in found["answers"]) < 56
