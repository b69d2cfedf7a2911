"""What a finished notebook was made from, and whether that is still so.

Code is compared by meaning: comments, docstrings and layout may change without a new run, so that
prose and documentation can be mended without a GPU.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.metadata
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import nbformat
from sources import Book, BookError, Chapter, is_parameters

PACKAGE = "unimat_lib"
VERSIONS = ("torch", "numpy", "pandas", "pymatgen", "torch-geometric", "lightning", "scikit-learn")


def normal_form(source: str, *, drop_module_docstring: bool = True) -> str:
    """Spell out what Python code means: without comments, layout or docstrings.

    ``ast.dump`` would do, but its text differs between Python versions (chapters run on one
    machine and are checked on another), so empty fields are left out here.
    """
    try:
        tree = ast.parse(source)
    except SyntaxError:  # an IPython magic
        return "\n".join(line.rstrip() for line in source.strip().splitlines())

    def spell(node: Any) -> str:
        if isinstance(node, ast.AST):
            fields = dict(ast.iter_fields(node))
            if isinstance(node, ast.JoinedStr):  # Python 3.12 adds empty parts to some f-strings
                fields["values"] = [part for part in node.values if part.value != ""]
            module = isinstance(node, ast.Module) and drop_module_docstring
            if module or isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                body = fields["body"]
                if ast.get_docstring(node, clean=False) is not None:  # type: ignore[arg-type]
                    body = body[1:]
                fields["body"] = body
            inner = ",".join(
                f"{name}={spell(value)}"
                for name, value in sorted(fields.items())
                if value not in (None, []) or isinstance(node, ast.Constant)
            )
            return f"{type(node).__name__}({inner})"
        if isinstance(node, list):
            return "[" + ",".join(spell(item) for item in node) + "]"
        return repr(node)

    silent = ";" if source.rstrip().endswith(";") else ""  # in a notebook it hides the output
    return spell(tree) + silent


def code_cells(notebook: nbformat.NotebookNode) -> list[str]:
    """The normal form of each code cell but the parameters cell, whose values are compared."""
    return [
        normal_form(cell.source, drop_module_docstring=False)
        for cell in notebook.cells
        if cell.cell_type == "code" and not is_parameters(cell)
    ]


def digest(text: str) -> str:
    """First 16 hex digits of the SHA-256."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def library_hashes(root: Path, sources: Iterable[str]) -> dict[str, str]:
    """Hash every module of the library that some code imports, directly or not."""
    waiting = [name for source in sources for name in _imports(source, PACKAGE)]
    hashes: dict[str, str] = {}
    while waiting:
        name = waiting.pop()
        path = _module_path(root, name)
        if name in hashes or path is None:
            continue
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        hashes[name], imports = _module_facts(path.read_text(encoding="utf-8"), package)
        waiting += [name.rpartition(".")[0] or name, *imports]
    return dict(sorted(hashes.items()))


@functools.cache  # all chapters share most modules
def _module_facts(text: str, package: str) -> tuple[str, tuple[str, ...]]:
    """Hash of a module's code, and what it imports of the library."""
    return digest(normal_form(text)), tuple(_imports(text, package))


def _module_path(root: Path, name: str) -> Path | None:
    path = root.joinpath(*name.split("."))
    candidates = (path.with_suffix(".py"), path / "__init__.py")
    return next((c for c in candidates if c.is_file()), None)


def _imports(source: str, package: str) -> list[str]:
    """Names under the library that ``source`` imports; some may be functions, not modules."""
    try:
        nodes = list(ast.walk(ast.parse(source)))
    except SyntaxError:
        # A cell with a magic: read its import lines one by one.
        lines = re.findall(r"^\s*((?:from|import)\s.+)$", source, flags=re.MULTILINE)
        return [name for line in lines if line != source for name in _imports(line, package)]
    found: list[str] = []
    for node in nodes:
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = package.split(".")
                parent = ".".join(parts[: len(parts) - node.level + 1])
                base = f"{parent}.{base}" if base else parent
            found += [base, *(f"{base}.{alias.name}" for alias in node.names)]
    return [name for name in found if name.split(".")[0] == PACKAGE]


def chapter_hashes(book: Book, chapter: Chapter) -> dict[str, Any]:
    """The part of a stamp that follows from the tree as it is now."""
    sources = [cell.source for cell in chapter.notebook.cells if cell.cell_type == "code"]
    return {
        "code": digest("\n".join(code_cells(chapter.notebook))),
        "library": library_hashes(book.root, sources),
    }


def make_stamp(
    book: Book, chapter: Chapter, profile: str, parameters: Mapping[str, Any], seconds: float
) -> dict[str, Any]:
    """Everything worth knowing about a run that has just succeeded."""
    return {
        "chapter": chapter.name,
        "profile": profile,
        **chapter_hashes(book, chapter),
        "parameters": json.loads(json.dumps(dict(parameters))),
        "data": _data_table(book, parameters, "dataset"),
        "pretraining": _data_table(book, parameters, "pretraining"),
        "device": _device(parameters),
        "versions": _versions(),
        "seconds": round(seconds, 1),
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": _commit(book.root),
    }


def _data_table(book: Book, parameters: Mapping[str, Any], name: str) -> str | None:
    if not parameters.get(name):
        return None
    folder = book.root / parameters.get("cache_dir", "data/cache")
    try:
        report = json.loads((folder / f"{parameters[name]}.json").read_text("utf-8"))
    except (OSError, ValueError):
        return None
    table = report.get("table")
    return Path(table).name if table else None


def _device(parameters: Mapping[str, Any]) -> str:
    if str(parameters.get("device", "cpu")).startswith("cuda"):
        ask = "import torch; print(torch.cuda.get_device_name())"
        answer = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True)
        return answer.stdout.strip() or "cuda"
    return f"CPU, {len(os.sched_getaffinity(0))} cores"


def _versions() -> dict[str, str]:
    versions = {"python": sys.version.split()[0]}
    for name in VERSIONS:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _commit(root: Path) -> str | None:
    """The commit, if the sources are exactly as committed."""
    watched = ["chapters/src", PACKAGE, "params.yml"]
    git = ["git", "-C", str(root)]
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
    except (ValueError, nbformat.reader.NotJSONError) as error:
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
        return ["has no stamp: it was not made by tools/book.py run"]
    reasons = []
    if stamp.get("profile") != profile or stamp.get("chapter") != chapter.name:
        reasons.append(f"is stamped {stamp.get('chapter')}, profile {stamp.get('profile')}")
    now = chapter_hashes(book, chapter)
    if now["code"] != stamp.get("code"):
        reasons.append("the chapter's code changed")
    elif code_cells(notebook) != code_cells(chapter.notebook):
        reasons.append("the notebook's code was edited by hand")
    then = stamp.get("library", {})
    changed = sorted(
        name for name in {*now["library"], *then} if now["library"].get(name) != then.get(name)
    )
    if changed:
        reasons.append(f"library changed: {', '.join(changed)}")
    current = json.loads(json.dumps(dict(parameters)))
    used = stamp.get("parameters", {})
    for name in sorted({*current, *used}):
        if current.get(name) != used.get(name):
            reasons.append(
                f"parameter {name} is {current.get(name)!r} now, was {used.get(name)!r} in the run"
            )
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
