"""A cell in, the symmetries that its lattice may have, what it is called, and its usual cell, out.

No tolerance decides what a lattice is: each symmetry that the metric comes near is a hypothesis of
its own, fitted within itself, and the evidence of the fits decides (:mod:`.fit`).
"""

import functools
from itertools import combinations_with_replacement

import numpy as np
import spglib
import torch

from unimat_powder.bravais import lattice_rotations

_PAIRS, _TWICE = ((0, 1, 2, 1, 0, 0), (0, 1, 2, 2, 2, 1)), (1, 1, 1, 2, 2, 2)  # of (A, ..., F)
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

_FAMILIES = {  # of lattices that a crystal of a system may have, and their letters
    "triclinic": {"triclinic": "a"},
    "monoclinic": {"monoclinic": "m"},
    "orthorhombic": {"orthorhombic": "o"},
    "tetragonal": {"tetragonal": "t"},
    "trigonal": {"rhombohedral": "h", "hexagonal": "h"},
    "hexagonal": {"hexagonal": "h"},
    "cubic": {"cubic": "c"},
}
_LETTERS = {family: letter for some in _FAMILIES.values() for family, letter in some.items()}
_ASIDE = 3e-4 * np.array([1.0, 0.62, -0.83, 0.37, -0.71, 0.54])  # relative, without any pattern

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
        mean[:, column] = turned[_PAIRS] * _TWICE
    left, size, _ = np.linalg.svd(mean)
    return left[:, size > 0.5]


def lattice_name(cell: np.ndarray) -> tuple[str, np.ndarray]:
    """Bravais lattice of an exactly symmetric cell, and its conventional cell ``[6]``.

    Args:
        cell: Lengths and angles ``[6]`` of a primitive cell.
    """
    found = spglib.get_symmetry_dataset((cell_matrix(cell), [[0, 0, 0]], [1]), symprec=1e-4)
    return _HOLOHEDRY[found.number], cell_of(found.std_lattice)


def conventional_cell(cell: np.ndarray, system: str) -> tuple[str, np.ndarray]:
    """Pearson's letters of the lattice that a crystal has, and its conventional cell ``[6]``.

    A metric may by chance have more symmetry than the crystal, or miss some by an error: the
    nearest lattice of the crystal's system counts. Where none is near, that of the metric does.
    Rhombohedral lattices come in hexagonal axes, monoclinic ones with b unique; the axes of other
    orthorhombic ones than C rise in length, whatever the setting of the space group.

    Args:
        cell: Lengths and angles ``[6]`` of the Niggli cell.
        system: Crystal system, one of seven.

    Returns:
        ``"aP"``, ``"mP"``, ``"mC"``, ``"oP"``, ``"oC"``, ``"oI"``, ``"oF"``, ``"tP"``, ``"tI"``,
        ``"hP"``, ``"hR"``, ``"cP"``, ``"cI"`` or ``"cF"``; and lengths and angles.
    """
    name, found = lattice_name(cell)
    if name.split()[0] not in _FAMILIES[system]:
        name, found = _nearest_of(cell, system) or (name, found)
    family, centring = name.split()
    if family == "triclinic":
        return "aP", cell  # its Niggli cell is the conventional one
    if family == "orthorhombic" and centring != "C":
        found = np.concatenate([np.sort(found[:3]), found[3:]])
    return _LETTERS[family] + centring, found


def more_symmetric(cell: np.ndarray, letters: str) -> str:
    """Lattice system of a Niggli cell's bare metric, ``""`` where its lattice's letters say it.

    The lines may leave a crystal system open that the numbers of the cell do not show.

    Args:
        cell: Lengths and angles ``[6]``.
        letters: Of the lattice that the crystal has, see :func:`conventional_cell`.
    """
    family = lattice_name(cell)[0].split()[0]
    return "" if _LETTERS[family] == letters[0] else family


def _nearest_of(cell: np.ndarray, system: str) -> tuple[str, np.ndarray] | None:
    """The nearest lattice of a system, its name and conventional cell; ``None``: none is near."""
    rows = cell_matrix(cell)
    wanted = np.linalg.inv(rows @ rows.T)[_PAIRS] * _TWICE  # reciprocal metric
    best, least = None, np.inf
    for basis in symmetric_bases(rows @ rows.T):
        metric = basis @ (np.linalg.pinv(basis) @ wanted)
        off = float(np.abs(metric - wanted).max())
        if off >= least - 1e-9:  # of equals the first, which leaves most free
            continue
        # A lattice that has just this symmetry lies beside it, and has the same axes.
        aside = metric + basis @ (basis.T @ (_ASIDE * np.abs(metric).max()))
        turned = spglib.get_symmetry_dataset((_rows_of(aside), [[0, 0, 0]], [1]), symprec=1e-6)
        name = "" if turned is None else _HOLOHEDRY[turned.number]
        if name and name.split()[0] in _FAMILIES[system]:
            axes = np.linalg.inv(turned.transformation_matrix).T
            best, least = (name, cell_of(axes @ _rows_of(metric))), off
    return best


def _rows_of(metric: np.ndarray) -> np.ndarray:
    """Rows a, b, c ``[3, 3]`` of a cell with a reciprocal metric ``[6]``."""
    a, b, c, d, e, f = metric
    return np.linalg.cholesky(
        np.linalg.inv(np.array([[a, f / 2, e / 2], [f / 2, b, d / 2], [e / 2, d / 2, c]]))
    )


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
