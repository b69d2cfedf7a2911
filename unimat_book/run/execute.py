"""Chapters and their parameters in, finished and stamped notebooks out, or nothing changed."""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import nbformat

from unimat_book.run import stamps
from unimat_book.run.kernels import KERNEL, offered_kernel, scratch_folder
from unimat_book.run.sources import Book, BookError, Chapter, parse_settings
from unimat_lib.files import alone_in, file_hash, replacing

# What each chapter reads of what others wrote. One that is not listed waits for all before it
# (but for those that wait for it).
READS: dict[str, tuple[str, ...]] = {
    "01_crystals_and_splits": (),
    "02_three_views": (),
    "03_encoders": (),
    "04_alignment": ("03_encoders",),
    "05_fusion": ("03_encoders",),
    "06_refinement": ("03_encoders", "05_fusion"),
    "07_crystal_systems": ("03_encoders", "05_fusion", "06_refinement"),
    "08_ledger": ("03_encoders", "04_alignment", "05_fusion", "06_refinement"),
    "A1_performance": (),
}


def run(book: Book, args: argparse.Namespace) -> None:
    """Run chapters, side by side where none reads what the other writes."""
    chosen = book.select(args.chapters)
    settings = parse_settings(args.set)
    parameters = book.parameters(args.profile, settings)
    for name in settings:
        if not any(name in chapter.parameters for chapter in chosen):
            raise BookError(f"--set {name}: none of the chosen chapters has this parameter")
    for chapter in chosen:
        check_run_dir(book, chapter, args.profile, parameters[chapter.name], asked=settings)
    cores = len(os.sched_getaffinity(0))
    # On a GPU chapters would share its memory, and the times that they publish would be wrong.
    jobs = args.jobs or (cores if args.profile == "quick" else 1)
    _exit_on_sigterm()
    begun = time.monotonic()
    if jobs > 1 and len(chosen) > 1:
        run_side_by_side(
            chapter_waits([chapter.name for chapter in chosen]),
            lambda name: _run_command(book.chapters[name], args),
            jobs=jobs,
            environment={**os.environ, "UNIMAT_ROOT": str(book.root)},
            cores=cores,
        )
    else:
        for name in running_order([chapter.name for chapter in chosen]):
            run_chapter(book, book.chapters[name], args.profile, parameters[name], gpus=args.gpus)
    if len(chosen) > 1:
        print(f"{len(chosen)} chapters in {time.monotonic() - begun:.0f} s", flush=True)


def _run_command(chapter: Chapter, args: argparse.Namespace) -> list[str]:
    """Command line that runs one of the chapters asked for."""
    own = [pair for pair in args.set if pair.partition("=")[0] in chapter.parameters]
    words = [sys.executable, "-m", "unimat_book.run", "run", chapter.name]
    words += [f"--profile={args.profile}", *(f"--set={pair}" for pair in own)]
    return words + ([] if args.gpus is None else [f"--gpus={args.gpus}"])


def chapter_waits(names: Sequence[str]) -> dict[str, set[str]]:
    """For each chapter to run, in reading order, those of the others that must be run before."""
    earlier = {
        name: [other for other in names[:i] if name not in READS.get(other, ())]
        for i, name in enumerate(names)
    }
    return {name: set(names) & set(READS.get(name, earlier[name])) for name in names}


def running_order(names: Sequence[str]) -> list[str]:
    """Chapters in reading order, but each after those whose results it reads."""
    waits, ordered = chapter_waits(names), []
    while len(ordered) < len(names):
        ordered.append(next(n for n in names if n not in ordered and waits[n] <= set(ordered)))
    return ordered


def run_side_by_side(
    waits: Mapping[str, set[str]],
    command: Callable[[str], list[str]],
    *,
    jobs: int,
    environment: Mapping[str, str],
    cores: int,
) -> None:
    """Run one process per chapter, up to ``jobs`` at a time, each as soon as it may.

    Those that most others wait for go first. When one fails the running ones finish, and nothing
    else begins.

    Args:
        waits: For each chapter those that must be done before.
        command: Command line that runs a chapter.
        jobs: Largest number of chapters at a time.
        environment: Environment of the processes.
        cores: Processor cores, shared out among the processes.

    Raises:
        BookError: A chapter failed; its own process has said why.
    """
    threads = str(max(cores // min(jobs, len(waits)), 1))
    environment = {**environment, "OMP_NUM_THREADS": threads}
    weight = {name: len(_followers(name, waits)) for name in waits}
    running: dict[str, subprocess.Popen] = {}
    done: set[str] = set()
    failed: list[str] = []
    try:
        while running or (len(done) < len(waits) and not failed):
            ready = [n for n in waits if n not in done | running.keys() and waits[n] <= done]
            ready.sort(key=lambda name: -weight[name])
            for name in ready[: 0 if failed else jobs - len(running)]:
                running[name] = subprocess.Popen(command(name), env=environment)
            ended = [name for name, process in running.items() if process.poll() is not None]
            for name in ended:
                (failed.append if running.pop(name).returncode else done.add)(name)
            if not ended:
                time.sleep(0.05)
    finally:
        for process in running.values():  # after an interruption
            process.terminate()
        for process in running.values():
            process.wait()
    if failed:
        left = [name for name in waits if name not in done and name not in failed]
        also = f"; not run: {', '.join(left)}" if left else ""
        raise BookError(f"failed: {', '.join(failed)} (see above){also}")


def _followers(name: str, waits: Mapping[str, set[str]]) -> set[str]:
    """All chapters that wait for one, directly or not."""
    direct = {other for other, before in waits.items() if name in before}
    return direct.union(*(_followers(other, waits) for other in direct))


def run_chapter(
    book: Book, chapter: Chapter, profile: str, parameters: Mapping[str, Any], *, gpus: int | None
) -> Path:
    """Run one chapter in a scratch folder and, only if all of it worked, move it into place.

    Raises:
        BookError: The chapter failed, or another process runs it in this profile.
    """
    lock = book.root / "_build" / "locks" / f"{profile}-{chapter.name}"
    try:
        with alone_in(lock, wait=False), scratch_folder(book, chapter.name) as scratch:
            return _run_in(scratch, book, chapter, profile, parameters, gpus=gpus)
    except BlockingIOError:
        raise BookError(
            f"{chapter.name} is being run by another process ({profile}): wait until it has ended"
        ) from None


def _run_in(
    scratch: Path,
    book: Book,
    chapter: Chapter,
    profile: str,
    parameters: Mapping[str, Any],
    *,
    gpus: int | None,
) -> Path:
    target = book.notebook_path(chapter.name, profile)
    identity = stamps.chapter_identity(book, chapter)
    print(f"{chapter.name}: running ({profile})", flush=True)
    begun = time.monotonic()
    executed = _execute(scratch, book, chapter, parameters, gpus=gpus, target=target)
    seconds = time.monotonic() - begun
    notebook = stamps.with_prose(chapter, executed, parameters)
    if notebook is None:
        raise BookError(f"{chapter.name}: the kernel changed the chapter's own code cells")
    products = _products(scratch / "staging")
    base = (book.root / parameters["run_dir"]).resolve()
    wrote = {_short(book, base / name): file_hash(path) for name, path in products.items()}
    read = _noted(scratch / "staging")
    stamp = stamps.make_stamp(
        book, chapter, profile, parameters, seconds=seconds, read=read, wrote=wrote
    )
    # The tree may have been edited meanwhile: what counts is what it was at the start.
    stamp |= identity | {"outputs": stamps.outputs_hash(notebook)}
    notebook.metadata = {
        "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"},
        "language_info": {"name": "python", "file_extension": ".py"},
        "unimat": stamp,
    }
    nbformat.validate(notebook)
    left_over = _written_before(book, target) - wrote.keys()
    for name, path in products.items():
        with replacing(base / name) as temporary:
            shutil.copyfile(path, temporary)
    for name in left_over:  # the files of other seeds or settings of an earlier run
        (book.root / name).unlink(missing_ok=True)
    with replacing(target) as temporary:
        temporary.write_text(nbformat.writes(notebook) + "\n", encoding="utf-8")
    for problem in stamps.output_problems(notebook):
        print(f"{chapter.name}: note: {problem}", flush=True)
    print(f"{chapter.name}: done in {seconds:.1f} s -> {_short(book, target)}", flush=True)
    return target


def _execute(
    scratch: Path,
    book: Book,
    chapter: Chapter,
    parameters: Mapping[str, Any],
    *,
    gpus: int | None,
    target: Path,
) -> nbformat.NotebookNode:
    """The chapter as papermill leaves it.

    Raises:
        BookError: A cell failed, or the kernel died.
    """
    import papermill

    executed = scratch / f"{chapter.name}.ipynb"
    source = nbformat.from_dict(json.loads(json.dumps(chapter.notebook)))
    source.cells[chapter.parameters_index].source = chapter.source_with(parameters)
    nbformat.write(source, scratch / "source.ipynb")
    begun = time.monotonic()
    try:
        with offered_kernel(book, scratch, parameters["run_dir"], gpus):
            papermill.execute_notebook(
                scratch / "source.ipynb",
                executed,
                kernel_name=KERNEL,
                cwd=book.root,
                progress_bar=False,
                start_timeout=180,
            )
    except BaseException as error:
        kept = _keep_failed(book, executed)
        print(f"{chapter.name}: failed after {time.monotonic() - begun:.1f} s", flush=True)
        if isinstance(error, Exception):
            raise BookError(_failure_message(chapter, error, kept, target)) from error
        raise
    return nbformat.read(executed, as_version=4)


def _products(staging: Path) -> dict[str, Path]:
    """Files that the chapter wrote for its run folder, by their path in it."""
    files = (path for path in sorted(staging.rglob("*")) if path.is_file())
    return {str(f.relative_to(staging)): f for f in files if f.name != "read.jsonl"}


def _noted(staging: Path) -> dict[str, str]:
    """Files that the chapter read, with their hashes then."""
    path = staging / "read.jsonl"
    lines = path.read_text("utf-8").splitlines() if path.is_file() else []
    return dict(json.loads(line) for line in lines)


def _written_before(book: Book, target: Path) -> set[str]:
    """What the last run of the chapter wrote, by its stamp."""
    try:
        stamp = stamps.read_notebook(target, "").metadata.get("unimat", {})
    except BookError:
        return set()
    return set(stamp.get("wrote", {}))


def check_run_dir(
    book: Book,
    chapter: Chapter,
    profile: str,
    parameters: Mapping[str, Any],
    *,
    asked: Mapping[str, Any],
) -> None:
    """Refuse a run folder outside of the book, unless the command line asks for it.

    Raises:
        BookError: The parameter ``run_dir`` is missing or leads outside.
    """
    run_dir = parameters.get("run_dir")
    if not isinstance(run_dir, str) or not run_dir:
        raise BookError(f"{chapter.path}: the chapter needs a parameter run_dir (a folder)")
    folder = (book.root / run_dir).resolve()
    if profile == "quick" and not folder.is_relative_to(book.build_dir("quick")):
        raise BookError(
            f"{chapter.name}: run_dir is {run_dir!r}, but the quick profile writes only under "
            "_build/quick: set it in params.yml, quick/all"
        )
    if not folder.is_relative_to(book.root.resolve()) and "run_dir" not in asked:
        raise BookError(
            f"{chapter.name}: run_dir is {run_dir!r}, outside of the book: correct it in "
            "params.yml, or ask for it with --set run_dir=..."
        )


def _exit_on_sigterm() -> None:
    """Turn SIGTERM into an ordinary exit, so that the kernel is stopped and scratch removed."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))


def _keep_failed(book: Book, executed: Path) -> Path | None:
    if not executed.is_file():
        return None
    folder = book.root / "_build" / "failed"
    folder.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copy2(executed, folder / executed.name))


def _failure_message(chapter: Chapter, error: Exception, kept: Path | None, target: Path) -> str:
    lines = [f"{chapter.name} did not run through; {target} is untouched."]
    if hasattr(error, "cell_index"):  # papermill's PapermillExecutionError
        source = chapter.notebook.cells[error.cell_index].source.strip().splitlines()
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
    root = book.root.resolve()
    path = path.resolve()
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)
