"""Names of studies and a number of GPUs in, all their trainings done on them out.

    python -m unimat_book.studies cures transfer --gpus 4 --processes-per-gpu 2

It can be stopped and begun again at any time: what is finished is kept, below ``--work`` and, with
``--keep-parts``, in ``--out``, and a killed process loses no more than the training it was at.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from pathlib import Path

from unimat_book.grid.launch import run_side_by_side

STUDIES = ("cures", "transfer", "alignment", "retrieval", "provenance")


def main(words: list[str] | None = None) -> int:
    """Do what the command line says; 0 if no training failed."""
    parser = argparse.ArgumentParser(prog="python -m unimat_book.studies", description=__doc__)
    parser.add_argument("studies", nargs="+", choices=STUDIES, metavar=f"{{{','.join(STUDIES)}}}")
    parser.add_argument("--profile", choices=("quick", "full"), default="full")
    parser.add_argument("--gpus", type=int, default=1, help="0: one CPU process")
    parser.add_argument("--processes-per-gpu", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("data/results/studies"))
    parser.add_argument("--work", type=Path, default=Path("_build/studies"))
    parser.add_argument("--seconds", type=float, help="begin no training later than that")
    keep = "put the outcomes of single trainings into --out too, to go on elsewhere"
    parser.add_argument("--keep-parts", action="store_true", help=keep)
    parser.add_argument("--worker", type=float, help=argparse.SUPPRESS)  # until when
    args = parser.parse_args(words)
    return _worker(args) if args.worker is not None else _all(args)


def _open(args: argparse.Namespace):
    import yaml

    from unimat_book.grid.cells import GridSettings
    from unimat_book.record import project_root
    from unimat_book.studies.work import StudyFolder
    from unimat_lib.datasets.preparation import load_dataset

    profiles = yaml.safe_load((project_root() / "params.yml").read_text(encoding="utf-8"))
    parameters = profiles[args.profile]
    settings = GridSettings.from_parameters(parameters["all"] | parameters["05_fusion"])
    table = load_dataset(settings.dataset)
    crystals = table.content_hash()
    modules = [importlib.import_module(f"unimat_book.studies.{name}") for name in args.studies]
    return [StudyFolder.of(args.work, study, settings, crystals) for study in modules], table


def _worker(args: argparse.Namespace) -> int:
    from unimat_book.studies.work import work_through
    from unimat_lib.processes import die_with_parent

    die_with_parent()
    folders, table = _open(args)

    def say(text: str) -> None:
        print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)

    device = "cuda" if args.gpus else "cpu"
    for folder in folders:
        work_through(folder, table, device=device, until=args.worker, say=say)
    return 0


def _all(args: argparse.Namespace) -> int:
    until = time.time() + args.seconds if args.seconds else float("inf")
    folders, _ = _open(args)
    for folder in folders:
        folder.forget_failures()
        folder.take_over(args.out)
    words = [sys.executable, "-m", "unimat_book.studies", *args.studies, "--worker", repr(until)]
    words += ["--profile", args.profile, "--gpus", str(args.gpus)]
    words += ["--work", str(args.work), "--out", str(args.out)]

    def report() -> int:
        for folder in folders:
            folder.hand_over(args.out, parts=args.keep_parts)
        return _report(folders)

    try:
        shape = {"gpus": args.gpus, "per_gpu": args.processes_per_gpu}
        run_side_by_side(words, **shape, logs=args.work / "logs", until=until, report=report)
    finally:
        failed = report()
    return failed


def _report(folders) -> int:
    failures = 0
    for folder in folders:
        trials = folder.trials
        failed = [trial.name for trial in trials if folder.failed(trial)]
        done = sum(map(folder.done, trials))
        print(
            f"{time.strftime('%H:%M:%S')} {folder.path.name}: {done} of {len(trials)} done, "
            f"{len(failed)} failed",
            flush=True,
        )
        for name in failed:
            path = folder.path / "errors" / f"{name}.txt"
            text = path.read_text("utf-8").strip() if path.is_file() else "no error"
            print(f"  {name}: {text.splitlines()[-1][:200]}", flush=True)
        failures += len(failed)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
