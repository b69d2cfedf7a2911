"""Train the network that reads measurements, and watch it on simulated and measured patterns.

    python benchmarks/train_reader.py pack FOLDER
    python benchmarks/train_reader.py half SOURCE FOLDER
    python benchmarks/train_reader.py make_up FOLDER [--number 160000]
    python benchmarks/train_reader.py train RUN FOLDER --seconds 1320 --compile
    python benchmarks/train_reader.py average READER.safetensors RUN/average-*.safetensors

``pack`` writes MP-20's training and validation crystals and further ones, small enough to travel;
``make_up`` adds made-up ones.
``half`` keeps the measured patterns that may be looked at, with their labels. ``train`` goes on
with the run in its folder and stops after ``--seconds``; it writes a line to ``log.jsonl`` now and
then: the shares of right answers on simulated validation crystals and on measured patterns.
``average`` writes the mean of the weights of some snapshots of a run, which is what is shipped.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from unimat_lib.crystals.table import CrystalTable, concatenate, table_from_arrays
from unimat_lib.datasets.preparation import load_dataset
from unimat_lib.identity import identity_of
from unimat_lib.processes import unordered
from unimat_lib.training.checkpoint import load_tensors
from unimat_powder.network.composition import parsed_composition
from unimat_powder.network.made_up import made_up_crystals
from unimat_powder.network.predict import load_reader, on_grid, save_reader
from unimat_powder.network.reader import Reader
from unimat_powder.network.samples import (
    Targets,
    TrainingCrystals,
    joined,
    measured_batch,
    training_crystals,
)
from unimat_powder.network.scores import SETTINGS, read_all, scores
from unimat_powder.network.training import Run, TrainingConfig, train
from unimat_powder.network.views import Views, views_of
from unimat_powder.simulation.ranges import RRUFF

STEPS_OF_CELL = 65520  # coordinates are kept as so many parts of a cell: sixths, eighths, tenths
MOST_ATOMS = 100


def pack(folder: Path) -> None:
    mp_20 = load_dataset("mp_20")
    for name, table in (
        ("train", mp_20.split("train")),
        ("val", mp_20.split("val")),
        ("extra", load_dataset("mp_extra")),
    ):
        save_crystals(folder / f"{name}.npz", table)


def save_crystals(path: Path, table: CrystalTable) -> None:
    steps = (table.frac_coords * STEPS_OF_CELL).round().numpy() % STEPS_OF_CELL
    np.savez_compressed(
        path,
        lattice=table.lattice.numpy().astype(np.float32),
        atomic_numbers=table.atomic_numbers.numpy().astype(np.uint8),
        steps=steps.astype(np.uint16),
        counts=table.num_atoms.numpy().astype(np.int32),
        space_group=table.space_group.numpy().astype(np.uint8),
    )


def load_crystals(path: Path) -> CrystalTable:
    with np.load(path) as file:
        arrays = dict(file)
    group = arrays["space_group"].astype(np.int64)
    info = pd.DataFrame({"space_group": group, "material_id": "", "formula": ""})
    info["split"], info["source"] = "extra", ""
    ends = arrays["counts"].cumsum()[:-1]
    frac = np.split(arrays["steps"] / STEPS_OF_CELL, ends)
    numbers = np.split(arrays["atomic_numbers"].astype(np.int64), ends)
    return table_from_arrays(arrays["lattice"].astype(np.float64), frac, numbers, info)


def make_up(folder: Path, number: int, workers: int, seed: int) -> None:
    table = load_crystals(folder / "train.npz")
    present = torch.zeros(len(table), 119, dtype=torch.bool)
    present[table.atom_crystal, table.atomic_numbers] = True
    abundance = present.sum(0).numpy().astype(float)
    groups = np.random.default_rng(seed).integers(1, 231, size=number)
    chunks = np.array_split(groups, max(workers * 4, 1))
    jobs = [(i, chunk, abundance, seed * 10_000 + i) for i, chunk in enumerate(chunks)]
    made = dict(unordered(_made_up, jobs, workers=workers))
    save_crystals(folder / "made_up.npz", concatenate([made[i] for i in range(len(chunks))]))


def _made_up(
    place: int, groups: np.ndarray, abundance: np.ndarray, seed: int
) -> tuple[int, CrystalTable]:
    return place, made_up_crystals(groups, abundance=abundance, seed=seed)


def half(source: Path, folder: Path) -> None:
    """The first half of the labelled patterns, on the network's grid."""
    from unimat_book.ledger.measured import FIRST_HALF
    from unimat_book.measured import load_rruff

    labelled = load_rruff(source)[:FIRST_HALF]
    rows = [on_grid(one.pattern) for one in labelled]
    cells = [np.append(np.log(one.lengths), np.cos(np.radians(one.angles))) for one in labelled]
    np.savez_compressed(
        folder / "half.npz",
        counts=torch.cat([counts for counts, _ in rows]).numpy(),
        mask=torch.cat([mask for _, mask in rows]).numpy(),
        group=np.array([one.space_group - 1 for one in labelled]),
        cell=np.array(cells, dtype=np.float32),
        fractions=torch.cat([parsed_composition(None, one.formula)[0] for one in labelled]),
    )


def load_half(path: Path, device: str) -> tuple[Views, torch.Tensor, Targets]:
    with np.load(path) as file:
        counts, mask, group, cell, fractions = (
            torch.from_numpy(file[name]).to(device)
            for name in ("counts", "mask", "group", "cell", "fractions")
        )
    return (
        views_of(counts, mask),
        fractions,
        Targets(group, cell, torch.zeros(len(cell), 3).to(cell)),
    )


def validation(table: CrystalTable, device: str) -> tuple[Views, torch.Tensor, Targets]:
    """Simulated measurements, with one laboratory's habits, of some crystals not trained on."""
    crystals = training_crystals(table, made_up=False, device=device)
    generator = torch.Generator(device).manual_seed(1)
    index = torch.arange(len(crystals), device=device)
    counts, mask, targets = measured_batch(
        crystals, index, generator=generator, habits=((RRUFF, 1.0),), white_noise=0.0
    )
    return views_of(counts, mask), crystals.fractions.float(), targets


def divided(table: CrystalTable, number: int) -> tuple[CrystalTable, CrystalTable]:
    """So many random crystals of a table, and the others."""
    order = torch.randperm(len(table), generator=torch.Generator().manual_seed(1))
    return table.select(order[:number]), table.select(order[number:])


def average(path: Path, snapshots: list[Path]) -> None:
    models = [load_reader(snapshot) for snapshot in snapshots]
    weights = [model.state_dict() for model in models]
    mean = {name: sum(each[name] for each in weights) / len(weights) for name in weights[0]}
    models[0].load_state_dict(mean)
    record = {
        "training": {
            "steps": [int(one.stem.rpartition("-")[2]) for one in snapshots],
            "batch_size": 1024,
            "weights": "mean of the snapshots after these steps, each a running average",
            "crystals": "MP-20 train, further Materials Project crystals, made-up ones",
            "code": identity_of("unimat_powder.network.training:train").digest,
        }
    }
    save_reader(models[0], path, record=record)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("pack").add_argument("folder", type=Path)
    command = commands.add_parser("half")
    command.add_argument("source", type=Path)
    command.add_argument("folder", type=Path)
    command = commands.add_parser("make_up")
    command.add_argument("folder", type=Path)
    command.add_argument("--number", type=int, default=160_000)
    command.add_argument("--workers", type=int, default=16)
    command.add_argument("--seed", type=int, default=0)
    command = commands.add_parser("average")
    command.add_argument("reader", type=Path)
    command.add_argument("snapshots", type=Path, nargs="+")
    command = commands.add_parser("train")
    command.add_argument("run", type=Path)
    command.add_argument("folder", type=Path)
    command.add_argument("--inputs", default="both")
    command.add_argument("--steps", type=int, help="without, what fits into --seconds")
    command.add_argument("--batch-size", type=int, default=1024)
    command.add_argument("--lr", type=float, default=1.5e-3)
    command.add_argument("--share", type=float, default=0.25, help="of made-up crystals")
    command.add_argument("--seconds", type=float, default=math.inf)
    command.add_argument("--every", type=float, default=30.0, help="seconds between log lines")
    command.add_argument("--device", default="cuda")
    command.add_argument("--compile", action="store_true")
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--validation", type=int, default=1500, help="crystals to watch on")
    command.add_argument("--limit", type=int, help="of crystals, for a trial")
    arguments = parser.parse_args()
    if arguments.command == "pack":
        pack(arguments.folder)
    elif arguments.command == "average":
        average(arguments.reader, arguments.snapshots)
    elif arguments.command == "half":
        half(arguments.source, arguments.folder)
    elif arguments.command == "make_up":
        a = arguments
        make_up(a.folder, a.number, a.workers, a.seed)
    else:
        run_training(arguments)


def training_data(a: argparse.Namespace) -> tuple[TrainingCrystals, dict[str, tuple]]:
    """Crystals to train on, and the patterns that the run is watched on."""
    tables = {
        path.stem: load_crystals(path)
        for path in sorted(a.folder.glob("*.npz"))
        if path.stem != "half"
    }
    tables = {name: table.select(table.num_atoms <= MOST_ATOMS) for name, table in tables.items()}
    watched, _ = divided(tables.pop("val"), a.validation)
    sets = {"simulated": validation(watched, a.device)}
    if "extra" in tables:
        watched, tables["extra"] = divided(tables["extra"], a.validation)
        sets["larger"] = validation(watched, a.device)
    sets["measured"] = load_half(a.folder / "half.npz", a.device)
    if a.limit:
        tables = {name: divided(table, a.limit)[0] for name, table in tables.items()}
    parts = [
        training_crystals(table, made_up=name.startswith("made_up"), device=a.device)
        for name, table in tables.items()
    ]
    print({name: len(table) for name, table in tables.items()}, flush=True)
    return joined(parts), sets


def run_training(a: argparse.Namespace) -> None:
    started = time.monotonic()
    torch.set_float32_matmul_precision("high")
    crystals, sets = training_data(a)
    checkpoint = checkpoint_of(a.run)
    config = TrainingConfig(a.steps or 10**6, a.batch_size, lr=a.lr, made_up=a.share, seed=a.seed)
    if checkpoint.is_file():
        config = TrainingConfig(**load_tensors(checkpoint)[1]["config"])
    torch.manual_seed(config.seed)
    run = Run(Reader(inputs=a.inputs), config, device=a.device)
    a.run.mkdir(parents=True, exist_ok=True)
    if checkpoint.is_file():
        run.load(checkpoint)
    print(f"{len(crystals)} crystals ready after {time.monotonic() - started:.0f} s", flush=True)
    forward = torch.compile(run.model, dynamic=False) if a.compile else None
    if config.steps == 10**6:  # as many steps as fit, from the speed of the first ones
        train(run, crystals, until=20, forward=forward)
        synchronize(a.device)
        begun = time.monotonic()
        train(run, crystals, until=120, forward=forward)
        synchronize(a.device)
        left = a.seconds - (time.monotonic() - started)
        steps = run.step + round(0.97 * left / (time.monotonic() - begun) * 100)
        run.config = config = replace(config, steps=steps)
        print(f"{steps} steps", flush=True)
    watch(run, crystals, sets, a, forward, started)


def checkpoint_of(folder: Path) -> Path:
    return folder / "last.safetensors"


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def watch(
    run: Run,
    crystals: TrainingCrystals,
    sets: dict[str, tuple],
    a: argparse.Namespace,
    forward: torch.nn.Module | None,
    started: float,
) -> None:
    """Train, and write down how it goes."""
    begun, first = time.monotonic(), run.step
    logged = saved = kept = begun
    losses: list[torch.Tensor] = []
    while run.step < run.config.steps:
        train(run, crystals, until=run.step + 50, on_step=losses.append, forward=forward)
        now = time.monotonic()
        over = now - started > a.seconds or run.step == run.config.steps
        if now - logged > a.every or over:
            speed = (run.step - first) * run.config.batch_size / (now - begun)
            line = {"step": run.step, "seconds": round(now - started), "speed": round(speed)}
            line["loss"] = round(torch.stack(losses).mean().item(), 4)
            line |= all_scores(run, sets)
            with open(a.run / "log.jsonl", "a", encoding="utf-8") as log:
                log.write(json.dumps(line) + "\n")
            print(short(line), flush=True)
            losses.clear()
            logged = time.monotonic()
        if now - kept > 240 or over:
            save_reader(run.average, a.run / f"average-{run.step:06d}.safetensors", record=line)
            kept = now
        if now - saved > 120 or over:
            run.save(checkpoint_of(a.run))
            saved = now
        if over:
            (a.run / "done").touch()
            break


def all_scores(run: Run, sets: dict[str, tuple]) -> dict[str, float]:
    found = {}
    for name, (views, fractions, targets) in sets.items():
        for known, setting in enumerate(SETTINGS):
            got = scores(read_all(run.average, views, fractions, known), targets)
            found |= {f"{name} {setting} {key}": round(x, 4) for key, x in got.items()}
    return found


def short(line: dict) -> str:
    words = [f"{line['step']:6d} {line['seconds']:4d} s {line['loss']:.3f} {line['speed']}/s"]
    for name in ("simulated", "larger", "measured"):
        for setting in SETTINGS:
            if f"{name} {setting} system" in line:
                values = [line[f"{name} {setting} {k}"] for k in ("system", "group", "length")]
                values = " ".join(f"{100 * x:.1f}" for x in values)
                words.append(f"{name[:3]} {setting[:4]} {values}")
    return " | ".join(words)


if __name__ == "__main__":
    main()
