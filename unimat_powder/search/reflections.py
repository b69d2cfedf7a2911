"""Candidates of a library in, their reflections and how each moves with strain out."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from unimat_lib.crystals.table import CrystalTable
from unimat_lib.views.bragg import bragg_reflections
from unimat_powder.search.amplitude import line_factor

STRAIN = 0.012  # standard deviation of a strain of the cell beside the isotropic one
ISOTROPIC = (-0.009, 0.012)
"""Mean and standard deviation of the isotropic strain from a computed cell to the measured one.

The library's cells are relaxed with the PBE functional, which makes bonds about one per cent long.
"""
POSITION = 0.05  # degrees, standard deviation of the zero shift and of the sample's displacement
_LINES = 160  # of a candidate, at most, that place its cell
_ALIKE = 5e4, 50  # steps per unit of g, and of its change with strain: equal in both, lines are one


@dataclass(frozen=True, eq=False)
class Candidates:
    """Crystals that a pattern is compared with, ``K`` of them.

    Attributes:
        table: Their structures.
        strain: float64 ``[K, 6, 6]``, orthonormal strains that keep the symmetry; the isotropic
            one, then the others, then zeros.
    """

    table: CrystalTable
    strain: Tensor

    def select(self, index: Tensor) -> "Candidates":
        """Some of them; ``index`` is int64 ``[B]``."""
        return Candidates(self.table.select(index), self.strain[index])

    @property
    def free(self) -> Tensor:
        """float64 ``[K, 6]``: 1 for each strain that the symmetry allows, else 0."""
        return (self.strain.abs().sum(2) > 0).double()

    def __len__(self) -> int:
        """Number of candidates."""
        return len(self.table)


@dataclass(frozen=True, eq=False)
class Sticks:
    """Reflections of candidates.

    Attributes:
        crystal: int64 ``[R]``.
        g: 1/d in 1/angstrom before any strain, float64 ``[R]``.
        intensity: 2|F|^2, float64 ``[R]``.
        moves: Change of ln g with each strain, float64 ``[R, 6]``.
    """

    crystal: Tensor
    g: Tensor
    intensity: Tensor
    moves: Tensor


def sticks_of(candidates: Candidates, *, g_max: float, wavelength: float | None = None) -> Sticks:
    """All reflections of candidates up to ``g_max`` (1/angstrom).

    A strain E turns a reciprocal vector g into g - E g, so ln g changes by -n E n along n = g/|g|.
    With a ``wavelength`` (angstrom) the intensities include anomalous dispersion.
    """
    if wavelength is not None and not 0.1 <= wavelength <= 10:
        wavelength = None  # beyond, gemmi's tables of f' and f'' end
    found = bragg_reflections(candidates.table, g_max=g_max, wavelength=wavelength)
    crystal = found.crystal
    direction = torch.einsum("ri,rij->rj", found.hkl.double(), found.reciprocal[crystal])
    x, y, z = (direction / found.g[:, None]).unbind(1)
    root = math.sqrt(2)
    six = torch.stack([x * x, y * y, z * z, root * y * z, root * x * z, root * x * y], dim=1)
    moves = -torch.einsum("rv,rdv->rd", six, candidates.strain[crystal])
    return Sticks(crystal, found.g, found.intensity, moves)


def merged(sticks: Sticks) -> Sticks:
    """Reflections that lie together whatever the strain, as equivalent ones do, made one."""
    fine, coarse = _ALIKE
    g = (sticks.g * fine).round().long()
    moves = (sticks.moves * coarse).round().long()  # [R, 6]
    key = (sticks.crystal << 20) + g
    for column in moves.unbind(1):  # a hash: two of a crystal's lines collide once in 1e12
        key = key * 6364136223846793005 + column * 1442695040888963407 + 1
    _, line = torch.unique(key, return_inverse=True)
    count = int(line.max()) + 1 if len(line) else 0
    place = torch.arange(len(line))
    first = place.new_full((count,), len(line)).scatter_reduce_(0, line, place, "amin")
    intensity = sticks.intensity.new_zeros(count).index_add_(0, line, sticks.intensity)
    return Sticks(sticks.crystal[first], sticks.g[first], intensity, sticks.moves[first])


@dataclass(frozen=True, eq=False)
class Lines:
    """The strongest lines of ``K`` candidates, ``L`` places each; unused places have no weight."""

    g: Tensor  #: float64 ``[K, L]``, 1/angstrom
    intensity: Tensor  #: float64 ``[K, L]``
    moves: Tensor  #: float64 ``[K, L, 6]``


def strongest_lines(sticks: Sticks, number: int, *, wavelength: float, end: float) -> Lines:
    """Each of ``number`` candidates' strongest lines up to g = ``end`` as a pattern shows them."""
    weight = sticks.intensity * line_factor(sticks.g, wavelength) * (sticks.g < end)
    order = torch.argsort(weight, descending=True)
    order = order[torch.argsort(sticks.crystal[order], stable=True)]
    crystal = sticks.crystal[order]
    start = torch.searchsorted(crystal, torch.arange(number))
    rank = torch.arange(len(order)) - start[crystal]
    kept = rank < _LINES
    order, where = order[kept], (crystal[kept], rank[kept])
    g = torch.full((number, _LINES), end, dtype=torch.float64)
    intensity, moves = torch.zeros_like(g), g.new_zeros(number, _LINES, 6)
    g[where], intensity[where] = sticks.g[order], sticks.intensity[order]
    moves[where] = sticks.moves[order]
    return Lines(g, intensity, moves)


def prior_precision() -> Tensor:
    """Diagonal of the inverse covariance of the strains and the two shifts, float64 ``[8]``."""
    isotropic = (3**0.5 * ISOTROPIC[1]) ** -2
    return torch.tensor([isotropic, *[STRAIN**-2] * 5, *[POSITION**-2] * 2], dtype=torch.float64)


def prior_mean() -> Tensor:
    """Mean of the strains and the two shifts, float64 ``[8]``; isotropic strain is p / sqrt 3."""
    return torch.tensor([3**0.5 * ISOTROPIC[0], *[0.0] * 7], dtype=torch.float64)
