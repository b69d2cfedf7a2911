"""Chapters and their parameters in, finished and stamped notebooks out, or nothing changed."""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import nbformat

from unimat_book.record import READ_NOTES, STAGED
from unimat_book.run import stamps
from unimat_book.run.interruption import AT_THE_END, QUIET, uninterrupted
from unimat_book.run.kernels import execute, only_one, scratch_folder, sweep
from unimat_book.run.order import chapter_waits, run_side_by_side
from unimat_book.run.plain_yaml import BookError
from unimat_book.run.sources import Book, Chapter, parse_settings
from unimat_lib.files import file_hash, replacing


@dataclass(frozen=True)
class Run:
    """One chapter to run, with all that it needs."""

    book: Book
    chapter: Chapter
    profile: str
    parameters: Mapping[str, Any]
    gpus: int | None

    @property
    def name(self) -> str:
        """Name of the chapter."""
        return self.chapter.name

    @property
    def target(self) -> Path:
        """Where the finished notebook goes."""
        return self.book.notebook_path(self.name, self.profile)

    @property
    def folder(self) -> Path:
        """The run folder, links followed."""
        return (self.book.root / self.parameters["run_dir"]).resolve()


def run(book: Book, args: argparse.Namespace) -> None:
    """Run chapters, side by side where none reads what the other writes."""
    chosen = book.select(args.chapters)
    settings = parse_settings(args.set)
    parameters = book.parameters(args.profile, settings)
    for name in settings:
        if not any(name in chapter.parameters for chapter in chosen):
            raise BookError(f"--set {name}: none of the chosen chapters has this parameter")
    runs = [Run(book, c, args.profile, parameters[c.name], args.gpus) for c in chosen]
    for one in runs:
        check_run_dir(one, asked=settings)
    if len(runs) == 1:
        run_chapter(runs[0])
        return
    # On a GPU chapters would share its memory, and the times that they publish would be wrong.
    cores = len(os.sched_getaffinity(0))
    jobs = min(args.jobs or (cores if args.profile == "quick" else 1), len(runs))
    environment = {**os.environ, "UNIMAT_ROOT": str(book.root), QUIET: "1"}
    if jobs > 1:
        environment["OMP_NUM_THREADS"] = str(max(cores // jobs, 1))
    AT_THE_END.append(partial(sweep, book))  # of a chapter's process that had to be killed
    begun = time.monotonic()
    run_side_by_side(
        chapter_waits([chapter.name for chapter in chosen]),
        lambda name: _command(book.chapters[name], args),
        environments=[environment] * jobs,
    )
    print(f"{len(runs)} chapters in {time.monotonic() - begun:.0f} s", flush=True)


def _command(chapter: Chapter, args: argparse.Namespace) -> list[str]:
    """Command line that runs one of the chapters asked for."""
    words = command_line("run", chapter, args)
    return words + ([] if args.gpus is None else [f"--gpus={args.gpus}"])


def command_line(action: str, chapter: Chapter, args: argparse.Namespace) -> list[str]:
    """Command line that does something with one of the chapters asked for."""
    own = [pair for pair in args.set if pair.partition("=")[0] in chapter.parameters]
    words = [sys.executable, "-m", "unimat_book.run", action, chapter.name]
    return [*words, f"--profile={args.profile}", *(f"--set={pair}" for pair in own)]


def check_run_dir(run: Run, *, asked: Iterable[str]) -> None:
    """Refuse a run folder outside of the book, unless the command line asks for it.

    Raises:
        BookError: The parameter ``run_dir`` is missing or leads outside.
    """
    run_dir = run.parameters.get("run_dir")
    if not isinstance(run_dir, str) or not run_dir or "\0" in run_dir:
        raise BookError(f"{run.chapter.path}: the chapter needs a parameter run_dir (a folder)")
    quick = run.book.build_dir("quick").resolve()
    if run.profile == "quick" and not run.folder.is_relative_to(quick):
        raise BookError(
            f"{run.name}: run_dir is {run_dir!r}, but the quick profile writes only under "
            "_build/quick: set it in params.yml, quick/all"
        )
    if not run.book.holds(run.folder) and "run_dir" not in asked:
        raise BookError(
            f"{run.name}: run_dir is {run_dir!r}, outside of the book: correct it in "
            "params.yml, or ask for it with --set run_dir=..."
        )


def run_chapter(run: Run) -> None:
    """Run one chapter in a scratch folder and, only if all of it worked, move it into place.

    Raises:
        BookError: The chapter failed, or another process runs it in this profile.
    """
    with only_one(run.book, f"{run.profile}-{run.name}"), scratch_folder(run.book, run.name) as own:
        begun = stamps.begun_stamp(run.book, run.chapter, run.profile, run.parameters)
        print(f"{run.name}: running ({run.profile})", flush=True)
        clock = time.monotonic()
        executed = execute_cells(own, run, lambda cell: True)
        seconds = time.monotonic() - clock
        notebook = stamps.with_prose(run.chapter, executed, run.parameters)
        if notebook is None:
            raise BookError(f"{run.name}: the kernel changed the chapter's own code cells")
        products = _products(own / "staging")
        wrote = {run.folder / name: path for name, path in products.items()}
        stamp = stamps.ended_stamp(
            run.book,
            begun,
            notebook,
            seconds=seconds,
            read=_noted(own / "staging"),
            wrote={_short(run.book, target): file_hash(path) for target, path in wrote.items()},
        )
        notebook.metadata = {
            "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"},
            "language_info": {"name": "python", "file_extension": ".py"},
            "unimat": stamp,
        }
        nbformat.validate(notebook)
        finished = own / "finished.ipynb"
        finished.write_text(nbformat.writes(notebook) + "\n", encoding="utf-8")
        publish({**wrote, run.target: finished}, _written_before(run) - wrote.keys(), own)
    for problem in stamps.output_problems(notebook):
        print(f"{run.name}: note: {problem}", flush=True)
    print(f"{run.name}: done in {seconds:.1f} s -> {_short(run.book, run.target)}", flush=True)


def execute_cells(
    scratch: Path, run: Run, chosen: Callable[[nbformat.NotebookNode], bool]
) -> nbformat.NotebookNode:
    """The chapter as papermill leaves it; cells that are not ``chosen`` are emptied before.

    Raises:
        BookError: A cell failed, or the kernel died.
    """
    executed = scratch / f"{run.name}.ipynb"
    source = nbformat.from_dict(json.loads(json.dumps(run.chapter.notebook)))
    source.cells[run.chapter.parameters_index].source = run.chapter.source_with(run.parameters)
    for cell in source.cells:
        if not chosen(cell):
            cell.source = ""  # and not taken out, so that a failure names the chapter's own cell
    nbformat.write(source, scratch / "source.ipynb")
    begun = time.monotonic()
    try:
        where = {"book": run.book, "scratch": scratch, "cwd": run.book.root}
        known = {"run_dir": run.parameters["run_dir"], "gpus": run.gpus}
        execute(scratch / "source.ipynb", executed, **where, **known)
    except Exception as error:
        print(f"{run.name}: failed after {time.monotonic() - begun:.1f} s", flush=True)
        raise BookError(_failure_message(run, error, _keep_failed(run, executed))) from error
    return nbformat.read(executed, as_version=4)


def _products(staging: Path) -> dict[str, Path]:
    """Files that the chapter wrote for its run folder, by their path in it."""
    files = (path for path in sorted(staging.rglob("*")) if path.is_file())
    return {str(f.relative_to(staging)): f for f in files if f.name != READ_NOTES}


def _noted(staging: Path) -> dict[str, str]:
    """Files that the chapter read, with their hashes then."""
    path = staging / READ_NOTES
    lines = path.read_text("utf-8").splitlines() if path.is_file() else []
    return dict(json.loads(line) for line in lines)


def _written_before(run: Run) -> set[Path]:
    """What the last run of the chapter wrote, by its stamp, where this one might write."""
    try:
        stamp = stamps.read_notebook(run.target, "").metadata.get("unimat", {})
    except BookError:
        return set()
    # A stamp is a text that anybody may have edited: nothing else is ever removed.
    files = {(run.book.root / name).resolve() for name in stamp.get("wrote", {})}
    return {f for f in files if any(f.is_relative_to(run.folder / part) for part in STAGED)}


def publish(new: Mapping[Path, Path], old: Iterable[Path], scratch: Path) -> None:
    """Move files into place and remove those of an earlier run; all of it or nothing.

    Args:
        new: Target to the file that is to become it.
        old: Files of an earlier run that this one did not write, as those of other seeds.
        scratch: Folder for what may have to be put back.
    """
    with uninterrupted():
        before = {target: scratch / f"before-{i}" for i, target in enumerate([*new, *old])}
        before = {target: kept for target, kept in before.items() if target.is_file()}
        for target, kept in before.items():
            shutil.copy2(target, kept)
        try:
            for target, path in new.items():
                with replacing(target) as temporary:
                    shutil.move(path, temporary)
            for target in before.keys() - new.keys():
                target.unlink()
        except BaseException:
            for target in new.keys() - before.keys():
                target.unlink(missing_ok=True)
            for target, kept in before.items():
                os.replace(kept, target)
            raise


def _keep_failed(run: Run, executed: Path) -> Path | None:
    folder = run.book.root / "_build" / "failed"
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        return Path(shutil.copy2(executed, folder / executed.name))
    return None


def _failure_message(run: Run, error: Exception, kept: Path | None) -> str:
    lines = [f"{run.name} did not run through; {run.target} is untouched."]
    if hasattr(error, "cell_index"):  # papermill's PapermillExecutionError
        source = run.chapter.notebook.cells[error.cell_index].source.strip().splitlines()
        lines.append(f"  cell {error.cell_index}: {source[0] if source else ''}")
        lines.append(f"  {error.ename}: {error.evalue}")
        where = re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(error.traceback)).splitlines()
        lines += [f"    | {line}" for line in where[-12:]]
    else:
        lines.append(f"  {type(error).__name__}: {error}")
    if kept:
        lines.append(f"  the notebook up to there: {kept}")
    return "\n".join(lines)


def _short(book: Book, path: Path) -> str:
    """A path from the root of the book, if it is in it."""
    root, path = book.root.resolve(), path.resolve()
    return str(path.relative_to(root) if path.is_relative_to(root) else path)
