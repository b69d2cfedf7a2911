"""A number of GPUs in, all trainings of the grid of chapter 05 done on them out.

    python -m unimat_book.grid --gpus 4 --processes-per-gpu 2 --out data/results/grid

It can be stopped and begun again at any time: what is finished is kept, below ``--work`` and in
``--out``, and a killed process loses no more than the training that it was at.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

_EVERY = 30.0  # seconds between two reports, each with the results so far in --out
_RESTARTS = 20  # of processes that died, all together


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
    slots = [(gpu, n) for n in range(args.processes_per_gpu) for gpu in range(args.gpus)]
    processes = {slot: _start(args, slot, until, folder.path) for slot in slots or [(None, 0)]}
    restarts, reported = 0, time.time()
    try:
        while processes:
            time.sleep(0.5)
            for slot, process in list(processes.items()):
                if process.poll() is None:
                    continue
                del processes[slot]
                if process.returncode and restarts < _RESTARTS and time.time() < until:
                    restarts += 1
                    print(
                        f"process {slot} ended with {process.returncode}: begun again", flush=True
                    )
                    processes[slot] = _start(args, slot, until, folder.path)
            if time.time() - reported > _EVERY:
                reported = time.time()
                folder.hand_over(args.out, structure=args.keep_structure)
                _report(folder, jobs)
    finally:
        for process in processes.values():
            process.terminate()
        folder.hand_over(args.out, structure=args.keep_structure)
    return _report(folder, jobs)


def _start(args: argparse.Namespace, slot, until: float, path: Path) -> subprocess.Popen:
    gpu, number = slot
    words = [sys.executable, "-m", "unimat_book.grid", "--worker", repr(until)]
    words += ["--profile", args.profile, "--gpus", str(args.gpus)]
    words += ["--work", str(args.work), "--out", str(args.out)]
    environment = dict(os.environ)
    if gpu is not None:
        seen = os.environ.get("CUDA_VISIBLE_DEVICES")
        names = seen.split(",") if seen else [str(n) for n in range(args.gpus)]
        environment["CUDA_VISIBLE_DEVICES"] = names[gpu]
        cores = len(os.sched_getaffinity(0)) // (args.gpus * args.processes_per_gpu)
        environment["OMP_NUM_THREADS"] = str(max(1, min(8, cores)))
    log = path / "logs" / f"gpu{gpu}-{number}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "a", encoding="utf-8") as handle:
        return subprocess.Popen(words, env=environment, stdout=handle, stderr=subprocess.STDOUT)


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
