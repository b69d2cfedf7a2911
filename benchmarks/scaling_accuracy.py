"""Accuracy after the same number of crystals seen on 1, 2, 4, ... GPUs with one global batch.

The negatives of the contrastive loss and the statistics of BatchNorm are those of the global batch
whatever the number of GPUs, so the validation loss is to be the same within the spread of seeds.

    python benchmarks/scaling_accuracy.py --out FILE.json     # all GPUs, under four minutes
    python benchmarks/scaling_accuracy.py --device cpu --profile quick --processes 1 2 --batch 32
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from common import Result, device_name
from scaling import (
    SETTINGS,
    add_point,
    chosen_settings,
    make_model,
    make_views,
    numbers,
    points_file,
    read_points,
    run_all,
    say,
)

from unimat_book.scaling.fit import fit_together
from unimat_book.scaling.group import open_group


def work(args: argparse.Namespace) -> None:
    """Train every setting with every seed in this process of a group."""
    with open_group(args.device) as group, tempfile.TemporaryDirectory() as own:
        runs = group.objects(own)[0]  # the first one's folder is there as long as it lives
        views, train, val = make_views(args.profile, group.device)
        trained = chosen_settings(args.profile, args.settings)
        for seed in args.seeds:
            for name, setting in trained.items():
                if group.objects(time.time())[0] > args.worker:
                    say(group, f"no time left for {name} with seed {seed}")
                    continue
                model = make_model(setting, views, train, seed=seed)
                given = {"epochs": args.epochs, "batch_size": args.batch, "seed": seed}
                config = dataclasses.replace(setting.fit, **given)
                where = {"train": train, "val": val, "config": config, "run_dir": runs}
                result = fit_together(model, views, **where, group=group)
                point = {"setting": name, "gpus": group.size, "seed": seed, "batch": args.batch}
                point |= {"val_loss": float(result.history["val_loss"].min())}
                point |= {"loss": float(result.history["loss"].iloc[-1])}
                point |= {"crystals": len(train) // args.batch * args.batch * args.epochs}
                point |= {"seconds": result.seconds, "device": device_name(args.device)}
                line = "{setting:<10}{gpus} GPU, seed {seed}: {val_loss:.5f} in {seconds:.1f} s"
                say(group, line.format(**point))
                if group.rank == 0:
                    add_point(args.out, point)
        group.barrier()


def rows_of(points: Sequence[Mapping[str, object]]) -> list[Result]:
    """Mean and spread of the validation loss by setting and number of GPUs."""
    results = []
    groups = dict.fromkeys((p["setting"], p["gpus"]) for p in points)
    losses = {
        key: [p["val_loss"] for p in points if (p["setting"], p["gpus"]) == key] for key in groups
    }
    for (name, gpus), values in losses.items():
        point = next(p for p in points if (p["setting"], p["gpus"]) == (name, gpus))
        mean, spread = statistics.fmean(values), _spread(values)
        notes = (
            f"validation loss, mean of {len(values)} seeds, standard deviation {spread:.4f}; "
            f"global batch {point['batch']}, {point['crystals']:,} crystals seen"
        )
        if gpus > 1 and (alone := losses.get((name, 1))):
            away = mean - statistics.fmean(alone)
            notes += f"; {away:+.4f} against one GPU, whose seeds spread by {_spread(alone):.4f}"
        results.append(
            Result(
                name=f"scaling_accuracy_{name}_{gpus}_gpu{'s' if gpus > 1 else ''}",
                value=mean,
                unit="1",
                device=f"{gpus} x {point['device']}" if gpus > 1 else str(point["device"]),
                notes=notes,
            )
        )
    return results


def _spread(values: Sequence[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--profile", default="full", help="profile of params.yml")
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=["xrd", "aligned"])
    parser.add_argument("--processes", nargs="+", type=int, help="default: 1, 2, 4, ... all GPUs")
    parser.add_argument("--batch", type=int, default=1024, help="crystals of all GPUs together")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--seconds", type=float, default=220.0, help="begin nothing new after")
    parser.add_argument("--out", type=Path, default=Path("scaling_accuracy.json"))
    parser.add_argument("--worker", type=float, help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.out = args.out.resolve()
    if args.worker is not None:
        work(args)
        return 0
    points_file(args.out).unlink(missing_ok=True)
    failed = run_all(__file__, args, numbers(args), rows_of)
    points = read_points(args.out)
    for result in rows_of(points):
        print(f"{result.name:<36}{result.value:>10.5f}  {result.notes}")
    return failed


if __name__ == "__main__":
    sys.exit(main())
