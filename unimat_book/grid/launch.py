"""A command and a number of GPUs in, processes of it that work side by side out.

Each process sees one GPU and finds its own work; one that dies takes nothing with it.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

EVERY = 30.0
"""Seconds between two reports."""

_RESTARTS = 20  # of processes that died, all together


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
