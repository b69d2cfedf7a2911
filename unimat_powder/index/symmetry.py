"""A cell in, the symmetries that its lattice may have, and what a lattice is called, out.

No tolerance decides what a lattice is: each symmetry that the metric comes near is a hypothesis of
its own, fitted within itself, and the evidence of the fits decides (:mod:`.fit`).
"""

import functools
from itertools import combinations_with_replacement

import numpy as np
import spglib
import torch

from unimat_powder.bravais import lattice_rotations

_NEAR = 0.03  # of the product of two lengths: deviations from symmetry that are looked into
_LARGEST = 24  # rotations of a lattice, at most
_HOLOHEDRY = {  # space group of a lattice of points: Bravais lattice
    221: "cubic P",
    229: "cubic I",
    225: "cubic F",
    191: "hexagonal P",
    166: "rhombohedral R",
    123: "tetragonal P",
    139: "tetragonal I",
    47: "orthorhombic P",
    65: "orthorhombic C",
    71: "orthorhombic I",
    69: "orthorhombic F",
    10: "monoclinic P",
    12: "monoclinic C",
    2: "triclinic P",
}

FREE_NUMBERS = dict(
    triclinic=6, monoclinic=4, orthorhombic=3, rhombohedral=2, tetragonal=2, hexagonal=2, cubic=1
)
"""Numbers that lattices of each system leave free."""


@functools.cache
def _rotations() -> np.ndarray:
    """All that may be rotations of a reduced lattice, int ``[792, 3, 3]``."""
    return lattice_rotations(torch.device("cpu")).numpy().astype(int)


def symmetric_bases(direct: np.ndarray, *, near: float = _NEAR) -> tuple[np.ndarray, ...]:
    """Reciprocal metrics that a lattice may have under each symmetry that it comes near.

    Args:
        direct: Metric matrix of the Niggli cell, square angstrom ``[3, 3]``.
        near: Deviation up to which a symmetry is looked into, relative to two lengths' product.

    Returns:
        ``[6, k]`` each, from the triclinic lattice, which may have all, to the highest symmetry.
    """
    lengths = np.sqrt(np.diag(direct))
    rotations = _rotations()
    change = np.swapaxes(rotations, 1, 2) @ direct @ rotations - direct
    deviation = (np.abs(change) / np.outer(lengths, lengths)).max((1, 2))
    return _bases_of(tuple(np.flatnonzero(deviation < near).tolist()))


@functools.cache
def _bases_of(near: tuple[int, ...]) -> tuple[np.ndarray, ...]:
    """Invariant metrics of all groups that one or two of some rotations generate, each once."""
    found: dict[bytes, np.ndarray] = {}
    for pair in combinations_with_replacement(_rotations()[list(near)], 2):
        group = _generated(pair)
        if len(group) <= _LARGEST:
            basis = _invariant_metrics(group)
            found.setdefault(((basis @ basis.T).round(6) + 0.0).tobytes(), basis)
    return tuple(sorted(found.values(), key=lambda basis: -basis.shape[1]))


def _generated(pair: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """The group ``[n, 3, 3]`` that two rotations generate, cut off where no lattice has it."""
    group = np.eye(3, dtype=int)[None]
    while True:
        more = np.concatenate([group, *(group @ one for one in pair)])
        more = np.unique(more, axis=0)
        if len(more) == len(group) or len(more) > _LARGEST:
            return more
        group = more


def _invariant_metrics(group: np.ndarray) -> np.ndarray:
    """``[6, k]``: reciprocal metrics (A, B, C, D, E, F) that rotations leave alone."""
    mean = np.zeros((6, 6))
    for column, unit in enumerate(np.eye(6)):
        a, b, c, d, e, f = unit
        matrix = np.array([[a, f / 2, e / 2], [f / 2, b, d / 2], [e / 2, d / 2, c]])
        inverse = np.linalg.inv(group)
        turned = (inverse @ matrix @ np.swapaxes(inverse, 1, 2)).mean(0)
        pairs = (0, 1, 2, 1, 0, 0), (0, 1, 2, 2, 2, 1)
        mean[:, column] = turned[pairs] * [1, 1, 1, 2, 2, 2]
    left, size, _ = np.linalg.svd(mean)
    return left[:, size > 0.5]


def lattice_name(cell: np.ndarray) -> tuple[str, np.ndarray]:
    """Bravais lattice of an exactly symmetric cell, and its conventional cell ``[6]``.

    Args:
        cell: Lengths and angles ``[6]`` of a primitive cell.
    """
    found = spglib.get_symmetry_dataset((cell_matrix(cell), [[0, 0, 0]], [1]), symprec=1e-4)
    return _HOLOHEDRY[found.number], cell_of(found.std_lattice)


def cell_matrix(cell: np.ndarray) -> np.ndarray:
    """Rows a, b, c ``[3, 3]`` of lengths and angles ``[6]``."""
    lengths, cosine = cell[:3], np.cos(np.radians(cell[3:]))
    unit = np.array(
        [[1, cosine[2], cosine[1]], [cosine[2], 1, cosine[0]], [cosine[1], cosine[0], 1]]
    )
    return np.linalg.cholesky(unit) * lengths[:, None]


def cell_of(matrix: np.ndarray) -> np.ndarray:
    """Lengths and angles ``[6]`` of rows a, b, c."""
    lengths = np.linalg.norm(matrix, axis=1)
    unit = matrix / lengths[:, None]
    cosine = np.array([unit[1] @ unit[2], unit[0] @ unit[2], unit[0] @ unit[1]])
    return np.concatenate([lengths, np.degrees(np.arccos(cosine.clip(-1, 1)))])
