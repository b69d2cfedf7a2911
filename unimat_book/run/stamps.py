"""A finished notebook and the tree in, what it was made from and whether that is still so out.

Code is compared by meaning (:mod:`unimat_lib.identity`), so that prose, comments and labels can be
mended without a GPU. Files are compared by their content: what a chapter read of others, what it
wrote, and the outputs in its own notebook.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import nbformat

from unimat_book.run.sources import Book, BookError, Chapter, is_parameters
from unimat_lib.files import file_hash
from unimat_lib.identity import FAMILY, identity_of_source, normal_form, short_hash

LOCKS = ("requirements.lock", "requirements-gpu.txt")
"""Files that say which versions of packages the chapters may have been run with."""


def code_cells(notebook: nbformat.NotebookNode) -> list[str]:
    """The normal form of each code cell but the parameters cell, whose values are compared."""
    cells = [c for c in notebook.cells if c.cell_type == "code" and not is_parameters(c)]
    return [normal_form(cell.source) for cell in cells]


def outputs_hash(notebook: nbformat.NotebookNode) -> str:
    """Hash of all that the code cells put out."""
    outputs = [cell.outputs for cell in notebook.cells if cell.cell_type == "code"]
    return short_hash(json.dumps(outputs, sort_keys=True))


def chapter_identity(book: Book, chapter: Chapter) -> dict[str, Any]:
    """The part of a stamp that follows from the tree as it is now."""
    source = "\n".join(c.source for c in chapter.notebook.cells if c.cell_type == "code")
    identity = identity_of_source(source, book.root)
    return {
        "source": short_hash("\n".join(code_cells(chapter.notebook))),
        "code": identity.code,
        "versions": {"python": sys.version.split()[0], **identity.versions},
    }


def make_stamp(
    book: Book,
    chapter: Chapter,
    profile: str,
    parameters: Mapping[str, Any],
    *,
    seconds: float,
    read: Mapping[str, str],
    wrote: Mapping[str, str],
) -> dict[str, Any]:
    """Everything worth knowing about a run that has just succeeded.

    Args:
        book: The book.
        chapter: The chapter.
        profile: Profile of the run.
        parameters: Values of the run.
        seconds: Its wall time.
        read: Hash of each file of an earlier chapter that was read, by path below the book.
        wrote: Hash of each file that was written, by path below the book.
    """
    return {
        "chapter": chapter.name,
        "profile": profile,
        "parameters": json.loads(json.dumps(dict(parameters))),
        "data": data_tables(book, parameters),
        "read": dict(sorted(read.items())),
        "wrote": dict(sorted(wrote.items())),
        "device": _device(parameters),
        "seconds": round(seconds, 1),
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": _commit(book.root),
    }


def data_tables(book: Book, parameters: Mapping[str, Any]) -> dict[str, str]:
    """The prepared table of each data set that a chapter's parameters name, where it is known."""
    names = [parameters.get(name) for name in ("dataset", "pretraining")]
    tables = {}
    for name in filter(None, names):
        try:
            record = json.loads((book.root / "data/cache" / f"{name}.json").read_text("utf-8"))
            tables[name] = Path(record["table"]).name
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return tables


def _device(parameters: Mapping[str, Any]) -> str:
    if str(parameters.get("device", "cpu")).startswith("cuda"):
        ask = "import torch; print(torch.cuda.get_device_name())"
        answer = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True)
        return answer.stdout.strip() or "cuda"
    return f"CPU, {len(os.sched_getaffinity(0))} cores"


def _commit(root: Path) -> str | None:
    """The commit, if the sources are exactly as committed."""
    packages = [path.name for path in root.glob(f"{FAMILY}*") if path.is_dir()]
    git = ["git", "-C", str(root)]
    watched = ["chapters/src", *packages, "params.yml"]
    try:
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True)
        changes = subprocess.run(
            [*git, "status", "--porcelain", "--", *watched], capture_output=True, text=True
        )
    except FileNotFoundError:
        return None
    if head.returncode or changes.returncode or changes.stdout.strip():
        return None
    return head.stdout.strip()


def read_notebook(path: Path, remedy: str) -> nbformat.NotebookNode:
    """Read a finished notebook.

    Raises:
        BookError: If it is missing or broken; the message holds ``remedy``, a command.
    """
    try:
        return nbformat.read(path, as_version=4)
    except FileNotFoundError:
        raise BookError(f"{path} is missing; make it with: {remedy}") from None
    except (ValueError, AttributeError, KeyError, nbformat.reader.NotJSONError) as error:
        raise BookError(f"{path} is not a notebook ({error}); make it anew: {remedy}") from None


def output_problems(notebook: nbformat.NotebookNode) -> list[str]:
    """Errors, stderr output and cells that were not run."""
    problems = []
    for number, cell in enumerate(notebook.cells):
        if cell.cell_type != "code" or not cell.source.strip():
            continue
        if cell.execution_count is None:
            problems.append(f"code cell {number} was not run")
        for output in cell.outputs:
            if output.output_type == "error":
                problems.append(f"code cell {number} failed: {output.ename}: {output.evalue}")
            elif output.output_type == "stream" and output.name == "stderr":
                first = output.text.strip().splitlines()[:1]
                problems.append(f"code cell {number} wrote to stderr: {' '.join(first)[:160]}")
    return problems


def stale_reasons(
    book: Book,
    chapter: Chapter,
    notebook: nbformat.NotebookNode,
    profile: str,
    parameters: Mapping[str, Any],
) -> list[str]:
    """Why a finished notebook no longer is what its sources would give; empty if it is."""
    stamp = notebook.metadata.get("unimat")
    if not stamp:
        return ["has no stamp: it was not made by unimat-book run"]
    reasons = []
    if stamp.get("profile") != profile or stamp.get("chapter") != chapter.name:
        reasons.append(f"is stamped {stamp.get('chapter')}, profile {stamp.get('profile')}")
    now = chapter_identity(book, chapter)
    if now["source"] != stamp.get("source"):
        reasons.append("the chapter's code changed")
    elif code_cells(notebook) != code_cells(chapter.notebook):
        reasons.append("the notebook's code was edited by hand")
    if changed := _differences(now["code"], stamp.get("code", {})):
        reasons.append(f"the code it runs changed: {', '.join(changed)}")
    current = json.loads(json.dumps(dict(parameters)))
    used = stamp.get("parameters", {})
    for name in _differences(current, used):
        reasons.append(
            f"parameter {name} is {current.get(name)!r} now, was {used.get(name)!r} in the run"
        )
    reasons += _version_reasons(book, stamp.get("versions", {}))
    reasons += _data_reasons(book, parameters, stamp.get("data", {}))
    return reasons + _file_reasons(book, stamp.get("read", {}), "read {}, which has changed since")


def edited_reasons(book: Book, notebook: nbformat.NotebookNode) -> list[str]:
    """What was changed by hand in what a run left behind."""
    stamp = notebook.metadata.get("unimat", {})
    reasons = _file_reasons(book, stamp.get("wrote", {}), "wrote {}, which was changed by hand")
    if stamp and stamp.get("outputs") != outputs_hash(notebook):
        reasons.append("an output in the notebook is not what the run put out")
    return reasons


def _differences(now: Mapping[str, Any], then: Mapping[str, Any]) -> list[str]:
    return sorted(name for name in {*now, *then} if now.get(name) != then.get(name))


def _version_reasons(book: Book, versions: Mapping[str, str]) -> Iterator[str]:
    """Packages whose version in the run is in none of the lists of versions."""
    locks = {name: locked_versions(book.root / name) for name in LOCKS}
    locks = {name: versions for name, versions in locks.items() if versions}
    for package, version in versions.items():
        key = _canonical(package)
        allowed = {name: lock[key] for name, lock in locks.items() if key in lock}
        if allowed and version.split("+")[0] not in allowed.values():
            listed = " and ".join(f"{v} in {name}" for name, v in allowed.items())
            yield f"package {package} was {version} in the run, is {listed}"


def locked_versions(path: Path) -> dict[str, str]:
    """Package to version, as a list of ``package==version`` lines has them; empty without it."""
    if not path.is_file():
        return {}
    pairs = re.findall(r"^([\w.-]+)==([^\s;\\]+)", path.read_text("utf-8"), flags=re.MULTILINE)
    return {_canonical(name): version for name, version in pairs}


def _canonical(package: str) -> str:
    return re.sub(r"[-_.]+", "-", package).lower()


def _data_reasons(
    book: Book, parameters: Mapping[str, Any], then: Mapping[str, str]
) -> Iterator[str]:
    now = data_tables(book, parameters)
    for name in sorted(now.keys() & then.keys()):
        if now[name] != then[name]:
            yield f"the table of {name} is {now[name]} now, was {then[name]} in the run"


def _file_reasons(book: Book, files: Mapping[str, str], text: str) -> list[str]:
    reasons = []
    for name, then in files.items():
        path = book.root / name
        if not path.is_file():
            reasons.append(f"{name} of the run is missing")
        elif file_hash(path) != then:
            reasons.append(text.format(name))
    return reasons


def prose_differs(chapter: Chapter, notebook: nbformat.NotebookNode) -> bool:
    """Whether the text (or a caption, or a comment) was edited after the run."""
    stamp = notebook.metadata.get("unimat", {})
    fresh = with_prose(chapter, notebook, stamp.get("parameters", {}))
    return fresh is None or nbformat.writes(fresh) != nbformat.writes(notebook)


def with_prose(
    chapter: Chapter, notebook: nbformat.NotebookNode, parameters: Mapping[str, Any]
) -> nbformat.NotebookNode | None:
    """The chapter as written now, with the outputs of ``notebook``; None if the code differs."""
    if code_cells(chapter.notebook) != code_cells(notebook):
        return None
    if set(chapter.parameters) != set(parameters):
        return None
    fresh = nbformat.from_dict(json.loads(json.dumps(chapter.notebook)))
    fresh.cells[chapter.parameters_index].source = chapter.source_with(parameters)
    ran = [cell for cell in notebook.cells if cell.cell_type == "code"]
    code = [cell for cell in fresh.cells if cell.cell_type == "code"]
    for cell, old in zip(code, ran, strict=True):
        cell.outputs = old.outputs
        cell.execution_count = old.execution_count
    fresh.metadata = notebook.metadata
    fresh.nbformat, fresh.nbformat_minor = notebook.nbformat, notebook.nbformat_minor
    return fresh
