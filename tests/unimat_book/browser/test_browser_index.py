"""What the index of the page holds of each crystal."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from unimat_book.browser.index import KEPT, browser_index
from unimat_lib.crystals.table import CrystalTable
from unimat_powder.library.lines import DELTA, G_START


@pytest.fixture(scope="module")
def crystals(prototype_table: CrystalTable) -> CrystalTable:
    return prototype_table.select(range(40))


def test_index_holds_the_strongest_lines(crystals: CrystalTable) -> None:
    index = browser_index(crystals)
    assert len(index["counts"]) == len(crystals)
    assert int(index["counts"].max()) <= KEPT and int(index["counts"].min()) > 0
    offsets = [0, *index["counts"].long().cumsum(0).tolist()]
    for start, end in itertools.pairwise(offsets):
        position = index["position"][start:end].int()
        assert (position.diff() >= 0).all()  # two lines may fall on one step
        assert int(index["height"][start:end].max()) == 255
    d = 1 / (G_START * np.exp(index["position"].numpy() * DELTA))
    assert d.min() > 0.8 and d.max() < 34


def test_index_names_crystals_and_cells(crystals: CrystalTable) -> None:
    index = browser_index(crystals)
    lines = index["names"].numpy().tobytes().decode().split("\n")
    assert [line.split("\t")[0] for line in lines] == crystals.info["formula"].tolist()
    cell = index["cell"].double() / torch.tensor([1000.0] * 3 + [100.0] * 3)
    assert torch.allclose(cell[:, :3], crystals.lengths, atol=6e-4)
    assert torch.allclose(cell[:, 3:], crystals.angles, atol=6e-3)
    assert index["space_group"].tolist() == crystals.space_group.tolist()


def test_index_does_not_depend_on_the_pieces(crystals: CrystalTable) -> None:
    whole = browser_index(crystals)
    parts = [browser_index(crystals.select(rows)) for rows in (range(15), range(15, 40))]
    for name in ("counts", "position", "height", "cell"):
        assert torch.equal(whole[name], torch.cat([part[name] for part in parts]))


def test_crystals_that_cannot_be_drawn_are_left_out(crystals: CrystalTable) -> None:
    numbers = crystals.atomic_numbers.clone()
    numbers[crystals.atom_crystal == 3] = 99  # einsteinium has no scattering parameters
    index = browser_index(replace(crystals, atomic_numbers=numbers))
    assert len(index["counts"]) == len(crystals) - 1


def test_a_cell_that_does_not_fit_is_an_error(crystals: CrystalTable) -> None:
    with pytest.raises(ValueError, match="at most 65 angstrom"):
        browser_index(replace(crystals, lattice=crystals.lattice * 40))
