"""Training on 1, 2, 4, ... GPUs of one host: crystals per second, efficiency, and what limits it.

Settings are structure, XRD and the two aligned, as in the paper's table. Each number of GPUs trains
with each batch per GPU; only steps that are replayed count. The efficiency is that at the batch per
GPU with which one GPU is fastest: the rate of n GPUs over n times that of one. The time that more
GPUs take is also measured piece by piece (the all-reduce of the gradients alone), and eight GPUs
are predicted from the growth of a step.

    python benchmarks/scaling.py --out FILE.json   # all GPUs, under four minutes
    python benchmarks/scaling.py --check           # a minute: do two GPUs reach what one does?
    python benchmarks/scaling.py --check --processes 1 1 2   # and one GPU what it did itself?
    python benchmarks/scaling.py --device cpu --profile quick --processes 1 2 --batch 4 8
    python benchmarks/scaling.py --keep *.points.json   # for the appendix, which shows them
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import json
import math
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from common import Result, device_name, record, timed
from paper_table import Setting, grid_of, parameters, settings
from torch import Tensor, nn

from unimat_book.scaling.group import Group, open_group
from unimat_book.scaling.launch import run_together
from unimat_book.scaling.loop import SharedLoop
from unimat_book.scaling.shared import sharing
from unimat_lib.datasets.preparation import load_dataset
from unimat_lib.files import replacing
from unimat_lib.model import UniMat
from unimat_lib.views.batch import CrystalViews, build_views

SETTINGS = {"xrd": "xrd", "structure": "structure", "aligned": "structure_aligned_xrd"}
EPOCHS = 3  # one to warm up, in which the step is recorded, then the timed ones
CHECKED_STEPS = 20
KEPT = Path(__file__).resolve().parent / "scaling_points.json"
ABOUT = (
    "Points of benchmarks/scaling.py (speed, check) and scaling_accuracy.py (accuracy), kept by "
    "scaling.py --keep. batch: crystals per GPU (speed) or of all GPUs (accuracy); seconds: of a "
    "step, the shorter of two timed epochs on the slowest GPU; allreduce_seconds: of the sum of "
    "all gradients, alone; peaks (per second) and least work (per crystal) are those of one GPU; "
    "losses: of the first steps in float32 with one global batch; before: the first edition."
)
BEFORE = {"xrd": (38_413, 16_843), "structure": (41_358, 8_633), "aligned": (20_315, 7_534)}
"""Crystals/s on one and two H100 with 256 crystals each, before training was shared."""


# ------------------------------------------------------------------- in each process of a group


def chosen_settings(profile: str, names: Sequence[str]) -> dict[str, Setting]:
    """Model and training by the short name of a setting."""
    found = {setting.name: setting for setting in settings(profile)}
    return {name: found[SETTINGS[name]] for name in names}


def make_views(profile: str, device: torch.device) -> tuple[CrystalViews, Tensor, Tensor]:
    """All crystals on a device, and the rows to train and to validate on."""
    p = parameters(profile, "03_encoders")
    table = load_dataset(p["dataset"])
    same = {name: p[name] for name in ("fwhm", "cutoff", "max_neighbors")}
    views = build_views(
        table, grid=grid_of(p), **same, modalities=("structure", "xrd"), device=device
    )
    splits = table.info["split"].to_numpy()
    return views, *(torch.from_numpy((splits == s).nonzero()[0]) for s in ("train", "val"))


def make_model(setting: Setting, views: CrystalViews, train: Tensor, *, seed: int = 0) -> UniMat:
    torch.manual_seed(seed)
    model = UniMat(setting.model)
    model.fit_scalers(views, train.to(views.device))
    return model.to(views.device)


def measure(
    setting: Setting, views: CrystalViews, train: Tensor, *, batch: int, steps: int, group: Group
) -> dict[str, float]:
    """Seconds of a step with ``batch`` crystals in each process."""
    whole = batch * group.size
    gc.collect()  # the recorded steps of the measurement before
    if views.device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(views.device)
    # Rows are drawn with repeats, so that an epoch has the steps that a clock needs.
    generator = torch.Generator().manual_seed(0)
    rows = train[torch.randint(len(train), (steps * whole,), generator=generator)]
    config = dataclasses.replace(setting.fit, epochs=EPOCHS, batch_size=whole)
    model = make_model(setting, views, train)
    work = least_work(model, views, rows[: min(batch, 256)].to(views.device), group)
    rows = rows.to(views.device)
    loop = SharedLoop(model, views, rows, rows[:whole], config, group)
    with sharing(model, group):
        seconds = [loop.epoch(epoch)["seconds"] / steps for epoch in range(EPOCHS)]
    replayed = loop.training_step.recorded
    memory = torch.cuda.max_memory_allocated(views.device) if replayed else 0
    gradient = 4 * sum(p.numel() for p in model.parameters() if p.grad is not None)
    exchange = time_of_sum(gradient // 4, group)
    loop.release()
    slowest = max(group.objects(min(seconds[1:])))
    return {
        "batch": batch,
        "seconds": slowest,
        "crystals_per_second": whole / slowest,
        "replayed": float(replayed),
        "memory_gib": memory / 2**30,
        "gradient_mb": gradient / 1e6,
        "allreduce_seconds": exchange,
        **work,
    }


@torch.no_grad()
def least_work(model: UniMat, views: CrystalViews, rows: Tensor, group: Group) -> dict[str, float]:
    """Operations and bytes of a training step per crystal, in the linear layers that are called.

    Each is a product in the forward pass and two for the gradients; input and output move once
    forward, the gradient of the output, the input and its gradient once backward, in bfloat16.
    """
    total = {"operations": 0.0, "bytes": 0.0}

    def count(layer: nn.Linear, inputs: tuple[Tensor], output: Tensor) -> None:
        total["operations"] += 6 * inputs[0].numel() * layer.out_features
        total["bytes"] += 2 * (3 * inputs[0].numel() + 2 * output.numel())

    hooks = [m.register_forward_hook(count) for m in model.modules() if isinstance(m, nn.Linear)]
    batch = views.batch(rows, modalities=model.config.modalities)
    model.eval()
    with group.autocast():
        model(batch.views)
    for hook in hooks:
        hook.remove()
    return {f"{name}_per_crystal": value / len(rows) for name, value in total.items()}


def time_of_sum(count: int, group: Group) -> float:
    """Seconds of an all-reduce of so many float32 numbers, the mean of ten in a row."""
    x = torch.zeros(count, device=group.device)

    def ten() -> None:
        for _ in range(10):
            group.sum_(x)

    return timed(ten, device=group.device.type) / 10 if group.size > 1 else 0.0


def peaks(group: Group) -> dict[str, float]:
    """What the device reaches: operations/s in bfloat16, bytes/s, and bytes/s between devices."""
    device, large = group.device, group.device.type == "cuda"
    size, count = (8192, 2**29) if large else (256, 2**20)
    a = torch.ones(size, size, device=device, dtype=torch.bfloat16)
    x = torch.zeros(count, device=device)
    y = torch.empty_like(x)
    product = timed(lambda: a @ a, repeats=5, device=device.type)
    copy = timed(lambda: y.copy_(x), repeats=5, device=device.type)
    found = {"operations_per_second": 2 * size**3 / product, "bytes_per_second": 8 * count / copy}
    if group.size > 1:
        count = 2**26 if large else 2**18
        around = 2 * (group.size - 1) / group.size * 4 * count  # bytes that each sends in a ring
        found["bus_bytes_per_second"] = around / time_of_sum(count, group)
    return found


def work(args: argparse.Namespace) -> None:
    """Measure all settings in this process of a group; the first one writes the points."""
    until = args.worker
    with open_group(args.device) as group:
        started = time.perf_counter()
        views, train, _ = make_views(args.profile, group.device)
        found = peaks(group)
        say(group, f"ready after {time.perf_counter() - started:.0f} s, {found}")
        for batch in args.batch:
            for name, setting in chosen_settings(args.profile, args.settings).items():
                if group.objects(time.time())[0] > until:
                    say(group, f"no time left for {name} with {batch}")
                    continue
                steps = args.steps or max(8, args.crystals // batch)
                given = {"batch": batch, "steps": steps, "group": group}
                point = measure(setting, views, train, **given)
                point |= {"setting": name, "gpus": group.size, **found}
                point |= {"device": device_name(args.device)}
                line = "{setting:<10}{gpus} x {batch:<5}{crystals_per_second:>10,.0f} crystals/s"
                line += "  {seconds:.5f} s  {memory_gib:5.1f} GiB  sum {allreduce_seconds:.6f} s"
                say(group, line.format(**point))
                if group.rank == 0:
                    add_point(args.out, point)


def say(group: Group, text: str) -> None:
    if group.rank == 0:
        print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def points_file(out: Path) -> Path:
    return out.with_suffix(".points.json")


def add_point(out: Path, point: Mapping[str, object]) -> None:
    """Add to the points measured so far, which are whole at any moment."""
    points = [*read_points(out), point]
    with replacing(points_file(out)) as temporary:
        temporary.write_text(json.dumps(points, indent=1), encoding="utf-8")


def read_points(out: Path) -> list[dict]:
    path = points_file(out)
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []


# --------------------------------------------------------------------------------- from the points


def rows_of(points: Sequence[Mapping[str, object]]) -> list[Result]:
    """Rates, efficiencies and the prediction for eight, from what was measured."""
    results = []
    for name in dict.fromkeys(point["setting"] for point in points):
        own = {(p["gpus"], p["batch"]): p for p in points if p["setting"] == name}
        alone = [p for p in own.values() if p["gpus"] == 1]
        if not alone:
            continue
        one = max(alone, key=lambda p: p["crystals_per_second"])
        same = {p["gpus"]: p for p in own.values() if p["batch"] == one["batch"]}
        for gpus, point in sorted(same.items()):
            results.append(_rate(name, gpus, point))
            if gpus > 1:
                results.append(_efficiency(name, gpus, point, one, own))
        more = sorted(gpus for gpus in same if gpus > 1)
        if more and 8 not in more:
            results.append(_prediction(name, {gpus: same[gpus]["seconds"] for gpus in [1, *more]}))
            results[-1] = dataclasses.replace(results[-1], device=str(one["device"]))
    return results


def _rate(name: str, gpus: int, point: Mapping) -> Result:
    arithmetic = point["operations_per_second"] / point["operations_per_crystal"]
    memory = point["bytes_per_second"] / point["bytes_per_crystal"]
    least = max(1 / arithmetic, 1 / memory) * point["batch"]
    travel = 0.0
    if gpus > 1:
        around = 2 * (gpus - 1) / gpus * 1e6 * point["gradient_mb"]
        travel = around / point["bus_bytes_per_second"]
    notes = (
        f"{point['batch']} crystals per GPU and step of {1e3 * point['seconds']:.2f} ms; floors of "
        f"a GPU: {arithmetic:,.0f} crystals/s by arithmetic, {memory:,.0f} by memory (linear "
        f"layers, peaks measured here)"
    )
    if gpus > 1:
        notes += (
            f"; {point['gradient_mb']:.1f} MB of gradients take {1e6 * travel:.0f} us at the "
            f"measured {point['bus_bytes_per_second'] / 1e9:.0f} GB/s between GPUs, "
            f"{1e6 * point['allreduce_seconds']:.0f} us as measured alone"
        )
    return Result(
        name=f"scaling_{name}_{gpus}_gpu{'s' if gpus > 1 else ''}_rate",
        value=point["crystals_per_second"],
        unit="crystals/s",
        device=_devices(gpus, point),
        floor=gpus * point["batch"] / (least + travel),
        notes=notes,
    )


def _efficiency(name: str, gpus: int, point: Mapping, one: Mapping, own: Mapping) -> Result:
    speedup = point["crystals_per_second"] / one["crystals_per_second"]
    shares = {
        batch: p["crystals_per_second"] / gpus / own[1, batch]["crystals_per_second"]
        for (n, batch), p in sorted(own.items())
        if n == gpus and (1, batch) in own
    }
    others = [f"{batch}: {100 * share:.1f}" for batch, share in shares.items()]
    longer = 1e6 * (point["seconds"] - one["seconds"])
    return Result(
        name=f"scaling_{name}_{gpus}_gpus_percent",
        value=100 * speedup / gpus,
        unit="%",
        device=_devices(gpus, point),
        baseline=f"one GPU with its best batch, {one['batch']}",
        ratio=speedup,
        notes=(
            f"a step is {longer:.0f} us longer than on one GPU, of which the all-reduce of "
            f"{point['gradient_mb']:.1f} MB takes {1e6 * point['allreduce_seconds']:.0f} us alone; "
            f"percent by batch per GPU: {', '.join(others)}"
        ),
    )


def _prediction(name: str, seconds: Mapping[int, float]) -> Result:
    """Eight GPUs, from how a step grew with the number of them.

    What more GPUs add grows with the bytes that each sends, 2 (n - 1) / n gradients, or by as much
    again with each doubling, whichever is more.
    """
    last = max(seconds)
    added = {n: max(0.0, seconds[n] - seconds[1]) for n in seconds}
    by_bytes = added[last] * (7 / 8) / ((last - 1) / last)
    by_doubling = added[last]
    if last // 2 in added:
        by_doubling += max(0.0, added[last] - added[last // 2]) * math.log2(8 / last)
    step = seconds[1] + max(by_bytes, by_doubling)
    return Result(
        name=f"scaling_{name}_8_gpus_predicted_percent",
        value=100 * seconds[1] / step,
        unit="%",
        device="predicted",
        notes=(
            f"not measured: a step grew by {1e6 * added[last]:.0f} us from 1 to {last} GPUs; that "
            f"growth goes on with the bytes sent ({1e6 * by_bytes:.0f} us for eight) or with each "
            f"doubling ({1e6 * by_doubling:.0f} us), the larger counts"
        ),
    )


def _devices(gpus: int, point: Mapping) -> str:
    return f"{gpus} x {point['device']}" if gpus > 1 else str(point["device"])


# -------------------------------------------------------------------------------------- the check


def check(args: argparse.Namespace) -> None:
    """Twenty steps of each setting with one global batch, in float32; losses go to a file."""
    with open_group(args.device, half=False) as group:
        torch.set_float32_matmul_precision("highest")
        views, train, _ = make_views(args.profile, group.device)
        for name, setting in chosen_settings(args.profile, args.settings).items():
            quiet = {**setting.model.xrd, "dropout": 0.0}
            setting = dataclasses.replace(
                setting, model=dataclasses.replace(setting.model, xrd=quiet)
            )
            whole = min(2 * min(args.batch), len(train) // 2 * 2)
            config = dataclasses.replace(setting.fit, epochs=CHECKED_STEPS, batch_size=whole)
            model = make_model(setting, views, train)
            rows = train[:whole].to(views.device)
            loop = SharedLoop(model, views, rows, rows, config, group)
            with sharing(model, group):
                losses = [loop.epoch(epoch)["loss"] for epoch in range(CHECKED_STEPS)]
            point = {"setting": name, "gpus": group.size, "losses": losses}
            point |= {"replayed": loop.training_step.recorded}
            loop.release()
            say(group, f"{name} on {group.size}: {losses[0]:.6f} ... {losses[-1]:.6f}")
            if group.rank == 0:
                add_point(args.out, point)


def compare(points: Sequence[Mapping]) -> int:
    """Print how far the losses of several processes are from those of one; the worst decides.

    One process that comes twice is compared with itself: no agreement is to be had beyond that.
    """
    worst = 0.0
    ones: dict[str, Mapping] = {}
    for point in points:
        if point["gpus"] == 1 and point["setting"] not in ones:
            ones[point["setting"]] = point
            continue
        pairs = zip(point["losses"], ones[point["setting"]]["losses"], strict=True)
        away = [abs(a - b) / abs(b) for a, b in pairs]
        how = "replayed" if point["replayed"] else "not replayed"
        print(
            f"{point['setting']:<10}{point['gpus']} against 1 ({how}): relative difference of the "
            f"loss {away[0]:.1e} in the first step, at most {max(away):.1e} in {len(away)}"
        )
        worst = max(worst, *away)
    print("agree" if worst < 1e-3 else "DO NOT AGREE")
    return int(worst >= 1e-3)


# ------------------------------------------------------------------------------- for the appendix


def keep(paths: Sequence[Path], into: Path = KEPT) -> None:
    """Put points of the speed, the accuracy and the check into one file, a point per line.

    A kind that none of the files has stays as it is kept.

    Raises:
        ValueError: A kind of points is neither in the files nor kept.
    """
    kinds: dict[str, list[Mapping]] = {"speed": [], "accuracy": [], "check": []}
    for path in paths:
        for point in json.loads(path.read_text(encoding="utf-8")):
            kind = "check" if "losses" in point else "accuracy" if "val_loss" in point else "speed"
            kinds[kind].append(point)
    kept = json.loads(into.read_text(encoding="utf-8")) if into.is_file() else {}
    kinds = {kind: points or kept.get(kind, []) for kind, points in kinds.items()}
    if missing := [kind for kind, points in kinds.items() if not points]:
        raise ValueError(f"no points of {missing} in {[str(p) for p in paths]}: give their files")
    kinds["before"] = [
        {"setting": name, "gpus": gpus, "batch": 256, "crystals_per_second": rate}
        for name, rates in BEFORE.items()
        for gpus, rate in enumerate(rates, 1)
    ]
    parts = [f'"about": {json.dumps(ABOUT)}']
    for kind, points in kinds.items():
        lines = ",\n  ".join(json.dumps(point) for point in points)
        parts.append(f'"{kind}": [\n  {lines}\n ]')
    with replacing(into) as temporary:
        temporary.write_text("{\n " + ",\n ".join(parts) + "\n}\n", encoding="utf-8")


# ---------------------------------------------------------------------------------------- command


def command_line() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--profile", default="full", help="profile of params.yml")
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--processes", nargs="+", type=int, help="default: 1, 2, 4, ... all GPUs")
    parser.add_argument("--batch", nargs="+", type=int, default=[2048, 1024, 512, 256])
    parser.add_argument("--crystals", type=int, default=12288, help="per GPU and timed epoch")
    parser.add_argument("--steps", type=int, help="of a timed epoch, instead of --crystals")
    parser.add_argument("--seconds", type=float, default=230.0, help="begin nothing new after")
    parser.add_argument("--out", type=Path, default=Path("scaling.json"), help="results, merged in")
    parser.add_argument("--check", action="store_true", help="compare losses, measure nothing")
    parser.add_argument("--keep", nargs="+", type=Path, help="points files, measure nothing")
    parser.add_argument("--worker", type=float, help=argparse.SUPPRESS)
    return parser


def numbers(args: argparse.Namespace) -> list[int]:
    """How many processes, one after the other."""
    if args.processes:
        return args.processes
    seen = torch.cuda.device_count() if args.device == "cuda" else 2
    return [n for n in (1, 2, 4, 8) if n <= seen]


def run_all(
    script: str,
    args: argparse.Namespace,
    counts: Sequence[int],
    rows: Callable[[Sequence[Mapping]], list[Result]] | None,
) -> int:
    """Run the script with each number of processes and record what came out; 1 if one failed."""
    until, failed = time.time() + args.seconds, 0
    for place, processes in enumerate(counts):
        # Fewer processes need longer for the same; what one leaves over is there for the next.
        weights = [1 + 1 / n for n in counts[place:]]
        left = (until - time.time()) * weights[0] / sum(weights)
        words = [sys.executable, os.path.abspath(script), *sys.argv[1:]]
        words += ["--worker", repr(time.time() + left)]
        try:
            run_together(words, processes=processes, seconds=max(left, 0.0) + 90)
        except RuntimeError as error:
            failed = 1
            print(f"{processes} processes: {error}", file=sys.stderr, flush=True)
        if rows is not None and (results := rows(read_points(args.out))):
            record(results, args.out)
    return failed


def main() -> int:
    args = command_line().parse_args()
    if args.keep:
        keep(args.keep)
        return 0
    args.out = args.out.resolve()
    if args.worker is not None:
        (check if args.check else work)(args)
        return 0
    points_file(args.out).unlink(missing_ok=True)
    counts = args.processes or numbers(args)[: 2 if args.check else None]
    failed = run_all(__file__, args, counts, None if args.check else rows_of)
    points = read_points(args.out)
    if args.check:
        return failed or compare(points)
    for result in rows_of(points):
        print(f"{result.name:<44}{result.value:>12,.1f} {result.unit}  {result.notes}")
    return failed


if __name__ == "__main__":
    sys.exit(main())
