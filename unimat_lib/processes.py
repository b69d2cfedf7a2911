"""Jobs in, their results out, by worker processes that never outlive this one."""

from __future__ import annotations

import ctypes
import signal
from collections.abc import Callable, Iterator, Sequence
from typing import Any


def die_with_parent() -> None:
    """Ask Linux to kill this process when its parent ends, however it ends."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # 1 is PR_SET_PDEATHSIG


def unordered(
    function: Callable[..., Any], jobs: Sequence[tuple], *, workers: int
) -> Iterator[Any]:
    """Results of ``function(*job)`` for every job, as they come.

    The workers are joblib's, fresh processes: a fork of a process with threads, such as a notebook's
    kernel, can hang, and the standard library's spawned ones run the caller's script again, which
    hangs or forks without end where the script has no ``__main__`` guard.

    Args:
        function: A function of a module (not of a script).
        jobs: Arguments of each call.
        workers: Number of processes; with one, or a single job, this process does the work.
    """
    if workers == 1 or len(jobs) < 2:
        yield from (function(*job) for job in jobs)
        return
    from joblib import Parallel, delayed

    pool = Parallel(
        n_jobs=min(workers, len(jobs)),
        return_as="generator_unordered",
        pre_dispatch="all",
        batch_size=1,
    )
    yield from pool(delayed(_guarded)(function, job) for job in jobs)


def _guarded(function: Callable[..., Any], job: tuple) -> Any:
    die_with_parent()
    return function(*job)
