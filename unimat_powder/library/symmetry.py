"""Crystals in, the strains that keep the symmetry of each, and lattices that have it exactly, out.

A strain E of a cell (r -> r + E r) keeps a rotation Q of the crystal where Q' E Q = E. Such strains
form a space with one dimension in cubic crystals, two in tetragonal, trigonal and hexagonal ones,
three in orthorhombic, four in monoclinic and six in triclinic ones. They are written as six numbers
xx, yy, zz, yz, xz, xy, the last three times sqrt(2), on the axes of the table's lattice.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from unimat_lib.crystals import reduction
from unimat_lib.crystals.table import CrystalError, CrystalTable, crystal_system_index
from unimat_powder.simulation.symmetry import (
    lattice_rotations,
    six_of,
    strain_projectors,
    tensor_of,
)

#: Dimension of the space of strains, by crystal system, in the order of ``CRYSTAL_SYSTEMS``.
STRAIN_DIMENSIONS = (6, 4, 3, 2, 2, 2, 1)
# Change of the metric, relative, that is none. Wide enough for every rotation that spglib finds
# within 0.1 angstrom, or the lattice names wrong axes now and then (3 of 161,198 with 0.03).
_TOLERANCE = 0.06
#: Rotations of the lattices of a crystal system; of a rhombohedral lattice there are half as many.
_ROTATIONS = (1, 2, 4, 8, 12, 12, 24)
_RHOMBOHEDRAL = (146, 148, 155, 160, 161, 166, 167)
_EXACT = 1e-9  # change of a mean metric by the rotations it is the mean of, where these are a group
_CHUNK = 500  # lattices at once
_ISOTROPIC = (3**-0.5, 3**-0.5, 3**-0.5, 0.0, 0.0, 0.0)


def strain_basis(
    lattice: np.ndarray, frac_coords: np.ndarray, numbers: np.ndarray, space_group: int
) -> np.ndarray:
    """Orthonormal basis ``[d, 6]``, float64, of the strains that keep one crystal's Laue class.

    Args:
        lattice: ``[3, 3]``, rows a, b, c in angstrom, of the Niggli-reduced cell.
        frac_coords: ``[n, 3]``.
        numbers: ``[n]``, atomic numbers, or any numbers that differ where the atoms do.
        space_group: International number, 1 to 230.
    """
    lattice = torch.as_tensor(np.asarray(lattice, dtype=np.float64))
    projector = _of_lattices(lattice[None], dimensions_of(torch.tensor([int(space_group)])))[0]
    if projector.isnan().any():
        projector = torch.from_numpy(spglib_projector(lattice.numpy(), frac_coords, numbers))
    basis = _bases(projector[None])[0].numpy()
    return basis[np.abs(basis).sum(1) > 0]


def strain_bases(table: CrystalTable) -> tuple[Tensor, int]:
    """:func:`strain_basis` of every crystal, and how many of them spglib had to look at.

    Cubic and triclinic crystals need no look. Where the rotations of the lattice leave as many
    strains as the crystal system has, the crystal has the same ones, whichever of the rotations its
    atoms keep: what more rotations keep lies in what fewer keep, and equal dimensions make them
    one. Only crystals whose lattice has more symmetry than their atoms need a search.

    Args:
        table: Crystals in Niggli-reduced cells; of others spglib looks at more.

    Returns:
        float64 ``[C, 6, 6]``, the rows of a basis and then zeros; and the count.
    """
    projectors = _of_lattices(table.lattice.cpu(), dimensions_of(table.space_group.cpu()))
    searched = projectors.isnan().any(2).any(1).nonzero()[:, 0].tolist()
    kinds = atom_kinds(table)
    for i in searched:
        atoms = slice(int(table.offsets[i]), int(table.offsets[i + 1]))
        crystal = table.lattice[i], table.frac_coords[atoms], kinds[atoms]
        projectors[i] = torch.from_numpy(spglib_projector(*(x.cpu().numpy() for x in crystal)))
    return _bases(projectors), len(searched)


def symmetric_lattices(lattice: Tensor, space_group: Tensor) -> tuple[Tensor, Tensor]:
    """Lattices made exactly as symmetric as their space groups, and what symmetry comes next.

    Computed cells obey their symmetry to a thousandth or so, which moves lines at high angles by
    more than they are wide. The metric is averaged over the rotations that change it least, as
    many as the lattice of such a space group has.

    Args:
        lattice: Rows a, b, c of Niggli-reduced cells, angstrom, float64 ``[C, 3, 3]``.
        space_group: International numbers, int64 ``[C]``.

    Returns:
        Lattices, float64 ``[C, 3, 3]``; those that miss the symmetry by more than six per cent, or
        lie between two symmetries, come back as they are. And the change of the metric, relative,
        by the next rotation, float64 ``[C]``: next to nothing where the lattice looks more
        symmetric than its space group.
    """
    systems = crystal_system_index(space_group.long())
    number = torch.tensor(_ROTATIONS)[systems]
    number = torch.where(torch.isin(space_group, torch.tensor(_RHOMBOHEDRAL)), 6, number)
    pieces = zip(lattice.split(_CHUNK), number.split(_CHUNK), strict=True)
    found, excess = zip(*(_symmetric(*piece) for piece in pieces), strict=True)
    return torch.cat(found), torch.cat(excess)


def _symmetric(lattice: Tensor, number: Tensor) -> tuple[Tensor, Tensor]:
    metric = lattice @ lattice.mT
    length = lattice.norm(dim=2)
    turned = _turned(metric)
    change = (turned - metric[:, None]) / (length[:, None, :, None] * length[:, None, None, :])
    least, which = change.abs().amax((2, 3)).topk(max(_ROTATIONS) + 1, largest=False)
    own = torch.arange(least.shape[1]) < number[:, None]  # [C, 25]
    some = turned.gather(1, which[..., None, None].expand(-1, -1, 3, 3))
    mean = (some * own[..., None, None]).sum(1) / number[:, None, None]
    # The strain S that makes the metric the mean one: L S (L S)' = G, S symmetric.
    inverse = torch.linalg.inv(lattice)
    values, vectors = torch.linalg.eigh(inverse @ mean @ inverse.mT)
    root = (vectors * values.clamp_min(0).sqrt()[:, None]) @ vectors.mT
    again = _turned(mean) - mean[:, None]
    again = again.abs().amax((2, 3)).gather(1, which) * own / length.square().amin(1)[:, None]
    sound = ((least * own).amax(1) < _TOLERANCE) & (again.amax(1) < _EXACT)
    found = torch.where(sound[:, None, None], lattice @ root, lattice)
    return found, least.gather(1, number[:, None])[:, 0]


def _turned(metric: Tensor) -> Tensor:
    """Metrics ``[C, 3, 3]`` after every rotation W that a reduced lattice may have, W G W'."""
    rotations = lattice_rotations(metric.device)
    change = torch.einsum("nij,nlk->jknil", rotations, rotations).flatten(2).flatten(0, 1)
    return (metric.flatten(1) @ change.flatten(1)).unflatten(1, (len(rotations), 3, 3))


def dimensions_of(space_group: Tensor) -> Tensor:
    """Dimensions of the spaces of strains, int64 ``[C]``, of international numbers ``[C]``."""
    return torch.tensor(STRAIN_DIMENSIONS)[crystal_system_index(space_group)]


def atom_kinds(table: CrystalTable) -> Tensor:
    """int64 ``[N]``: atomic numbers, with a number of its own for each partial occupancy."""
    if table.occupancy is None:
        return table.atomic_numbers
    steps = (table.occupancy * 1000).round().long()
    return table.atomic_numbers * 1001 + steps


def spglib_projector(
    lattice: np.ndarray, frac_coords: np.ndarray, numbers: np.ndarray
) -> np.ndarray:
    """Projector ``[6, 6]`` onto the strains that keep the rotations that spglib finds.

    Within 0.1 angstrom, the value of the tables' space groups. Where spglib gives up, all strains
    are allowed.
    """
    try:
        found = reduction._symmetry_dataset(lattice, frac_coords, numbers, reduction.SYMPREC)
    except CrystalError:
        return np.eye(6)
    rows = torch.from_numpy(np.array(lattice, dtype=np.float64))
    rotations = np.unique(np.asarray(found.rotations), axis=0)
    # spglib turns coordinates, columns x -> W x; the rows of the lattice turn by the transpose.
    turn = torch.linalg.solve(rows, torch.from_numpy(rotations).double().mT @ rows)  # [M, 3, 3]
    basis = tensor_of(torch.eye(6, dtype=torch.float64))  # [6, 3, 3]
    turned = six_of(torch.einsum("mji,ajk,mkl->mail", turn, basis, turn))
    return turned.mean(0).numpy().T


def _of_lattices(lattice: Tensor, wanted: Tensor) -> Tensor:
    """Projectors ``[C, 6, 6]`` from lattices alone; NaN where these do not decide."""
    one = lattice.new_tensor(_ISOTROPIC)
    projectors = torch.full((len(lattice), 6, 6), torch.nan, dtype=torch.float64)
    projectors[wanted == 1] = one[:, None] * one
    projectors[wanted == 6] = torch.eye(6, dtype=torch.float64)
    open_ = ((wanted > 1) & (wanted < 6)).nonzero()[:, 0]
    reciprocal = torch.linalg.inv(lattice).mT
    found = strain_projectors(reciprocal[open_], tolerance=_TOLERANCE).double()
    # Rotations of which the tolerance lets in some, but not their products, make no projector.
    whole = (found @ found - found).abs().amax((1, 2)) < 0.02
    trace = found.diagonal(dim1=1, dim2=2).sum(1).round().long()
    decided = whole & (trace == wanted[open_])
    projectors[open_[decided]] = found[decided]
    return projectors


def _bases(projectors: Tensor) -> Tensor:
    """Orthonormal bases ``[C, 6, 6]``, isotropic strain first, then zeros, of ``[C, 6, 6]``."""
    one = projectors.new_tensor(_ISOTROPIC)
    others = torch.eye(6, dtype=torch.float64) - one[:, None] * one
    rest = others @ (projectors + projectors.mT) @ others / 2
    values, vectors = torch.linalg.eigh(rest)  # rising
    vectors = vectors.mT.flip(1) * (values.flip(1) > 0.5)[..., None]  # [C, rows, 6]
    # The sign that LAPACK happens to give must not matter.
    largest = vectors.gather(2, vectors.abs().argmax(2, keepdim=True))
    vectors = torch.where(largest < 0, -vectors, vectors)
    return torch.cat([one.expand(len(vectors), 1, 6), vectors[:, :5]], dim=1)
