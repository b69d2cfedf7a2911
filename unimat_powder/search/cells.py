"""Fitted candidates in, their relaxed Niggli cells out, and which of them are the same cell."""

import numpy as np
import torch
from torch import Tensor

from unimat_lib.crystals.reduction import niggli_cell
from unimat_lib.crystals.table import crystal_system_index
from unimat_powder.library.symmetry import symmetric_lattices
from unimat_powder.same_cell import alike
from unimat_powder.search.candidates import Ranked
from unimat_powder.simulation.symmetry import tensor_of


def relaxed_cells(ranked: Ranked) -> tuple[np.ndarray, Tensor]:
    """Cells of the candidates as their fits found them.

    Returns:
        Lengths (angstrom) and angles (degrees) of the Niggli cells, float64 ``[K, 6]``; and by how
        much, relative, the next rotation changes the metric, float64 ``[K]``: see
        :func:`.symmetric_lattices`.
    """
    table = ranked.candidates.table
    six = torch.einsum("kv,kvd->kd", ranked.fits.shape[:, :6], ranked.strain)
    strained = table.lattice @ (torch.eye(3, dtype=torch.float64) + tensor_of(six))
    reduced = torch.from_numpy(np.stack([niggli_cell(rows) for rows in strained.numpy()]))
    lattice, excess = symmetric_lattices(reduced, table.space_group)
    lengths = lattice.norm(dim=2)
    a, b, c = (lattice / lengths[..., None]).unbind(1)
    cosines = torch.stack([(b * c).sum(1), (a * c).sum(1), (a * b).sum(1)], 1).clamp(-1, 1)
    return torch.cat([lengths, torch.rad2deg(torch.acos(cosines))], 1).numpy(), excess


def same_cells(cells: np.ndarray, space_group: Tensor) -> np.ndarray:
    """Which candidates have one cell and one crystal system, bool ``[K, K]``.

    Args:
        cells: Of :func:`relaxed_cells`.
        space_group: int64 ``[K]``.
    """
    systems = crystal_system_index(space_group.long()).numpy()
    close = alike(cells[:, None], cells)
    return (close | close.T) & (systems[:, None] == systems)


def volumes(cells: np.ndarray) -> np.ndarray:
    """Volumes of cells ``[K, 6]``, cubic angstrom ``[K]``."""
    cosines = np.cos(np.radians(cells[:, 3:]))
    a, b, c = cosines.T
    root = np.sqrt(np.clip(1 - a * a - b * b - c * c + 2 * a * b * c, 0, None))
    return cells[:, :3].prod(1) * root
