"""Jobs in, their results out, by worker processes that never outlive this one."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from typing import Any


def die_with_parent(parent: int | None = None) -> None:
    """Ask Linux to kill this process when its parent (or that process number) ends."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # 1 is PR_SET_PDEATHSIG
    if parent is not None and os.getppid() != parent:
        os._exit(1)


def unordered(
    function: Callable[..., Any], jobs: Sequence[tuple], *, workers: int
) -> Iterator[Any]:
    """Results of ``function(*job)``, a function of a module, for every job, as they come.

    The workers are joblib's, fresh processes: the fork of a process with threads, such as a
    notebook's kernel, can hang, and the standard library's spawned ones run the caller's script
    again, which hangs or forks without end where it has no ``__main__`` guard. With one worker, or
    a single job, this process does the work.
    """
    if workers == 1 or len(jobs) < 2:
        yield from (function(*job) for job in jobs)
        return
    from joblib import Parallel, delayed

    pool = Parallel(
        n_jobs=min(workers, len(jobs)),
        backend="loky",
        return_as="generator_unordered",
        pre_dispatch="all",
        batch_size=1,
        max_nbytes=None,  # no arrays in shared files, which a killed process would leave behind
        initializer=die_with_parent,
        initargs=(os.getpid(),),
    )
    yield from pool(delayed(function)(*job) for job in jobs)
