"""A command and a number of GPUs in, processes of it that work side by side out.

Each process sees one GPU and finds its own work; one that dies takes nothing with it. What the
commands of the grid and of the studies have in common is here too.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from unimat_book.grid.cells import GridSettings
    from unimat_lib.crystals.table import CrystalTable

EVERY = 30.0
"""Seconds between two reports."""

_RESTARTS = 20  # of processes that died, all together


def command_line(module: str, description: str, *, folder: str) -> argparse.ArgumentParser:
    """Arguments of ``python -m module``, which has a ``folder`` below results and builds."""
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=description)
    parser.add_argument("--profile", choices=("quick", "full"), default="full")
    parser.add_argument("--gpus", type=int, default=1, help="0: one CPU process")
    parser.add_argument("--processes-per-gpu", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("data/results") / folder)
    parser.add_argument("--work", type=Path, default=Path("_build") / folder)
    parser.add_argument("--seconds", type=float, help="begin no training later than that")
    parser.add_argument("--worker", type=float, help=argparse.SUPPRESS)  # until when
    return parser


def settings_and_table(profile: str) -> tuple[GridSettings, CrystalTable]:
    """Settings of the grid in a profile, and the crystals that they name."""
    import yaml

    from unimat_book.grid.cells import GridSettings
    from unimat_book.record import project_root
    from unimat_lib.datasets.preparation import load_dataset

    profiles = yaml.safe_load((project_root() / "params.yml").read_text(encoding="utf-8"))
    parameters = profiles[profile]
    settings = GridSettings.from_parameters(parameters["all"] | parameters["05_fusion"])
    return settings, load_dataset(settings.dataset)


def say(text: str) -> None:
    """Print a line with the time of day."""
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def report_on(label: str, trainings: Sequence, folder) -> int:
    """Say how many trainings of a folder are done, and why others failed; the number of these."""
    failed = [one.name for one in trainings if folder.failed(one)]
    done = sum(map(folder.done, trainings))
    say(f"{label}{done} of {len(trainings)} done, {len(failed)} failed")
    for name in failed:
        path = folder.path / "errors" / f"{name}.txt"
        text = path.read_text("utf-8").strip() if path.is_file() else "no error"
        print(f"  {name}: {text.splitlines()[-1][:200]}", flush=True)
    return len(failed)


def train_side_by_side(
    module: str,
    args: argparse.Namespace,
    report: Callable[[], int],
    *,
    logs: Path,
    chosen: Iterable[str] = (),
) -> int:
    """Run the command as its own workers until all is done; 0 if no training failed.

    Args:
        module: Its module.
        args: Of :func:`command_line`.
        report: Hands over what is done, says it, and gives the number of failures.
        logs: Folder of what workers print.
        chosen: Positional arguments of the workers.
    """
    until = time.time() + args.seconds if args.seconds else float("inf")
    words = [sys.executable, "-m", module, *chosen, "--worker", repr(until)]
    words += ["--profile", args.profile, "--gpus", str(args.gpus)]
    words += ["--work", str(args.work), "--out", str(args.out)]
    shape = {"gpus": args.gpus, "per_gpu": args.processes_per_gpu}
    try:
        run_side_by_side(words, **shape, logs=logs, until=until, report=report)
    finally:
        failed = report()
    return 1 if failed else 0


def run_side_by_side(
    words: Sequence[str],
    *,
    gpus: int,
    per_gpu: int,
    logs: Path,
    until: float,
    report: Callable[[], object],
) -> None:
    """Run a command in ``gpus * per_gpu`` processes (one, without a GPU) until all have ended.

    Args:
        words: The command line.
        gpus: How many GPUs; 0 for one process on the CPU.
        per_gpu: Processes on each.
        logs: Folder of what they print.
        until: Time (of :func:`time.time`) after which none is begun again.
        report: Called every 30 seconds.
    """
    slots = [(gpu, n) for n in range(per_gpu) for gpu in range(gpus)] or [(None, 0)]
    count = len(slots)
    processes = {slot: _start(words, slot, count, logs) for slot in slots}
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
                    processes[slot] = _start(words, slot, count, logs)
            if time.time() - reported > EVERY:
                reported = time.time()
                report()
    finally:
        for process in processes.values():
            process.terminate()


def _start(
    words: Sequence[str], slot: tuple[int | None, int], count: int, logs: Path
) -> subprocess.Popen:
    gpu, number = slot
    environment = dict(os.environ)
    if gpu is not None:
        seen = os.environ.get("CUDA_VISIBLE_DEVICES")
        environment["CUDA_VISIBLE_DEVICES"] = seen.split(",")[gpu] if seen else str(gpu)
        cores = len(os.sched_getaffinity(0)) // count
        environment["OMP_NUM_THREADS"] = str(max(1, min(8, cores)))
    log = logs / f"gpu{gpu}-{number}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "a", encoding="utf-8") as handle:
        return subprocess.Popen(words, env=environment, stdout=handle, stderr=subprocess.STDOUT)
