"""Lattices in other settings, cells that jump, patterns that fit two cells."""

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unimat_book import limits
from unimat_book.limits import (
    lattice_multiple,
    lookalikes,
    metric_tensors,
    niggli_jumps,
    sublattices,
    voronoi_lengths,
)
from unimat_lib.crystals.table import table_from_arrays
from unimat_lib.views.grid import Grid

RNG = np.random.default_rng(0)
CHANGES = [  # other cells of the same lattice
    [[1, 2, -1], [0, 1, 3], [0, 0, 1]],
    [[0, 1, 0], [1, 0, 0], [-1, -1, -1]],
    [[1, 0, 0], [5, 1, 0], [-7, 2, 1]],
]


def metrics(n=50):
    lengths = RNG.uniform(3, 12, (n, 3))
    return metric_tensors(lengths, RNG.uniform(70, 110, (n, 3)))


def table_of(*lattices, numbers=(11,), formulas=None):
    info = pd.DataFrame(
        {
            "material_id": [str(i) for i in range(len(lattices))],
            "formula": formulas or ["Na"] * len(lattices),
            "space_group": 1,
            "split": "test",
            "source": "made",
        }
    )
    atoms = [np.array(numbers)] * len(lattices)
    coords = [np.zeros((len(numbers), 3))] * len(lattices)
    return table_from_arrays([np.array(x, float) for x in lattices], coords, atoms, info)


def test_metric_of_a_cell():
    metric = metric_tensors(np.array([[2.0, 3.0, 4.0]]), np.array([[90.0, 90.0, 120.0]]))
    expected = [[4, -3, 0], [-3, 9, 0], [0, 0, 16]]
    np.testing.assert_allclose(metric[0], expected, atol=1e-12)


def test_voronoi_lengths_of_known_lattices():
    cube = voronoi_lengths(np.eye(3)[None])[0]
    np.testing.assert_allclose(cube, np.sqrt([1, 1, 1, 2, 2, 2, 3]), atol=1e-9)
    centred = np.array([[-1, 1, 1], [1, -1, 1], [1, 1, -1]]) / 2  # eight and six neighbours
    found = voronoi_lengths((centred @ centred.T)[None])[0]
    np.testing.assert_allclose(found, [np.sqrt(0.75)] * 4 + [1] * 3, atol=1e-9)


@pytest.mark.parametrize("change", CHANGES)
def test_voronoi_lengths_belong_to_the_lattice(change):
    metric, change = metrics(), np.array(change)
    assert abs(round(np.linalg.det(change))) == 1
    other = change @ metric @ change.T
    np.testing.assert_allclose(voronoi_lengths(other), voronoi_lengths(metric), rtol=1e-6)


@given(
    st.lists(st.tuples(st.permutations(range(3)), st.integers(-3000, 3000)), min_size=1, max_size=4)
)
@settings(max_examples=60)
def test_very_skewed_cells_have_the_lengths_of_their_lattice_or_are_refused(shears):
    """Unimodular matrices with entries of any size: no wrong length comes out in silence."""
    change = np.eye(3)
    for (i, j, _), times in shears:
        shear = np.eye(3)
        shear[i, j] = times
        change = shear @ change
    reduced = metric_tensors(np.array([[4.1, 5.3, 7.7]]), np.array([[81.0, 95.0, 104.0]]))
    try:
        found = voronoi_lengths(change @ reduced @ change.T)
    except ValueError as error:
        assert "too skewed" in str(error) and np.abs(change).max() > 100
    else:
        np.testing.assert_allclose(found, voronoi_lengths(reduced), rtol=1e-4)


@pytest.mark.parametrize("times", [1000, 10_000])
def test_one_large_shear_is_undone(times):
    """Selling's own steps subtract once at a time: two hundred of them left such cells wrong."""
    metric, change = metrics(), np.array([[1, 0, 0], [0, 1, 0], [times, -times // 3, 1]])
    found = voronoi_lengths(change @ metric @ change.T)
    np.testing.assert_allclose(found, voronoi_lengths(metric), rtol=1e-6)


def test_a_reduction_that_does_not_end_is_an_error(monkeypatch):
    monkeypatch.setattr(limits, "_MAX_STEPS", 1)
    change = np.array(CHANGES[2])
    with pytest.raises(ValueError, match="did not reduce"):
        voronoi_lengths(change @ metrics() @ change.T)


def test_voronoi_lengths_move_smoothly():
    metric = np.concatenate([metrics(), np.eye(3)[None], metric_tensors(
        np.full((1, 3), 3.0), np.full((1, 3), 60.0))])  # fmt: skip
    strain = np.eye(3) + 1e-4 * RNG.uniform(-1, 1, (3, 3))
    before, after = (
        voronoi_lengths(metric),
        voronoi_lengths(strain @ metric @ strain.T),
    )
    assert np.abs(after / before - 1).max() < 1e-2


def test_a_metric_that_no_cell_has_is_refused():
    with pytest.raises(ValueError, match="no cell has"):
        voronoi_lengths(metric_tensors(np.ones((1, 3)), np.full((1, 3), 150.0)))


@pytest.mark.parametrize(("index", "count"), [(1, 1), (2, 7), (3, 13), (4, 35)])
def test_number_of_sublattices(index, count):
    found = sublattices(index)
    assert len(found) == count
    np.testing.assert_allclose(np.linalg.det(found), index)


def test_multiples_are_recognised_in_any_setting():
    metric, change = metrics(), np.array(CHANGES[0])
    for m in (1, 2, 3, 4):
        for part in sublattices(m)[:: max(m, 1)]:
            larger = change @ (part @ metric @ part.T) @ change.T
            assert (lattice_multiple(larger, metric) == m).all()
            assert (lattice_multiple(metric, larger) == (-m if m > 1 else 1)).all()
    stretched = np.diag([1.3, 1, 1]) @ metric @ np.diag([1.3, 1, 1])
    assert (lattice_multiple(stretched, metric) == 0).mean() > 0.9
    near = 1.02**2 * metric
    assert (lattice_multiple(near, metric) == 1).all()


def test_lengths_never_jump_and_angles_do():
    centred = 4 * np.array([[-1, 1, 1], [1, -1, 1], [1, 1, -1]]) / 2
    rhombic = [[4, 0, 0], [1.999999, 5, 0], [0.9, 0.7, 7]]  # b and b - a are almost equally long
    plain = [[4, 0, 0], [0.9, 5, 0], [0.5, 0.7, 7]]
    table = table_of(centred, rhombic, plain)
    jumps = pd.concat([niggli_jumps(table, seed=seed) for seed in range(20)])
    assert jumps["length"].max() < 1e-3
    assert jumps["angle"].groupby(level=0).max()[1] > 1
    assert jumps["angle"].groupby(level=0).max()[2] < 0.1


def test_lookalikes_have_another_cell():
    grid = Grid(10.0, 80.0, 2048)
    # A cell that is doubled by the same atom half-way up has the same pattern, exactly.
    info = pd.DataFrame(
        {
            "material_id": list("abc"),
            "formula": ["Na"] * 3,
            "space_group": 1,
            "split": "test",
            "source": "made",
        }
    )
    table = table_from_arrays(
        [np.diag([4.0, 5.0, 3.0]), np.diag([4.0, 5.0, 6.0]), np.diag([4.1, 5.3, 3.3])],
        [np.zeros((1, 3)), np.array([[0, 0, 0], [0, 0, 0.5]]), np.zeros((1, 3))],
        [np.array([11]), np.array([11, 11]), np.array([11])],
        info,
    )
    found = lookalikes(table, [0, 1, 2], grid, fwhm=0.2, cosine=0.99, ratio=1.05)
    assert found["row"].tolist() == [1, 0, -1]
    assert found["cosine"][0] == pytest.approx(1, abs=1e-4) and np.isnan(found["cosine"][2])
    gap = (table.scaled_lengths[0] - table.scaled_lengths[1]).abs().mean()
    assert found["gap"].tolist() == pytest.approx([float(gap), float(gap), 0])
    twins = table.select(torch.tensor([0, 0, 2]))  # the same cell is no lookalike
    assert (lookalikes(twins, [0], grid, fwhm=0.2, cosine=0.99, ratio=1.05)["row"] == -1).all()
    with pytest.raises(ValueError, match="expected a cosine"):
        lookalikes(table, [0], grid, fwhm=0.2, cosine=1.2, ratio=1.05)
