"""Exact lines of every Bravais lattice in, its cell out."""

import pytest
from bravais_cells import LATTICES, as_array, measured, primitive, volume

from unimat_powder.index.index import index
from unimat_powder.index.refine import same_cell


@pytest.mark.parametrize("lattice", LATTICES)
def test_every_lattice_is_found(lattice):
    cell = primitive(lattice)
    found = index(measured(cell, sigma=0.004, seed=3), volume=volume(cell))
    assert same_cell(as_array(found[0]), cell)
    assert found[0].lattice == lattice
    assert found[0].zero_shift + found[0].displacement == pytest.approx(0.08, abs=0.03)
    assert found[0].unexplained <= 4
    assert found[0].systems[lattice.split()[0]] > 0.9
