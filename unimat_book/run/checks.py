"""The finished notebooks of a profile in, what keeps them from being published out."""

from __future__ import annotations

import argparse
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import nbformat
import yaml

from unimat_book.record import STAGED
from unimat_book.run import stamps, tutorials
from unimat_book.run.headline import block_problems
from unimat_book.run.order import chapter_waits
from unimat_book.run.plain_yaml import BookError
from unimat_book.run.sources import PROFILES, Book, Chapter
from unimat_lib.files import replacing

BY_COMMANDS = ("data/results/grid", "data/results/studies")
"""Folders of results that no chapter writes but ``python -m unimat_book.grid`` and ``.studies``."""


def find_problems(book: Book, profile: str) -> list[str]:
    """Everything that keeps finished notebooks from being published, a line each."""
    parameters = book.parameters(profile)
    problems = list(_toc_problems(book))
    made: dict[str, dict[str, Any]] = {}
    for name, chapter in book.chapters.items():
        path = book.notebook_path(name, profile)
        try:
            notebook = stamps.read_notebook(path, _again("run", chapter, profile))
        except BookError as error:
            problems.append(str(error))
            continue
        made[name] = notebook.metadata.get("unimat", {})
        found = _notebook_problems(book, chapter, notebook, profile, parameters[name])
        problems += [f"{name}: {problem}" for problem in found]
    problems += _reading_problems(book, made)
    problems += _table_problems(made)
    problems += tutorials.problems(book)
    if profile == "full":
        problems += block_problems(book)
    return [" ".join(problem.split()) for problem in problems]


def _again(verb: str, chapter: Chapter, profile: str) -> str:
    return f"unimat-book {verb} {chapter.number} --profile {profile}"


def _notebook_problems(
    book: Book,
    chapter: Chapter,
    notebook: nbformat.NotebookNode,
    profile: str,
    parameters: Mapping[str, Any],
) -> Iterator[str]:
    run, refresh = (_again(verb, chapter, profile) for verb in ("run", "refresh"))
    for problem in stamps.output_problems(notebook):
        yield f"{problem}; run: {run}"
    edited, stale = stamps.reasons_against(book, chapter, notebook, profile, parameters)
    pending = profile == "full" and chapter.name in book.pending
    if pending and not edited and not stale:
        yield "is up to date: take it out of chapters/pending.yml"
    for reason in edited + ([] if pending else stale):
        only_text = reason == stamps.TEXT_EDITED and _renewed(chapter, notebook) is not None
        yield f"{reason}; run: {refresh if only_text else run}"
    if not edited and not stale and _renewed(chapter, notebook) != notebook:
        yield f"the text is newer than the notebook; no run is needed: {refresh}"


def _renewed(chapter: Chapter, notebook: nbformat.NotebookNode) -> nbformat.NotebookNode | None:
    """The notebook with the chapter's text of today, if only the text has changed."""
    used = notebook.metadata.get("unimat", {}).get("parameters", {})
    return stamps.with_prose(chapter, notebook, used)


def _reading_problems(book: Book, made: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Results that a chapter read without waiting for them, or that nobody writes."""
    writers: dict[str, list[str]] = defaultdict(list)  # more than one of a truth that they share
    for name, stamp in made.items():
        for file in stamp.get("wrote", {}):
            writers[file].append(name)
    waits = chapter_waits(list(book.chapters))
    for name, stamp in made.items():
        run_dir = Path(str(stamp.get("parameters", {}).get("run_dir")))
        for file in stamp.get("read", {}):
            wrote = writers.get(file, [])
            if wrote and not waits[name] & set(wrote):
                yield (
                    f"{name} read {file}, which {wrote[0]} wrote, without waiting for it: "
                    f"list {wrote[0]} for {name} in READS of unimat_book/run/order.py"
                )
            published = any(Path(file).is_relative_to(run_dir / kind) for kind in STAGED)
            published &= not any(Path(file).is_relative_to(place) for place in BY_COMMANDS)
            if published and not wrote and len(made) == len(book.chapters):
                yield f"{name} read {file}, which no chapter writes: remove it and run {name} again"


def _table_problems(made: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Data sets of which chapters have used different tables."""
    users: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for name, stamp in made.items():
        for dataset, table in stamp.get("data", {}).items():
            users[dataset][table].append(name)
    for dataset, tables in users.items():
        if len(tables) > 1:
            listed = "; ".join(f"{table}: {', '.join(names)}" for table, names in tables.items())
            yield f"chapters ran on different tables of {dataset}: {listed}"


def _toc_problems(book: Book) -> Iterator[str]:
    pages = (page for page in book.toc if not tutorials.is_tutorial(page))
    listed = {Path(page).stem for page in pages if page.endswith(".ipynb")}
    for name in book.chapters.keys() - listed:
        yield f"_toc.yml lacks chapters/{name}.ipynb"
    for name in sorted(listed - book.chapters.keys()):
        yield f"_toc.yml lists {name}, but chapters/src/{name}.md is missing"


def check(book: Book, args: argparse.Namespace) -> None:
    """Say what is wrong with the finished notebooks, one problem a line."""
    problems = find_problems(book, args.profile)
    for problem in problems:
        print(problem)
    if problems:
        raise BookError(f"{len(problems)} problem(s) in the {args.profile} profile")
    pending = book.pending if args.profile == "full" else {}
    for name, why in pending.items():
        print(f"{name} is older than its source, and its page says so: {why}")
    fresh = len(book.chapters) - len(pending)
    print(f"{fresh} chapters are whole and match their sources ({args.profile})")


def refresh(book: Book, args: argparse.Namespace) -> None:
    """Put edited text into finished notebooks whose code is unchanged, without a run."""
    for chapter in book.select(args.chapters):
        again = _again("run", chapter, args.profile)
        path = book.notebook_path(chapter.name, args.profile)
        notebook = stamps.read_notebook(path, again)
        fresh = _renewed(chapter, notebook)
        if fresh is None:
            raise BookError(f"{chapter.name}: code or parameter names changed; run: {again}")
        fresh.metadata["unimat"]["text"] = stamps.text_hash(fresh)
        if fresh != notebook:
            with replacing(path) as temporary:
                temporary.write_text(nbformat.writes(fresh) + "\n", encoding="utf-8")
        print(f"{chapter.name}: {'text renewed' if fresh != notebook else 'text was up to date'}")


def status_table(book: Book, profile: str) -> str:
    """The stamps of a profile as a Markdown table; :func:`check` gives its reasons in full."""
    parameters = book.parameters(profile)
    rows = ["| Chapter | Run on | Device | Minutes | Data | State |", "|---|---|---|---:|---|---|"]
    for name, chapter in book.chapters.items():
        path = book.notebook_path(name, profile)
        stamp: dict[str, Any] = {}
        try:
            notebook = stamps.read_notebook(path, _again("run", chapter, profile))
            stamp = notebook.metadata.get("unimat", {})
            reasons = stamps.reasons_against(book, chapter, notebook, profile, parameters[name])
            state = _state(*reasons, pending=book.pending.get(name) if profile == "full" else None)
        except BookError as error:
            state = str(error) if path.exists() else "not run"
        tables = [f"`{Path(table).stem}`" for table in stamp.get("data", {}).values()]
        minutes = f"{stamp['seconds'] / 60:.1f}" if "seconds" in stamp else "–"
        cells = [
            f"{{doc}}`/chapters/{name}`",
            stamp.get("date", "–")[:10],
            stamp.get("device", "–"),
            minutes,
        ]
        cells += [", ".join(tables) or "–", " ".join(state.split()).replace("|", "\\|")]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def _state(edited: list[str], stale: list[str], *, pending: str | None) -> str:
    """One line: fresh, pending with the reason of the list, or stale with all reasons in short."""
    if stale and not edited and pending:
        return f"pending: {pending}"
    reasons = ", ".join(map(_in_few_words, edited + stale))
    return f"stale: {reasons}" if reasons else "fresh"


def _in_few_words(reason: str) -> str:
    """A reason without the values and the names of modules that only :func:`check` lists."""
    if found := re.fullmatch(r"(the code it runs) changed: (.+)", reason):
        number = len(found[2].split(", "))
        return f"{found[1]} ({number} module{'s' * (number > 1)})"
    if found := re.match(r"((?:parameter|package) \S+) (?:is|was) ", reason):
        return found[1]
    return reason.removesuffix(" changed")


def status(book: Book, args: argparse.Namespace) -> None:
    """Print the table of stamps of each profile."""
    for profile in PROFILES:
        print(f"{profile}\n{status_table(book, profile)}\n")


def parameters(book: Book, args: argparse.Namespace) -> None:
    """The parameters of a chapter, as a file that papermill reads (`papermill -f`)."""
    (chapter,) = book.select([args.chapter])
    values = book.parameters(args.profile)[chapter.name]
    print(yaml.safe_dump(values, sort_keys=False, allow_unicode=True), end="")
