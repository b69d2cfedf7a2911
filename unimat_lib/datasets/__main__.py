"""Prepare a data set from the command line: ``python -m unimat_lib.datasets prepare mp_20``."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence

from unimat_lib.datasets.cluster import prepare_on_cluster
from unimat_lib.datasets.preparation import DATASETS, prepare_dataset
from unimat_lib.datasets.report import DataError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m unimat_lib.datasets", description=__doc__)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("prepare", help="turn a data set into a table of crystals")
    command.add_argument("name", choices=DATASETS)
    command.add_argument("--workers", type=int, default=2, help="processes (default: %(default)s)")
    command.add_argument("--data-dir", help="files of mp_20 or mp_extra (default: $UNIMAT_DATA)")
    command.add_argument("--cache-dir", help="target (default: the book's, or the user's, cache)")
    command.add_argument("--scheduler", help="address of a dask cluster that does the work")
    command.add_argument("--folder", help="folder of CIF files, for cif_folder")
    command.add_argument("--properties", help="CSV of properties, for cif_folder")
    options = vars(parser.parse_args(arguments))
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        prepare = prepare_on_cluster if options["scheduler"] else prepare_dataset
        report = prepare(**{name: x for name, x in options.items() if x is not None})
    except (DataError, OSError, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    used = f"{report.num_used:,} of {report.num_rows:,} rows in {report.seconds:.0f} s"
    notes = [f"{key.replace('_', ' ')}: {value:,}" for key, value in report.notes.items()]
    lines = [report.provenance, used, f"table {report.table}", *notes, report.summary().to_string()]
    lines += [f"dropped {d['material_id']} (row {d['row']}): {d['reason']}" for d in report.dropped]
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
