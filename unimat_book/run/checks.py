"""The finished notebooks of a profile in, what keeps them from being published out."""

from __future__ import annotations

import argparse
from pathlib import Path

import nbformat

from unimat_book.run import stamps
from unimat_book.run.headline import block_problems
from unimat_book.run.sources import PROFILES, Book, BookError
from unimat_lib.files import replacing


def find_problems(book: Book, profile: str) -> list[str]:
    """Everything that keeps the finished notebooks of a profile from being published."""
    parameters = book.parameters(profile)
    problems = _toc_problems(book)
    tables: dict[tuple[str, str], list[str]] = {}
    for name, chapter in book.chapters.items():
        again = f"unimat-book run {chapter.number} --profile {profile}"
        try:
            notebook = stamps.read_notebook(book.notebook_path(name, profile), again)
        except BookError as error:
            problems.append(str(error))
            continue
        problems += [f"{name}: {text}" for text in stamps.output_problems(notebook)]
        edited = stamps.edited_reasons(book, notebook)
        problems += [f"{name}: {reason}; run: {again}" for reason in edited]
        reasons = stamps.stale_reasons(book, chapter, notebook, profile, parameters[name])
        if profile == "full" and name in book.pending:
            if not reasons:
                problems.append(f"{name} is up to date: take it out of chapters/pending.yml")
            continue
        problems += [f"{name}: {reason}; run: {again}" for reason in reasons]
        if not reasons and stamps.prose_differs(chapter, notebook):
            problems.append(
                f"{name}: the text is newer than the notebook; no run is needed: "
                f"unimat-book refresh {chapter.number} --profile {profile}"
            )
        for data in notebook.metadata.get("unimat", {}).get("data", {}).items():
            tables.setdefault(data, []).append(name)
    for dataset in {dataset for dataset, _ in tables}:
        used = {table: names for (d, table), names in tables.items() if d == dataset}
        if len(used) > 1:
            listed = "; ".join(f"{table}: {', '.join(names)}" for table, names in used.items())
            problems.append(f"chapters ran on different tables of {dataset}: {listed}")
    if profile == "full":
        problems += block_problems(book)
    return problems


def _toc_problems(book: Book) -> list[str]:
    listed = {Path(page).stem for page in book.toc if page.endswith(".ipynb")}
    problems = [f"_toc.yml lacks chapters/{n}.ipynb" for n in book.chapters if n not in listed]
    return problems + [
        f"_toc.yml lists {name}, but chapters/src/{name}.md is missing"
        for name in sorted(listed - book.chapters.keys())
    ]


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
        again = f"unimat-book run {chapter.number} --profile {args.profile}"
        path = book.notebook_path(chapter.name, args.profile)
        notebook = stamps.read_notebook(path, again)
        used = notebook.metadata.get("unimat", {}).get("parameters", {})
        fresh = stamps.with_prose(chapter, notebook, used)
        if fresh is None:
            raise BookError(f"{chapter.name}: code or parameter names changed; run: {again}")
        changed = stamps.prose_differs(chapter, notebook)
        if changed:
            with replacing(path) as temporary:
                temporary.write_text(nbformat.writes(fresh) + "\n", encoding="utf-8")
        print(f"{chapter.name}: {'text renewed' if changed else 'text was up to date'}")


def status_table(book: Book, profile: str) -> str:
    """The stamps of a profile as a Markdown table."""
    parameters = book.parameters(profile)
    rows = ["| Chapter | Run on | Device | Minutes | Data | State |", "|---|---|---|---:|---|---|"]
    for name, chapter in book.chapters.items():
        path = book.notebook_path(name, profile)
        if not path.is_file():
            rows.append(f"| {name} | – | – | – | – | not run |")
            continue
        notebook = stamps.read_notebook(path, "")
        stamp = notebook.metadata.get("unimat", {})
        stale = stamps.edited_reasons(book, notebook)
        stale += stamps.stale_reasons(book, chapter, notebook, profile, parameters[name])
        minutes = stamp.get("seconds", 0) / 60
        cells = [name, stamp.get("date", "–")[:10], stamp.get("device", "–"), f"{minutes:.1f}"]
        tables = ", ".join(f"`{Path(table).stem}`" for table in stamp.get("data", {}).values())
        cells += [tables or "–"]
        cells += [f"stale: {'; '.join(stale)}".replace("|", "\\|") if stale else "fresh"]
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows)


def status(book: Book, args: argparse.Namespace) -> None:
    """Print the table of stamps of each profile."""
    for profile in PROFILES:
        print(f"{profile}\n{status_table(book, profile)}\n")
