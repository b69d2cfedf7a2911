"""Made-up crystals, special positions and tables of space groups."""

from __future__ import annotations

import gemmi
import numpy as np
import pytest
import spglib
import torch

from unimat_lib.crystals.table import CrystalTable, crystal_system_index
from unimat_powder.network.groups import (
    BRAVAIS,
    alike_groups,
    bravais_of_groups,
    extinction_classes,
    group_tables,
)
from unimat_powder.network.made_up import made_up_crystals
from unimat_powder.network.positions import operations_of, orbit_of, positions_of

ABUNDANCE = np.isin(np.arange(119), [8, 11, 14, 16, 20, 22, 26, 29, 56, 57]).astype(float)
ASKED = [1, 2, 5, 14, 15, 19, 36, 62, 70, 88, 96, 122, 140, 148, 152, 167, 176, 187, 198, 205, 216]
ASKED += [221, 225, 227, 230]


@pytest.fixture(scope="module")
def crystals() -> CrystalTable:
    return made_up_crystals(ASKED * 2, abundance=ABUNDANCE, seed=3)


def test_made_up_crystals_have_the_space_group_asked_for(crystals: CrystalTable) -> None:
    assert len(crystals) > 0.85 * 2 * len(ASKED)
    for i in range(len(crystals)):
        atoms = slice(*crystals.offsets[i : i + 2].tolist())
        cell = (
            crystals.lattice[i].numpy(),
            crystals.frac_coords[atoms].numpy(),
            crystals.atomic_numbers[atoms].numpy(),
        )
        for symprec in (1e-3, 1e-2):
            found = spglib.get_symmetry_dataset(cell, symprec=symprec)
            assert found.number == crystals.space_group[i]


def test_made_up_crystals_look_like_crystals(crystals: CrystalTable) -> None:
    per_atom = crystals.volume / crystals.num_atoms
    assert per_atom.min() > 6 and per_atom.median() < 40
    assert set(crystals.atomic_numbers.tolist()) <= set(np.flatnonzero(ABUNDANCE).tolist())
    # Niggli cells: sorted lengths, angles all acute or all obtuse.
    assert bool((crystals.lengths.diff(dim=1) > -1e-3).all())
    acute = crystals.angles < 90 + 1e-3
    obtuse = crystals.angles > 90 - 1e-3
    assert bool((acute.all(1) | obtuse.all(1)).all())


def test_made_up_crystals_follow_their_seed(crystals: CrystalTable) -> None:
    again = made_up_crystals(ASKED * 2, abundance=ABUNDANCE, seed=3)
    other = made_up_crystals(ASKED * 2, abundance=ABUNDANCE, seed=4)
    assert again.content_hash() == crystals.content_hash() != other.content_hash()


@pytest.mark.parametrize("group", [2, 14, 62, 139, 166, 194, 221, 225, 230])
def test_positions_are_kept_by_as_many_operations_as_their_multiplicity_says(group: int) -> None:
    rotations, translations, primitive = operations_of(group)
    assert round(1 / np.linalg.det(primitive)) == len(
        list(gemmi.find_spacegroup_by_number(group).operations().cen_ops)
    )
    draw = np.random.default_rng(0)
    for position in positions_of(group):
        point = position.projection @ draw.random(3) + position.shift
        apart = rotations @ point + translations - point
        keeping = (np.abs(apart - np.round(apart)).max(1) < 1e-6).sum()
        assert keeping * position.multiplicity == len(rotations)
        assert len(orbit_of(point, group)) == position.multiplicity
        assert position.free == np.linalg.matrix_rank(position.projection, tol=1e-6)


def test_special_positions_of_rock_salt_are_found() -> None:
    fixed = [p for p in positions_of(225) if p.free == 0]
    assert sorted(p.multiplicity for p in fixed) == [4, 4, 8, 24]
    assert {p.multiplicity for p in positions_of(225)} == {4, 8, 24, 32, 48, 96, 192}


def test_groups_know_their_lattice_and_those_that_look_alike() -> None:
    names = [BRAVAIS[place] for place in bravais_of_groups().tolist()]
    assert [names[n - 1] for n in (1, 14, 15, 38, 62, 166, 194, 225, 229)] == [
        *("aP", "mP", "mC", "oC", "oP", "hR", "hP", "cF", "cI")
    ]
    kind = extinction_classes()
    assert kind[225 - 1] == kind[216 - 1] == kind[209 - 1] != kind[227 - 1]
    assert torch.allclose(alike_groups().sum(1), torch.ones(230))
    assert 100 < len(kind.unique()) < 160  # 120-odd extinction symbols, by Laue class
    tables = group_tables(torch.device("cpu"))
    systems = crystal_system_index(torch.arange(1, 231))
    assert torch.equal(tables.in_system.argmax(1), systems)
    assert torch.equal(tables.in_bravais.sum(1), torch.ones(230))
