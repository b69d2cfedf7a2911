"""Ctrl-C or SIGTERM in, a clean end out: no process goes on, no scratch folder stays."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

import psutil

SIGNALS = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)

QUIET = "UNIMAT_QUIET"
"""Set for the process of one chapter among several: the one that started it does the talking."""

AT_THE_END: list[Callable[[], object]] = []
"""What is to be called when a signal ends this process and its children are gone."""


def end_cleanly_on_signals() -> None:
    """From now on end the children, clean up and say one line."""
    for number in SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:  # nohup
            signal.signal(number, _end)


def _end(number: int, frame: FrameType | None) -> None:
    # Nothing is raised: the kernel's client swallows an exception, or makes a traceback of it.
    for other in SIGNALS:
        signal.signal(other, signal.SIG_IGN)
    me = psutil.Process()
    below, children = me.children(recursive=True), me.children()
    _send("terminate", children)  # so that the processes of chapters end like this one
    psutil.wait_procs(children, timeout=10)
    _send("kill", below)
    psutil.wait_procs(below, timeout=10)
    for clean in AT_THE_END:
        clean()
    if QUIET not in os.environ:
        with suppress(OSError):
            os.write(2, b"interrupted; finished notebooks are untouched\n")
    os._exit(128 + number)


def _send(what: str, processes: list[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.Error):
            getattr(process, what)()


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Put signals off until the block has ended: what it does is done as a whole or not at all."""
    late: list[int] = []
    before = {n: signal.signal(n, lambda number, _: late.append(number)) for n in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for number in late[:1]:
            signal.raise_signal(number)
