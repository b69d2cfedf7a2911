"""Cells in, reciprocal metrics and their Bravais lattices out, and the way back.

A metric is the six numbers (A, B, C, D, E, F) of a primitive cell, in 1/angstrom^2, that give

    Q = 1/d^2 = A h^2 + B k^2 + C l^2 + D kl + E hl + F hk.
"""

import contextlib
import functools
import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from unimat_lib.crystals.reduction import niggli_cell
from unimat_lib.crystals.table import CrystalError
from unimat_lib.views.bragg import half_sphere

# Conventional reciprocal metrics (A, B, C, D, E, F) that each family may have.
_FAMILIES = {
    "cubic": [[1, 1, 1, 0, 0, 0]],
    "hexagonal": [[1, 1, 0, 0, 0, 1], [0, 0, 1, 0, 0, 0]],
    "tetragonal": [[1, 1, 0, 0, 0, 0], [0, 0, 1, 0, 0, 0]],
    "orthorhombic": np.eye(6)[:3].tolist(),
    "monoclinic": np.eye(6)[[0, 1, 2, 4]].tolist(),
    "triclinic": np.eye(6).tolist(),
}
CENTRINGS = {
    "P": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
    "A": [[1, 0, 0], [0, 0.5, 0.5], [0, -0.5, 0.5]],
    "B": [[0.5, 0, 0.5], [0, 1, 0], [-0.5, 0, 0.5]],
    "C": [[0.5, 0.5, 0], [-0.5, 0.5, 0], [0, 0, 1]],
    "I": [[-0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0.5, 0.5, -0.5]],
    "F": [[0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]],
    "R": [[2 / 3, 1 / 3, 1 / 3], [-1 / 3, 1 / 3, 1 / 3], [-1 / 3, -2 / 3, 1 / 3]],
}
"""Primitive vectors of each centring, in units of the conventional ones."""

_FAMILY_CENTRINGS = zip(_FAMILIES, ("PIF", "PR", "PI", "PCIF", "PC", "P"), strict=True)
BRAVAIS_LATTICES = tuple((family, letter) for family, some in _FAMILY_CENTRINGS for letter in some)
"""The fourteen Bravais lattices, family and centring, by falling symmetry."""

TRICLINIC = len(BRAVAIS_LATTICES) - 1

LATTICE_SYSTEMS = dict(
    triclinic=1, monoclinic=2, orthorhombic=4, rhombohedral=6, tetragonal=8, hexagonal=12, cubic=24
)
"""Lattice systems and how many rotations map such a lattice onto itself, by rising number."""

_RIGHT_ANGLE = 0.05  # degrees from 90 that count as none, when cells are put in their setting
_METRIC_TOLERANCE = 1e-3  # relative deviation of a metric from symmetry that counts as none


def quadratic_terms(hkl: Tensor) -> Tensor:
    """``[..., 3]`` -> the six products h^2, k^2, l^2, kl, hl, hk, ``[..., 6]``."""
    h, k, el = hkl.unbind(-1)
    return torch.stack([h * h, k * k, el * el, k * el, h * el, h * k], dim=-1)


def metric_matrix(metric: Tensor) -> Tensor:
    """``[..., 6]`` -> symmetric matrices ``[..., 3, 3]``."""
    a, b, c, d, e, f = metric.unbind(-1)
    entries = torch.stack([a, f / 2, e / 2, f / 2, b, d / 2, e / 2, d / 2, c], -1)
    return entries.unflatten(-1, (3, 3))


def matrix_metric(matrix: Tensor) -> Tensor:
    """``[..., 3, 3]`` -> ``[..., 6]``, the inverse of :func:`metric_matrix`."""
    i, j = (0, 1, 2, 1, 0, 0), (0, 1, 2, 2, 2, 1)
    return matrix[..., i, j] * matrix.new_tensor([1, 1, 1, 2, 2, 2])


def metric_determinant(metric: Tensor) -> Tensor:
    """Determinants ``[...]`` of metrics ``[..., 6]``, 0 where one is not positive definite."""
    a, b, c, d, e, f = metric.unbind(-1)
    det = a * b * c + (d * e * f - a * d * d - b * e * e - c * f * f) / 4
    good = (a > 0) & (b > 0) & (c > 0)
    good &= (4 * a * b > f * f) & (4 * b * c > d * d) & (4 * a * c > e * e) & (det > 0)
    return torch.where(good, det, 0.0)


def reciprocal_metric(lengths: Tensor, angles: Tensor) -> Tensor:
    """Metrics ``[B, 6]`` of cells (angstrom, degrees, ``[B, 3]`` each), NaN where none closes."""
    cosine = torch.deg2rad(angles).cos()
    a, b, c = lengths.unbind(-1)
    products = 2 * torch.stack([b * c, a * c, a * b], -1) * cosine
    direct = torch.cat([lengths.square(), products], -1)
    good = (metric_determinant(direct) > 0)[..., None]
    safe = torch.where(good, direct, direct.new_tensor([1, 1, 1, 0, 0, 0]))
    return torch.where(good, matrix_metric(torch.linalg.inv(metric_matrix(safe))), math.nan)


@functools.cache
def lattice_basis(lattice: int) -> Tensor:
    """``[6, k]``: reciprocal metrics of a lattice's primitive cells, by its k free numbers."""
    family, centring = BRAVAIS_LATTICES[lattice]
    conventional = metric_matrix(torch.tensor(_FAMILIES[family], dtype=torch.float64))
    inverse = torch.linalg.inv(torch.tensor(CENTRINGS[centring], dtype=torch.float64))
    return matrix_metric(inverse.T @ conventional @ inverse).T.contiguous()


@functools.cache
def lattice_bases(device: torch.device) -> Tensor:
    """:func:`lattice_basis` of all Bravais lattices, ``[14, 6, 6]``, filled up with zeros."""
    bases = [lattice_basis(i) for i in range(len(BRAVAIS_LATTICES))]
    return torch.stack([functional.pad(x, (0, 6 - x.shape[1])) for x in bases]).to(device)


def lines_of(lengths: Tensor, angles: Tensor, reach: float) -> Tensor:
    """Q of all distinct lines of one cell (angstrom, degrees) up to ``reach``, rising, ``[n]``."""
    metric = reciprocal_metric(lengths[None].double(), angles[None].double())
    _, g, _ = half_sphere(torch.linalg.cholesky(metric_matrix(metric)), math.sqrt(reach))
    q = g.square().sort().values
    return q[torch.cat([q[:1] > 0, q.diff() > 1e-6])]


def niggli_cells(metric: Tensor) -> Tensor:
    """Lengths and angles ``[M, 6]`` of the Niggli cells of reciprocal metrics ``[M, 6]``.

    The reduction of :func:`.reduce_crystal`; a cell that it cannot reduce comes back as it is.
    """
    direct = torch.linalg.inv(metric_matrix(metric.detach().cpu().double()))
    reduced = torch.linalg.cholesky(direct).numpy()
    for lattice in reduced:
        with contextlib.suppress(CrystalError):
            lattice[:] = niggli_cell(lattice)
    lengths = np.linalg.norm(reduced, axis=-1)  # [M, 3]
    unit = reduced / lengths[..., None]
    cosine = (unit[:, [1, 0, 0]] * unit[:, [2, 2, 1]]).sum(-1).clip(-1, 1)
    angles = _obtuse_setting(torch.from_numpy(np.degrees(np.arccos(cosine))))
    return torch.cat([torch.from_numpy(lengths), angles], dim=1).to(metric.device)


def _obtuse_setting(angles: Tensor) -> Tensor:
    """Angles ``[M, 3]`` of reduced cells, not acute where one is a right angle.

    The angles of a Niggli cell are all acute, or none is. Where one is a right angle, the others
    are obtuse; an error in its last digits would turn the cell into the acute one, which reversing
    an axis leads back from.
    """
    signs = torch.tensor([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]], device=angles.device)
    settings = 90 + signs * (angles[:, None] - 90)  # [M, 4, 3]
    obtuse = (settings >= 90 - _RIGHT_ANGLE).all(2)
    first = obtuse.byte().argmax(1)  # the setting as it is, where none is obtuse
    return settings[torch.arange(len(angles), device=angles.device), first]


@functools.cache
def lattice_rotations(device: torch.device) -> Tensor:
    """All that may be rotations of reduced lattices, in their own basis; float64 ``[792, 3, 3]``.

    Their entries are -1, 0 and 1.
    """
    steps = torch.arange(-1.0, 2.0, dtype=torch.float64)
    every = torch.cartesian_prod(*[steps] * 9).unflatten(1, (3, 3))
    every = every[torch.linalg.det(every).round() == 1]
    order12 = torch.linalg.matrix_power(every, 12)  # rotations of a lattice: order 1, 2, 3, 4, 6
    return every[(order12 == torch.eye(3, dtype=torch.float64)).all(2).all(1)].to(device)


@functools.cache
def _rotation_changes(device: torch.device) -> Tensor:
    """``[9, 6, 792]``: how metrics change under all that may be rotations of a reduced lattice.

    A rotation W of a lattice is a matrix of whole numbers, for Niggli-reduced cells of -1, 0 and 1.
    The change W' G W - G is linear in the nine entries of G; of its own, six differ.
    """
    every, one = lattice_rotations(device), torch.eye(3, dtype=torch.float64, device=device)
    change = torch.einsum("wki,wlj->klijw", every, every)
    change = change - torch.einsum("ki,lj->klij", one, one)[..., None]
    i, j = torch.triu_indices(3, 3)
    return change[:, :, i, j].flatten(0, 1)


def lattice_system(
    lengths: Tensor, angles: Tensor, *, tolerance: float = _METRIC_TOLERANCE
) -> Tensor:
    """Lattice systems of reduced cells, from how many rotations leave the metric alone.

    Args:
        lengths: a, b, c of Niggli cells, ``[B, 3]``.
        angles: alpha, beta, gamma in degrees, ``[B, 3]``.
        tolerance: Largest change of an entry of the metric, as a part of the two lengths' product.

    Returns:
        Places in ``LATTICE_SYSTEMS``, int64 ``[B]``.
    """
    lengths, cosine = lengths.double(), torch.deg2rad(angles.double()).cos()
    one = torch.ones_like(cosine[:, 0])
    (x, y, z), (a, b, c) = cosine.unbind(1), lengths.unbind(1)
    scale = torch.stack([a * a, a * b, a * c, b * b, b * c, c * c], 1)  # [B, 6]
    six = scale * torch.stack([one, z, y, one, x, one], 1)
    metric = six[:, [0, 1, 2, 1, 3, 4, 2, 4, 5]]  # [B, 9]
    count = torch.zeros_like(one, dtype=torch.int64)
    for some in torch.arange(len(lengths), device=lengths.device).split(512):
        change = torch.einsum("bm,mew->bew", metric[some], _rotation_changes(lengths.device))
        count[some] = (change.abs_() < tolerance * scale[some][..., None]).all(1).sum(1)
    orders = torch.tensor(list(LATTICE_SYSTEMS.values()), device=lengths.device)
    return torch.searchsorted(orders, count.clamp_min(1), right=True) - 1
