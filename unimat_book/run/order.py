"""Chapters to run in, processes that run them as early as what they read allows out."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Mapping, Sequence

from unimat_book.run.interruption import uninterrupted
from unimat_book.run.plain_yaml import BookError
from unimat_lib.processes import die_with_parent

# What each chapter reads of what others wrote; `check` compares it with what was read. One that is
# not listed waits for all before it (but for those that wait for it).
READS: dict[str, tuple[str, ...]] = {
    "01_crystals_and_splits": (),
    "02_three_views": (),
    "03_encoders": (),
    "04_alignment": ("03_encoders",),
    "05_fusion": ("03_encoders",),
    "06_refinement": ("03_encoders", "05_fusion"),
    "07_crystal_systems": ("03_encoders", "05_fusion", "06_refinement"),
    "08_measured_patterns": (),
    "09_ledger": (
        *("03_encoders", "04_alignment", "05_fusion", "06_refinement"),
        *("08_measured_patterns", "10_open_questions"),
    ),
    "10_open_questions": ("05_fusion",),
    "A1_performance": (),
}


def chapter_waits(names: Sequence[str]) -> dict[str, set[str]]:
    """For each chapter, in reading order, those of the others that must be run before."""
    earlier = {
        name: [other for other in names[:i] if name not in READS.get(other, ())]
        for i, name in enumerate(names)
    }
    return {name: set(names) & set(READS.get(name, earlier[name])) for name in names}


def run_side_by_side(
    waits: Mapping[str, set[str]],
    command: Callable[[str], list[str]],
    *,
    environments: Sequence[Mapping[str, str]],
    ahead_of: Mapping[str, str] | None = None,
) -> None:
    """Run one process per job, as many at a time as there are environments, as soon as each may.

    A job is a chapter, or a part of one that is done ahead of it. Chapters go first, and among them
    those that most others wait for. When one fails the running ones finish, and nothing else
    begins. The processes end when this one does.

    Args:
        waits: For each job those that must be done before.
        command: Command line that does a job.
        environments: Environments of the processes; no two run in one of them at a time.
        ahead_of: For jobs that are no chapter, the chapter that does without them: they are not
            begun once it is done.

    Raises:
        BookError: A job failed; its own process has said why.
    """
    ahead_of = ahead_of or {}
    weight = {name: (name in ahead_of, -len(_followers(name, waits))) for name in waits}
    running: dict[str, tuple[int, subprocess.Popen]] = {}
    done: set[str] = set()
    failed: list[str] = []
    while running or (len(done) < len(waits) and not failed):
        done |= {one for one, chapter in ahead_of.items() if chapter in done} - running.keys()
        ready = [n for n in waits if n not in done | running.keys() and waits[n] <= done]
        ready.sort(key=lambda name: weight[name])
        free = [k for k in range(len(environments)) if k not in {k for k, _ in running.values()}]
        for name, place in zip([] if failed else ready, free, strict=False):
            # A session of its own, so that a Ctrl-C reaches this process alone, which ends it; and
            # no signal before it is there, for one that reached it while it begins would be lost.
            with uninterrupted():
                process = subprocess.Popen(
                    command(name),
                    env=environments[place],
                    start_new_session=True,
                    preexec_fn=die_with_parent,
                )
                running[name] = place, process
        ended = [name for name, (_, process) in running.items() if process.poll() is not None]
        for name in ended:
            (failed.append if running.pop(name)[1].returncode else done.add)(name)
        if not ended:
            time.sleep(0.05)
    if failed:
        left = [n for n in waits if n not in done and n not in failed and n not in ahead_of]
        also = f"; not run: {', '.join(left)}" if left else ""
        raise BookError(f"failed: {', '.join(failed)} (see above){also}")


def _followers(name: str, waits: Mapping[str, set[str]]) -> set[str]:
    """All chapters that wait for one, directly or not."""
    direct = {other for other, before in waits.items() if name in before}
    return direct.union(*(_followers(other, waits) for other in direct))
