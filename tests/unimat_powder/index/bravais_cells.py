"""Lattices of all kinds, and their lines as a laboratory sees them."""

import numpy as np
import torch

from unimat_lib.crystals.reduction import niggli_cell
from unimat_lib.views.grid import CU_K_ALPHA
from unimat_powder.bravais import CENTRINGS, lines_of
from unimat_powder.index.observed import Observed, to_q, to_two_theta
from unimat_powder.index.refine import IndexedCell
from unimat_powder.index.symmetry import cell_matrix, cell_of

LATTICES = {
    "cubic P": (6.1, 6.1, 6.1, 90, 90, 90),
    "cubic I": (8.7, 8.7, 8.7, 90, 90, 90),
    "cubic F": (9.6, 9.6, 9.6, 90, 90, 90),
    "hexagonal P": (5.2, 5.2, 7.9, 90, 90, 120),
    "rhombohedral R": (6.3, 6.3, 15.1, 90, 90, 120),
    "tetragonal P": (5.4, 5.4, 8.3, 90, 90, 90),
    "tetragonal I": (6.2, 6.2, 11.7, 90, 90, 90),
    "orthorhombic P": (5.1, 6.3, 8.9, 90, 90, 90),
    "orthorhombic C": (7.3, 9.4, 6.1, 90, 90, 90),
    "orthorhombic I": (6.4, 7.9, 10.7, 90, 90, 90),
    "orthorhombic F": (8.1, 10.3, 13.9, 90, 90, 90),
    "monoclinic P": (5.7, 6.9, 8.2, 90, 104, 90),
    "monoclinic C": (9.7, 8.9, 5.3, 90, 106, 90),
    "triclinic P": (5.4, 6.2, 7.3, 96, 103, 98),
}


def primitive(lattice: str) -> np.ndarray:
    """Niggli cell ``[6]`` of a conventional one."""
    conventional = cell_matrix(np.array(LATTICES[lattice], dtype=float))
    return cell_of(niggli_cell(np.array(CENTRINGS[lattice.split()[1]]) @ conventional))


def lines(cell: np.ndarray, count: int = 40, *, merged: float = 0.06) -> np.ndarray:
    """Angles of the first lines of a cell, those that nearly coincide as one."""
    parts = torch.from_numpy(cell[:3]), torch.from_numpy(cell[3:])
    angles = to_two_theta(lines_of(*parts, float(to_q(120.0, CU_K_ALPHA))).numpy(), CU_K_ALPHA)
    return angles[np.diff(angles, prepend=0.0) > merged][:count]


def measured(cell: np.ndarray, *, sigma: float, seed: int, strangers: int = 2) -> Observed:
    """Lines as a laboratory sees them: shifted, noisy, some missing, some of something else."""
    generator = np.random.default_rng(seed)
    angles = lines(cell)
    angles = angles[generator.random(len(angles)) > 0.1]
    angles = angles + 0.02 + 0.06 * np.cos(np.radians(angles / 2))
    angles = angles + generator.normal(0, sigma, len(angles))
    more = generator.uniform(angles[0], angles[-1], strangers)
    return Observed.from_lines(np.concatenate([angles, more]), sigma=sigma)


def volume(cell: np.ndarray) -> list[tuple[float, float]]:
    """A volume as a network might say it: it makes the search quick."""
    return [(1.03 * float(np.linalg.det(cell_matrix(cell))), 0.04)]


def as_array(cell: IndexedCell) -> np.ndarray:
    """Lengths and angles ``[6]``."""
    return np.array([*cell.lengths, *cell.angles])
