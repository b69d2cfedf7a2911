"""Bragg reflections and merged peaks: our batched simulator beside pymatgen and xrd-rust.

On the CPU all programs start from the same crystals in memory and end at merged peaks between 5 and
90 degrees (Cu K-alpha), on one core and on two, each in as many processes as cores. xrd-rust is
used where it is installed (pip install --no-deps xrd-rust). With ``--device cuda`` ours runs on all
crystals of the data set and is set against what the arithmetic and the memory allow.

    python benchmarks/bragg.py [--count 1000] [--dataset mp_20]
    python benchmarks/bragg.py --device cuda
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import multiprocessing
import os
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor

os.environ.setdefault("OMP_NUM_THREADS", "1")  # one process is to use one core

import numpy as np
import torch
from common import Result, device_name, print_values, record, timed

from unimat_lib.crystals.table import CrystalTable
from unimat_lib.datasets.preparation import load_dataset
from unimat_lib.views.bragg import bragg_reflections, g_max_of
from unimat_lib.views.grid import CU_K_ALPHA, Grid
from unimat_powder.lines import merged_peaks

RANGE = (5.0, 90.0)
G_MAX = 2 * math.sin(math.radians(RANGE[1] / 2)) / CU_K_ALPHA
MAX_STRAIN = 0.05  # on the GPU reflections reach as far as training asks for
CORES = (1, 2)
SHARES = 4  # pieces of work, so that two processes end at about the same time
INSTALL_XRD_RUST = "xrd-rust is not installed (pip install --no-deps xrd-rust): left out"

# What an H100 does at best: bytes/s from memory, double precision operations/s outside the matrix
# units. Sine and cosine are counted as 25 operations each, an exponential as 20.
BANDWIDTH, DOUBLE_OPERATIONS = 3.35e12, 33.5e12
PER_PHASE = 3 * 2 + 2 * 25 + 2  # h x + k y + l z, its sine and cosine, two sums
PER_FORM_FACTOR = 4 * (20 + 3)
BYTES_PER_REFLECTION = 3 * 2 + 8 + 8  # hkl, g, intensity

# ------------------------------------------------------------------- each program, in its processes

_shares: list[CrystalTable] = []
_structures: list[list] = []


def prepare_process(table: CrystalTable) -> None:
    """Keep the crystals in this process, so that the clock sees no reading and no sending."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    for i in range(SHARES):
        share = table.select(np.arange(i, len(table), SHARES))
        _shares.append(share)
        _structures.append([share.structure(j) for j in range(len(share))])


def sample(dataset: str, count: int) -> CrystalTable:
    """Some crystals at random, of the test split where the data set is MP-20."""
    table = load_dataset(dataset)
    table = table.split("test") if dataset == "mp_20" else table
    return table.select(np.random.default_rng(0).permutation(len(table))[:count])


def ours(share: int) -> int:
    """Number of peaks of one share of the crystals."""
    reflections = bragg_reflections(_shares[share], g_max=G_MAX)
    return len(merged_peaks(reflections, two_theta_range=RANGE).two_theta)


def pymatgen(share: int) -> int:
    from pymatgen.analysis.diffraction.xrd import XRDCalculator

    return one_by_one(XRDCalculator(), share)


def xrd_rust(share: int) -> int:
    from xrd_rust_calculator import XRDCalculatorRust

    return one_by_one(XRDCalculatorRust(), share)


def one_by_one(calculator: object, share: int) -> int:
    patterns = (calculator.get_pattern(s, two_theta_range=RANGE) for s in _structures[share])
    return sum(len(pattern.x) for pattern in patterns)


def measure_cpu(table: CrystalTable, cores: int, repeats: int) -> dict[str, float]:
    """Crystals per second of each program that is installed.

    Raises:
        SystemExit: The programs find different numbers of peaks.
    """
    programs: list[Callable[[int], int]] = [ours, pymatgen]
    if importlib.util.find_spec("xrd_rust_calculator"):
        programs.append(xrd_rust)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(cores, context, prepare_process, (table,)) as pool:

        def run(program: Callable[[int], int]) -> int:
            return sum(pool.map(program, range(SHARES)))

        found = {program.__name__: run(program) for program in programs}
        if max(found.values()) > 1.02 * min(found.values()):
            raise SystemExit(f"different numbers of peaks, {found}: the timing means nothing")
        rates = {}
        for program in programs:  # a short run needs more repeats to find an undisturbed one
            tries = 5 * repeats if program is ours else repeats
            seconds = timed(lambda p=program: run(p), repeats=tries, warmup=0)
            rates[program.__name__] = len(table) / seconds
        return rates


def compare_on_cpu(dataset: str, count: int, repeats: int) -> list[Result]:
    table, rows = sample(dataset, count), []
    for cores in CORES:
        rates = measure_cpu(table, cores, repeats)
        rows += [(cores, name, rate, rates["ours"] / rate) for name, rate in rates.items()]
    print(f"{len(table):,} crystals of {dataset}, peaks from {RANGE[0]:g} to {RANGE[1]:g} degrees")
    print(f"{'cores':>5}  {'program':<12}{'crystals/s':>12}{'ours is':>12}")
    for cores, name, rate, ratio in rows:
        print(f"{cores:>5}  {name:<12}{rate:>12,.0f}{ratio:>10.1f} x")
    if not any(name == "xrd_rust" for _, name, _, _ in rows):
        print(INSTALL_XRD_RUST)
    _, _, rate, _ = next(row for row in rows if row[:2] == (CORES[-1], "ours"))
    return [
        Result(
            name=f"bragg_cpu_vs_{name}",
            value=rate,
            unit="crystals/s",
            baseline=f"{name.replace('_', '-')}, {baseline:,.0f} crystals/s",
            ratio=ratio,
            device=device_name("cpu"),
            notes=f"{len(table)} crystals of {dataset}; {cores} processes each",
        )
        for cores, name, baseline, ratio in rows
        if cores == CORES[-1] and name != "ours"
    ]


# -------------------------------------------------------------------------------------------- a GPU


def measure_gpu(dataset: str, repeats: int) -> list[Result]:
    table = load_dataset(dataset).to("cuda")
    g_max = g_max_of(Grid(*RANGE, 2), max_strain=MAX_STRAIN)
    reflections = bragg_reflections(table, g_max=g_max)
    torch.cuda.reset_peak_memory_stats()
    seconds = timed(lambda: bragg_reflections(table, g_max=g_max), repeats=repeats, device="cuda")
    memory = torch.cuda.max_memory_allocated() / 2**30
    merging = timed(lambda: merged_peaks(reflections), repeats=repeats, device="cuda")

    tried = 2 / 3 * np.pi * g_max**3 * table.volume  # [C], lattice points of the half sphere
    phases = float((tried * table.num_atoms).sum())
    key = table.atom_crystal * 128 + table.atomic_numbers
    elements = (key.unique() // 128).bincount(minlength=len(table))  # [C]
    factors = float((tried * elements).sum())
    operations = phases * PER_PHASE + factors * PER_FORM_FACTOR
    size = len(reflections.g) * BYTES_PER_REFLECTION
    floor = max(operations / DOUBLE_OPERATIONS, size / BANDWIDTH)
    # Per phase ten arrays of doubles are read and twelve written, per form factor about 20 and 12.
    moved = 8 * (phases * 22 + factors * 32)
    print(f"all {len(table):,} crystals of {dataset}, {len(reflections.g):,} reflections")
    print_values(
        ("reflections", seconds, "s"),
        ("peaks from them", merging, "s"),
        ("peak memory", memory, "GiB"),
        ("phases", phases / 1e9, "billion"),
        ("form factors", factors / 1e9, "billion"),
        ("operations", operations / 1e12, "trillion"),
        ("result", size / 1e9, "GB"),
        ("floor, from these", floor, "s"),
        ("measured over floor", seconds / floor, "x"),
        ("written and read on the way", moved / 1e9, "GB"),
        ("time for that", moved / BANDWIDTH, "s"),
    )
    return [
        Result(
            name="bragg_gpu_mp20_seconds",
            value=seconds,
            unit="s",
            device=device_name("cuda"),
            floor=floor,
            notes=(
                f"{len(table)} crystals, {len(reflections.g)} reflections, {memory:.1f} GiB; "
                f"{operations / 1e12:.2f} trillion operations; one tensor operation after the "
                f"other moves {moved / 1e9:.0f} GB, {moved / BANDWIDTH:.3f} s"
            ),
        )
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", default="mp_20", help="name known to datasets.load")
    parser.add_argument("--count", type=int, default=1000, help="crystals on the CPU")
    parser.add_argument("--repeats", type=int, default=3, help="best of this many")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    args = parser.parse_args()
    if args.device == "cuda":
        record(measure_gpu(args.dataset, args.repeats))
    else:
        record(compare_on_cpu(args.dataset, args.count, args.repeats))


if __name__ == "__main__":
    main()
