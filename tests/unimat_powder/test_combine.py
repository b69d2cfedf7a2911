"""Library, indexing and network together: one list of lattices, weighed."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unimat_lib.crystals.table import CRYSTAL_SYSTEMS
from unimat_powder.answer import Lattice, system_of
from unimat_powder.bravais import LATTICE_SYSTEMS
from unimat_powder.combine import (
    AGREEMENT,
    FEATURES,
    Unread,
    Weights,
    agreement_of,
    combined,
    hypotheses,
    load_weights,
    same_lattice,
)

RUTILE = Lattice((2.959, 4.594, 4.594), (90.0,) * 3, 62.45, "tetragonal", {136: 1.0}, 0.6, 31.0)
OTHER = Lattice((3.1, 4.2, 5.3), (90.0,) * 3, 69.0, "orthorhombic", {62: 1.0}, 0.3, 12.0)
QUARTZ = ((4.913, 4.913, 5.405), (90.0, 90.0, 120.0), 113.0)


def indexed(lengths, angles, volume, system="tetragonal", evidence=40.0, share=1.0):
    systems = dict.fromkeys(LATTICE_SYSTEMS, 0.0) | {"triclinic": 1 - share} | {system: share}
    about = {"evidence": evidence, "systems": systems, "m20": 50.0, "stray": 0.02}
    return SimpleNamespace(lengths=lengths, angles=angles, volume=volume, **about)


def read(system, certainty=0.9, volume=62.0):
    shares = np.full(7, (1 - certainty) / 6)
    shares[CRYSTAL_SYSTEMS.index(system)] = certainty
    numbers = np.array([CRYSTAL_SYSTEMS.index(system_of(i)) for i in range(1, 231)])
    group = shares[numbers] / np.bincount(numbers)[numbers]
    return SimpleNamespace(system=shares, group=group, volume=volume, volume_error=0.1)


def of_rutile(**more):
    return indexed(RUTILE.lengths, RUTILE.angles, RUTILE.volume, **more)


SIMPLE = Weights(
    tuple(float(name in ("library", "lines", "system")) for name in FEATURES),
    tuple(float(name == "lead") for name in AGREEMENT),
)


@pytest.mark.parametrize("setting", ["pattern", "elements"])
def test_weights_are_those_of_the_columns(setting):
    weights = load_weights(setting)
    assert len(weights.hypothesis) == len(FEATURES)
    assert len(weights.best) == len(AGREEMENT)
    assert np.isfinite([*weights.hypothesis, *weights.best]).all()


@pytest.mark.parametrize("setting", ["pattern", "elements"])
def test_witnesses_that_agree_are_believed_more_than_those_that_do_not(setting):
    weights = load_weights(setting)
    agree = combined([RUTILE, OTHER], [], [of_rutile()], read("tetragonal"), weights)
    against = indexed((5.0, 6.0, 7.0), (90.0, 95.0, 90.0), 209.0, "monoclinic", evidence=60.0)
    differ = combined([RUTILE, OTHER], [], [against], read("monoclinic", volume=209.0), weights)
    assert same_lattice(agree[0], RUTILE)
    others = [one.probability for one in differ if same_lattice(one, RUTILE)]
    assert agree[0].probability > 0.5 > max(others)


def test_a_lattice_that_nobody_listed_is_answered_by_its_lines():
    one = indexed((5.0, 6.0, 7.0), (90.0, 95.0, 90.0), 209.0, "monoclinic")
    (found,) = combined([], [], [one], read("monoclinic"), SIMPLE)
    assert found.source == "indexing" and found.system == "monoclinic"
    assert set(found.groups) <= set(range(3, 16))
    assert sum(found.groups.values()) == pytest.approx(1, abs=0.01)


def test_a_hexagonal_lattice_may_be_a_trigonal_crystals():
    found = hypotheses([], [], [indexed(*QUARTZ, "hexagonal")], read("trigonal"))
    assert {one.system for one in found.lattices} == {"trigonal", "hexagonal"}
    best = combined([], [], [indexed(*QUARTZ, "hexagonal")], read("trigonal"), SIMPLE)[0]
    assert best.system == "trigonal"


def test_every_lattice_stands_once():
    found = hypotheses([RUTILE, OTHER], [], [of_rutile(), of_rutile(evidence=39.0)], Unread())
    assert len(found) == 2
    assert found.features.shape == (2, len(FEATURES))


def test_doubtful_symmetry_gives_several_hypotheses():
    found = hypotheses([], [], [of_rutile(share=0.7)], Unread())
    assert {one.system for one in found.lattices} == {"tetragonal", "triclinic"}
    assert len(hypotheses([], [], [of_rutile(share=0.999)], Unread())) == 1


def test_without_any_witness_there_is_nothing():
    assert combined([], [], [], Unread(), SIMPLE) == ()


def test_the_facts_are_those_of_the_columns():
    found = hypotheses([RUTILE], [], [of_rutile()], Unread())
    facts = dict(zip(AGREEMENT, agreement_of(found, np.zeros(1)), strict=True))
    assert facts["one"] == facts["listed_first"] == facts["indexed_first"] == 1
    assert facts["evidence"] == pytest.approx(np.log(41))
    assert facts["large"] == pytest.approx(np.log(RUTILE.volume))


@given(
    st.lists(st.floats(0.0, 0.5), min_size=0, max_size=2),
    st.lists(st.floats(-30, 120), min_size=0, max_size=4),
    st.sampled_from(CRYSTAL_SYSTEMS),
)
def test_probabilities_are_some_and_sum_to_one_at_most(listed, evidence, system):
    lattices = [
        Lattice((3 + i, 4.0, 5.0), (90.0,) * 3, 60.0, "cubic", {221: 1.0}, p, 1.0)
        for i, p in enumerate(listed)
    ]
    lines = [
        indexed((6.0 + i, 7.0, 8.0), (90.0,) * 3, 300.0, "orthorhombic", e)
        for i, e in enumerate(evidence)
    ]
    found = combined(lattices, [], lines, read(system), load_weights("pattern"))
    chances = [one.probability for one in found]
    assert chances == sorted(chances, reverse=True)
    assert all(0 <= p <= 1 for p in chances)
    assert sum(chances) <= 1 + 1e-9
    assert len(found) == len(listed) + len(evidence)


def test_a_cell_that_the_lines_do_not_give_has_no_share_of_them():
    """The weights take one half for it; a reader is told no number that nobody measured."""
    found = hypotheses([RUTILE], [], [], Unread())
    assert np.isnan(found.lattices[0].stray)
    facts = agreement_of(found, np.zeros(1))
    assert facts[AGREEMENT.index("stray")] == 0.5
    given = hypotheses([RUTILE], [], [indexed(RUTILE.lengths, RUTILE.angles, 62.45)], Unread())
    assert given.lattices[0].stray == 0.02
