"""Space-group numbers in; Bravais lattices, crystal systems and groups that look alike out."""

from __future__ import annotations

import functools
import itertools
from typing import NamedTuple

import gemmi
import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from unimat_lib.crystals.table import LAST_SPACE_GROUP

BRAVAIS = (
    *("aP", "mP", "mC", "oP", "oC", "oF", "oI"),
    *("tP", "tI", "hR", "hP", "cP", "cF", "cI"),
)
"""Bravais lattices: crystal family, then centring; A- and B-centred ones count as C-centred."""

GROUPS = 230

_FAMILIES = "amothhc"  # of the seven crystal systems
_REACH = 6  # Miller indices in which systematic absences are compared


@functools.cache
def bravais_of_groups() -> Tensor:
    """Place in :data:`BRAVAIS` of each space group, int64 ``[230]``."""
    letters = [gemmi.find_spacegroup_by_number(n).centring_type() for n in _numbers()]
    letters = ["C" if letter in "AB" else letter for letter in letters]
    names = [_FAMILIES[s] + x for s, x in zip(systems_of_groups().tolist(), letters, strict=True)]
    return torch.tensor([BRAVAIS.index(name) for name in names])


@functools.cache
def systems_of_groups() -> Tensor:
    """Crystal system of each space group, int64 ``[230]``."""
    return torch.searchsorted(torch.tensor(LAST_SPACE_GROUP), torch.arange(1, GROUPS + 1))


@functools.cache
def extinction_classes() -> Tensor:
    """A number for each space group, int64 ``[230]``; groups of one number look alike.

    Such groups have one Laue class and the same systematic absences: in a powder pattern only
    intensities tell them apart.
    """
    hkl = np.array(list(itertools.product(range(-_REACH, _REACH + 1), repeat=3)), dtype=np.int32)
    kinds: dict[tuple[str, bytes], int] = {}
    found = []
    for number in _numbers():
        group = gemmi.find_spacegroup_by_number(number)
        absent = group.operations().systematic_absences(hkl)
        key = group.laue_str(), np.packbits(absent).tobytes()
        found.append(kinds.setdefault(key, len(kinds)))
    return torch.tensor(found)


@functools.cache
def alike_groups() -> Tensor:
    """Rows: how a space group's probability is spread over groups that look alike, ``[230, 230]``.

    Each row sums to 1 and is uniform over the group's :func:`extinction_classes`.
    """
    kind = extinction_classes()
    same = (kind[:, None] == kind).float()
    return same / same.sum(1, keepdim=True)


class GroupTables(NamedTuple):
    """What belongs to space groups, on one device.

    Attributes:
        alike: :func:`alike_groups`, ``[230, 230]``.
        bravais: Bravais lattice of each, int64 ``[230]``.
        system: Crystal system of each, int64 ``[230]``.
        in_bravais: 1 where a group has a Bravais lattice, float32 ``[230, 14]``.
        in_system: 1 where a group belongs to a crystal system, float32 ``[230, 7]``.
    """

    alike: Tensor
    bravais: Tensor
    system: Tensor
    in_bravais: Tensor
    in_system: Tensor


@functools.lru_cache(maxsize=8)
def group_tables(device: torch.device) -> GroupTables:
    """The tables, made once for each device; probabilities ``[B, 230]`` times them are sums."""
    bravais, system = bravais_of_groups(), systems_of_groups()
    members = one_hot(bravais, len(BRAVAIS)).float(), one_hot(system, 7).float()
    tables = alike_groups(), bravais, system, *members
    return GroupTables(*(table.to(device) for table in tables))


def _numbers() -> range:
    return range(1, GROUPS + 1)
