"""Crystals per second of our batched Bragg simulator and of pymatgen, side by side.

Both start from crystals in memory and end at merged peaks between 5 and 90 degrees (Cu K-alpha),
with one core and with two: pymatgen in processes, ours in threads of one process.

    python benchmarks/bragg.py [--count 200] [--dataset prototypes] [--json]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor

os.environ.setdefault("OMP_NUM_THREADS", "1")  # for pymatgen's processes; ours asks for its threads

import numpy as np
import torch

from unimat_lib import datasets
from unimat_lib.crystals import CrystalTable
from unimat_lib.diffraction import Grid, bragg_reflections, g_max_of, peaks, render

RANGE = (5.0, 90.0)
CORES = (1, 2)


def best_of(repeats: int, run: Callable[[], object]) -> float:
    """Shortest wall time in seconds, after one run to warm up."""
    run()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


def pymatgen_peaks(structures: list) -> int:
    """Number of peaks of some structures, by pymatgen."""
    from pymatgen.analysis.diffraction.xrd import XRDCalculator

    calculator = XRDCalculator()
    return sum(len(calculator.get_pattern(s, two_theta_range=RANGE).x) for s in structures)


def time_pymatgen(structures: list, cores: int, repeats: int) -> float:
    if cores == 1:
        return best_of(repeats, lambda: pymatgen_peaks(structures))
    shares = [structures[i :: 4 * cores] for i in range(4 * cores)]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(cores, mp_context=context) as pool:
        return best_of(repeats, lambda: sum(pool.map(pymatgen_peaks, shares)))


def time_ours(table: CrystalTable, cores: int, repeats: int) -> dict[str, float]:
    torch.set_num_threads(cores)
    grid = Grid(*RANGE, 4096)
    g_max, index = g_max_of(grid), torch.arange(len(table))
    reflections = bragg_reflections(table, g_max=g_max)
    return {
        "reflections": best_of(repeats, lambda: bragg_reflections(table, g_max=g_max)),
        "reflections and peaks": best_of(
            repeats, lambda: peaks(bragg_reflections(table, g_max=g_max), two_theta_range=RANGE)
        ),
        "rendering, 4096 points": best_of(
            repeats, lambda: [render(reflections, part, grid) for part in index.split(256)]
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=200, help="number of crystals")
    parser.add_argument("--dataset", choices=("prototypes", "mp_20"), default="prototypes")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    args = parser.parse_args()

    table = datasets.load(args.dataset)
    chosen = np.random.default_rng(0).permutation(len(table))[: args.count]
    table = table.select(chosen)
    structures = [table.structure(i) for i in range(len(table))]

    rows = []
    for cores in CORES:
        seconds = {"pymatgen": time_pymatgen(structures, cores, args.repeats)}
        seconds |= {f"ours: {k}": v for k, v in time_ours(table, cores, args.repeats).items()}
        rows += [
            {
                "what": name,
                "cores": cores,
                "crystals_per_second": round(len(table) / value, 1),
                "ratio_to_pymatgen": round(seconds["pymatgen"] / value, 1),
            }
            for name, value in seconds.items()
        ]
    report = {
        "dataset": args.dataset,
        "crystals": len(table),
        "mean_atoms": round(float(table.num_atoms.double().mean()), 1),
        "two_theta_range": RANGE,
        "torch": torch.__version__,
        "machine": platform.processor() or platform.machine(),
        "rows": rows,
    }
    if args.json:
        print(json.dumps(report, indent=1))
        return
    print(f"{len(table)} crystals of {args.dataset}, {report['mean_atoms']} atoms on average")
    print(f"{'cores':>5}  {'what':<30}{'crystals/s':>12}{'x pymatgen':>12}")
    for row in rows:
        print(
            f"{row['cores']:>5}  {row['what']:<30}{row['crystals_per_second']:>12,.0f}"
            f"{row['ratio_to_pymatgen']:>12.1f}"
        )


if __name__ == "__main__":
    main()
