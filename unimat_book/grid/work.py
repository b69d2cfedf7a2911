"""A folder of work in, its open jobs done one after the other by any number of processes out.

There is no queue that could be lost. A process looks through the list of jobs, takes the first that
nobody else has and whose needs are met, and leaves its result as a file; locks end with the process
that held them. A job that fails is tried once more and then left alone, with its error on file.
"""

from __future__ import annotations

import contextlib
import shutil
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from unimat_book.grid.cells import GridSettings, Job, all_jobs, chosen_rate
from unimat_book.grid.results import (
    Result,
    code_identity,
    finished,
    pack,
    read_results,
    write_results,
)
from unimat_book.grid.structure import make_structure, model_path
from unimat_book.grid.train import Shared, structure_result, train_job
from unimat_lib.crystals.table import CrystalTable
from unimat_lib.files import alone_in, file_hash, replacing
from unimat_lib.identity import short_hash

ATTEMPTS = 2
_PAUSE = 0.5  # seconds between two looks, while others hold what is left


@dataclass(frozen=True)
class Folder:
    """Where the trainings of some settings, crystals and code keep what they make."""

    path: Path
    settings: GridSettings

    @classmethod
    def of(cls, work: Path, settings: GridSettings, crystals: str) -> Folder:
        """The folder below ``work``; other code has another one."""
        stamp = short_hash(repr((settings.key, crystals, code_identity())))
        return cls(work / stamp, settings)

    @property
    def structure(self) -> Path:
        """File of the embeddings of structures."""
        return self.path / "structure.safetensors"

    def result(self, job: Job) -> Path:
        """File of a job's result."""
        if job.purpose == "structure":
            return self.structure
        return self.path / "results" / f"{job.name}.parquet"

    def attempts(self, job: Job) -> Path:
        """File with a line for each time that a job was begun and did not end well."""
        return self.path / "attempts" / job.name

    def done(self, job: Job) -> bool:
        """Whether a job has its result."""
        return self.result(job).is_file()

    def failed(self, job: Job) -> bool:
        """Whether a job was tried often enough, or can never begin."""
        if self.done(job):
            return False
        path = self.attempts(job)
        if path.is_file() and len(path.read_text(encoding="utf-8").splitlines()) >= ATTEMPTS:
            return True
        if job.needs_structure and self.failed(Job("structure")):
            return True
        trials = job.trials(self.settings)
        return bool(trials) and all(map(self.failed, trials))

    def ready(self, job: Job) -> bool:
        """Whether all that a job needs is there."""
        if job.needs_structure and not self.structure.is_file():
            return False
        return all(self.done(trial) or self.failed(trial) for trial in job.trials(self.settings))

    def rate(self, job: Job) -> float:
        """Learning rate of a job."""
        if job.purpose == "tuning":
            return self.settings.rates[job.rate]
        trials = (
            read_results(self.result(t))[0] if self.done(t) else None
            for t in job.trials(self.settings)
        )
        return chosen_rate([t and t.scores["val_supervised"] for t in trials], self.settings)

    def results(self) -> dict[str, Result]:
        """All results so far, by name."""
        found = {}
        for path in sorted((self.path / "results").glob("*.parquet")):
            (found[path.stem],) = read_results(path)
        return found

    def take_over(self, out: Path, crystals: str) -> None:
        """Take what earlier runs left in ``out``, as far as it is of the same structure encoder."""
        model = model_path(self.structure)
        if not model.is_file() and (out / model.name).is_file():
            self.path.mkdir(parents=True, exist_ok=True)
            for suffix in (".json", ".safetensors"):
                shutil.copy2(out / model.with_suffix(suffix).name, model.with_suffix(suffix))
        known = {"", file_hash(model)[:12] if model.is_file() else ""}
        for result in finished(out, self.settings, crystals).values():
            job = result.job
            if job.purpose != "structure" and result.structure in known and not self.done(job):
                write_results([result], self.result(job))

    def hand_over(self, out: Path, *, structure: bool) -> None:
        """Put all results so far into ``out``, and, if asked to, the structure encoder."""
        pack(self.results(), out)
        model = model_path(self.structure)
        if structure and model.with_suffix(".json").is_file():
            out.mkdir(parents=True, exist_ok=True)
            for suffix in (".json", ".safetensors"):
                shutil.copy2(model.with_suffix(suffix), out)

    def forget_failures(self) -> None:
        """Let failed jobs be tried again."""
        for path in (self.path / "attempts").glob("*"):
            path.unlink()


def work_through(
    folder: Folder,
    table: CrystalTable,
    *,
    device: str,
    until: float = float("inf"),
    say: Callable[[str], None] = lambda text: None,
    jobs: list[Job] | None = None,
) -> None:
    """Do jobs until none is left for this process.

    Args:
        folder: Where results lie.
        table: The crystals.
        device: ``"cpu"`` or ``"cuda"``.
        until: Time (of :func:`time.time`) after which no new job is begun.
        say: Told of each job.
        jobs: Which jobs; by default all.

    Raises:
        RuntimeError: The GPU is in no state to go on with: start a new process.
    """
    shared = Shared(table, folder.settings, device=device, structure=folder.structure)
    jobs = all_jobs(folder.settings) if jobs is None else jobs
    while time.time() < until:
        left = [job for job in jobs if not (folder.done(job) or folder.failed(job))]
        if not left:
            return
        if not any(_taken(folder, job, shared, say) for job in left if folder.ready(job)):
            time.sleep(_PAUSE)


def _taken(folder: Folder, job: Job, shared: Shared, say: Callable[[str], None]) -> bool:
    """Do a job, unless somebody else is at it."""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(alone_in(folder.path / "claims" / job.name, wait=False))
        except BlockingIOError:
            return False
        if folder.done(job) or folder.failed(job):  # since we looked
            return False
        attempts = folder.attempts(job)
        attempts.parent.mkdir(parents=True, exist_ok=True)
        with open(attempts, "a", encoding="utf-8") as handle:
            handle.write("begun\n")  # before, so that one that kills its process counts too
        started = time.perf_counter()
        try:
            _do(folder, job, shared)
        except Exception as error:  # whatever it is, the others shall go on
            text = traceback.format_exc()
            with replacing(folder.path / "errors" / f"{job.name}.txt") as temporary:
                temporary.write_text(text, encoding="utf-8")
            say(f"{job.name} FAILED: {type(error).__name__}: {error}")
            if shared.device == "cuda" and _of_the_gpu(error):
                raise RuntimeError("the GPU reported an error, which spoils its process") from error
            return True
        attempts.unlink()
        say(f"{job.name} {time.perf_counter() - started:.1f} s")
    return True


def _do(folder: Folder, job: Job, shared: Shared) -> None:
    run_dir = folder.path / "runs" / job.name
    if job.purpose == "structure":
        scores = make_structure(
            shared.table,
            folder.settings,
            folder.structure,
            device=shared.device,
            run_dir=run_dir,
            rows=shared.rows,
        )
        result = structure_result(scores, folder.settings, shared)
        write_results([result], folder.path / "results" / f"{job.name}.parquet")
        return
    result = train_job(job, shared, rate=folder.rate(job), run_dir=run_dir)
    write_results([result], folder.result(job))


def _of_the_gpu(error: BaseException) -> bool:
    words = f"{type(error).__name__} {error}".lower()
    return any(word in words for word in ("cuda", "cublas", "cudnn", "accelerator", "triton"))
