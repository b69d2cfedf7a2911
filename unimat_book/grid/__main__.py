"""A number of GPUs in, all trainings of the grid of chapter 05 done on them out.

    python -m unimat_book.grid --gpus 4 --processes-per-gpu 2 --out data/results/grid

It can be stopped and begun again at any time: what is finished is kept, below ``--work`` and in
``--out``, and a killed process loses no more than the training that it was at.
"""

from __future__ import annotations

import argparse
import sys

from unimat_book.grid.launch import (
    command_line,
    report_on,
    say,
    settings_and_table,
    train_side_by_side,
)

_MODULE = "unimat_book.grid"


def main(words: list[str] | None = None) -> int:
    """Do what the command line says; 0 if no training failed."""
    parser = command_line(_MODULE, __doc__, folder="grid")
    keep = "put the structure encoder into --out too, to go on elsewhere with the same"
    parser.add_argument("--keep-structure", action="store_true", help=keep)
    args = parser.parse_args(words)
    return _worker(args) if args.worker is not None else _all(args)


def _open(args: argparse.Namespace):
    from unimat_book.grid.work import Folder

    settings, table = settings_and_table(args.profile)
    return Folder.of(args.work, settings, table.content_hash()), table


def _worker(args: argparse.Namespace) -> int:
    from unimat_book.grid.work import work_through
    from unimat_lib.processes import die_with_parent

    die_with_parent()
    folder, table = _open(args)
    device = "cuda" if args.gpus else "cpu"
    work_through(folder, table, device=device, until=args.worker, say=say)
    return 0


def _all(args: argparse.Namespace) -> int:
    from unimat_book.grid.cells import all_jobs

    folder, table = _open(args)
    jobs = all_jobs(folder.settings)
    folder.forget_failures()
    folder.take_over(args.out, table.content_hash())

    def report() -> int:
        folder.hand_over(args.out, structure=args.keep_structure)
        return report_on("", jobs, folder)

    return train_side_by_side(_MODULE, args, report, logs=folder.path / "logs")


if __name__ == "__main__":
    sys.exit(main())
