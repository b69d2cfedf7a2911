"""A study and a folder in, its open trials done by any number of processes out.

As in :mod:`unimat_book.grid.work` there is no queue that could be lost: a process takes the first
trial that nobody else has and leaves its outcomes as a file; locks end with the process that held
them. A trial that fails is tried once more and then left alone, with its error on file.
"""

from __future__ import annotations

import contextlib
import shutil
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from unimat_book.grid.cells import GridSettings
from unimat_book.grid.results import device_name
from unimat_book.studies.results import (
    pack,
    read_outcomes,
    stamp_of,
    study_code,
    write_outcomes,
)
from unimat_book.studies.trials import Place, Trial
from unimat_lib.crystals.table import CrystalTable
from unimat_lib.files import alone_in, replacing
from unimat_lib.identity import short_hash

ATTEMPTS = 2


@dataclass(frozen=True)
class StudyFolder:
    """Where the trials of a study with some settings, crystals and code keep what they make."""

    path: Path
    study: ModuleType
    settings: GridSettings
    crystals: str

    @classmethod
    def of(
        cls, work: Path, study: ModuleType, settings: GridSettings, crystals: str
    ) -> StudyFolder:
        """The folder below ``work``; other code has another one."""
        stamp = short_hash(repr((settings.key, crystals, study_code(study.__name__))))
        name = study.__name__.rpartition(".")[2]
        return cls(work / f"{name}-{stamp}", study, settings, crystals)

    @property
    def trials(self) -> list[Trial]:
        """All trials of the study."""
        return self.study.trials(self.settings)

    def result(self, trial: Trial) -> Path:
        """File of a trial's outcomes."""
        return self.path / "results" / f"{trial.name}.parquet"

    def attempts(self, trial: Trial) -> Path:
        """File with a line for each time that a trial was begun and did not end well."""
        return self.path / "attempts" / trial.name

    def done(self, trial: Trial) -> bool:
        """Whether a trial has its outcomes."""
        return self.result(trial).is_file()

    def failed(self, trial: Trial) -> bool:
        """Whether a trial was tried often enough."""
        path = self.attempts(trial)
        tried = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        return not self.done(trial) and len(tried) >= ATTEMPTS

    def forget_failures(self) -> None:
        """Let failed trials be tried again."""
        for path in (self.path / "attempts").glob("*"):
            path.unlink()

    def take_over(self, out: Path) -> None:
        """Take what earlier runs left in ``out``, as far as settings, crystals and code agree."""
        wanted = stamp_of(self.settings, self.crystals, self.study.__name__, "")
        same = ("settings", "crystals", "code")
        for path in sorted(out.glob("*-seed*.parquet")):
            found = read_outcomes(path)
            mine = found and found[0][0].trial in self.trials
            if mine and all(s[k] == wanted[k] for _, s in found for k in same):
                target = self.result(found[0][0].trial)
                target.parent.mkdir(parents=True, exist_ok=True)
                if not target.is_file():
                    shutil.copy2(path, target)

    def hand_over(self, out: Path, *, parts: bool) -> None:
        """Put means over seeds into ``out``, and, if asked to, the single outcomes."""
        files = sorted((self.path / "results").glob("*.parquet"))
        out.mkdir(parents=True, exist_ok=True)
        pack(files, out / f"{self.study.__name__.rpartition('.')[2]}.parquet")
        for path in files if parts else ():
            shutil.copy2(path, out)


def work_through(
    folder: StudyFolder,
    table: CrystalTable,
    *,
    device: str,
    until: float = float("inf"),
    say: Callable[[str], None] = lambda text: None,
) -> None:
    """Do the trials of a study until none is left that nobody else is at.

    Args:
        folder: Where outcomes lie.
        table: The crystals.
        device: ``"cpu"`` or ``"cuda"``.
        until: Time (of :func:`time.time`) after which no new trial is begun.
        say: Told of each trial.

    Raises:
        RuntimeError: The GPU is in no state to go on with: start a new process.
    """
    place = Place(table, folder.settings, device, folder.path / "shared")
    shared = folder.study.Shared(place)
    known = folder.settings, folder.crystals, folder.study.__name__
    stamp = stamp_of(*known, device_name(device))
    while time.time() < until:
        left = [t for t in folder.trials if not (folder.done(t) or folder.failed(t))]
        if not left:
            return
        if not any(_taken(folder, t, shared, stamp, device, say) for t in left):
            return


def _taken(
    folder: StudyFolder,
    trial: Trial,
    shared: object,
    stamp: Mapping[str, str],
    device: str,
    say: Callable[[str], None],
) -> bool:
    """Do a trial, unless somebody else is at it."""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(alone_in(folder.path / "claims" / trial.name, wait=False))
        except BlockingIOError:
            return False
        if folder.done(trial) or folder.failed(trial):  # since we looked
            return False
        attempts = folder.attempts(trial)
        attempts.parent.mkdir(parents=True, exist_ok=True)
        with open(attempts, "a", encoding="utf-8") as handle:
            handle.write("begun\n")  # before, so that one that kills its process counts too
        started = time.perf_counter()
        run_dir = folder.path / "runs" / trial.name
        try:
            outcomes = folder.study.train(trial, shared, run_dir=run_dir)
        except Exception as error:  # whatever it is, the others shall go on
            with replacing(folder.path / "errors" / f"{trial.name}.txt") as temporary:
                temporary.write_text(traceback.format_exc(), encoding="utf-8")
            say(f"{trial.name} FAILED: {type(error).__name__}: {error}")
            if device == "cuda":  # which may have spoiled its process
                raise RuntimeError(
                    "a training failed on the GPU: go on in a new process"
                ) from error
            return True
        write_outcomes(outcomes, folder.result(trial), stamp=stamp)
        attempts.unlink()
        shutil.rmtree(run_dir, ignore_errors=True)
        say(f"{trial.name} {time.perf_counter() - started:.1f} s")
    return True
