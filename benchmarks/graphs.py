"""Periodic graphs beside neighbour lists of pymatgen, ASE, matscipy and vesin, and triplets.

On the CPU all programs start from crystals in memory and find all neighbours within the same
cutoff, on one core; the numbers of edges must agree. ASE, matscipy and vesin are used where they
are installed (pip install --no-deps ase matscipy vesin). With ``--device cuda`` the capped graphs
and the angle triplets of training are made for all crystals of the data set.

    python benchmarks/graphs.py [--count 500] [--dataset mp_20]
    python benchmarks/graphs.py --device cuda
"""

from __future__ import annotations

import argparse
import importlib.util
import os
from collections.abc import Callable

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from common import Result, device_name, print_values, record, timed

from unimat_lib.crystals.table import CrystalTable
from unimat_lib.datasets.preparation import load_dataset
from unimat_lib.views.graphs import PeriodicGraph, periodic_graph, triplets

CUTOFF, MAX_NEIGHBORS = 5.0, 12
CRYSTALS_AT_ONCE = 2048  # for the triplets, which are made batch by batch
BANDWIDTH = 3.35e12  # bytes/s, an H100 at best
BYTES_PER_EDGE = 2 * 8 + 3 * 2 + 3 * 4 + 4  # both ends, image, vector, distance
BYTES_PER_TRIPLET = 2 * 8 + 4  # both edges, cosine


def neighbour_lists(table: CrystalTable) -> dict[str, Callable[[], int]]:
    """Programs that count all edges within the cutoff, one crystal after the other."""
    structures = [table.structure(i) for i in range(len(table))]
    cells = [(np.array(s.lattice.matrix), s.cart_coords) for s in structures]
    programs: dict[str, Callable[[], int]] = {
        "pymatgen": lambda: sum(len(s.get_neighbor_list(CUTOFF)[0]) for s in structures)
    }
    if importlib.util.find_spec("ase"):
        from ase.neighborlist import primitive_neighbor_list

        programs["ase"] = lambda: sum(
            len(primitive_neighbor_list("i", [True] * 3, *cell, CUTOFF)) for cell in cells
        )
    if importlib.util.find_spec("matscipy"):
        from matscipy.neighbours import neighbour_list

        programs["matscipy"] = lambda: sum(
            len(neighbour_list("i", positions=x, cell=cell, pbc=[True] * 3, cutoff=CUTOFF))
            for cell, x in cells
        )
    if importlib.util.find_spec("vesin"):
        from vesin import NeighborList

        every = {"periodic": True, "quantities": "i"}
        programs["vesin"] = lambda: sum(
            len(NeighborList(cutoff=CUTOFF, full_list=True).compute(x, cell, **every)[0])
            for cell, x in cells
        )
    return programs


def compare_on_cpu(dataset: str, count: int, repeats: int) -> list[Result]:
    """Rates of all programs that are installed.

    Raises:
        SystemExit: The programs find different numbers of edges.
    """
    torch.set_num_threads(1)
    table = load_dataset(dataset)
    table = table.select(np.random.default_rng(0).permutation(len(table))[:count])
    programs = neighbour_lists(table)
    programs["ours"] = lambda: periodic_graph(table, cutoff=CUTOFF).edge_index.shape[1]
    found = {name: run() for name, run in programs.items()}
    if len(set(found.values())) > 1:
        raise SystemExit(f"different numbers of edges, {found}: the timing means nothing")
    rates = {n: len(table) / timed(run, repeats=repeats) for n, run in programs.items()}
    graph = periodic_graph(table, cutoff=CUTOFF, max_neighbors=MAX_NEIGHBORS)
    seconds = timed(lambda: triplets(graph), repeats=repeats)
    print(f"{len(table):,} crystals of {dataset}, cutoff {CUTOFF} angstrom, one core")
    print(f"{'program':<12}{'crystals/s':>12}{'ours is':>12}")
    for name, rate in rates.items():
        print(f"{name:<12}{rate:>12,.0f}{rates['ours'] / rate:>10.1f} x")
    print(f"{'triplets':<12}{len(table) / seconds:>12,.0f}   (ours, at most {MAX_NEIGHBORS} edges)")
    for name in sorted({"ase", "matscipy", "vesin"} - set(programs)):
        print(f"{name} is not installed (pip install --no-deps {name}): left out")
    return [
        Result(
            name=f"graph_cpu_vs_{name}",
            value=rates["ours"],
            unit="crystals/s",
            baseline=f"{name}, {rate:,.0f} crystals/s",
            ratio=rates["ours"] / rate,
            device=device_name("cpu"),
            notes=f"{len(table)} crystals of {dataset}, all neighbours within {CUTOFF} A, one core",
        )
        for name, rate in rates.items()
        if name != "ours"
    ]


def all_triplets(graph: PeriodicGraph) -> int:
    """Number of triplets of a graph, made some thousand crystals at a time."""
    crystals = torch.arange(len(graph), device=graph.device)
    batches = crystals.split(CRYSTALS_AT_ONCE)
    return sum(len(triplets(graph.select(index)).edge_kj) for index in batches)


def measure_gpu(dataset: str, repeats: int) -> list[Result]:
    table = load_dataset(dataset).to("cuda")

    def graph_of_all() -> PeriodicGraph:
        return periodic_graph(table, cutoff=CUTOFF, max_neighbors=MAX_NEIGHBORS)

    graph = graph_of_all()
    edges, number = graph.edge_index.shape[1], all_triplets(graph)
    torch.cuda.reset_peak_memory_stats()
    seconds = timed(graph_of_all, repeats=repeats, device="cuda")
    seconds_triplets = timed(lambda: all_triplets(graph), repeats=repeats, device="cuda")
    memory = torch.cuda.max_memory_allocated() / 2**30
    floor = (edges * BYTES_PER_EDGE + number * BYTES_PER_TRIPLET) / BANDWIDTH
    total = seconds + seconds_triplets
    print(f"all {len(table):,} crystals of {dataset}, at most {MAX_NEIGHBORS} edges per atom")
    print_values(
        ("graph", seconds, "s"),
        ("triplets", seconds_triplets, "s"),
        ("both", total, "s"),
        ("peak memory", memory, "GiB"),
        ("edges", edges / 1e6, "million"),
        ("triplets", number / 1e6, "million"),
        ("floor: writing the results", floor, "s"),
        ("measured over floor", total / floor, "x"),
    )
    return [
        Result(
            name="graph_gpu_mp20_seconds",
            value=total,
            unit="s",
            device=device_name("cuda"),
            floor=floor,
            notes=(
                f"{len(table)} crystals; graph {seconds:.3f} s, {edges / 1e6:.1f} million edges; "
                f"triplets {seconds_triplets:.3f} s, {number / 1e6:.0f} million; {memory:.1f} GiB; "
                "the floor is writing the results once"
            ),
        )
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", default="mp_20", help="name known to datasets.load")
    parser.add_argument("--count", type=int, default=500, help="crystals on the CPU")
    parser.add_argument("--repeats", type=int, default=3, help="best of this many")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    args = parser.parse_args()
    if args.device == "cuda":
        record(measure_gpu(args.dataset, args.repeats))
    else:
        record(compare_on_cpu(args.dataset, args.count, args.repeats))


if __name__ == "__main__":
    main()
