"""A chapter and one seed in, that seed's finished training runs in the run folder out.

With several GPUs the seeds of a chapter can be trained side by side, one process each:

    unimat-book spread 03 04 05 --profile full --cards 4
    CUDA_VISIBLE_DEVICES=1 unimat-book ahead 03 04 05 --profile full --seed 1

The first gives a GPU to each chapter that may begin, and the GPUs that are left to its further
seeds; it does what the second does, which runs the cells of the chapter's own source that train,
with one seed in place of all. Nothing is published: what these cells write for readers stays in a
scratch folder. The run of the chapter, at the same time or later, finds each training by the hash
that :func:`.fit` gives it, and loads it (or waits for it). A cell is run ahead for each seed of the
parameter that its tag names: ``ahead-seeds``, or ``ahead-seeds_ways``.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import nbformat

from unimat_book.run.execute import Run, check_run_dir, command_line, execute_cells
from unimat_book.run.interruption import AT_THE_END, QUIET
from unimat_book.run.kernels import only_one, scratch_folder, sweep
from unimat_book.run.order import chapter_waits, run_side_by_side
from unimat_book.run.plain_yaml import BookError
from unimat_book.run.sources import Book, is_parameters, parse_settings

TAG = "ahead-"


def ahead(book: Book, args: argparse.Namespace) -> None:
    """Train one seed of chapters, one after the other, for a run that loads it."""
    settings = parse_settings(args.set)
    parameters = book.parameters(args.profile, settings)
    for chapter in book.select(args.chapters):
        run = Run(book, chapter, args.profile, parameters[chapter.name], gpus=None)
        check_run_dir(run, asked=settings)
        train_ahead(run, args.seed)


def spread(book: Book, args: argparse.Namespace) -> None:
    """Run chapters on several GPUs, one each, their further seeds on those that are left."""
    settings = parse_settings(args.set)
    parameters = book.parameters(args.profile, settings)
    chosen = book.select(args.chapters)
    waits = chapter_waits([chapter.name for chapter in chosen])
    ahead_of: dict[str, str] = {}
    commands = {chapter.name: command_line("run", chapter, args) for chapter in chosen}
    for chapter in chosen:
        run = Run(book, chapter, args.profile, parameters[chapter.name], gpus=None)
        check_run_dir(run, asked=settings)
        for seed in seeds_ahead(run):
            job = f"{run.name} seed {seed}"
            ahead_of[job], waits[job] = run.name, waits[run.name]
            commands[job] = [*command_line("ahead", chapter, args), f"--seed={seed}"]
    AT_THE_END.append(partial(sweep, book))  # of a process that had to be killed
    begun = time.monotonic()
    environments = list(_environments(args.cards, book))
    run_side_by_side(waits, commands.__getitem__, environments=environments, ahead_of=ahead_of)
    print(f"{len(chosen)} chapters in {time.monotonic() - begun:.0f} s", flush=True)


def _environments(cards: int, book: Book) -> Iterator[dict[str, str]]:
    """An environment for each GPU, with its share of the cores."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else [str(card) for card in range(cards)]
    threads = max(len(os.sched_getaffinity(0)) // cards, 1)
    for name in names[:cards]:
        yield {
            **os.environ,
            "CUDA_VISIBLE_DEVICES": name,
            "OMP_NUM_THREADS": str(threads),
            "UNIMAT_ROOT": str(book.root),
            QUIET: "1",
        }


def train_ahead(run: Run, seed: int) -> None:
    """Run the cells of one chapter that train, with one seed.

    Raises:
        BookError: The chapter trains no such seed, a cell failed, or another process is at it.
    """
    lists = _lists(run)
    if unknown := sorted(lists - run.parameters.keys()):
        raise BookError(f"{run.name}: a tag {TAG}{unknown[0]} names no parameter of the chapter")
    mine = {name: [seed] for name in lists if seed in run.parameters[name]}
    if not mine:
        known = {name: run.parameters[name] for name in sorted(lists)}
        what = f"{run.name} trains no seed {seed} ahead of its run"
        raise BookError(
            f"{what}: expected one of {known}" if known else f"{what}: no cell is tagged"
        )
    one = dataclasses.replace(run, parameters={**run.parameters, **mine})
    lock = f"{run.profile}-{run.name}-seed{seed}"
    with only_one(run.book, lock), scratch_folder(run.book, run.name) as own:
        print(f"{run.name}: training seed {seed} ({run.profile})", flush=True)
        begun = time.monotonic()
        execute_cells(
            own, one, lambda cell: is_parameters(cell) or bool(mine.keys() & _lists_of(cell))
        )
    print(f"{run.name}: seed {seed} done in {time.monotonic() - begun:.1f} s", flush=True)


def seeds_ahead(run: Run) -> list[int]:
    """Seeds that can be trained ahead of a chapter, which begins with the first ones itself."""
    lists = [run.parameters[name] for name in sorted(_lists(run) & run.parameters.keys())]
    return sorted({seed for seeds in lists for seed in seeds[1:]})


def _lists(run: Run) -> set[str]:
    """Parameters for whose seeds some cell of a chapter is run ahead."""
    return {name for cell in run.chapter.notebook.cells for name in _lists_of(cell)}


def _lists_of(cell: nbformat.NotebookNode) -> set[str]:
    """Parameters for whose seeds a cell is run ahead."""
    tags: list[Any] = cell.metadata.get("tags", [])
    return {tag.removeprefix(TAG) for tag in tags if tag.startswith(TAG)}
