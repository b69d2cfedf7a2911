"""Patterns under one effect at a time, and the shipped reader on them."""

from __future__ import annotations

import math

import pytest
import torch

from unimat_lib.crystals.table import CrystalTable
from unimat_lib.views.bragg import Reflections, bragg_reflections, g_max_of
from unimat_powder.network.composition import FORMULA
from unimat_powder.network.conditions import CONDITIONS, Condition, patterns_under
from unimat_powder.network.samples import Targets, cell_parameters, training_crystals
from unimat_powder.network.scores import read_all, scores
from unimat_powder.network.views import GRID, views_of
from unimat_powder.witnesses import shipped_reader


@pytest.fixture(scope="module")
def reflections(prototype_table: CrystalTable) -> Reflections:
    some = prototype_table.select(torch.arange(4))
    return bragg_reflections(some, g_max=1.06 * g_max_of(GRID))


def drawn(condition: Condition, reflections: Reflections) -> tuple[torch.Tensor, torch.Tensor]:
    return patterns_under(condition, reflections, generator=torch.Generator().manual_seed(0))


def test_a_clean_pattern_is_what_theory_draws(reflections: Reflections) -> None:
    y, mask = drawn(CONDITIONS["clean"], reflections)
    assert y.shape == (4, GRID.num_points)
    assert mask.all()
    assert torch.allclose(y.amax(1), torch.ones(4))
    assert y.min() > -1e-6


def test_every_condition_changes_patterns(reflections: Reflections) -> None:
    clean, _ = drawn(CONDITIONS["clean"], reflections)
    for name, condition in CONDITIONS.items():
        y, _ = drawn(condition, reflections)
        assert y.isfinite().all()
        assert (name == "clean") == bool(torch.equal(y, clean))


def test_noise_range_impurity_and_shift_are_as_stated(reflections: Reflections) -> None:
    clean, _ = drawn(Condition(), reflections)
    noisy, _ = drawn(Condition(noise=0.01), reflections)
    assert (noisy - clean).std().item() == pytest.approx(0.01, rel=0.05)
    cut, mask = drawn(Condition(covered=(10.0, 70.0)), reflections)
    seen = GRID.two_theta[mask[0]]
    assert seen[0] >= 10 and seen[-1] <= 70 and len(seen) == pytest.approx(3000, abs=2)
    assert bool((cut[~mask] == 0).all())
    mixed, _ = drawn(Condition(impurity=0.1), reflections)
    assert torch.allclose(mixed, 0.9 * clean + 0.1 * clean.roll(1, 0), atol=1e-6)
    shifted, _ = drawn(Condition(shift=5 * GRID.step), reflections)
    assert torch.allclose(shifted[:, 5:], clean[:, :-5], atol=2e-3)


def test_the_doublet_splits_where_angles_are_high(reflections: Reflections) -> None:
    clean, _ = drawn(Condition(fwhm=0.06), reflections)
    double, _ = drawn(Condition(fwhm=0.06, doublet=True), reflections)
    low = GRID.two_theta < 25
    ratio = math.tan(math.radians(40)) * 2.5e-3  # radians between both lines at 80 degrees
    assert math.degrees(2 * ratio) > 0.2
    change = (double - clean).abs()
    assert change[:, ~low].sum() > change[:, low].sum()


#: Crystal systems right in per cent, formula known, three below what issue 11 asks for.
LEAST = {
    "clean": 91.5,
    "doublet": 90.0,
    "width 0.4 degrees": 87.0,
    "pseudo-Voigt 0.5": 90.0,
    "white noise 1 %": 89.0,
    "10 to 70 degrees": 85.0,
    "impurity 10 %": 82.0,
    "usual laboratory": 85.0,
}


@pytest.mark.data
@pytest.mark.longer
@pytest.mark.parametrize("name", list(CONDITIONS))
def test_the_shipped_reader_withstands(name: str, mp_20_table: CrystalTable) -> None:
    crystals = training_crystals(mp_20_table, made_up=False, device="cpu")
    y, mask = drawn(CONDITIONS[name], crystals.reflections)
    nothing = torch.zeros(len(crystals), 3)
    targets = Targets(crystals.space_group - 1, cell_parameters(crystals.lattice), nothing)
    readout = read_all(shipped_reader(), views_of(y, mask), crystals.fractions.float(), FORMULA)
    assert 100 * scores(readout, targets)["system"] > LEAST[name]
