"""Finished notebooks and Markdown in, checked HTML pages out."""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import yaml

from unimat_book.run import stamps
from unimat_book.run.checks import find_problems, status_table
from unimat_book.run.headline import fill, results_block
from unimat_book.run.kernels import only_one
from unimat_book.run.landmarks import mend
from unimat_book.run.plain_yaml import BookError, read_yaml
from unimat_book.run.reader_files import write_tables, write_terms
from unimat_book.run.sources import Book
from unimat_book.run.telephones import add_narrow, set_aside
from unimat_book.run.tutorials import is_tutorial
from unimat_lib.processes import die_with_parent

NOTICE = (
    "Quick profile: partly synthetic crystals and minutes of training. "
    "It shows that everything runs; no claim rests on its numbers."
)

#: Folder of the staged book that holds the narrow layouts of its figures.
NARROW = "_narrow"

#: Pages that load modules, weights and data which no notebook makes.
LOADING_PAGES = {"chapters/your_pattern.md", "chapters/things_to_move.md"}


def build(book: Book, args: argparse.Namespace) -> None:
    """Check a profile's notebooks, then build its pages from a copy, so that the tree is clean."""
    with only_one(book, f"{args.profile}-build"):
        problems = find_problems(book, args.profile)
        if problems:
            again = f"unimat-book run all --profile {args.profile}"
            raise BookError("\n".join([*problems, f"not built; to run everything anew: {again}"]))
        folder = stage(book, args.profile)
        loading = LOADING_PAGES.intersection(book.toc)
        if loading:
            loaded = write_loaded_files(book, args.profile)
        _build(book, folder, book.build_dir(args.profile) / "build.log")
        mend(folder / "_build/html")
        add_narrow(folder / NARROW, folder / "_build/html")
        write_reader_files(book, args.profile, folder / "_build/html")
        if loading:
            shutil.copytree(loaded, folder / "_build/html/browser")


def write_loaded_files(book: Book, profile: str) -> Path:
    """What :data:`LOADING_PAGES` load; kept below ``_build``, made anew if it changes.

    In the full profile index, map and formulas are MP-20's where that has been prepared; elsewhere,
    and in the quick profile, they are those of the prototypes that come along.
    """
    from unimat_book.browser.export import export  # imports torch; most builds need it not

    dataset = "prototypes" if profile == "quick" else None
    return export(book.build_dir(profile) / "browser", dataset=dataset)


def write_reader_files(book: Book, profile: str, pages: Path) -> None:
    """Put files below the tables of the pages, and the glossary into a script."""
    for name in book.chapters:
        page = pages / f"chapters/{name}.html"
        results = book.results_dir(profile) / f"{name}.json"
        if page.is_file() and results.is_file():
            write_tables(page, results, pages / "tables")
    if (glossary := pages / "chapters/glossary.html").is_file():
        write_terms(glossary, pages / "_static/terms.js")


def _build(book: Book, folder: Path, log: Path) -> None:
    start = "from jupyter_book.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", start, "build", str(folder), "-n", "-W", "--keep-going"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=die_with_parent,
    )
    output = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout)
    log.write_text(output, encoding="utf-8")
    pages = folder / "_build" / "html"
    wrong = [line for line in output.splitlines() if re.search(r"WARNING|ERROR|Exception", line)]
    wrong += page_problems(book, pages)
    if done.returncode or wrong:
        listed = "\n".join(dict.fromkeys(wrong)) or "\n".join(output.splitlines()[-20:])
        raise BookError(f"{listed}\nthe pages were not built without warnings; whole log: {log}")
    print(f"{len(book.toc)} pages built. Open {pages / 'index.html'}")


def stage(book: Book, profile: str) -> Path:
    """Copy the pages of the table of contents, the generated tables filled in."""
    folder = book.build_dir(profile) / "book"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "chapters").mkdir(parents=True)
    tables = {"results": results_block(book, profile), "status": status_table(book, profile)}
    for page in book.toc:
        target = folder / page
        target.parent.mkdir(parents=True, exist_ok=True)
        if is_tutorial(page):  # knows no profile
            shutil.copyfile(book.root / page, target)
            set_aside(target, folder / NARROW)
            continue
        if page.endswith(".ipynb"):
            shutil.copyfile(book.notebook_path(Path(page).stem, profile), target)
            set_aside(target, folder / NARROW)
            if profile == "full" and Path(page).stem in book.pending:
                _add_warning(target, book.pending[Path(page).stem])
            continue
        source = book.root / page
        if not source.is_file():
            raise BookError(f"_toc.yml lists {page}, which is missing")
        text = source.read_text("utf-8")
        for name, table in tables.items():
            text = fill(text, name, table)
        target.write_text(text, encoding="utf-8")
    config = read_yaml(book.root / "_config.yml")
    config["execute"] = {"execute_notebooks": "off"}  # whatever it says: a build runs no chapter
    if profile == "quick":
        config["html"] = {**(config.get("html") or {}), "announcement": NOTICE}
    (folder / "_config.yml").write_text(yaml.safe_dump(config), encoding="utf-8")
    shutil.copyfile(book.root / "_toc.yml", folder / "_toc.yml")
    bibliographies = config.get("bibtex_bibfiles") or []
    for name in bibliographies if isinstance(bibliographies, list) else [bibliographies]:
        shutil.copyfile(book.inside(name, "_config.yml", (".bib",)), folder / name)
    if (book.root / "_static").is_dir():
        shutil.copytree(book.root / "_static", folder / "_static")
    return folder


def _add_warning(path: Path, text: str) -> None:
    """Put a warning below the title of a staged notebook."""
    notebook = stamps.read_notebook(path, "")
    warning = f":::{{warning}}\nThis page is older than its source. {text}\n:::"
    notebook.cells.insert(1, nbformat.v4.new_markdown_cell(warning, id="older-than-its-source"))
    path.write_text(nbformat.writes(notebook) + "\n", encoding="utf-8")


def page_problems(book: Book, pages: Path) -> list[str]:
    """Pages of the table of contents that are missing, untitled or empty in the HTML."""
    problems = []
    for name in book.toc:
        path = pages / Path(name).with_suffix(".html")
        if not path.is_file():
            problems.append(f"{name}: no page {path}")
            continue
        html = path.read_text("utf-8")
        if not _letters(html, "title"):
            problems.append(f"{name}: the page has no title")
        if (letters := _letters(html, "article")) < 40:
            problems.append(f"{name}: the page is all but empty ({letters} letters)")
    return problems


def _letters(html: str, tag: str) -> int:
    """How many letters the first element of a kind shows."""
    found = re.search(rf"<{tag}\b[^>]*>(.*?)</{tag}>", html, flags=re.DOTALL)
    return len("".join(re.sub("<[^>]*>", "", found[1]).split())) if found else 0
