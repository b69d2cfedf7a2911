"""One rule for "the same cell": one lattice, whatever the order and direction of its axes."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unimat_lib.crystals.reduction import niggli_cell
from unimat_powder.index.symmetry import cell_matrix
from unimat_powder.same_cell import SAME_ANGLE, SAME_LENGTH, alike, same_cell

CELL = np.array([5.0, 5.02, 7.0, 95.0, 100.0, 110.0])
lengths = st.tuples(*[st.floats(3, 20)] * 3)
angles = st.tuples(*[st.floats(80, 100)] * 3)
orders = st.permutations(range(3))
turns = st.sampled_from([(1, 1, 1), (1, -1, -1), (-1, 1, -1), (-1, -1, 1)])


@given(lengths, angles, orders, turns)
def test_axes_in_another_order_or_direction_are_the_same_lattice(a, b, order, signs):
    cell, order = np.array([*a, *b]), list(order)
    turned = 90 + np.array(signs) * (cell[3:][order] - 90)
    assert alike(np.array([*cell[:3][order], *turned]), cell)


@pytest.mark.parametrize(
    "other",
    [
        CELL * [1.02, 1, 1, 1, 1, 1],
        np.add(CELL, [0, 0, 0, 0, 0, 1.5]),
        np.array([*CELL[:3], *(180 - CELL[3:])]),  # an axis reversed turns two angles, never three
        np.array([*CELL[[0, 2, 1]], *CELL[3:]]),  # lengths in another order than their angles
    ],
)
def test_another_lattice_is_another(other):
    assert not alike(other, CELL) and not alike(CELL, other)


def test_limits_are_those_of_the_book():
    assert (SAME_LENGTH, SAME_ANGLE) == (0.01, 1.0)
    assert alike(CELL * [1.0099, 1, 1, 1, 1, 1], CELL)
    assert not alike(CELL * [1.0101, 1, 1, 1, 1, 1], CELL)
    assert alike(np.add(CELL, [0, 0, 0, 0.99, 0, 0]), CELL)
    assert not alike(np.add(CELL, [0, 0, 0, 1.01, 0, 0]), CELL)


def test_noise_that_changes_the_reduction_leaves_the_lattice():
    """Two axes of one length and an angle of 90 degrees, each a little off to either side."""
    cells = []
    for off in (-0.002, 0.002):
        rows = cell_matrix(np.array([7.11, 7.11 + off, 9.0, 88.0, 86.0, 90 + 50 * off]))
        cells.append(niggli_cell(rows))
    found = [np.array(cell_of(rows)) for rows in cells]
    assert np.abs(found[0] - found[1]).max() > SAME_ANGLE  # as numbers they are far apart
    assert alike(*found)


def cell_of(rows: np.ndarray) -> list[float]:
    """Lengths and angles of three vectors."""
    a, b, c = rows
    size = [float(np.linalg.norm(x)) for x in rows]
    pairs = ((b, c), (a, c), (a, b))
    cosines = [x @ y / np.linalg.norm(x) / np.linalg.norm(y) for x, y in pairs]
    return size + np.degrees(np.arccos(cosines)).tolist()


def test_many_at_once_are_as_one_by_one():
    random = np.random.default_rng(0)
    cells = CELL * (1 + random.normal(0, 0.008, (20, 6)))
    together = alike(cells[:, None], cells)
    assert together.shape == (20, 20) and together.any() and not together.all()
    objects = [SimpleNamespace(lengths=x[:3], angles=x[3:]) for x in cells]
    assert together.tolist() == [[same_cell(x, y) for y in objects] for x in objects]
