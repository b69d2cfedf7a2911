"""Preparing crystals by a dask cluster: more rows, more workers, and what five million would take.

The rows are MP-20's and those of ``mp_extra`` in the proportion of the whole, 161 thousand. Each
number of workers (one thread each, on this machine) prepares each number of rows, from the files to
the tables on disk; the smallest number is also prepared without dask, and the hashes are compared.
Hours for five million follow from the largest number of rows in proportion, for chunks are alike;
they are no measurement, and the exponent beside them says how far that holds. The start of the
workers does not count.

    UNIMAT_DATA=FOLDER python benchmarks/cluster.py --rows 20000 40000 80000 0 --workers 2 16
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import tempfile
import time
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

from common import Result, device_name, record

from unimat_book.performance import growth_exponent
from unimat_lib.datasets.cluster import prepare_on_cluster
from unimat_lib.datasets.preparation import prepare_dataset

GOAL = 5_000_000
SHARE = 44_123 / (44_123 + 117_080)  # of MP-20 among all rows
LARGEST = 80_000  # a part; more would exhaust the smallest of MP-20's three files


def limits(rows: int) -> dict[str, int | None]:
    """How many rows of each file of the two data sets make ``rows`` together; 0 is all."""
    if not rows:
        return {"mp_20": None, "mp_extra": None}
    return {"mp_20": round(SHARE * rows / 3), "mp_extra": round((1 - SHARE) * rows)}


def prepared(rows: int, prepare: Any, **options: Any) -> tuple[int, float, list[str]]:
    """Crystals, seconds and names (with their hashes) of the tables."""
    with tempfile.TemporaryDirectory() as cache:
        start = time.perf_counter()
        reports = [
            prepare(name, cache_dir=cache, limit=limit, **options)
            for name, limit in limits(rows).items()
        ]
        seconds = time.perf_counter() - start
    return sum(r.num_used for r in reports), seconds, [r.table for r in reports]


def measure(rows: list[int], workers: int) -> list[Result]:
    from distributed import LocalCluster

    series = []
    sizes = sorted(rows, key=lambda count: count or GOAL)
    options = {"n_workers": workers, "threads_per_worker": 1, "dashboard_address": None}
    with LocalCluster(**options, silence_logs=50) as cluster:
        far = {"scheduler": cluster.scheduler_address}
        prepared(sizes[0], prepare_on_cluster, **far)  # imports and tables of the workers
        for count in sizes:
            crystals, seconds, tables = prepared(count, prepare_on_cluster, **far)
            memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
            series.append({"crystals": crystals, "seconds": seconds, "gib": memory})
            print(f"{workers:3} workers {crystals:9,} crystals {seconds:8.1f} s {memory:6.2f} GiB")
            if count == sizes[0]:
                first = tables
    for _ in range(2):  # the first starts the processes
        _, local, here = prepared(sizes[0], prepare_dataset, workers=workers)
    if here != first:
        sys.exit(f"the cluster made {first}, this process {here}: they have to be the same")
    ratio = local / series[0]["seconds"]
    print(f"{workers:3} workers, without dask {local:8.1f} s: the cluster is {ratio:.2f} x as fast")
    last = series[-1]
    exponent = growth_exponent(series) if len(series) > 1 else 1.0
    hours = last["seconds"] * GOAL / last["crystals"] / 3600
    print(f"{workers:3} workers, exponent {exponent:.2f}: {GOAL:,} crystals in {hours:.2f} h")
    rate = last["crystals"] / last["seconds"]
    return [
        Result(
            name=f"cluster_prepare_{workers}_workers",
            value=rate,
            unit="crystals/s",
            device=device_name(),
            baseline=f"{workers} processes of joblib, on {series[0]['crystals']:,} crystals",
            ratio=ratio,
            notes=f"dask on one machine, the same tables; exponent {exponent:.2f}; gib is the "
            "peak of the process that asks",
            series=series,
        ),
        Result(
            name=f"cluster_prepare_5m_{workers}_workers",
            value=hours,
            unit="h",
            device=device_name(),
            notes=f"extrapolated from {last['crystals']:,} crystals in {last['seconds']:.0f} s "
            f"in proportion (their exponent is {exponent:.2f}); not measured",
        ),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[1000, 2000, 4000], help="0: all")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    args = parser.parse_args()
    if not os.environ.get("UNIMAT_DATA"):
        sys.exit("expected the folder of the rows of mp_20 and mp_extra: set UNIMAT_DATA")
    if wrong := [count for count in args.rows if count < 0 or count > LARGEST]:
        sys.exit(f"rows must lie in 1 to {LARGEST:,}, or be 0 for all, but {wrong} came")
    for workers in args.workers:
        record(measure(args.rows, workers))


if __name__ == "__main__":
    main()
