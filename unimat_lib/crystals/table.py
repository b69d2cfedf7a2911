"""Lattices, coordinates and elements in, one :class:`CrystalTable` of many crystals out.

A table keeps the atoms of all its crystals one after the other; ``offsets`` says where each begins.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from torch import Tensor

if TYPE_CHECKING:
    from pymatgen.core import Structure

CRYSTAL_SYSTEMS = (
    *("triclinic", "monoclinic", "orthorhombic", "tetragonal"),
    *("trigonal", "hexagonal", "cubic"),
)
#: Highest space-group number of each crystal system, in the order of ``CRYSTAL_SYSTEMS``.
LAST_SPACE_GROUP = (2, 15, 74, 142, 167, 194, 230)

SPLITS = ("train", "val", "test")
EXTRA_SPLIT = "extra"  #: Of crystals that only pretraining may see
REQUIRED_INFO = ("material_id", "formula", "space_group", "split", "source")
Arrays = Sequence[np.ndarray]


class CrystalError(ValueError):
    """One crystal cannot be used; the message is the reason."""


def gather_segments(offsets: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """Positions ``[M]`` of the elements of segments ``index``, int64 ``[B]``, and new offsets."""
    start = offsets[index]  # [B]
    count = offsets[index + 1] - start  # [B]
    new_offsets = torch.zeros(len(index) + 1, dtype=torch.int64, device=offsets.device)
    torch.cumsum(count, 0, out=new_offsets[1:])
    shift = torch.repeat_interleave(start - new_offsets[:-1], count)  # [M]
    return torch.arange(len(shift), device=offsets.device) + shift, new_offsets


def crystal_system_index(space_group: Tensor | np.ndarray | Sequence[int] | int) -> Tensor:
    """Places in ``CRYSTAL_SYSTEMS``, int64, of numbers 1 to 230; others are a ``ValueError``."""
    number = torch.as_tensor(space_group)
    if number.is_floating_point() or number.dtype == torch.bool:
        raise ValueError(f"space groups must be integers from 1 to 230, but came as {number.dtype}")
    number = number.to(torch.int64)
    if len(outside := number[(number < 1) | (number > 230)].unique().tolist()):
        raise ValueError(f"space groups must lie in 1 to 230, but {outside[:5]} came")
    return torch.searchsorted(torch.tensor(LAST_SPACE_GROUP, device=number.device), number)


@dataclass(frozen=True, eq=False)
class CrystalTable:
    """Crystals as flat tensors plus one row of information each."""

    atomic_numbers: Tensor  #: ``[N]`` int64, 1 to 118
    frac_coords: Tensor  #: ``[N, 3]`` float64, fractions of the cell vectors, in [0, 1)
    lattice: Tensor  #: ``[C, 3, 3]`` float64, rows are the cell vectors a, b, c in angstrom
    offsets: Tensor  #: ``[C+1]`` int64; crystal ``c`` has the atoms ``offsets[c]:offsets[c + 1]``
    info: pd.DataFrame  #: ``C`` rows with ``REQUIRED_INFO``: reduced formula, group as int, ...
    #: ``[N]`` float64 in (0, 1]; species of one site are atoms at one place. ``None``: all full.
    occupancy: Tensor | None = None

    def __post_init__(self) -> None:
        """Refuse tables whose parts do not fit together."""
        crystals, atoms = len(self.offsets) - 1, len(self.atomic_numbers)
        for name, came, expected in (
            ("frac_coords", tuple(self.frac_coords.shape), (atoms, 3)),
            ("lattice", tuple(self.lattice.shape), (crystals, 3, 3)),
            ("info", (len(self.info),), (crystals,)),
            ("occupancy", (atoms if (x := self.occupancy) is None else len(x),), (atoms,)),
        ):
            if came != expected:
                raise ValueError(f"{name} must have shape {expected}, but has {came}")
        if x is not None and not bool(((x > 0) & (x <= 1)).all()):
            raise ValueError("occupancies must lie above 0 and not above 1")
        if crystals < 0 or int(self.offsets[0]) != 0 or int(self.offsets[-1]) != atoms:
            raise ValueError(f"offsets must run from 0 to the number of atoms, {atoms}")
        if missing := [name for name in REQUIRED_INFO if name not in self.info]:
            raise ValueError(f"info lacks the columns {missing}; needed are {list(REQUIRED_INFO)}")

    def __len__(self) -> int:
        """Number of crystals."""
        return len(self.offsets) - 1

    @property
    def device(self) -> torch.device:
        """Device of the tensors."""
        return self.lattice.device

    @property
    def num_atoms(self) -> Tensor:
        """``[C]`` int64, atoms in each cell."""
        return self.offsets[1:] - self.offsets[:-1]

    @property
    def atom_crystal(self) -> Tensor:
        """``[N]`` int64, the crystal each atom belongs to."""
        return torch.repeat_interleave(torch.arange(len(self), device=self.device), self.num_atoms)

    @property
    def lengths(self) -> Tensor:
        """``[C, 3]`` float64, a, b, c in angstrom."""
        return self.lattice.norm(dim=-1)

    @property
    def scaled_lengths(self) -> Tensor:
        """``[C, 3]`` float64, lengths over the cube root of the number of atoms, in angstrom."""
        count = self.num_atoms.to(self.lattice.dtype)
        if self.occupancy is not None:
            count = count.zero_().index_add_(0, self.atom_crystal, self.occupancy)
        return self.lengths / count.pow(1 / 3)[:, None]

    @property
    def angles(self) -> Tensor:
        """``[C, 3]`` float64, alpha (between b and c), beta (a, c), gamma (a, b) in degrees."""
        unit = self.lattice / self.lattice.norm(dim=-1, keepdim=True)  # [C, 3, 3]
        first, second = unit[:, [1, 0, 0]], unit[:, [2, 2, 1]]
        sine = torch.linalg.cross(first, second).norm(dim=-1)
        # Accurate near 0 and 180 degrees, unlike acos.
        return torch.rad2deg(torch.atan2(sine, (first * second).sum(-1)))

    @property
    def volume(self) -> Tensor:
        """``[C]`` float64, cell volumes in cubic angstrom."""
        return torch.linalg.det(self.lattice).abs()

    @property
    def space_group(self) -> Tensor:
        """``[C]`` int64, international numbers from the ``info`` column."""
        numbers = self.info["space_group"].to_numpy(np.int64, copy=True)
        return torch.as_tensor(numbers, device=self.device)

    @property
    def crystal_system(self) -> Tensor:
        """``[C]`` int64, places in ``CRYSTAL_SYSTEMS``."""
        return crystal_system_index(self.space_group)

    def select(self, index: Tensor | np.ndarray | Sequence[int]) -> CrystalTable:
        """Crystals by ``[B]`` integers (repeats allowed) or a mask ``[C]``, else ``IndexError``."""
        index = torch.as_tensor(index, device=self.device)
        if index.dtype == torch.bool:
            if index.shape != (last := (len(self),)):
                raise IndexError(f"a mask must have shape {last}, but has {tuple(index.shape)}")
            index = index.nonzero()
        index = index.to(torch.int64).reshape(-1)
        if len(wrong := index[(index < 0) | (index >= len(self))]):
            raise IndexError(f"indices must lie in 0 to {len(self) - 1}, but {int(wrong[0])} came")
        atoms, offsets = gather_segments(self.offsets, index)
        return CrystalTable(
            self.atomic_numbers[atoms],
            self.frac_coords[atoms],
            self.lattice[index],
            offsets,
            self.info.iloc[index.cpu().numpy()].reset_index(drop=True),
            None if self.occupancy is None else self.occupancy[atoms],
        )

    def split(self, name: str) -> CrystalTable:
        """The crystals of one split; a ``ValueError`` where there is no such split or crystal."""
        if name not in (known := (*SPLITS, EXTRA_SPLIT)):
            raise ValueError(f"split must be one of {known}, but {name!r} came")
        mask = (self.info["split"] == name).to_numpy(bool, copy=True)
        if not mask.any():
            raise ValueError(
                f"no crystal in split {name!r}; there is {self.info['split'].unique()}"
            )
        return self.select(mask)

    def to(self, device: torch.device | str) -> CrystalTable:
        """The same table with its tensors on ``device``."""
        tensors = [tensor.to(device) for tensor in self._tensors]
        return CrystalTable(*tensors[:4], self.info, *tensors[4:])

    @property
    def _tensors(self) -> tuple[Tensor, ...]:
        first = self.atomic_numbers, self.frac_coords, self.lattice, self.offsets
        return first if self.occupancy is None else (*first, self.occupancy)

    def structure(self, i: int) -> Structure:
        """Crystal ``i`` as a pymatgen ``Structure``; atoms at one place become one site."""
        from pymatgen.core import Element, Structure

        numbers, frac, lattice, _, *share = (x.cpu().numpy() for x in self.select([i])._tensors)
        if not share:
            return Structure(lattice[0], numbers.tolist(), frac)
        species = [{Element.from_Z(z): n} for z, n in zip(numbers.tolist(), *share, strict=True)]
        return Structure(lattice[0], species, frac).merge_sites(mode="sum")

    def content_hash(self) -> str:
        """12 hexadecimal digits over the tensors and the material ids."""
        content = b"".join(tensor.cpu().numpy().tobytes() for tensor in self._tensors)
        content += "\n".join(self.info["material_id"].astype(str)).encode()
        return hashlib.sha256(content).hexdigest()[:12]


def table_from_arrays(
    lattices: Arrays, frac_coords: Arrays, atomic_numbers: Arrays, info: pd.DataFrame
) -> CrystalTable:
    """A table from lattices ``[3, 3]``, coordinates ``[n, 3]`` and elements ``[n]``.

    A column ``occupancy`` of ``info`` holds ``[n]`` for crystals that have partly occupied sites.
    """
    pairs = zip(info.get("occupancy", ()), atomic_numbers, strict=False)
    shares = [x if np.ndim(x) else np.ones(len(numbers)) for x, numbers in pairs]
    partly = any((share < 1).any() for share in map(np.asarray, shares))
    counts = [0, *(len(numbers) for numbers in atomic_numbers)]
    return CrystalTable(
        atomic_numbers=torch.as_tensor(np.concatenate([[], *atomic_numbers]).astype(np.int64)),
        frac_coords=torch.as_tensor(np.concatenate([np.zeros((0, 3)), *frac_coords])),
        lattice=torch.as_tensor(np.array(lattices, dtype=np.float64).reshape(-1, 3, 3)),
        offsets=torch.as_tensor(np.cumsum(counts, dtype=np.int64)),
        info=info.drop(columns="occupancy", errors="ignore").reset_index(drop=True),
        occupancy=torch.as_tensor(np.concatenate(shares)) if partly else None,
    )


def concatenate(tables: Sequence[CrystalTable]) -> CrystalTable:
    """One table of several (else a ``ValueError``), with the ``info`` columns that all have."""
    if not tables:
        raise ValueError("at least one table expected")
    counts = torch.cat([table.num_atoms for table in tables])
    every = [(t.occupancy, t.lattice.new_ones(len(t.atomic_numbers))) for t in tables]
    shares = [ones if occupancy is None else occupancy for occupancy, ones in every]
    common = [c for c in tables[0].info.columns if all(c in t.info.columns for t in tables)]
    return CrystalTable(
        *map(torch.cat, zip(*(table._tensors[:3] for table in tables), strict=True)),
        offsets=torch.cat([counts.new_zeros(1), counts.cumsum(0)]),
        info=pd.concat([table.info[common] for table in tables], ignore_index=True),
        occupancy=torch.cat(shares) if any(t.occupancy is not None for t in tables) else None,
    )
