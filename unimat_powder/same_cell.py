"""Two cells in, whether they are of one lattice out."""

import itertools
from typing import Protocol

import numpy as np

SAME_LENGTH, SAME_ANGLE = 0.01, 1.0
"""Relative, and degrees: what the book calls the same cell."""

_ORDERS = np.array(list(itertools.permutations(range(3))))
_SIGNS = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])  # of reversed axes


class HasCell(Protocol):
    """What has the numbers of a Niggli cell."""

    lengths: tuple[float, float, float]  # angstrom
    angles: tuple[float, float, float]  # degrees


def same_cell(one: HasCell, other: HasCell) -> bool:
    """Whether two cells are of one lattice, see :func:`alike`."""
    return bool(alike(*(np.array([*x.lengths, *x.angles]) for x in (one, other))))


def alike(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Whether Niggli cells are of one lattice, whatever the order and direction of their axes.

    Where two axes are nearly as long as each other, or an angle is nearly right, measured noise
    decides which comes first and which way it points.

    Args:
        one: Lengths and angles, ``[..., 6]``, angstrom and degrees.
        other: The same, ``[..., 6]``; lengths differ relative to these.

    Returns:
        bool ``[...]``.
    """
    lengths, angles = one[..., _ORDERS], one[..., 3 + _ORDERS]  # [..., 6, 3]
    off = np.abs(lengths / other[..., None, :3] - 1).max(-1)
    turned = 90 + _SIGNS * (angles[..., None, :] - 90)  # [..., 6, 4, 3]
    tilt = np.abs(turned - other[..., None, None, 3:]).max(-1).min(-1)
    return ((off <= SAME_LENGTH) & (tilt <= SAME_ANGLE)).any(-1)
