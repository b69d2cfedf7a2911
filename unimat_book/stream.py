"""Shards of crystals in, a model trained on them as they pass by and its history out.

A shard is a table of some ten thousand crystals: a Parquet file, or crystals made up on the spot.
One is trained on while the next is read, and its views are built on the device when it is its turn.
So memory holds two shards on the host and one on the device, however many there are.
"""

from __future__ import annotations

import math
import os
import resource
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import gemmi
import numpy as np
import pandas as pd
import torch

from unimat_lib.crystals.parquet import load_table, save_table
from unimat_lib.crystals.table import CrystalTable, concatenate
from unimat_lib.processes import unordered
from unimat_lib.training.config import FitConfig, make_fabric
from unimat_lib.training.loop import Loop, train_epoch, validate
from unimat_lib.views.batch import CrystalViews, build_views
from unimat_powder.network.made_up import made_up_crystals

if TYPE_CHECKING:
    from unimat_lib.model import UniMat

Shard = Callable[[int], CrystalTable]
"""The crystals of a shard by its number, 0 and up; called in a thread."""

_PIECE = 256  # made-up crystals of one job


def write_shards(tables: Iterable[CrystalTable], folder: str | os.PathLike[str]) -> list[Path]:
    """Write each table to a Parquet file of the folder, which is made; returns the files."""
    return [
        save_table(table, Path(folder) / f"shard-{number:06d}.parquet")
        for number, table in enumerate(tables)
    ]


def shards_of(folder: str | os.PathLike[str]) -> list[Path]:
    """The files by :func:`write_shards`, in order.

    Raises:
        FileNotFoundError: There is none.
    """
    paths = sorted(Path(folder).glob("shard-*.parquet"))
    if not paths:
        raise FileNotFoundError(f"no shard-*.parquet in {folder}: write them with write_shards")
    return paths


def from_files(paths: Sequence[Path], *, seed: int) -> Shard:
    """Shards of files, all of them in each pass, in an order that is drawn anew for each."""

    def shard(number: int) -> CrystalTable:
        past, place = divmod(number, len(paths))
        order = np.random.default_rng([seed, past]).permutation(len(paths))
        return load_table(paths[order[place]])

    return shard


def made_up(size: int, *, abundance: np.ndarray, seed: int, workers: int) -> Shard:
    """Shards of made-up crystals, at most ``size`` each, all different, by some processes.

    ``abundance`` is that of :func:`.made_up_crystals`; space groups are equally frequent.
    """

    def shard(number: int) -> CrystalTable:
        groups = np.random.default_rng([seed, number]).integers(1, 231, size=size)
        pieces = np.array_split(groups, math.ceil(size / _PIECE))
        first = number * len(pieces)
        jobs = [(i, p, abundance, _seed(seed, first + i)) for i, p in enumerate(pieces)]
        made = dict(unordered(_piece, jobs, workers=workers))
        return concatenate([made[i] for i in range(len(pieces))])

    return shard


def _piece(
    place: int, groups: np.ndarray, abundance: np.ndarray, seed: int
) -> tuple[int, CrystalTable]:
    return place, made_up_crystals(groups, abundance=abundance, seed=seed)


def _seed(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def varied(table: CrystalTable, *, seed: int) -> Shard:
    """Shards with the crystals of one table, each with other elements and another size.

    Positions, and so space group and crystal system, stay; the elements of each crystal are swapped
    for others of the table, different ones for different ones, and the volume follows their
    covalent radii with a spread of a tenth. Formulas are left empty: such shards have no view of
    the composition.
    """
    radii = torch.tensor([0.0] + [gemmi.Element(z).covalent_r for z in range(1, 119)]).double()
    old, owner = table.atomic_numbers, table.atom_crystal
    known, rank = old.unique(return_inverse=True)

    def shard(number: int) -> CrystalTable:
        draw = torch.Generator().manual_seed(_seed(seed, number))
        swapped = torch.rand(len(table), len(known), generator=draw).argsort(dim=1)
        new = known[swapped[owner, rank]]
        balls = torch.zeros(2, len(table), dtype=torch.float64)
        balls.index_add_(1, owner, torch.stack([radii[old], radii[new]]) ** 3)
        spread = 0.1 * torch.randn(len(table), generator=draw, dtype=torch.float64)
        stretch = (balls[1] / balls[0] * spread.exp()) ** (1 / 3)
        lattice = table.lattice * stretch[:, None, None]
        return replace(
            table, atomic_numbers=new, lattice=lattice, info=table.info.assign(formula="")
        )

    return shard


def ahead(shard: Shard, count: int) -> Iterator[CrystalTable]:
    """Shards 0 to ``count`` - 1; while one is used, a thread gets the next."""
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(shard, 0)
        for number in range(1, count + 1):
            table = coming.result()
            if number < count:
                coming = pool.submit(shard, number)
            yield table


def train_on_stream(
    model: UniMat, shard: Shard, *, val: CrystalTable, config: FitConfig, device: str
) -> pd.DataFrame:
    """Train ``model`` in place on shards and leave the averaged weights in it.

    A shard takes the place of an epoch: ``config.epochs`` is their number, all passes together.
    Each step is that of :func:`.fit`. Units come from the first shard. Nothing is kept on the way;
    an interrupted run begins anew, and no epoch is chosen, so ``config.patience`` is not read.

    Args:
        model: The model; weights as they are are the starting point.
        shard: Where the crystals come from.
        val: Crystals whose losses are taken after the last shard; none of the training.
        config: The settings.
        device: ``cpu`` or ``cuda``.

    Returns:
        A row per shard: ``crystals`` in it, losses, ``seconds`` of steps, ``seconds_wait`` for the
        shard, ``seconds_views``, ``host_gib`` and ``device_gib``, peaks so far. The last row has
        the losses in validation, ``val_<name>``, too.

    Raises:
        ValueError: A shard is smaller than a batch, or the loss is not finite.
    """
    fabric = make_fabric(device)
    model.to(device)
    loop, history = None, []
    started = time.perf_counter()
    for number, table in enumerate(ahead(shard, config.epochs)):
        waited = time.perf_counter()
        if len(table) < config.batch_size:
            came = f"a batch of {config.batch_size} expected, shard {number} has {len(table)}"
            raise ValueError(f"{came} crystals: lower batch_size or make larger shards")
        if loop is not None:
            loop.views = views = None  # what they hold goes before the next comes
        views = _views(model, table, config, device)
        every = torch.arange(len(table), device=device)
        if loop is None:
            model.fit_scalers(views, every)
            loop = Loop(model, views, every, every, config, fabric)
        loop.views, loop.train = views, every
        built = time.perf_counter()
        row = train_epoch(loop, number) | {"crystals": len(table)}
        row |= {"seconds_wait": waited - started, "seconds_views": built - waited} | _peaks(device)
        if not math.isfinite(row["loss"]):
            raise ValueError(f"the loss is not finite in shard {number}: lower lr")
        history.append(row)
        started = time.perf_counter()
    loop.views = _views(model, val, config, device)
    loop.val = torch.arange(len(val), device=device)
    history[-1] |= validate(loop)
    model.load_state_dict(loop.average.state_dict())
    model.eval()
    return pd.DataFrame(history)


def _views(model: UniMat, table: CrystalTable, config: FitConfig, device: str) -> CrystalViews:
    names = ("grid", "fwhm", "cutoff", "max_neighbors", "modalities")
    settings = {name: getattr(model.config, name) for name in names}
    strain = config.measurement.strain if config.measurement else 0.0
    views = build_views(table, max_strain=strain, device=device, **settings)
    if device == "cuda":
        torch.cuda.synchronize()  # batches are cut out on another stream
    return views


def _peaks(device: str) -> dict[str, float]:
    on_device = torch.cuda.max_memory_allocated() if device == "cuda" else 0
    host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB
    return {"host_gib": host / 2**20, "device_gib": on_device / 2**30}
