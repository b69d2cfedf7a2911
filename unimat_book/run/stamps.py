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
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import nbformat

from unimat_book.run.plain_yaml import BookError, in_short
from unimat_book.run.sources import Book, Chapter, is_parameters
from unimat_lib.files import file_hash
from unimat_lib.identity import FAMILY, identity_of_source, normal_form, short_hash

LOCKS = "requirements*"
"""Files that say which versions of packages the chapters may have been run with."""

TEXT_EDITED = "the notebook's text was edited by hand"
"""The one edit that needs no run: the text is put in anew."""

HASHES = ("code", "versions", "data", "read", "wrote")
"""Parts of a stamp that give each name a text: a hash, a version, a table."""


def code_cells(notebook: nbformat.NotebookNode) -> list[str]:
    """The normal form of each code cell but the parameters cell, whose values are compared."""
    cells = [c for c in notebook.cells if c.cell_type == "code" and not is_parameters(c)]
    return [normal_form(cell.source) for cell in cells]


def outputs_hash(notebook: nbformat.NotebookNode) -> str:
    """Hash of all that the code cells put out."""
    outputs = [cell.outputs for cell in notebook.cells if cell.cell_type == "code"]
    return short_hash(json.dumps(outputs, sort_keys=True))


def text_hash(notebook: nbformat.NotebookNode) -> str:
    """Hash of all that was written into the cells, prose and code."""
    return short_hash(json.dumps([(cell.cell_type, cell.source) for cell in notebook.cells]))


def chapter_identity(book: Book, chapter: Chapter) -> dict[str, Any]:
    """The part of a stamp that follows from the code as it is now."""
    source = "\n".join(c.source for c in chapter.notebook.cells if c.cell_type == "code")
    identity = identity_of_source(source, book.root)
    return {
        "source": short_hash("\n".join(code_cells(chapter.notebook))),
        "code": identity.code,
        "versions": {"python": sys.version.split()[0], **identity.versions},
    }


def begun_stamp(
    book: Book, chapter: Chapter, profile: str, parameters: Mapping[str, Any]
) -> dict[str, Any]:
    """What is to be noted before a run: the tree may be edited while it lasts."""
    return {
        "chapter": chapter.name,
        "profile": profile,
        "parameters": json.loads(json.dumps(dict(parameters))),
        "data": data_tables(book, parameters),
        "commit": _commit(book.root),
        **chapter_identity(book, chapter),
    }


def ended_stamp(
    book: Book,
    begun: Mapping[str, Any],
    notebook: nbformat.NotebookNode,
    *,
    seconds: float,
    read: Mapping[str, str],
    wrote: Mapping[str, str],
) -> dict[str, Any]:
    """The whole stamp of a run that has just succeeded.

    Args:
        book: The book.
        begun: What :func:`begun_stamp` gave.
        notebook: The finished notebook.
        seconds: Wall time of the run.
        read: Hash of each file of an earlier chapter that was read, by path below the book.
        wrote: Hash of each file that was written, by path below the book.
    """
    return {
        **begun,
        # A table that the run itself prepared was not there when it began.
        "data": data_tables(book, begun["parameters"]) | begun["data"],
        "read": dict(sorted(read.items())),
        "wrote": dict(sorted(wrote.items())),
        "outputs": outputs_hash(notebook),
        "text": text_hash(notebook),
        "device": _device(begun["parameters"]),
        "seconds": round(seconds, 1),
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }


def data_tables(book: Book, parameters: Mapping[str, Any]) -> dict[str, str]:
    """The prepared table of each data set that a chapter's parameters name, where it is known."""
    tables = {}
    for name in filter(None, map(parameters.get, ("dataset", "pretraining"))):
        with suppress(OSError, ValueError, KeyError, TypeError):
            record = json.loads((book.root / "data/cache" / f"{name}.json").read_text("utf-8"))
            tables[name] = Path(record["table"]).name
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
    watched = ["chapters/src", *packages, "params.yml"]
    try:
        head, changes = (
            subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True)
            for words in (["rev-parse", "HEAD"], ["status", "--porcelain", "--", *watched])
        )
    except FileNotFoundError:
        return None
    clean = not (head.returncode or changes.returncode or changes.stdout.strip())
    return head.stdout.strip() if clean else None


def read_notebook(path: Path, remedy: str) -> nbformat.NotebookNode:
    """Read a finished notebook.

    Raises:
        BookError: If it is missing or broken; the message holds ``remedy``, a command.
    """
    name = f"{path.parent.name}/{path.name}"
    try:
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
    except FileNotFoundError:
        raise BookError(f"{name} is missing; make it with: {remedy}") from None
    except Exception as error:  # nbformat fails in many ways on what is no notebook
        what = f"{type(error).__name__}: {in_short(error)}"
        raise BookError(f"{name} is not a notebook ({what}); make it anew: {remedy}") from None
    if not _well_formed(notebook.metadata.get("unimat", {})):
        raise BookError(f"{name} has a stamp that no run made; make it anew: {remedy}")
    return notebook


def _well_formed(stamp: Any) -> bool:
    """Whether what a stamp holds is of the kinds that a run writes."""
    kinds = dict.fromkeys((*HASHES, "parameters"), dict)
    kinds |= {"seconds": float, "date": str, "device": str}
    if not isinstance(stamp, dict):
        return False
    named = (stamp[part] for part in HASHES if part in stamp)
    return all(isinstance(stamp[n], kind) for n, kind in kinds.items() if n in stamp) and all(
        isinstance(value, str) for part in named for value in part.values()
    )


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


def reasons_against(
    book: Book,
    chapter: Chapter,
    notebook: nbformat.NotebookNode,
    profile: str,
    parameters: Mapping[str, Any],
) -> tuple[list[str], list[str]]:
    """What was edited by hand in a finished notebook, and why it is older than its sources.

    Args:
        book: The book.
        chapter: The chapter.
        notebook: What its last run left behind.
        profile: Profile of the run.
        parameters: Values that a run would have now.

    Returns:
        Two lists of reasons, both empty if the notebook is what a run would give.
    """
    stamp = notebook.metadata.get("unimat", {})
    if missing := {*HASHES, "parameters", "source", "outputs"} - stamp.keys():
        what = f"lacks {', '.join(sorted(missing))}" if stamp else "is missing"
        return [f"its stamp {what}: it was not made by unimat-book run"], []
    # A file that is gone is no forgery: the next run makes it again, and who reads it says so too.
    there = {name: then for name, then in stamp["wrote"].items() if (book.root / name).is_file()}
    edited = _file_reasons(book, there, "wrote {}, which was changed by hand")
    if stamp["outputs"] != outputs_hash(notebook):
        edited.append("an output in the notebook is not what the run put out")
    if stamp["source"] != short_hash("\n".join(code_cells(notebook))):
        edited.append("the notebook's code was edited by hand")
    elif stamp.get("text") != text_hash(notebook):
        edited.append(TEXT_EDITED)
    stale = []
    if (stamp.get("profile"), stamp.get("chapter")) != (profile, chapter.name):
        stale.append(f"is stamped {stamp.get('chapter')}, profile {stamp.get('profile')}")
    now = chapter_identity(book, chapter)
    if now["source"] != stamp["source"]:
        stale.append("the chapter's code changed")
    if changed := _differences(now["code"], stamp["code"]):
        stale.append(f"the code it runs changed: {', '.join(changed)}")
    current, used = json.loads(json.dumps(dict(parameters))), stamp["parameters"]
    for name in _differences(current, used):
        stale.append(
            f"parameter {name} is {current.get(name)!r} now, was {used.get(name)!r} in the run"
        )
    stale += _version_reasons(book, stamp["versions"])
    for name, table in data_tables(book, parameters).items():
        if (then := stamp["data"].get(name, table)) != table:
            stale.append(f"the table of {name} is {table} now, was {then} in the run")
    gone = {name: then for name, then in stamp["wrote"].items() if name not in there}
    stale += _file_reasons(book, gone, "")
    stale += _file_reasons(book, stamp["read"], "read {}, which has changed since")
    return edited, stale


def _differences(now: Mapping[str, Any], then: Mapping[str, Any]) -> list[str]:
    return sorted(name for name in {*now, *then} if now.get(name) != then.get(name))


def _version_reasons(book: Book, versions: Mapping[str, str]) -> Iterator[str]:
    """Packages whose version in the run is in none of the lists of versions."""
    locks = {path.name: locked_versions(path) for path in sorted(book.root.glob(LOCKS))}
    for package, version in versions.items():
        key = _canonical(package)
        allowed = {name: lock[key] for name, lock in locks.items() if key in lock}
        if allowed and version.split("+")[0] not in allowed.values():
            listed = " and ".join(f"{v} in {name}" for name, v in allowed.items())
            yield f"package {package} was {version} in the run, is {listed}"


def locked_versions(path: Path) -> dict[str, str]:
    """Package to version, as a list of ``package==version`` lines has them."""
    text = path.read_text("utf-8") if path.is_file() else ""
    pairs = re.findall(r"^([\w.-]+)==([^\s;\\]+)", text, flags=re.MULTILINE)
    return {_canonical(name): version.split("+")[0] for name, version in pairs}


def _canonical(package: str) -> str:
    return re.sub(r"[-_.]+", "-", package).lower()


def _file_reasons(book: Book, files: Mapping[str, str], text: str) -> list[str]:
    reasons = []
    for name, then in files.items():
        path = book.root / name
        if not book.holds(path):
            reasons.append(f"names {name}, which is not in the book")
        elif not path.is_file():
            reasons.append(f"{name} of the run is missing")
        elif file_hash(path) != then:
            reasons.append(text.format(name))
    return reasons


def with_prose(
    chapter: Chapter, notebook: nbformat.NotebookNode, parameters: Mapping[str, Any]
) -> nbformat.NotebookNode | None:
    """The chapter as written now, with the outputs of ``notebook``; None if the code differs."""
    fresh = nbformat.from_dict(json.loads(json.dumps(chapter.notebook)))
    ran, code = ([c for c in n.cells if c.cell_type == "code"] for n in (notebook, fresh))
    same = len(ran) == len(code) and code_cells(fresh) == code_cells(notebook)
    if not same or set(chapter.parameters) != set(parameters):
        return None
    fresh.cells[chapter.parameters_index].source = chapter.source_with(parameters)
    for cell, old in zip(code, ran, strict=True):
        cell.outputs = old.outputs
        cell.execution_count = old.execution_count
    fresh.metadata = nbformat.from_dict(json.loads(json.dumps(notebook.metadata)))
    fresh.nbformat, fresh.nbformat_minor = notebook.nbformat, notebook.nbformat_minor
    return fresh
