"""Training on crystals that pass by, up to five million: is the speed the same, the memory bounded?

``write`` makes shards of Parquet: the training crystals of ``mp_20`` and those of ``mp_extra`` that
are unlike its others, in random order, and again with cells that are strained by up to 3 % until
there are enough. ``train`` goes through the first so many of them once, a new model for
each number. ``made_up`` takes no file: the first shard is made up by all cores, which is the slow
part and is timed by itself; the further ones are its crystals with other elements and other sizes.

Seconds count from the first shard that is there to the last step, waiting and views included; a
training of one shard goes before, so that what is done once does not count. On a CPU the encoder
and the batch are small ones, for sizes that a laptop can do.

    python benchmarks/stream.py write FOLDER --crystals 5000000
    python benchmarks/stream.py train FOLDER --device cuda --sizes 44000 161000 1000000 5000000
    python benchmarks/stream.py made_up --device cuda --sizes 44000 161000 1000000 5000000
"""

from __future__ import annotations

import argparse
import math
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from common import Result, device_name, record

from unimat_book.performance import growth_exponent
from unimat_book.stream import (
    Shard,
    from_files,
    made_up,
    shards_of,
    train_on_stream,
    varied,
    write_shards,
)
from unimat_lib.crystals.parquet import load_table
from unimat_lib.crystals.table import CrystalTable, concatenate
from unimat_lib.datasets.mp_extra import apart_from
from unimat_lib.datasets.preparation import load_dataset
from unimat_lib.model import UniMat, UniMatConfig
from unimat_lib.training.config import FitConfig
from unimat_lib.views.effects import Measurement
from unimat_lib.views.grid import Grid

STRAIN = 0.03
VALIDATION = 512  # crystals
EFFECTS = Measurement(fwhm=(0.08, 0.2), strain=0.01)
SMALL = {"width": 8, "depths": (1, 1), "position_channels": 4}


def write(args: argparse.Namespace) -> None:
    """Write shards of real crystals, strained copies of them from the second round on."""
    mp_20 = load_dataset("mp_20")
    table = concatenate([mp_20.split("train"), apart_from(load_dataset("mp_extra"), mp_20)])
    start = time.perf_counter()
    paths = write_shards(copies(table, args.crystals, args.shard), args.folder)
    seconds, size = time.perf_counter() - start, sum(path.stat().st_size for path in paths)
    print(f"{len(paths)} shards, {args.crystals:,} crystals, {size:,} bytes in {seconds:.0f} s")
    record(
        [
            Result(
                name="stream_write",
                value=args.crystals / seconds,
                unit="crystals/s",
                device=device_name(),
                notes=f"{args.crystals:,} crystals in {len(paths)} Parquet files, "
                f"{size / 2**30:.2f} GiB, one process",
            )
        ]
    )


def copies(table: CrystalTable, count: int, size: int) -> Iterator[CrystalTable]:
    """Tables of ``size`` crystals, ``count`` together; only the first round is not strained."""
    draw, done = np.random.default_rng(0), 0
    order = np.empty(0, dtype=np.int64)
    while done < count:
        while len(order) < min(size, count - done):
            order = np.append(order, draw.permutation(len(table)))
        rows, order = np.split(order, [min(size, count - done)])
        part = table.select(rows)
        again = torch.arange(done, done + len(rows)) >= len(table)
        stretch = 1 + STRAIN * (2 * torch.as_tensor(draw.random(len(rows))) - 1) * again
        yield replace(part, lattice=part.lattice * stretch[:, None, None])
        done += len(rows)
        print(f"{done:,} of {count:,}", flush=True)


def train(args: argparse.Namespace) -> None:
    """Train on shards from files."""
    paths = shards_of(args.folder)
    size = len(load_table(paths[0]))
    counts = [math.ceil(crystals / size) for crystals in args.sizes]
    if max(counts) > len(paths):
        raise SystemExit(f"{max(args.sizes):,} crystals asked for, {len(paths)} shards of {size:,}")
    sources = {count: from_files(paths[:count], seed=0) for count in counts}
    made = f"Parquet files of {size:,} crystals, one pass"
    record(measure("files", sources, made, args))


def train_made_up(args: argparse.Namespace) -> None:
    """Train on crystals that are made up as they are needed."""
    real = load_dataset("mp_20").split("train")
    present = torch.zeros(len(real), 119, dtype=torch.bool)
    present[real.atom_crystal, real.atomic_numbers] = True
    abundance = present.sum(0).numpy().astype(float)
    start = time.perf_counter()
    first = made_up(args.shard, abundance=abundance, seed=0, workers=args.workers)(0)
    rate = len(first) / (time.perf_counter() - start)
    print(f"{len(first):,} crystals made up, {rate:.0f} a second by {args.workers} processes")
    counts = [math.ceil(crystals / len(first)) for crystals in args.sizes]
    sources = {count: varied(first, seed=0) for count in counts}
    made = f"{len(first):,} made-up crystals, in each shard with other elements and sizes"
    made_result = Result(
        name="stream_make_up",
        value=rate,
        unit="crystals/s",
        device=device_name(),
        notes=f"{len(first):,} random crystals of all space groups, {args.workers} processes; each "
        "is reduced and its symmetry found",
    )
    record([made_result, *measure("made_up", sources, made, args)])


def measure(
    name: str, sources: dict[int, Shard], made: str, args: argparse.Namespace
) -> list[Result]:
    """Train a new model on each number of shards."""
    val = load_dataset("mp_20").split("val")
    val = val.select(np.random.default_rng(0).permutation(len(val))[:VALIDATION])
    names, cpu = tuple(args.modalities), args.device == "cpu"
    shape = {"grid": Grid(5.0, 90.0, 512), "xrd": SMALL, "dim": 32, "fwhm": 0.5} if cpu else {}
    batch = args.batch or (64 if cpu else 512)
    align = {"contrastive_weight": 1.0} if len(names) > 1 else {}
    series = []
    for count in [1, *sorted(sources)]:  # the first to warm up
        torch.manual_seed(0)
        if not cpu:
            torch.cuda.reset_peak_memory_stats()
        model = UniMat(UniMatConfig(modalities=names, inputs=names, **shape))
        effects = replace(EFFECTS, fwhm=(0.4, 0.6)) if cpu else EFFECTS
        config = FitConfig(epochs=count, batch_size=batch, measurement=effects, **align)
        shard = sources.get(count) or next(iter(sources.values()))
        history = train_on_stream(model, shard, val=val, config=config, device=args.device)
        parts = history[["seconds", "seconds_wait", "seconds_views"]].sum()
        parts["seconds_wait"] -= history["seconds_wait"].iloc[0]  # nothing to do meanwhile
        last, crystals = history.iloc[-1], int(history["crystals"].sum())
        point = {"crystals": crystals, "seconds": float(parts.sum())}
        point |= {key: float(last[key]) for key in ("host_gib", "device_gib", "val_loss")}
        point["waiting"] = float(parts["seconds_wait"] / parts.sum())
        point["views"] = float(parts["seconds_views"] / parts.sum())
        series.append(point)
        print(
            f"{crystals:10,} crystals, {count:4} shards: {point['seconds']:8.1f} s, "
            f"{crystals / point['seconds']:8,.0f}/s, waiting {point['waiting']:.0%}, "
            f"views {point['views']:.0%}, "
            f"{point['host_gib']:.2f} GiB host, {point['device_gib']:.2f} GiB device, "
            f"validation {point['val_loss']:.3f}",
            flush=True,
        )
    series = series[1:]
    last = series[-1]
    if len(series) > 1:
        print(f"{name}: exponent {growth_exponent(series):.2f}")
    kind = "cpu" if cpu else "gpu"
    device, what = device_name(args.device), "_".join(names)
    encoder = "a small encoder" if cpu else "the default encoders"
    notes = f"{made}; {', '.join(names)}, batch {batch}, {encoder}"
    return [
        Result(
            name=f"stream_{name}_{what}_{kind}",
            value=last["crystals"] / last["seconds"],
            unit="crystals/s",
            device=device,
            notes=f"{notes}; {last['waiting']:.0%} of the time waiting for shards, "
            f"{last['views']:.0%} computing their views",
            series=series,
        ),
        Result(
            name=f"stream_{name}_{what}_{kind}_memory",
            value=last["host_gib"] if cpu else last["device_gib"],
            unit="GiB",
            device=device,
            notes=f"peak {'of the process' if cpu else 'on the GPU'} with the most crystals; "
            f"{notes}",
        ),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, run in {"write": write, "train": train, "made_up": train_made_up}.items():
        command = commands.add_parser(name, help=run.__doc__)
        command.set_defaults(run=run)
        if run is not train_made_up:
            command.add_argument("folder", type=Path, help="of the shards")
        if run is not train:
            command.add_argument("--shard", type=int, default=44_000, help="crystals of a shard")
        if run is write:
            command.add_argument("--crystals", type=int, default=44_000, help="all together")
            continue
        command.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
        command.add_argument("--sizes", type=int, nargs="+", default=[10_000, 20_000, 40_000])
        command.add_argument("--modalities", nargs="+", default=["xrd"])
        command.add_argument("--batch", type=int, help="crystals a step (64 on a CPU, else 512)")
        if run is train_made_up:
            cores = len(os.sched_getaffinity(0))
            command.add_argument("--workers", type=int, default=cores, help="processes")
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
