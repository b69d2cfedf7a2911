"""A space-group number in, its operations and its special positions out."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import NamedTuple

import gemmi
import numpy as np

from unimat_powder.bravais import CENTRINGS

_TRIALS, _STAGES = 120, 4  # random points, and operations onto whose fixed points each is moved
_SAME = 1e-6
_REPEATS = 4  # positions kept of one number of free coordinates and one multiplicity


class Operations(NamedTuple):
    """Symmetry of a space group in its standard setting.

    Attributes:
        rotations: ``[N, 3, 3]`` float64, of fractional coordinates; centring included.
        translations: ``[N, 3]`` float64.
        primitive: Rows: primitive basis vectors in those of the standard cell, ``[3, 3]``.
    """

    rotations: np.ndarray
    translations: np.ndarray
    primitive: np.ndarray


class Position(NamedTuple):
    """Points ``projection @ x + shift``: a special position, or the general one.

    Attributes:
        projection: ``[3, 3]`` float64.
        shift: ``[3]`` float64.
        free: Number of free coordinates, 0 to 3.
        multiplicity: Points in the standard cell.
    """

    projection: np.ndarray
    shift: np.ndarray
    free: int
    multiplicity: int


@functools.lru_cache(maxsize=230)
def operations_of(space_group: int) -> Operations:
    """The operations of a space group, 1 to 230, in gemmi's reference setting."""
    found = gemmi.find_spacegroup_by_number(space_group)
    matrices = np.array([op.seitz() for op in found.operations()], dtype=np.float64)
    primitive = np.array(CENTRINGS[found.centring_type()], dtype=np.float64)
    return Operations(matrices[:, :3, :3], matrices[:, :3, 3], primitive)


@functools.lru_cache(maxsize=230)
def positions_of(space_group: int) -> tuple[Position, ...]:
    """Positions of a space group, the general one last.

    Found by moving random points onto the fixed points of up to four random operations. Each
    without free coordinates is listed once; of others some that may be equivalent.
    """
    rotations, translations, _ = operations_of(space_group)
    draw = np.random.default_rng(space_group)
    points = draw.random((_TRIALS, 3))
    equations = np.zeros((_TRIALS, 0, 3)), np.zeros((_TRIALS, 0))
    found: dict[tuple, list[Position]] = {}
    for _ in range(_STAGES):
        chosen = draw.integers(len(rotations), size=_TRIALS)
        points, *equations = _moved(points, equations, rotations[chosen], translations[chosen])
        for position, point in _solutions(points, equations):
            orbit = _orbit(point, rotations, translations)
            key = (position.free, len(orbit))
            if not position.free:
                near = np.round(orbit, 4)
                key = (*key, tuple(near[np.lexsort(near.T[::-1])[0]]))
            same = found.setdefault(key, [])
            if len(same) < (_REPEATS if position.free else 1):
                same.append(position._replace(multiplicity=len(orbit)))
    every = [position for same in found.values() for position in same]
    return (*every, Position(np.eye(3), np.zeros(3), 3, len(rotations)))


def _moved(
    points: np.ndarray,
    equations: tuple[np.ndarray, np.ndarray],
    rotation: np.ndarray,
    shift: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points moved onto the fixed points of one more operation each, where it has any nearby.

    Equations (1 - R) x = t of an operation are added to those that a point fulfils already; where
    they contradict these, or each other, ones of zero are added and the point stays.
    """
    shift = shift + np.round(points - np.einsum("tij,tj->ti", rotation, points) - shift)
    left = np.concatenate([equations[0], np.eye(3) - rotation], 1)
    right = np.concatenate([equations[1], shift], 1)
    step = right - np.einsum("tij,tj->ti", left, points)
    moved = points + np.einsum("tij,tj->ti", np.linalg.pinv(left, rcond=1e-6), step)
    wrong = np.abs(np.einsum("tij,tj->ti", left, moved) - right).max(1) > _SAME
    left[wrong, -3:], right[wrong, -3:] = 0.0, 0.0
    return np.where(wrong[:, None], points, moved), left, right


def _solutions(
    points: np.ndarray, equations: list[np.ndarray]
) -> Iterator[tuple[Position, np.ndarray]]:
    """What the equations of each point leave free, where that is less than everything."""
    left, right = equations
    inverse = np.linalg.pinv(left, rcond=1e-6)
    projection = np.eye(3) - inverse @ left
    shift = np.einsum("tij,tj->ti", inverse, right)
    free = np.round(np.trace(projection, axis1=1, axis2=2)).astype(int)
    for i in np.flatnonzero(free < 3):
        yield Position(projection[i], shift[i], int(free[i]), 0), points[i]


def orbit_of(point: np.ndarray, space_group: int) -> np.ndarray:
    """Points of the standard cell equivalent to a fractional ``point``, ``[M, 3]`` in [0, 1)."""
    rotations, translations, _ = operations_of(space_group)
    return _orbit(point, rotations, translations)


def _orbit(point: np.ndarray, rotations: np.ndarray, translations: np.ndarray) -> np.ndarray:
    images = (rotations @ point + translations) % 1.0
    images = np.where(images > 1 - _SAME, 0.0, images)
    return images[distinct(images)]


def distinct(frac: np.ndarray) -> np.ndarray:
    """Places of points ``[N, 3]`` that no earlier one repeats by a lattice translation."""
    key = np.round(frac * 1e4).astype(np.int64) % 10000
    _, first = np.unique(key @ np.array([10**8, 10**4, 1]), return_index=True)
    return first
