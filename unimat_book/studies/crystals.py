"""Training crystals in, further crystals to train on beside them out."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from unimat_lib.crystals.parquet import load_table, save_table
from unimat_lib.crystals.reduction import ReducedCrystal, reduce_crystal
from unimat_lib.crystals.table import (
    EXTRA_SPLIT,
    CrystalError,
    CrystalTable,
    concatenate,
    crystal_system_index,
    table_from_arrays,
)
from unimat_lib.datasets.mp_extra import apart_from
from unimat_lib.datasets.preparation import load_dataset
from unimat_lib.files import alone_in
from unimat_lib.processes import unordered
from unimat_powder.network.made_up import made_up_crystals
from unimat_powder.simulation.symmetry import strain_projectors, tensor_of

FURTHER: Mapping[str, str] = {"mp_20": "mp_extra"}
"""Data sets, and those with further crystals to train on."""

MAX_ATOMS = 30
"""Largest cell of further crystals, as in the pretraining of chapters 03 and 04."""

_STRAIN = 0.012  # standard deviation of each of the six components before symmetry
_WORKERS = 8
_CHUNK = 500
_LAST_LOW_GROUP = 15  # triclinic and monoclinic


def further_crystals(
    table: CrystalTable, number: int, *, highest_system: int, dataset: str
) -> CrystalTable:
    """So many crystals, drawn evenly, of the further ones of the Materials Project.

    Args:
        table: The data set with its splits; what gives anything away about its validation and test
            crystals is left out.
        number: How many, or all where there are fewer.
        highest_system: Place of the highest crystal system that may come.
        dataset: Name of the further crystals; empty, as in the quick profile: made-up ones.
    """
    if not dataset:
        last = 230 if highest_system > 1 else _LAST_LOW_GROUP
        draw = np.random.default_rng(1)
        groups = draw.integers(1, last + 1, number)
        return made_up_crystals(groups, abundance=abundance_of(table), seed=1)
    extra = load_dataset(dataset)
    extra = extra.select((extra.num_atoms <= MAX_ATOMS) & (extra.crystal_system <= highest_system))
    extra = apart_from(extra, table)
    order = torch.randperm(len(extra), generator=torch.Generator().manual_seed(0))
    return extra.select(order[:number].sort().values)


def made_up_like(train: CrystalTable, number: int, *, folder: Path) -> CrystalTable:
    """Made-up crystals of all space groups, with the elements of some training crystals."""

    def make() -> CrystalTable:
        groups = np.random.default_rng(0).integers(1, 231, number)
        chunks = np.array_split(groups, max(1, number // _CHUNK))
        jobs = [(n, chunk, abundance_of(train), n) for n, chunk in enumerate(chunks)]
        return _joined(_made_up, jobs)

    return _kept(folder / f"made_up-{number}-{train.content_hash()}", make)


def _made_up(n: int, groups: np.ndarray, abundance: np.ndarray, seed: int):
    return n, made_up_crystals(groups, abundance=abundance, seed=seed)


def abundance_of(table: CrystalTable) -> np.ndarray:
    """In how many crystals each element occurs, by atomic number, float64 ``[119]``."""
    pairs = torch.unique(table.atom_crystal * 128 + table.atomic_numbers) % 128
    return torch.bincount(pairs, minlength=119)[:119].double().numpy()


def strained_copies(train: CrystalTable, *, folder: Path) -> CrystalTable:
    """A copy of each training crystal, strained at random inside its symmetry, reduced anew.

    Each of the six components of the strain has a standard deviation of 1.2 % before those parts
    are taken out that break a rotation of the lattice. The few that come out with another symmetry
    are left out.
    """

    def make() -> CrystalTable:
        reciprocal = torch.linalg.inv(train.lattice).mT
        generator = torch.Generator().manual_seed(0)
        six = _STRAIN * torch.randn(len(train), 6, generator=generator)
        kept = torch.einsum("cij,cj->ci", strain_projectors(reciprocal), six)
        strained = train.lattice @ (torch.eye(3) + tensor_of(kept)).double()
        places = np.array_split(np.arange(len(train)), max(1, len(train) // _CHUNK))
        jobs = []
        for n, rows in enumerate(places):
            part = train.select(rows)
            jobs.append((n, strained[rows].numpy(), part))
        return _joined(_reduced_again, jobs)

    return _kept(folder / f"strained-{train.content_hash()}", make)


def _reduced_again(n: int, lattices: np.ndarray, part: CrystalTable):
    found: list[ReducedCrystal] = []
    rows = []
    for i, lattice in enumerate(lattices):
        atoms = slice(int(part.offsets[i]), int(part.offsets[i + 1]))
        frac, numbers = part.frac_coords[atoms].numpy(), part.atomic_numbers[atoms].numpy()
        try:
            crystal = reduce_crystal(lattice, frac, numbers)
        except CrystalError:
            continue
        same = int(crystal_system_index(crystal.space_group)) == int(part.crystal_system[i])
        if same and len(crystal.atomic_numbers) == len(numbers):
            found.append(crystal)
            rows.append(i)
    info = part.info.iloc[rows][["material_id", "formula", "space_group"]].reset_index(drop=True)
    info["material_id"] = info["material_id"].astype(str) + "-strained"
    info["split"], info["source"] = EXTRA_SPLIT, "strained"
    columns = [[getattr(x, name) for x in found] for name in ReducedCrystal._fields[:3]]
    return n, table_from_arrays(*columns, pd.DataFrame(info))


def _joined(function: Callable, jobs: Sequence[tuple]) -> CrystalTable:
    workers = min(_WORKERS, len(os.sched_getaffinity(0)))
    found = dict(unordered(function, jobs, workers=workers))
    return concatenate([found[n] for n in range(len(jobs))])


def _kept(name: Path, make: Callable[[], CrystalTable]) -> CrystalTable:
    """What ``make`` gives, made once for all processes."""
    path = name.with_suffix(".parquet")
    with alone_in(name):
        if not path.is_file():
            save_table(make(), path)
    return load_table(path)
