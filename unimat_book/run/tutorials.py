"""Tutorials as text in, executed notebooks beside them out, and what is wrong with those.

A tutorial is a notebook that a reader takes away: it runs where the packages are installed, needs
no clone, and knows no profile. What the book shows is the notebook in the tree, executed here.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

import nbformat

from unimat_book.run import stamps
from unimat_book.run.kernels import execute, only_one, scratch_folder, variable
from unimat_book.run.plain_yaml import BookError, in_short
from unimat_book.run.sources import Book, Chapter
from unimat_lib.files import replacing
from unimat_powder.library.file import VARIABLE, embedded_library

FOLDER = "tutorials"
AGAIN = "unimat-book tutorials"


def sources(book: Book) -> dict[str, Chapter]:
    """The tutorials by name, in the order of their numbers."""
    paths = sorted((book.root / FOLDER / "src").glob("T[0-9]_*.md"))
    return {path.stem: Chapter(path.stem, path) for path in paths}


def is_tutorial(page: str) -> bool:
    """Whether a page of the contents is one."""
    return Path(page).parts[0] == FOLDER


def notebook_path(book: Book, name: str) -> Path:
    """Where the executed notebook of a tutorial lies."""
    return book.root / FOLDER / f"{name}.ipynb"


def tutorials(book: Book, args: argparse.Namespace) -> None:
    """Run the tutorials and publish those that succeed."""
    chosen = sources(book)
    if unknown := [name for name in args.names if name not in chosen]:
        raise BookError(f"no tutorial {in_short(unknown[0])}; there are {', '.join(chosen)}")
    with only_one(book, FOLDER):
        for name in args.names or chosen:
            clock = time.monotonic()
            publish(book, chosen[name])
            print(f"{name}: done in {time.monotonic() - clock:.1f} s", flush=True)


def publish(book: Book, tutorial: Chapter) -> None:
    """Run one tutorial in a folder of its own and, only if all of it worked, put it in place.

    Raises:
        BookError: A cell failed, or wrote to standard error.
    """
    notebook = _executed(book, tutorial)
    if problems := stamps.output_problems(notebook):
        raise BookError("\n".join(f"{tutorial.name}: {problem}" for problem in problems))
    notebook.metadata = {
        "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"},
        "language_info": {"name": "python", "file_extension": ".py"},
        "unimat_tutorial": {
            "code": stamps.chapter_identity(book, tutorial)["code"],
            "outputs": stamps.outputs_hash(notebook),
        },
    }
    nbformat.validate(notebook)
    with replacing(notebook_path(book, tutorial.name)) as temporary:
        temporary.write_text(nbformat.writes(notebook) + "\n", encoding="utf-8")


def _executed(book: Book, tutorial: Chapter) -> nbformat.NotebookNode:
    """The tutorial with its outputs, made on a CPU with what comes along."""
    with scratch_folder(book, tutorial.name) as own:
        source, executed = own / "source.ipynb", own / "executed.ipynb"
        nbformat.write(tutorial.notebook, source)
        try:
            # The small library that every reader has, whatever was built on this machine.
            with variable(VARIABLE, str(embedded_library())):
                where = {"book": book, "scratch": own, "cwd": own, "run_dir": str(own)}
                execute(source, executed, **where, gpus=0)
        except Exception as error:  # papermill's own, and what a dead kernel raises
            raise BookError(f"{tutorial.name} did not run through: {error}") from error
        done = nbformat.read(executed, as_version=4)
    # Text and ids are the source's; papermill adds times and paths of this machine.
    for cell, ran in zip(tutorial.notebook.cells, done.cells, strict=True):
        ran.metadata, ran["id"] = cell.metadata, cell.id
    return done


def problems(book: Book) -> list[str]:
    """What keeps the tutorials from being published, a line each; nothing is executed."""
    found = []
    for name, tutorial in sources(book).items():
        path = notebook_path(book, name)
        try:
            notebook = stamps.read_notebook(path, f"{AGAIN} {name}")
        except BookError as error:
            found.append(str(error))
            continue
        reasons = [*stamps.output_problems(notebook), *_reasons(book, tutorial, notebook)]
        found += [f"{name}: {reason}; run: {AGAIN} {name}" for reason in reasons]
    there = {f"{FOLDER}/{name}.ipynb" for name in sources(book)}
    listed = set(filter(is_tutorial, book.toc))
    found += [f"_toc.yml lacks {page}" for page in sorted(there - listed)]
    return found + [
        f"_toc.yml lists {page}, which has no source" for page in sorted(listed - there)
    ]


def _reasons(book: Book, tutorial: Chapter, notebook: nbformat.NotebookNode) -> Iterator[str]:
    """Why a notebook is not what a run of its source would give."""
    stamp = notebook.metadata.get("unimat_tutorial", {})
    if stamps.text_hash(notebook) != stamps.text_hash(tutorial.notebook):
        yield "its text or code is not that of its source"
    if stamp.get("outputs") != stamps.outputs_hash(notebook):
        yield "an output is not what the run put out"
    now, then = stamps.chapter_identity(book, tutorial)["code"], stamp.get("code", {})
    if changed := sorted(name for name in {*now, *then} if now.get(name) != then.get(name)):
        yield f"the code it runs changed: {', '.join(changed)}"
