"""Niggli cells of known crystals in, their conventional cells out; gemmi reduces them."""

import gemmi
import numpy as np
import pytest
from bravais_cells import LATTICES
from hypothesis import given, settings
from hypothesis import strategies as st

from unimat_powder.index.symmetry import conventional_cell

CRYSTALS = {
    "aP": ("kyanite", "triclinic", (7.126, 7.852, 5.572, 89.99, 101.11, 106.03)),
    "mP": ("baddeleyite", "monoclinic", (5.150, 5.212, 5.317, 90, 99.23, 90)),
    "mC": ("diopside", "monoclinic", (9.746, 8.899, 5.251, 90, 105.63, 90)),
    "oP": ("forsterite", "orthorhombic", (4.756, 5.980, 10.207, 90, 90, 90)),
    "oC": ("uranium", "orthorhombic", (2.854, 5.869, 4.955, 90, 90, 90)),
    "oI": ("MoPt2", "orthorhombic", (2.748, 3.915, 8.238, 90, 90, 90)),
    "oF": ("sulphur", "orthorhombic", (10.465, 12.866, 24.486, 90, 90, 90)),
    "tP": ("rutile", "tetragonal", (4.594, 4.594, 2.959, 90, 90, 90)),
    "tI": ("anatase", "tetragonal", (3.785, 3.785, 9.514, 90, 90, 90)),
    "hP": ("quartz", "trigonal", (4.913, 4.913, 5.405, 90, 90, 120)),
    "hR": ("corundum", "trigonal", (4.759, 4.759, 12.991, 90, 90, 120)),
    "cP": ("caesium chloride", "cubic", (4.123, 4.123, 4.123, 90, 90, 90)),
    "cI": ("iron", "cubic", (2.866, 2.866, 2.866, 90, 90, 90)),
    "cF": ("halite", "cubic", (5.640, 5.640, 5.640, 90, 90, 90)),
}
"""Of all fourteen Bravais lattices; cells as mineral databases print them, orthorhombic ones by
rising length."""

SYSTEMS = {"hexagonal": "hexagonal", "rhombohedral": "trigonal"}  # others are their lattices'


def niggli(cell, centring) -> np.ndarray:
    """Niggli cell ``[6]`` of a conventional one, by another program."""
    vector = gemmi.GruberVector(gemmi.UnitCell(*cell), centring)
    vector.niggli_reduce()
    return np.array(vector.cell_parameters())


@pytest.mark.parametrize("letters", CRYSTALS)
def test_known_crystals_of_all_lattices(letters):
    _, system, cell = CRYSTALS[letters]
    reduced = niggli(cell, letters[1])
    found, conventional = conventional_cell(reduced, system)
    assert found == letters
    expected = reduced if letters == "aP" else cell
    assert conventional == pytest.approx(np.array(expected), abs=2e-3)


@pytest.mark.parametrize("name", LATTICES)
def test_made_up_lattices_go_there_and_back(name):
    family, centring = name.split()
    reduced = niggli(LATTICES[name], centring)
    letters, conventional = conventional_cell(reduced, SYSTEMS.get(family, family))
    assert letters[1] == centring
    assert niggli(conventional, letters[1]) == pytest.approx(reduced, abs=1e-3)


@pytest.mark.parametrize(
    ("cell", "system", "letters", "expected"),
    [
        ((5, 5, 7, 90, 90, 90), "orthorhombic", "oP", (5, 5, 7, 90, 90, 90)),
        ((5, 5, 7, 90, 90, 90), "monoclinic", "mP", (5, 7, 5, 90, 90, 90)),
        ((5, 6, 7, 90, 90, 90), "triclinic", "aP", (5, 6, 7, 90, 90, 90)),
        ((5, 5, 5, 60, 60, 60), "trigonal", "hR", (5, 5, 150**0.5, 90, 90, 120)),
        ((5, 5.01, 7, 90, 90, 90), "tetragonal", "tP", (5.005, 5.005, 7, 90, 90, 90)),
        ((5, 6, 7, 92, 93, 94), "cubic", "aP", (5, 6, 7, 92, 93, 94)),
    ],
)
def test_the_system_decides_where_the_metric_does_not(cell, system, letters, expected):
    found, conventional = conventional_cell(np.array(cell, dtype=float), system)
    assert found == letters
    assert conventional == pytest.approx(np.array(expected, dtype=float), abs=0.01)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(2.5, 25), min_size=3, max_size=3),
    st.floats(91, 119),
    st.sampled_from("PC"),
)
def test_any_monoclinic_lattice_keeps_its_cell(lengths, beta, centring):
    reduced = niggli((*lengths, 90, beta, 90), centring)
    letters, conventional = conventional_cell(reduced, "monoclinic")
    assert letters in ("mP", "mC") and conventional[[3, 5]] == pytest.approx(90, abs=0.01)
    # Where two choices of the cell are as short, errors of a thousandth decide between them.
    again = gemmi.UnitCell(*niggli(conventional, letters[1])).volume
    assert again == pytest.approx(gemmi.UnitCell(*reduced).volume, rel=1e-3)
