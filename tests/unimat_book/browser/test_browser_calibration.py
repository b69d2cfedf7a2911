"""How sure the page may be: the fit, and the numbers that it ships."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import save_file
from scipy.special import expit

from unimat_book.browser.calibrate import (
    BINS,
    FEATURES,
    KINDS,
    Known,
    calibration_error,
    cells_alike,
    drawn,
    fit_logistic,
    fit_temperature,
    held_out,
    is_right,
    reliability,
    simulated,
)
from unimat_book.browser.index import browser_index
from unimat_lib.crystals.table import CrystalTable

ROOT = Path(__file__).resolve().parents[3]
SHIPPED = json.loads((ROOT / "browser/calibration.json").read_text())


def test_shipped_numbers_fit_the_page() -> None:
    source = (ROOT / "browser/answer.mjs").read_text()
    listed = re.search(r"  return \[\n(.*?)\n  \];", source, re.DOTALL)[1].splitlines()
    assert len(listed) == len(FEATURES) == len(SHIPPED["features"])
    for setting in ("pattern", "elements"):
        found = SHIPPED[setting]
        assert len(found["crystal"]) == len(found["cell"]) == len(FEATURES)
        assert 0.3 < found["temperature"] < 3
        for kind in ("crystal", "cell"):
            assert found["held_out"][kind]["calibration_error"] < 0.12
            table = found["held_out"][kind]["reliability"]
            assert sum(row["patterns"] for row in table) == found["patterns"]
            assert {row["from"] for row in table} <= set(BINS)
    assert "no measured pattern was fitted" in SHIPPED["measured"]
    assert "validation" in SHIPPED["patterns"] and "test" not in SHIPPED["patterns"]


def test_weights_are_found_again() -> None:
    draw = np.random.default_rng(1)
    features = np.column_stack([np.ones(4000), draw.normal(size=(4000, 2))])
    right = draw.random(4000) < expit(features @ [0.5, 2.0, -1.0])
    assert np.allclose(fit_logistic(features, right), [0.5, 2.0, -1.0], atol=0.25)
    assert calibration_error(held_out(features, right), right) < 0.03
    assert calibration_error(np.full(4000, 0.99), right) > 0.2


def test_temperature_undoes_what_was_too_sure() -> None:
    draw = np.random.default_rng(2)
    logits = draw.normal(size=(500, 230)) * 2
    odds = np.exp(logits)
    groups = [draw.choice(230, p=row / row.sum()) for row in odds]
    ends = np.array([2, 15, 74, 142, 167, 194, 230])
    system = np.searchsorted(ends, np.array(groups) + 1)
    temperature, before, after = fit_temperature(3 * logits, system)
    assert temperature == pytest.approx(3, rel=0.3) and after < before


def test_right_is_the_crystal_or_its_cell() -> None:
    truth = {"formula": "TiO2", "group": 136, "cell": [2.95, 4.59, 4.59, 90, 90, 90]}

    def said(formula: str, group: int, length: float = 2.95) -> dict:
        cell = [length, 4.59, 4.59, 90, 90, 90]
        return {"truth": truth, "found": [{"formula": formula, "group": group, "cell": cell}]}

    assert is_right(said("TiO2", 136)) == (True, True)
    assert is_right(said("SnO2", 136)) == (False, True)
    assert is_right(said("SnO2", 136, 3.2)) == (False, False)
    assert is_right(said("SnO2", 58)) == (False, False)


def test_questions_are_of_all_kinds_and_laboratories(prototype_table: CrystalTable) -> None:
    table = prototype_table.select(range(24))
    asked = simulated(table, "elements", seed=1)
    assert [one["kind"] for one in asked] == list(KINDS) * 6
    assert all(one["symbols"] for one in asked)
    points = [len(one["twoTheta"]) for one in asked]
    assert points == [len(one["intensity"]) for one in asked]
    # One laboratory measures all of the range; others do as they like.
    assert all(count == 4251 for i, count in enumerate(points) if i // len(KINDS) % 2 == 0)
    assert min(points) < 4251
    assert not simulated(prototype_table.select(range(2)), "pattern", seed=1)[0]["symbols"]


def test_what_no_index_holds_is_large(prototype_table: CrystalTable) -> None:
    table = drawn(prototype_table, 40, seed=3)
    strange = np.array([KINDS[i % len(KINDS)] == "strange" for i in range(40)])
    volume = table.volume.numpy()
    assert volume[strange].min() > float(prototype_table.volume.median()) > volume[~strange].min()
    assert table.info["material_id"].is_unique


def test_kinds_are_taken_out_of_the_index(prototype_table: CrystalTable, tmp_path: Path) -> None:
    pair = prototype_table.select([0, 1, 1])
    info = pair.info.assign(formula=["TiO2", "ZnS", "ZnSe"])
    save_file(browser_index(replace(pair, info=info)), tmp_path / "index.safetensors")
    known = Known(tmp_path)
    cell = [*pair.lengths[2].tolist(), *pair.angles[2].tolist()]
    truth = {"formula": "ZnSe", "group": int(pair.space_group[2]), "cell": cell}
    out = {kind: known.without({"kind": kind, "truth": truth}) for kind in KINDS}
    assert out == {"known": [], "relatives": [2], "strange": [1, 2]}
    assert cells_alike(np.array(cell) * 1.02, np.array(cell)) and not cells_alike(
        np.array(cell) * [1.04, 1, 1, 1, 1, 1], np.array(cell)
    )


def test_reliability_counts_what_was_stated() -> None:
    stated = np.array([0.1, 0.6, 0.7, 0.99])
    table = reliability(stated, np.array([False, True, False, True]))
    assert [row["from"] for row in table] == [0.0, 0.5, 0.95]
    assert table[1] == {"from": 0.5, "patterns": 2, "stated": 0.65, "right": 0.5}
