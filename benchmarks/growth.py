"""Time against the number of crystals: simulation, graphs with triplets, and rendering.

An eighth, a quarter, a half and all of the crystals, the parts drawn at random so that crystals are
alike in size. The exponent b of seconds = a * crystals^b is fitted to the four points; 1 is linear.
On the GPU the crystals are MP-20's, and then simulation and graphs run on the larger ones of
``mp_extra`` (up to 100 atoms) with their peak of memory. On the CPU the basis is a sample.

    python benchmarks/growth.py [--count 4000]
    python benchmarks/growth.py --device cuda
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable

os.environ.setdefault("OMP_NUM_THREADS", "1")  # whole chunks are shared out among threads instead

import numpy as np
import torch
from common import Result, device_name, record, timed
from graphs import CUTOFF, MAX_NEIGHBORS, all_triplets

from unimat_book.performance import growth_exponent
from unimat_lib.crystals.table import CrystalTable
from unimat_lib.datasets.preparation import load_dataset
from unimat_lib.views.bragg import bragg_reflections, g_max_of
from unimat_lib.views.graphs import periodic_graph
from unimat_lib.views.grid import Grid
from unimat_lib.views.render import render

GRID = Grid(5.0, 90.0, 4096)
FRACTIONS = (1 / 8, 1 / 4, 1 / 2, 1)
BATCH = 512


def simulate(table: CrystalTable) -> None:
    bragg_reflections(table, g_max=g_max_of(GRID))


def connect(table: CrystalTable) -> None:
    all_triplets(periodic_graph(table, cutoff=CUTOFF, max_neighbors=MAX_NEIGHBORS))


def rendering(table: CrystalTable) -> Callable[[], None]:
    """A function that draws the patterns of all crystals once, batch by batch."""
    reflections = bragg_reflections(table, g_max=g_max_of(GRID))
    batches = torch.arange(len(table), device=table.device).split(BATCH)

    def draw_all() -> None:
        for index in batches:
            render(reflections, index, GRID)

    return draw_all


def work_on(table: CrystalTable) -> dict[str, Callable[[], None]]:
    return {
        "bragg": lambda: simulate(table),
        "graph": lambda: connect(table),
        "render": rendering(table),
    }


def measure(table: CrystalTable, device: str, repeats: int) -> dict[str, list[dict[str, float]]]:
    """Points by the name of the work."""
    order = np.random.default_rng(0).permutation(len(table))
    series: dict[str, list[dict[str, float]]] = {}
    for fraction in FRACTIONS:
        part = table.select(order[: round(fraction * len(table))].copy()).to(device)
        for name, run in work_on(part).items():
            seconds = timed(run, repeats=repeats, device=device)
            series.setdefault(name, []).append({"crystals": len(part), "seconds": seconds})
    return series


def measure_extra() -> list[Result]:
    """Simulation and graphs of ``mp_extra`` on the GPU."""
    table = load_dataset("mp_extra").to("cuda")
    results = []
    for name, run in (("bragg", simulate), ("graph", connect)):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        seconds = timed(lambda r=run: r(table), repeats=2, device="cuda")
        memory = torch.cuda.max_memory_allocated() / 2**30
        print(f"mp_extra, {len(table):,} crystals: {name} {seconds:.3f} s, {memory:.1f} GiB")
        results.append(
            Result(
                name=f"{name}_gpu_extra_seconds",
                value=seconds,
                unit="s",
                device=device_name("cuda"),
                notes=f"{len(table)} crystals of mp_extra, {memory:.1f} GiB",
            )
        )
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--count", type=int, default=4000, help="crystals on the CPU")
    parser.add_argument("--cores", type=int, default=2, help="threads on the CPU")
    parser.add_argument("--repeats", type=int, default=3, help="best of this many")
    args = parser.parse_args()

    table = load_dataset("mp_20")
    kind = "gpu" if args.device == "cuda" else "cpu"
    if kind == "cpu":
        torch.set_num_threads(args.cores)
        table = table.select(np.random.default_rng(1).permutation(len(table))[: args.count])
    results = []
    for name, series in measure(table, args.device, args.repeats).items():
        slope = growth_exponent(series)
        points = ", ".join(f"{p['crystals']:,}: {p['seconds']:.4f} s" for p in series)
        print(f"{name:<8}{points}; exponent {slope:.2f}", flush=True)
        results.append(
            Result(
                name=f"growth_{name}_{kind}",
                value=slope,
                unit="1",
                device=device_name(args.device),
                notes="exponent of time over crystals of mp_20",
                series=series,
            )
        )
    record(results)
    if kind == "gpu":
        record(measure_extra())


if __name__ == "__main__":
    main()
