"""Many crystals in a few flat tensors, and the reduced cell that makes them comparable.

A :class:`CrystalTable` keeps the atoms of all its crystals one after the other; ``offsets`` says
where each crystal begins. Everything downstream (diffraction, graphs, composition) works on such a
table as a whole.

A lattice has infinitely many cells. Lengths and angles are only comparable between crystals when
everybody picks the same one, so each crystal is brought to its Niggli-reduced primitive cell
(:func:`reduce_crystal`) before it enters a table.
"""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import json
import os
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from unimat_lib.files import replacing

if TYPE_CHECKING:
    from pymatgen.core import Structure

CRYSTAL_SYSTEMS = (
    "triclinic",
    "monoclinic",
    "orthorhombic",
    "tetragonal",
    "trigonal",
    "hexagonal",
    "cubic",
)
LAST_SPACE_GROUP = (2, 15, 74, 142, 167, 194, 230)
"""Highest space-group number of each crystal system, in the order of ``CRYSTAL_SYSTEMS``."""

SPLITS = ("train", "val", "test")
EXTRA_SPLIT = "extra"
"""Split of crystals that only pretraining may see; no table calls them train, val or test."""

REQUIRED_INFO = ("material_id", "formula", "space_group", "split", "source")

SYMPREC = 0.1
"""Positions closer than this (angstrom) are equal to spglib; the Materials Project's value."""

MIN_DISTANCE = 0.5
"""Atoms closer than this (angstrom) cannot be two; the shortest bond, in H2, has 0.74."""

MIN_PLANE_SPACING = 1.0
"""No crystal has a cell flatter than this (angstrom, between opposite faces)."""

# Rounding (in angstrom and in fractions of a cell) removes the last bits, which differ between
# machines: content hashes stay equal, special positions such as 1/2 stay exact, and the file
# compresses. It is far below any physical accuracy.
_DECIMALS = 10


class CrystalError(ValueError):
    """One crystal cannot be used; the message is the reason."""


# ---- ragged arrays


def gather_segments(offsets: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """Positions of the elements of some segments in a flat array, in the order asked for.

    Args:
        offsets: ``[C+1]`` int64; segment ``c`` is ``offsets[c]:offsets[c + 1]``.
        index: ``[B]`` int64, the segments wanted; repeats are allowed.

    Returns:
        ``flat`` ``[M]`` int64, so that ``array[flat]`` holds the segments one after the other, and
        the new offsets ``[B+1]`` int64.
    """
    start = offsets[index]  # [B]
    count = offsets[index + 1] - start  # [B]
    new_offsets = torch.zeros(len(index) + 1, dtype=torch.int64, device=offsets.device)
    torch.cumsum(count, 0, out=new_offsets[1:])
    shift = torch.repeat_interleave(start - new_offsets[:-1], count)  # [M]
    return torch.arange(len(shift), device=offsets.device) + shift, new_offsets


def crystal_system_index(space_group: Tensor | np.ndarray | Sequence[int] | int) -> Tensor:
    """Crystal system of each space group, as its place in ``CRYSTAL_SYSTEMS``.

    Trigonal (143 to 167) and hexagonal (168 to 194) are kept apart.

    Args:
        space_group: International number(s), 1 to 230, any shape.

    Returns:
        int64 tensor of the same shape, values 0 to 6.

    Raises:
        ValueError: A number lies outside 1 to 230.
    """
    number = torch.as_tensor(space_group)
    if number.is_floating_point() or number.dtype == torch.bool:
        raise ValueError(f"space groups must be integers from 1 to 230, but came as {number.dtype}")
    number = number.to(torch.int64)
    outside = (number < 1) | (number > 230)
    if bool(outside.any()):
        found = number[outside].unique().tolist()[:5]
        raise ValueError(
            f"space groups must lie in 1 to 230, but {found} came; check the space_group column"
        )
    last = torch.tensor(LAST_SPACE_GROUP, device=number.device)
    return torch.searchsorted(last, number)


# ---- the table


@dataclass(frozen=True, eq=False)
class CrystalTable:
    """Crystals as flat tensors plus one row of information each.

    Attributes:
        atomic_numbers: ``[N]`` int64, 1 to 118.
        frac_coords: ``[N, 3]`` float64, fractions of the cell vectors, in [0, 1).
        lattice: ``[C, 3, 3]`` float64, rows are the cell vectors a, b, c in angstrom.
        offsets: ``[C+1]`` int64; the atoms of crystal ``c`` are ``offsets[c]:offsets[c + 1]``.
        info: ``C`` rows with at least ``material_id``, ``formula`` (reduced), ``space_group``
            (int), ``split`` ("train", "val", "test" or "extra") and ``source``.
    """

    atomic_numbers: Tensor
    frac_coords: Tensor
    lattice: Tensor
    offsets: Tensor
    info: pd.DataFrame

    def __post_init__(self) -> None:
        """Refuse tables whose parts do not fit together."""
        crystals, atoms = len(self.offsets) - 1, len(self.atomic_numbers)
        shapes = {
            "frac_coords": (tuple(self.frac_coords.shape), (atoms, 3)),
            "lattice": (tuple(self.lattice.shape), (crystals, 3, 3)),
            "info": ((len(self.info),), (crystals,)),
        }
        for name, (came, expected) in shapes.items():
            if came != expected:
                raise ValueError(
                    f"{name} must have shape {expected} to fit the offsets, but has {came}"
                )
        if crystals < 0 or int(self.offsets[0]) != 0 or int(self.offsets[-1]) != atoms:
            raise ValueError(f"offsets must run from 0 to the number of atoms, {atoms}")
        missing = [name for name in REQUIRED_INFO if name not in self.info]
        if missing:
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
        return self.lengths / self.num_atoms.to(self.lattice.dtype).pow(1 / 3)[:, None]

    @property
    def angles(self) -> Tensor:
        """``[C, 3]`` float64, alpha (between b and c), beta (a, c), gamma (a, b) in degrees."""
        unit = self.lattice / self.lattice.norm(dim=-1, keepdim=True)  # [C, 3, 3]
        first, second = unit[:, [1, 0, 0]], unit[:, [2, 2, 1]]
        cosine = (first * second).sum(-1)
        sine = torch.linalg.cross(first, second).norm(dim=-1)
        return torch.rad2deg(
            torch.atan2(sine, cosine)
        )  # accurate near 0 and 180 degrees, unlike acos

    @property
    def volume(self) -> Tensor:
        """``[C]`` float64, cell volumes in cubic angstrom."""
        return torch.linalg.det(self.lattice).abs()

    @property
    def space_group(self) -> Tensor:
        """``[C]`` int64, international numbers from the ``info`` column."""
        return torch.as_tensor(
            self.info["space_group"].to_numpy(np.int64, copy=True), device=self.device
        )

    @property
    def crystal_system(self) -> Tensor:
        """``[C]`` int64, places in ``CRYSTAL_SYSTEMS``."""
        return crystal_system_index(self.space_group)

    def select(self, index: Tensor | np.ndarray | Sequence[int]) -> CrystalTable:
        """Some of the crystals, in the order asked for.

        Args:
            index: ``[B]`` integers (repeats allowed, no negative ones) or a mask of ``C`` booleans.

        Raises:
            IndexError: An index or the length of a mask does not fit the table.
        """
        index = torch.as_tensor(index, device=self.device)
        if index.dtype == torch.bool:
            if index.shape != (len(self),):
                raise IndexError(
                    f"a mask must have {len(self)} values, but has shape {tuple(index.shape)}"
                )
            index = index.nonzero()[:, 0]
        index = index.to(torch.int64).reshape(-1)
        if len(index) and not 0 <= int(index.min()) <= int(index.max()) < len(self):
            raise IndexError(
                f"indices must lie in 0 to {len(self) - 1}, "
                f"but run from {int(index.min())} to {int(index.max())}"
            )
        atoms, offsets = gather_segments(self.offsets, index)
        return CrystalTable(
            atomic_numbers=self.atomic_numbers[atoms],
            frac_coords=self.frac_coords[atoms],
            lattice=self.lattice[index],
            offsets=offsets,
            info=self.info.iloc[index.cpu().numpy()].reset_index(drop=True),
        )

    def split(self, name: str) -> CrystalTable:
        """The crystals of one split: "train", "val", "test" or "extra".

        Raises:
            ValueError: No such split name, or no crystal in it.
        """
        known = (*SPLITS, EXTRA_SPLIT)
        if name not in known:
            raise ValueError(f"split must be one of {known}, but {name!r} came")
        mask = (self.info["split"] == name).to_numpy(bool, copy=True)
        if not mask.any():
            raise ValueError(
                f"the table has no crystal in split {name!r}; it has {self.info['split'].unique()}"
            )
        return self.select(mask)

    def to(self, device: torch.device | str) -> CrystalTable:
        """The same table with its tensors on ``device``."""
        return CrystalTable(
            atomic_numbers=self.atomic_numbers.to(device),
            frac_coords=self.frac_coords.to(device),
            lattice=self.lattice.to(device),
            offsets=self.offsets.to(device),
            info=self.info,
        )

    def structure(self, i: int) -> Structure:
        """Crystal ``i`` as a pymatgen ``Structure``."""
        from pymatgen.core import Structure

        if not 0 <= i < len(self):
            raise IndexError(f"crystal index must lie in 0 to {len(self) - 1}, but is {i}")
        atoms = slice(int(self.offsets[i]), int(self.offsets[i + 1]))
        return Structure(
            self.lattice[i].cpu().numpy(),
            self.atomic_numbers[atoms].tolist(),
            self.frac_coords[atoms].cpu().numpy(),
        )

    def content_hash(self) -> str:
        """12 hexadecimal digits over the tensors and the material ids."""
        digest = hashlib.sha256()
        for tensor in (self.atomic_numbers, self.frac_coords, self.lattice, self.offsets):
            digest.update(np.ascontiguousarray(tensor.cpu().numpy()).tobytes())
        digest.update("\n".join(self.info["material_id"].astype(str)).encode())
        return digest.hexdigest()[:12]


# ---- reduction


class ReducedCrystal(NamedTuple):
    """A crystal in its Niggli-reduced primitive cell, with what spglib found on the way."""

    lattice: np.ndarray  # [3, 3] float64, rows a, b, c in angstrom, right-handed
    frac_coords: np.ndarray  # [n, 3] float64 in [0, 1)
    atomic_numbers: np.ndarray  # [n] int64
    space_group: int  # by spglib, with the symprec given
    was_primitive: bool


def reduce_crystal(
    lattice: np.ndarray,
    frac_coords: np.ndarray,
    atomic_numbers: np.ndarray,
    *,
    symprec: float = SYMPREC,
) -> ReducedCrystal:
    """Space group and Niggli-reduced primitive cell of one crystal, with a single symmetry search.

    Cells that spglib finds primitive keep their atoms; the others lose the atoms that a lattice
    translation repeats, each remaining one at the mean of its copies.

    Args:
        lattice: ``[3, 3]`` rows a, b, c in angstrom, either handedness.
        frac_coords: ``[n, 3]``.
        atomic_numbers: ``[n]`` integers.
        symprec: Tolerance of the symmetry search in angstrom.

    Raises:
        CrystalError: The cell is empty, flat or not finite, an atomic number is unknown, two atoms
            coincide, or spglib gives up.
    """
    lattice = np.array(lattice, dtype=np.float64)
    frac = np.array(frac_coords, dtype=np.float64).reshape(-1, 3)
    numbers = np.array(atomic_numbers, dtype=np.int64).reshape(-1)
    _check_crystal(lattice, frac, numbers)

    dataset = _symmetry_dataset(lattice, frac, numbers, symprec)
    mapping = np.asarray(dataset.mapping_to_primitive)
    was_primitive = int(mapping.max()) + 1 == len(numbers)
    if not was_primitive:
        lattice, frac, numbers = _primitive(lattice, frac, numbers, dataset)

    reduced = _niggli_cell(lattice)
    frac = frac @ (
        lattice @ np.linalg.inv(reduced)
    )  # the atoms stay where they are; only the cell around them changes
    _check_distances(reduced, frac)
    return ReducedCrystal(
        np.round(reduced, _DECIMALS), _wrap(frac), numbers, int(dataset.number), was_primitive
    )


def niggli_primitive(
    lattice: np.ndarray, frac_coords: np.ndarray, atomic_numbers: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Niggli-reduced primitive cell: lattice ``[3, 3]``, coordinates ``[n, 3]``, elements ``[n]``.

    Raises:
        CrystalError: See :func:`reduce_crystal`.
    """
    reduced = reduce_crystal(lattice, frac_coords, atomic_numbers)
    return reduced.lattice, reduced.frac_coords, reduced.atomic_numbers


def _wrap(frac: np.ndarray) -> np.ndarray:
    """Coordinates moved into [0, 1), rounded; 1 - 1e-12 becomes 0, not 1."""
    frac = np.round(frac, _DECIMALS)
    frac = np.round(frac - np.floor(frac), _DECIMALS)
    return np.where(frac >= 1.0, 0.0, frac) + 0.0  # + 0.0 turns -0.0 into 0.0


def _check_crystal(lattice: np.ndarray, frac: np.ndarray, numbers: np.ndarray) -> None:
    if lattice.shape != (3, 3):
        raise CrystalError(f"the cell must be three vectors, but has shape {lattice.shape}")
    if len(numbers) == 0:
        raise CrystalError("the cell holds no atoms")
    if len(frac) != len(numbers):
        raise CrystalError(f"{len(numbers)} atoms but {len(frac)} positions")
    if not np.isfinite(lattice).all():
        raise CrystalError("the cell is not finite")
    if not np.isfinite(frac).all():
        raise CrystalError("an atom has no finite position")
    if numbers.min() < 1 or numbers.max() > 118:
        wrong = sorted(set(numbers[(numbers < 1) | (numbers > 118)].tolist()))
        raise CrystalError(
            f"unknown element: atomic numbers must lie in 1 to 118, but {wrong} came"
        )
    if np.abs(lattice).max() > 1e4 or abs(np.linalg.det(lattice)) < 1e-3:
        raise CrystalError(
            f"the cell encloses no usable volume: {np.linalg.det(lattice):.3g} cubic angstrom"
        )


def _check_distances(lattice: np.ndarray, frac: np.ndarray) -> None:
    """Refuse flat cells and atoms that coincide. ``lattice`` is reduced."""
    spacing = 1 / np.linalg.norm(np.linalg.inv(lattice), axis=0).max()
    if spacing < MIN_PLANE_SPACING:
        raise CrystalError(
            f"the cell is flat: {spacing:.3g} angstrom between opposite faces, "
            f"at least {MIN_PLANE_SPACING} expected"
        )
    # Rounding a difference to the nearest cell finds the nearest image of any pair closer than half
    # a plane spacing, and MIN_DISTANCE is at most that.
    for start in range(0, len(frac), 512):
        difference = frac[start : start + 512, None] - frac[None]
        difference -= np.round(difference)
        distance = np.linalg.norm(difference @ lattice, axis=-1)
        rows = np.arange(len(distance))
        distance[rows, start + rows] = np.inf
        if distance.min() < MIN_DISTANCE:
            first, second = np.unravel_index(distance.argmin(), distance.shape)
            raise CrystalError(
                f"two atoms at one site: {distance.min():.3f} angstrom between "
                f"atoms {start + first} and {second}, "
                f"at least {MIN_DISTANCE} expected"
            )


def _symmetry_dataset(
    lattice: np.ndarray, frac: np.ndarray, numbers: np.ndarray, symprec: float
) -> Any:
    import spglib

    # spglib narrates its retries on standard error; what counts comes back in the result.
    os.environ.setdefault("SPGLIB_WARNING", "OFF")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            dataset = spglib.get_symmetry_dataset((lattice, frac, numbers), symprec=symprec)
        except Exception as error:  # spglib's own exception class has moved between its versions
            raise CrystalError(f"spglib finds no symmetry: {error}") from None
    if dataset is None:
        raise CrystalError(
            f"spglib finds no symmetry within {symprec} angstrom (do atoms coincide?)"
        )
    return dataset


def _primitive(
    lattice: np.ndarray, frac: np.ndarray, numbers: np.ndarray, dataset: Any
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The primitive cell that spglib found, oriented and strained as the given cell is."""
    primitive = np.asarray(dataset.primitive_lattice, dtype=np.float64)
    mapping = np.asarray(dataset.mapping_to_primitive)
    classes, first = np.unique(mapping, return_index=True)
    if len(classes) * round(abs(np.linalg.det(lattice) / np.linalg.det(primitive))) != len(numbers):
        raise CrystalError(
            "spglib's primitive cell does not match its number of atoms; the symmetry is ambiguous"
        )
    coords = frac @ (lattice @ np.linalg.inv(primitive))  # [n, 3]
    anchor = coords[first[np.searchsorted(classes, mapping)]]
    shift = coords - anchor
    shift -= np.round(shift)
    mean = np.stack([shift[mapping == c].mean(0) for c in classes])
    return primitive, coords[first] + mean, numbers[first]


def _niggli_cell(lattice: np.ndarray) -> np.ndarray:
    import spglib

    # The tolerance, an area, decides ties between cells that are equally short. Close to a tie the
    # reduction can go round in circles; with another tolerance it ends.
    for tolerance in (1e-5, 1e-6, 1e-4):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            try:
                scale = abs(np.linalg.det(lattice)) ** (1 / 3)
                reduced = spglib.niggli_reduce(lattice, eps=tolerance * scale)
            except Exception:  # newer versions raise where older ones return None
                reduced = None
        if reduced is not None and np.isfinite(reduced).all():
            break
    else:
        raise CrystalError("the Niggli reduction does not converge; the cell is too skewed")
    return -reduced if np.linalg.det(reduced) < 0 else reduced


# ---- building tables


def reduced_formula(atomic_numbers: np.ndarray) -> str:
    """Reduced formula in pymatgen's order, for example ``TiO2``; diatomic gases come as ``O2``."""
    from pymatgen.core import Composition, Element

    numbers, counts = np.unique(np.asarray(atomic_numbers), return_counts=True)
    pairs = zip(numbers.tolist(), counts.tolist(), strict=True)
    with warnings.catch_warnings():  # noble gases have no electronegativity to sort by; no harm
        warnings.simplefilter("ignore", UserWarning)
        return Composition({Element.from_Z(z): n for z, n in pairs}).reduced_formula


def table_from_arrays(
    lattices: Sequence[np.ndarray],
    frac_coords: Sequence[np.ndarray],
    atomic_numbers: Sequence[np.ndarray],
    info: pd.DataFrame,
) -> CrystalTable:
    """A table from lattices ``[3, 3]``, coordinates ``[n, 3]`` and elements ``[n]``."""
    counts = [len(numbers) for numbers in atomic_numbers]
    empty = len(counts) == 0
    return CrystalTable(
        atomic_numbers=torch.as_tensor(np.concatenate([[], *atomic_numbers]).astype(np.int64)),
        frac_coords=torch.as_tensor(np.concatenate([np.zeros((0, 3)), *frac_coords])),
        lattice=torch.as_tensor(
            np.zeros((0, 3, 3)) if empty else np.stack(lattices).astype(np.float64)
        ),
        offsets=torch.as_tensor(np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)),
        info=info.reset_index(drop=True),
    )


def concatenate(tables: Sequence[CrystalTable]) -> CrystalTable:
    """One table of several, in their order, with the columns of ``info`` that all of them have.

    Raises:
        ValueError: If there is no table.
    """
    if not tables:
        raise ValueError("expected at least one table to concatenate, got none")
    counts = torch.cat([table.num_atoms for table in tables])
    common = [c for c in tables[0].info.columns if all(c in t.info.columns for t in tables)]
    return CrystalTable(
        atomic_numbers=torch.cat([table.atomic_numbers for table in tables]),
        frac_coords=torch.cat([table.frac_coords for table in tables]),
        lattice=torch.cat([table.lattice for table in tables]),
        offsets=torch.cat([counts.new_zeros(1), counts.cumsum(0)]),
        info=pd.concat([table.info[common] for table in tables], ignore_index=True),
    )


def from_structures(
    structures: Iterable[Structure], *, info: pd.DataFrame | None = None, reduce: bool = True
) -> CrystalTable:
    """A table from pymatgen structures.

    Args:
        structures: Ordered structures; they are not changed.
        info: One row each; missing required columns are filled in (``material_id`` with the running
            number, ``split`` with "train", ``source`` with "structure", ``space_group`` with
            spglib's number).
        reduce: Bring each to its Niggli-reduced primitive cell; otherwise cells stay as they are.

    Raises:
        CrystalError: A structure is disordered or otherwise unusable; the message begins with its
            number.
    """
    lattices, coords, numbers, groups = [], [], [], []
    for i, structure in enumerate(structures):
        try:
            if not structure.is_ordered:
                raise CrystalError("disordered: a site is partially occupied")
            crystal = (
                structure.lattice.matrix,
                structure.frac_coords,
                np.array([site.specie.Z for site in structure], dtype=np.int64),
            )
            reduced = reduce_crystal(*crystal)
        except CrystalError as error:
            raise CrystalError(f"structure {i}: {error}") from None
        lattice, frac, number = (
            reduced[:3] if reduce else (crystal[0].copy(), _wrap(crystal[1]), crystal[2])
        )
        lattices.append(lattice)
        coords.append(frac)
        numbers.append(number)
        groups.append(reduced.space_group)
    if info is not None and len(info) != len(groups):
        raise ValueError(
            f"info must have one row per structure, {len(groups)}, but has {len(info)}"
        )
    info = pd.DataFrame(index=range(len(groups))) if info is None else info.reset_index(drop=True)
    defaults = {
        "material_id": [str(i) for i in range(len(groups))],
        "formula": [reduced_formula(z) for z in numbers],
        "space_group": groups,
        "split": "train",
        "source": "structure",
    }
    info = info.assign(**{name: value for name, value in defaults.items() if name not in info})
    return table_from_arrays(lattices, coords, numbers, info)


# ---- files

_TENSOR_COLUMNS = ("lattice", "atomic_numbers", "frac_coords")


def save_table(table: CrystalTable, path: str | os.PathLike[str]) -> Path:
    """Write a table to Parquet, one row per crystal; the file appears only when it is complete.

    Args:
        table: Crystals, on any device.
        path: Target; its folder is created.

    Returns:
        The path written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = Path(path)
    offsets = table.offsets.cpu().numpy()

    def lists(values: np.ndarray, bounds: np.ndarray) -> pa.ListArray:
        return pa.ListArray.from_arrays(
            pa.array(bounds.astype(np.int32)), pa.array(values.reshape(-1))
        )

    columns = {
        "lattice": lists(table.lattice.cpu().numpy(), 9 * np.arange(len(table) + 1)),
        "atomic_numbers": lists(table.atomic_numbers.cpu().numpy().astype(np.uint8), offsets),
        "frac_coords": lists(table.frac_coords.cpu().numpy(), 3 * offsets),
    }
    arrow = pa.Table.from_pandas(table.info, preserve_index=False)
    for name, column in columns.items():
        arrow = arrow.append_column(name, column)
    with replacing(path) as temporary:
        pq.write_table(arrow, temporary, compression="zstd", compression_level=9)
    return path


def load_table(path: str | os.PathLike[str]) -> CrystalTable:
    """Read a table that :func:`save_table` wrote.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is not such a table.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"no crystal table at {path}; make one with python -m unimat_lib.datasets prepare NAME"
        )
    try:
        arrow = pq.read_table(path)
        flat = {name: arrow.column(name).combine_chunks() for name in _TENSOR_COLUMNS}
    except (pa.ArrowInvalid, KeyError, OSError) as error:
        raise ValueError(
            f"{path} is not a crystal table ({error}); delete it and prepare it again"
        ) from error
    atoms = flat["atomic_numbers"]
    offsets = atoms.offsets.to_numpy().astype(np.int64)

    def values(name: str) -> np.ndarray:
        return np.array(flat[name].flatten().to_numpy(zero_copy_only=False))  # own, writable memory

    return CrystalTable(
        atomic_numbers=torch.as_tensor(values("atomic_numbers").astype(np.int64)),
        frac_coords=torch.as_tensor(values("frac_coords")).reshape(-1, 3),
        lattice=torch.as_tensor(values("lattice")).reshape(-1, 3, 3),
        offsets=torch.as_tensor(offsets - offsets[0]),
        info=arrow.drop_columns(list(_TENSOR_COLUMNS)).to_pandas(),
    )


# ---- AFLOW prototypes


def aflow_prototypes() -> list[dict[str, Any]]:
    """The AFLOW library of crystallographic prototypes that ships inside pymatgen.

    The file is read directly: building all 288 structures through ``pymatgen.analysis.prototypes``
    costs several seconds, of which nearly all goes into imports that nobody needs here.

    Returns:
        One dictionary per prototype: ``tags`` (``pearson``, ``aflow``, ``strukturbericht``,
        ``mineral``), ``lattice`` ``[3, 3]`` angstrom, ``frac_coords`` ``[n, 3]`` and ``symbols`` (n
        element symbols).

    Raises:
        FileNotFoundError: This version of pymatgen keeps the file elsewhere.

    Source: Mehl et al., Comput. Mater. Sci. 136, S1 (2017).
    """
    spec = importlib.util.find_spec("pymatgen.analysis.prototypes")
    folders = list(spec.submodule_search_locations or []) if spec else []
    files = [Path(f) / "aflow_prototypes.json.gz" for f in folders]
    found = [file for file in files if file.is_file()]
    if not found:
        raise FileNotFoundError(
            "pymatgen's AFLOW prototypes were expected as aflow_prototypes.json.gz in "
            f"{folders or 'pymatgen.analysis.prototypes'}; "
            "install the pymatgen version named in requirements.lock"
        )
    with gzip.open(found[0], "rt", encoding="utf-8") as handle:
        entries = json.load(handle)
    return [
        {
            "tags": entry["tags"],
            "lattice": np.array(entry["snl"]["lattice"]["matrix"]),
            "frac_coords": np.array([site["abc"] for site in entry["snl"]["sites"]]),
            "symbols": [site["species"][0]["element"] for site in entry["snl"]["sites"]],
        }
        for entry in entries
    ]


def worked_crystal() -> CrystalTable:
    """The crystal that recurs in every chapter: rutile, TiO2, from the AFLOW prototypes."""
    from pymatgen.core import Element

    entry = next(e for e in aflow_prototypes() if e["tags"]["mineral"] == "Rutile")
    numbers = np.array([Element(symbol).Z for symbol in entry["symbols"]])
    crystal = reduce_crystal(entry["lattice"], entry["frac_coords"], numbers)
    info = pd.DataFrame(
        {
            "material_id": ["rutile"],
            "formula": [reduced_formula(numbers)],
            "space_group": [crystal.space_group],
            "split": ["train"],
            "source": ["aflow"],
            "prototype": [entry["tags"]["aflow"]],
        }
    )
    return table_from_arrays(
        [crystal.lattice], [crystal.frac_coords], [crystal.atomic_numbers], info
    )
