"""How sure the page may be: the fit, and the numbers that it ships."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from scipy.special import expit

from unimat_book.browser.calibrate import (
    FEATURES,
    calibration_error,
    fit_logistic,
    fit_temperature,
    held_out,
    is_right,
    simulated,
)
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
    assert "no measured pattern" in SHIPPED["measured"]


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


def test_every_second_crystal_is_taken_out(prototype_table: CrystalTable) -> None:
    asked = simulated(prototype_table.select(range(4)), "elements", seed=1)
    assert [one["absent"] for one in asked] == [False, True, False, True]
    assert all(one["symbols"] and len(one["intensity"]) == 4251 for one in asked)
    assert not simulated(prototype_table.select(range(1)), "pattern", seed=1)[0]["symbols"]
