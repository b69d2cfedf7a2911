"""Names of studies and a number of GPUs in, all their trainings done on them out.

    python -m unimat_book.studies cures transfer --gpus 4 --processes-per-gpu 2

It can be stopped and begun again at any time: what is finished is kept, below ``--work`` and, with
``--keep-parts``, in ``--out``, and a killed process loses no more than the training it was at.
"""

from __future__ import annotations

import argparse
import importlib
import sys

from unimat_book.grid.launch import (
    command_line,
    report_on,
    say,
    settings_and_table,
    train_side_by_side,
)

STUDIES = ("cures", "transfer", "alignment", "retrieval", "provenance")

_MODULE = "unimat_book.studies"


def main(words: list[str] | None = None) -> int:
    """Do what the command line says; 0 if no training failed."""
    parser = command_line(_MODULE, __doc__, folder="studies")
    parser.add_argument("studies", nargs="+", choices=STUDIES, metavar=f"{{{','.join(STUDIES)}}}")
    keep = "put the outcomes of single trainings into --out too, to go on elsewhere"
    parser.add_argument("--keep-parts", action="store_true", help=keep)
    args = parser.parse_args(words)
    return _worker(args) if args.worker is not None else _all(args)


def _open(args: argparse.Namespace):
    from unimat_book.studies.work import StudyFolder

    settings, table = settings_and_table(args.profile)
    crystals = table.content_hash()
    modules = [importlib.import_module(f"{_MODULE}.{name}") for name in args.studies]
    return [StudyFolder.of(args.work, study, settings, crystals) for study in modules], table


def _worker(args: argparse.Namespace) -> int:
    from unimat_book.studies.work import work_through
    from unimat_lib.processes import die_with_parent

    die_with_parent()
    folders, table = _open(args)
    device = "cuda" if args.gpus else "cpu"
    for folder in folders:
        work_through(folder, table, device=device, until=args.worker, say=say)
    return 0


def _all(args: argparse.Namespace) -> int:
    folders, _ = _open(args)
    for folder in folders:
        folder.forget_failures()
        folder.take_over(args.out)

    def report() -> int:
        for folder in folders:
            folder.hand_over(args.out, parts=args.keep_parts)
        return sum(report_on(f"{each.path.name}: ", each.trials, each) for each in folders)

    how = {"logs": args.work / "logs", "chosen": args.studies}
    return train_side_by_side(_MODULE, args, report, **how)


if __name__ == "__main__":
    sys.exit(main())
