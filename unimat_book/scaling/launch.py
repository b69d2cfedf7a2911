"""A command or a training in, processes that do it together out, watched until all have ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from unimat_book.scaling.fit import fit_together
from unimat_book.scaling.group import PARENT, STORE, Group
from unimat_book.scaling.handover import HANDED, hand_over
from unimat_lib.model import UniMat
from unimat_lib.training.config import FitConfig, FitResult
from unimat_lib.views.batch import CrystalViews

_EVERY = 0.05  # seconds between two looks at the processes
_LAST_WORDS = 0.5  # seconds in which others may fail of the same reason before all are ended
_PATIENCE = 3.0  # seconds between asking a process to end and killing it


def run_together(
    words: Sequence[str],
    *,
    processes: int,
    environment: Mapping[str, str] | None = None,
    seconds: float | None = None,
) -> None:
    """Run a command in several processes of one group and wait until all have ended.

    Their standard output is ours; what they print to standard error is shown when one fails.

    Args:
        words: The command line; it calls :func:`.open_group`, which also torchrun's children may.
        processes: How many; on GPUs at most one for each.
        environment: Further variables.
        seconds: How long it may take, without a limit by default.

    Raises:
        RuntimeError: A process failed, was killed or took too long. The others were ended.
    """
    with tempfile.TemporaryDirectory(prefix="unimat-group-") as folder:
        logs = [Path(folder) / f"{rank}.log" for rank in range(processes)]
        children: list[subprocess.Popen] = []
        try:
            for rank, log in enumerate(logs):
                names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes}
                shared = {STORE: f"{folder}/store", PARENT: str(os.getpid())}
                # All on this host: gloo need not look for the address of its name.
                every = {"GLOO_SOCKET_IFNAME": "lo"} | dict(os.environ) | dict(environment or {})
                every |= {name: str(value) for name, value in names.items()} | shared
                with open(log, "wb") as handle:
                    children.append(subprocess.Popen(list(words), env=every, stderr=handle))
            _watch(children, logs, time.monotonic() + (seconds or float("inf")))
        finally:
            _end(children)


def _watch(children: Sequence[subprocess.Popen], logs: Sequence[Path], until: float) -> None:
    while True:
        codes = [child.poll() for child in children]
        if any(codes):
            time.sleep(_LAST_WORDS)
            codes = [child.poll() for child in children]
            raise RuntimeError(_what_happened(codes, logs))
        if None not in codes:
            return
        if time.monotonic() > until:
            alive = [rank for rank, code in enumerate(codes) if code is None]
            raise RuntimeError(f"processes {alive} of {len(codes)} took too long and were ended")
        time.sleep(_EVERY)


def _what_happened(codes: Sequence[int | None], logs: Sequence[Path]) -> str:
    """One line for each process that ended badly, those that were killed first, and last words."""
    lines, words = [], ""
    for rank, code in sorted(enumerate(codes), key=lambda pair: pair[1] or 0):
        if not code:
            continue
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"failed ({code})"
        said = logs[rank].read_text("utf-8", errors="replace").strip()
        last = said.splitlines()[-1] if said else "it printed nothing"
        lines.append(f"process {rank} of {len(codes)} {how}: {last}")
        words = words or said[-3000:]
    return "\n".join([*lines, "The others were ended. The first of these printed:", words])


def _end(children: Sequence[subprocess.Popen]) -> None:
    for child in children:
        if child.poll() is None:
            child.terminate()
    until = time.monotonic() + _PATIENCE
    for child in children:
        try:
            child.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def fit_on(
    processes: int,
    model: UniMat,
    views: CrystalViews,
    *,
    train: Tensor,
    val: Tensor,
    config: FitConfig,
    run_dir: str | os.PathLike[str],
) -> FitResult:
    """:func:`.fit_together` in processes that are started for it, from a script or a notebook.

    Arguments, result and errors are as there, but for the processes: one for each GPU where the
    views lie on one, else on the CPU. Their result is left in ``model``.

    Raises:
        RuntimeError: A process failed, see :func:`run_together`; call again to go on.
    """
    given = {"train": train, "val": val, "config": config, "run_dir": str(Path(run_dir).resolve())}
    if processes > 1:
        with tempfile.TemporaryDirectory(prefix="unimat-fit-") as folder:
            weights = {name: x.cpu() for name, x in model.state_dict().items()}
            work = {"model": model.config, "weights": weights, "views": views, **given}
            hand_over(Path(folder) / HANDED, work)
            module = [sys.executable, "-m", "unimat_book.scaling", views.device.type, folder]
            run_together(module, processes=processes)
    # Whatever they have finished is only loaded here.
    alone = Group(views.device, half=views.device.type == "cuda")
    return fit_together(model, views, **given, group=alone)
