"""Lines in, ranked cells out: chance has none, a seed helps, symmetry needs evidence."""

import numpy as np
import pytest
import torch
from bravais_cells import as_array, lines, measured, primitive, volume

from unimat_powder.index.index import index
from unimat_powder.index.observed import Observed
from unimat_powder.index.refine import same_cell
from unimat_powder.index.symmetry import cell_matrix, symmetric_bases
from unimat_powder.pattern import Pattern


def test_same_lines_same_answer():
    observed = measured(primitive("tetragonal I"), sigma=0.004, seed=1)
    known = volume(primitive("tetragonal I"))
    assert index(observed, volume=known) == index(observed, volume=known)


def test_random_lines_have_no_cell():
    angles = np.random.default_rng(0).uniform(12, 80, 30)
    assert index(Observed.from_lines(angles, sigma=0.005)) == []


@pytest.mark.parametrize("count", range(3))
def test_too_few_lines_have_no_cell(count):
    assert index(Observed.from_lines(np.array([28.44, 47.30])[:count])) == []


def test_order_and_repeats_do_not_matter():
    angles = lines(primitive("cubic F"), 14)
    known = volume(primitive("cubic F"))
    tidy = index(Observed.from_lines(angles, sigma=0.01), volume=known)
    both = np.concatenate([angles[::-1], angles[:4]])
    mixed = index(Observed.from_lines(both, sigma=0.01), volume=known)
    assert tidy[0].lattice == "cubic F"
    assert as_array(mixed[0]) == pytest.approx(as_array(tidy[0]))


@pytest.mark.parametrize(
    ("two_theta", "message"),
    [
        ([20.0, np.nan, 40.0], "line 2"),
        ([20.0, 200.0], "line 2"),
        ([-1.0, 20.0], "line 1"),
        ([[20.0, 30.0]], "one row"),
    ],
)
def test_impossible_lines_are_named(two_theta, message):
    with pytest.raises(ValueError, match=message):
        Observed.from_lines(np.array(two_theta))


def test_impossible_knowledge_is_named():
    observed = measured(primitive("cubic P"), sigma=0.004, seed=0)
    with pytest.raises(ValueError, match="volumes"):
        index(observed, volume=[(-3.0, 0.1)])
    with pytest.raises(ValueError, match="seeds"):
        index(observed, seeds=np.ones(6))
    with pytest.raises(ValueError, match="close"):
        index(observed, seeds=np.array([[5.0, 5, 5, 150, 20, 20]]))


def test_flat_pattern_has_no_cell():
    two_theta = torch.linspace(10, 80, 2000, dtype=torch.float64)
    assert index(Pattern(two_theta, torch.ones_like(two_theta))) == []


def test_uncertainties_are_those_of_the_cell():
    cell = primitive("orthorhombic P")
    pulls = []
    for seed in range(4):
        found = index(measured(cell, sigma=0.01, seed=seed), volume=volume(cell))[0]
        pulls += list((np.array(found.lengths) - cell[:3]) / found.lengths_sigma)
        assert found.angles_sigma == (0, 0, 0)
    assert 0.4 < np.sqrt(np.mean(np.square(pulls))) < 1.4  # stated errors count lines' strangeness


def test_a_seed_leads_to_a_cell_that_lines_alone_hide():
    cell = np.array([8.2, 12.9, 13.1, 86.0, 81.0, 88.8])  # triclinic, 1,350 cubic angstrom
    observed = Observed.from_lines(lines(cell, 80)[::2], sigma=0.004)
    seed = cell * [1.02, 0.98, 1.01, 1.003, 0.997, 1.0]
    assert same_cell(as_array(index(observed, seeds=seed[None], volume=volume(cell))[0]), cell)


def test_symmetries_of_a_nearly_cubic_cell():
    rows = cell_matrix(np.array([5.0, 5.0, 5.01, 90, 90, 90]))
    free = [basis.shape[1] for basis in symmetric_bases(rows @ rows.T)]
    assert free[0] == 6
    assert {4, 3, 2, 1} <= set(free)
    assert free.count(1) == 1
    assert free.count(2) == 7  # three tetragonal, four rhombohedral


def test_small_distortion_is_told_from_symmetry():
    cells = (np.array([5.0, 5.0, c, 90, 90, 90]) for c in (5.0, 5.02))
    cubic, distorted = (
        index(measured(cell, sigma=0.004, seed=2), volume=volume(cell))[0] for cell in cells
    )
    assert cubic.systems["cubic"] > 0.9
    assert distorted.systems["tetragonal"] > 0.9
