"""Preparing MP-20 from its CSV files, beside pymatgen and spglib called plainly.

Plainly: one process reads each CIF with pymatgen's parser, takes the Niggli-reduced primitive cell
and spglib's space group, as a first script would. It is timed on rows drawn from all three splits
and scaled to all rows; its cells are compared with ours on those rows. Ours is timed in full, with
one process per core, from the files to the table on disk.

    UNIMAT_DATA=FOLDER python benchmarks/preparation.py [--count 400] [--workers N]
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import tempfile
import time
import warnings

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pandas as pd
from common import Result, device_name, record

from unimat_lib.crystals.parquet import load_table
from unimat_lib.crystals.reduction import SYMPREC
from unimat_lib.crystals.table import SPLITS, CrystalTable
from unimat_lib.datasets.mp_20 import find_mp_20
from unimat_lib.datasets.preparation import prepare_dataset
from unimat_lib.datasets.report import data_folder


def plain(cif: str) -> tuple[np.ndarray, int]:
    """Sorted lengths of the Niggli-reduced primitive cell, and the space group."""
    from pymatgen.io.cif import CifParser
    from pymatgen.symmetry.analyzer import SpacegroupAnalyzer

    structure = CifParser.from_str(cif).parse_structures(primitive=False)[0]
    primitive = structure.get_primitive_structure().get_reduced_structure("niggli")
    group = SpacegroupAnalyzer(structure, symprec=SYMPREC).get_space_group_number()
    return np.sort(primitive.lattice.abc), group


def sample_rows(folder: str, count: int) -> pd.DataFrame:
    """Some rows of the three files, drawn evenly."""
    paths = find_mp_20(data_folder(folder))
    frame = pd.concat([pd.read_csv(paths[split]) for split in SPLITS], ignore_index=True)
    return frame.sample(count, random_state=0)


def time_plain(rows: pd.DataFrame, table: CrystalTable) -> tuple[float, int, int]:
    """Seconds for these rows, and how many space groups and cells agree with ours."""
    place = {name: i for i, name in enumerate(table.info["material_id"])}
    plain(rows["cif"].iloc[0])  # imports and tables
    start = time.perf_counter()
    found = [plain(cif) for cif in rows["cif"]]
    seconds = time.perf_counter() - start
    groups = cells = 0
    for name, (lengths, group) in zip(rows["material_id"], found, strict=True):
        i = place[str(name)]
        groups += group == table.info["space_group_spglib"][i]
        cells += np.allclose(lengths, np.sort(table.lengths[i].numpy()), rtol=1e-3)
    return seconds, groups, cells


def peak_gib(who: int) -> float:
    return resource.getrusage(who).ru_maxrss / 2**20  # Linux counts in KiB


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", default=os.environ.get("UNIMAT_DATA"), help="$UNIMAT_DATA")
    parser.add_argument("--count", type=int, default=400, help="rows for the plain preparation")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    args = parser.parse_args()
    if not args.data_dir:
        sys.exit("expected the folder of MP-20's CSV files: set UNIMAT_DATA or give --data-dir")
    warnings.simplefilter("ignore")  # pymatgen's, on every other CIF
    with tempfile.TemporaryDirectory() as cache:
        report = prepare_dataset(
            "mp_20", data_dir=args.data_dir, cache_dir=cache, workers=args.workers
        )
        memory = peak_gib(resource.RUSAGE_SELF)
        memory += args.workers * peak_gib(resource.RUSAGE_CHILDREN)  # of the largest worker
        table = load_table(f"{cache}/{report.table}")
    rows = sample_rows(args.data_dir, args.count)
    seconds, groups, cells = time_plain(rows, table)
    whole = seconds * report.num_rows / len(rows)
    ratio = whole / report.seconds
    agree = f"{groups} space groups and {cells} cells of {len(rows)} agree"
    print(f"table          {report.table}, {report.num_used:,} of {report.num_rows:,} rows used")
    print(f"plain          {whole:8.0f} s, scaled from {len(rows)} rows, one process; {agree}")
    print(f"ours           {report.seconds:8.0f} s, {args.workers} processes; {ratio:.1f} x")
    print(f"memory         {memory:8.2f} GiB at most, all processes")
    device = device_name()
    record(
        [
            Result(
                name="prepare_vs_plain",
                value=report.seconds,
                unit="s",
                device=device,
                baseline="pymatgen and spglib called plainly, one process",
                ratio=ratio,
                notes=f"{args.workers} processes; the baseline scaled from {len(rows)} rows; "
                f"{agree}; nearly all of ours is spglib's symmetry search",
            ),
            Result(
                name="prepare_memory_gib",
                value=memory,
                unit="GiB",
                device=device,
                notes=f"sum of the peaks of {args.workers + 1} processes, shared pages counted "
                "in each",
            ),
        ]
    )


if __name__ == "__main__":
    main()
