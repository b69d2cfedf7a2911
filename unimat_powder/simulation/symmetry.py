"""Cells in, how they may strain without losing a symmetry out."""

from __future__ import annotations

import torch
from torch import Tensor

from unimat_powder.bravais import lattice_rotations

_TOLERANCE = 5e-4  # relative change of a metric's entries that still counts as symmetric
_CHUNK = 512  # cells at once

# Symmetric tensors as six numbers: xx, yy, zz, yz, xz, xy, the last three times sqrt(2), so that
# the length of the six is that of the tensor.
_FIRST, _SECOND = (0, 1, 2, 1, 0, 0), (0, 1, 2, 2, 2, 1)
_SCALE = (1.0, 1.0, 1.0, 2**0.5, 2**0.5, 2**0.5)


def tensor_of(six: Tensor) -> Tensor:
    """Six numbers ``[..., 6]`` -> symmetric tensors ``[..., 3, 3]``."""
    xx, yy, zz, yz, xz, xy = (six / six.new_tensor(_SCALE)).unbind(-1)
    return torch.stack([xx, xy, xz, xy, yy, yz, xz, yz, zz], -1).unflatten(-1, (3, 3))


def six_of(tensor: Tensor) -> Tensor:
    """Symmetric tensors ``[..., 3, 3]`` -> six numbers ``[..., 6]``, the inverse of the above."""
    return tensor[..., _FIRST, _SECOND] * tensor.new_tensor(_SCALE)


def strain_projectors(reciprocal: Tensor, *, tolerance: float = _TOLERANCE) -> Tensor:
    """Projectors onto the strains that keep the rotations of each lattice.

    A strain E (of the cell vectors, r -> r + E r) keeps a rotation Q where Q' E Q = E; the mean of
    Q' E Q over the lattice's rotations is the nearest strain that keeps them all. Of a cubic
    lattice only the isotropic one is left, of a triclinic one all six.

    Args:
        reciprocal: Rows a*, b*, c* of Niggli-reduced cells in 1/angstrom, ``[C, 3, 3]``.
        tolerance: Change of a metric's entry, relative to its two lengths, that is none.

    Returns:
        float32 ``[C, 6, 6]``, for strains as six numbers, see :func:`tensor_of`.
    """
    pieces = reciprocal.double().split(_CHUNK)
    empty = reciprocal.new_zeros(0, 6, 6, dtype=torch.float32)
    return torch.cat([empty, *(_projectors(piece, tolerance) for piece in pieces)])


def _projectors(reciprocal: Tensor, tolerance: float) -> Tensor:
    rotations = lattice_rotations(reciprocal.device)  # [N, 3, 3]
    lattice = torch.linalg.inv(reciprocal).mT  # rows a, b, c
    metric = lattice @ lattice.mT
    length = lattice.norm(dim=-1)
    scale = (length[:, :, None] * length[:, None, :]).flatten(1)  # [C, 9]
    change = torch.einsum("nij,cjk,nlk->cnil", rotations, metric, rotations).flatten(2)
    change = (change - metric.flatten(1)[:, None]).abs_()
    crystal, which = (change < tolerance * scale[:, None]).all(2).nonzero(as_tuple=True)
    turn = torch.linalg.solve(lattice[crystal], rotations[which] @ lattice[crystal])  # W L = L Q
    basis = tensor_of(torch.eye(6, dtype=torch.float64, device=reciprocal.device))  # [6, 3, 3]
    turned = torch.einsum("mji,ajk,mkl->mail", turn, basis, turn)
    matrix = six_of(turned).mT  # [M, 6, 6]
    total = matrix.new_zeros(len(reciprocal), 6, 6).index_add_(0, crystal, matrix)
    count = torch.bincount(crystal, minlength=len(reciprocal))
    return (total / count[:, None, None]).float()
