"""Fitted candidates in, their relaxed Niggli cells out, and which of them are the same cell."""

import numpy as np
from torch import Tensor

from unimat_lib.crystals.reduction import niggli_cell
from unimat_lib.crystals.table import crystal_system_index
from unimat_powder.search.candidates import Ranked

SAME_LENGTH, SAME_ANGLE = 0.01, 1.0  # relative, degrees: what the book calls the same cell


def relaxed_cells(ranked: Ranked) -> np.ndarray:
    """Lengths (angstrom) and angles (degrees) of the candidates' cells, float64 ``[K, 6]``.

    Niggli cells of the lattices after the strain that the fit found.
    """
    table = ranked.candidates.table
    cells = np.empty((len(table), 6))
    for i, lattice in enumerate(table.lattice.numpy()):
        six = ranked.fits.shape[i, :6] @ ranked.strain[i]
        xx, yy, zz, yz, xz, xy = six.numpy() / [1, 1, 1, 2**0.5, 2**0.5, 2**0.5]
        strain = np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])
        rows = niggli_cell(lattice @ (np.eye(3) + strain))
        cells[i, :3] = np.linalg.norm(rows, axis=1)
        a, b, c = rows / cells[i, :3, None]
        cells[i, 3:] = np.degrees(np.arccos(np.clip([b @ c, a @ c, a @ b], -1, 1)))
    return cells


def same_cells(cells: np.ndarray, space_group: Tensor, first: int) -> np.ndarray:
    """Which candidates have the cell and the crystal system of one of them, bool ``[K]``.

    Args:
        cells: Of :func:`relaxed_cells`.
        space_group: int64 ``[K]``.
        first: The one.
    """
    lengths = np.abs(cells[:, :3] / cells[first, :3] - 1).max(1)
    angles = np.abs(cells[:, 3:] - cells[first, 3:]).max(1)
    systems = crystal_system_index(space_group.long()).numpy()
    close = (lengths <= SAME_LENGTH) & (angles <= SAME_ANGLE)
    return close & (systems == systems[first])


def volumes(cells: np.ndarray) -> np.ndarray:
    """Volumes of cells ``[K, 6]``, cubic angstrom ``[K]``."""
    cosines = np.cos(np.radians(cells[:, 3:]))
    a, b, c = cosines.T
    root = np.sqrt(np.clip(1 - a * a - b * b - c * c + 2 * a * b * c, 0, None))
    return cells[:, :3].prod(1) * root
