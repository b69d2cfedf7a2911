"""Crystals per second of our periodic graphs and of pymatgen's neighbour lists, side by side.

Both start from crystals in memory and find all neighbours within the same cutoff, on one core;
the numbers of edges must agree. Our capped graphs and angle triplets, which pymatgen does not
make, are timed beside them. ``--device cuda`` runs ours on the GPU, on all crystals.

    python benchmarks/graphs.py [--count 200] [--dataset prototypes] [--device cpu] [--json]
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import time
from collections.abc import Callable

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from unimat_lib import datasets
from unimat_lib.crystals import CrystalTable
from unimat_lib.graphs import periodic_graph, triplets

CUTOFF, MAX_NEIGHBORS = 5.0, 12


def best_of(repeats: int, run: Callable[[], object]) -> float:
    """Shortest wall time in seconds, after one run to warm up."""
    run()
    times = []
    for _ in range(repeats):
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        start = time.perf_counter()
        run()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return min(times)


def measure(table: CrystalTable, *, count: int, device: str, repeats: int) -> list[dict]:
    """Results, one dict per measurement; rates in crystals per second."""
    sample = table.select(torch.randperm(len(table))[:count])
    structures = [sample.structure(i) for i in range(len(sample))]

    def pymatgen_edges() -> int:
        return sum(len(s.get_neighbor_list(CUTOFF)[0]) for s in structures)

    edges, baseline = pymatgen_edges(), len(sample) / best_of(1, pymatgen_edges)
    ours = periodic_graph(sample, cutoff=CUTOFF).edge_index.shape[1]
    if ours != edges:
        raise SystemExit(f"pymatgen finds {edges} edges and we {ours}: the timing means nothing")
    table = (table if device == "cuda" else sample).to(device)
    capped = {"cutoff": CUTOFF, "max_neighbors": MAX_NEIGHBORS}
    # Triplets are made batch by batch in training, so they are timed that way.
    batches = [
        periodic_graph(table, **capped).select(index)
        for index in torch.arange(len(table), device=device).split(512)
    ]
    runs = {
        "graph_all_neighbours": lambda: periodic_graph(table, cutoff=CUTOFF),
        "graph_capped": lambda: periodic_graph(table, **capped),
        "triplets": lambda: [triplets(batch) for batch in batches],
    }
    results = []
    for name, run in runs.items():
        seconds = best_of(repeats, run)
        comparable = name == "graph_all_neighbours"
        results.append(
            {
                "name": name,
                "value": len(table) / seconds,
                "unit": "crystals/s",
                "baseline": "pymatgen get_neighbor_list, one core" if comparable else None,
                "ratio": len(table) / seconds / baseline if comparable else None,
                "crystals": len(table),
                "device": torch.cuda.get_device_name() if device == "cuda" else platform.machine(),
                "date": datetime.date.today().isoformat(),
            }
        )
    return [
        {
            **results[0],
            "name": "pymatgen_neighbours",
            "value": baseline,
            "baseline": None,
            "ratio": None,
            "crystals": len(sample),
            "device": platform.machine(),
        },
        *results,
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", default="prototypes", help="name known to datasets.load")
    parser.add_argument("--count", type=int, default=200, help="crystals for pymatgen")
    parser.add_argument("--repeats", type=int, default=3, help="best of this many")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    results = measure(
        datasets.load(arguments.dataset),
        count=arguments.count,
        device=arguments.device,
        repeats=arguments.repeats,
    )
    if arguments.json:
        print(json.dumps(results, indent=2))
        return
    print(f"cutoff {CUTOFF} angstrom, cap {MAX_NEIGHBORS}, PyTorch {torch.__version__}")
    for row in results:
        ratio = f"{row['ratio']:6.1f} x pymatgen" if row["ratio"] else ""
        print(f"{row['name']:<22}{row['value']:>12,.0f} {row['unit']}  {ratio}")


if __name__ == "__main__":
    main()
