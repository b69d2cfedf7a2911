"""A number of GPUs in, all trainings of the grid of chapter 05 done on them out.

    python -m unimat_book.grid --gpus 4 --processes-per-gpu 2 --out data/results/grid

It can be stopped and begun again at any time: what is finished is kept, below ``--work`` and in
``--out``, and a killed process loses no more than the training that it was at.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from unimat_book.grid.launch import run_side_by_side


def main(words: list[str] | None = None) -> int:
    """Do what the command line says; 0 if no training failed."""
    parser = argparse.ArgumentParser(prog="python -m unimat_book.grid", description=__doc__)
    parser.add_argument("--profile", choices=("quick", "full"), default="full")
    parser.add_argument("--gpus", type=int, default=1, help="0: one CPU process")
    parser.add_argument("--processes-per-gpu", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("data/results/grid"))
    parser.add_argument("--work", type=Path, default=Path("_build/grid"))
    parser.add_argument("--seconds", type=float, help="begin no training later than that")
    keep = "put the structure encoder into --out too, to go on elsewhere with the same"
    parser.add_argument("--keep-structure", action="store_true", help=keep)
    parser.add_argument("--worker", type=float, help=argparse.SUPPRESS)  # until when
    args = parser.parse_args(words)
    if args.worker is not None:
        return _worker(args)
    return _all(args)


def _open(args: argparse.Namespace):
    import yaml

    from unimat_book.grid.cells import GridSettings
    from unimat_book.grid.work import Folder
    from unimat_book.record import project_root
    from unimat_lib.datasets.preparation import load_dataset

    profiles = yaml.safe_load((project_root() / "params.yml").read_text(encoding="utf-8"))
    parameters = profiles[args.profile]
    settings = GridSettings.from_parameters(parameters["all"] | parameters["05_fusion"])
    table = load_dataset(settings.dataset)
    return Folder.of(args.work, settings, table.content_hash()), table


def _worker(args: argparse.Namespace) -> int:
    from unimat_book.grid.work import work_through
    from unimat_lib.processes import die_with_parent

    die_with_parent()
    folder, table = _open(args)

    def say(text: str) -> None:
        print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)

    device = "cuda" if args.gpus else "cpu"
    work_through(folder, table, device=device, until=args.worker, say=say)
    return 0


def _all(args: argparse.Namespace) -> int:
    from unimat_book.grid.cells import all_jobs

    until = time.time() + args.seconds if args.seconds else float("inf")
    folder, table = _open(args)
    jobs = all_jobs(folder.settings)
    folder.forget_failures()
    folder.take_over(args.out, table.content_hash())
    words = [sys.executable, "-m", "unimat_book.grid", "--worker", repr(until)]
    words += ["--profile", args.profile, "--gpus", str(args.gpus)]
    words += ["--work", str(args.work), "--out", str(args.out)]

    def report() -> int:
        folder.hand_over(args.out, structure=args.keep_structure)
        return _report(folder, jobs)

    try:
        shape = {"gpus": args.gpus, "per_gpu": args.processes_per_gpu}
        run_side_by_side(words, **shape, logs=folder.path / "logs", until=until, report=report)
    finally:
        failed = report()
    return failed


def _report(folder, jobs) -> int:
    done = sum(map(folder.done, jobs))
    failed = [job.name for job in jobs if folder.failed(job)]
    print(
        f"{time.strftime('%H:%M:%S')} {done} of {len(jobs)} done, {len(failed)} failed", flush=True
    )
    for name in failed:
        path = folder.path / "errors" / f"{name}.txt"
        last = path.read_text("utf-8").strip().splitlines()[-1] if path.is_file() else "no error"
        print(f"  {name}: {last[:200]}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
