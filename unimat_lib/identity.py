"""Names of functions in, the identity of the code and packages that they run out.

What a result depends on is not a file but the definitions that were reached on the way to it. So
the closure is followed from definition to definition, through every import, also those inside of
functions. Code is compared by meaning: comments, docstrings and layout do not count, nor do the
words in a figure and the launch settings of a kernel, which change no number. The same identity
serves prepared tables, checkpoints, refined parts and the stamps of the book.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.metadata
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

FAMILY = "unimat_"
"""Packages beside this one whose names begin like this are followed; others have a version."""

WORDS_DO_NOT_COUNT = "unimat_book.figures"
"""Modules below this package draw: their strings are labels."""

SETTINGS_DO_NOT_COUNT = "unimat_lib.kernels"
"""Modules below this package hold kernels: their capital constants say how they are launched."""

_LAUNCH_WORDS = ("num_warps", "num_stages")

_DOCUMENTED = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
# Statements that do nothing but bind names: they count where somebody uses the name.
_QUIET = (*_DOCUMENTED, ast.Assign, ast.AnnAssign, ast.Import, ast.ImportFrom)


class Identity(NamedTuple):
    """What some functions run.

    Attributes:
        code: Module to the hash of its definitions that were reached.
        versions: Package outside the family to its installed version.
    """

    code: dict[str, str]
    versions: dict[str, str]

    @property
    def digest(self) -> str:
        """12 hexadecimal digits over both."""
        return short_hash(repr((sorted(self.code.items()), sorted(self.versions.items()))))


def short_hash(text: str) -> str:
    """First 12 hexadecimal digits of the SHA-256 of a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]


@functools.cache
def identity_of(*names: str) -> Identity:
    """Identity of everything that some definitions of this family of packages reach.

    Args:
        names: ``package.module:definition``, for example ``unimat_lib.training.fit:fit``.

    Raises:
        ValueError: There is no such definition.
    """
    root = Path(__file__).resolve().parents[1]
    wanted = [tuple(name.split(":")) for name in names]
    for module, name in wanted:
        if name not in _module(root, module).defined:
            raise ValueError(f"module {module} defines no {name!r}: name one of its definitions")
    return _closure(root, wanted)


def identity_of_source(source: str, root: Path) -> Identity:
    """Identity of everything that a piece of code reaches in the packages below ``root``.

    Args:
        source: Python code, for example the cells of a notebook; magics are passed over.
        root: Folder of the packages.
    """
    code = _Module(_without_magics(source), "__main__", is_package=False)
    return _closure(root, [("__main__", "*")], {"__main__": code})


def normal_form(source: str) -> str:
    """Spell out what Python code means: without comments, layout or docstrings.

    Args:
        source: Code; what Python cannot read (a magic) is kept line by line.
    """
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return "\n".join(line.rstrip() for line in source.strip().splitlines())
    silent = ";" if source.rstrip().endswith(";") else ""  # in a notebook it hides the output
    return _spell(tree) + silent


def _spell(node: Any, *, words: bool = True) -> str:
    """The meaning of a piece of syntax as text.

    ``ast.dump`` would do, but its text differs between Python versions (chapters run on one machine
    and are checked on another), so empty fields are left out here.
    """
    if isinstance(node, list):
        return "[" + ",".join(_spell(item, words=words) for item in node) + "]"
    if not isinstance(node, ast.AST):
        return repr(node)
    if not words and isinstance(node, ast.Constant) and isinstance(node.value, str):
        return "Word"
    if isinstance(node, ast.keyword) and node.arg in _LAUNCH_WORDS:
        return "Launch"
    fields = dict(ast.iter_fields(node))
    if isinstance(node, ast.JoinedStr):  # Python 3.12 adds empty parts to some f-strings
        fields["values"] = [part for part in node.values if getattr(part, "value", 0) != ""]
    if isinstance(node, _DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
        fields["body"] = node.body[1:]
    inner = ",".join(
        f"{name}={_spell(value, words=words)}"
        for name, value in sorted(fields.items())
        if value not in (None, []) or isinstance(node, ast.Constant)
    )
    return f"{type(node).__name__}({inner})"


class _Module:
    """A module taken apart: what each name is bound to, and what always runs."""

    def __init__(self, text: str, name: str, *, is_package: bool) -> None:
        self.name = name
        self.package = name if is_package else name.rpartition(".")[0]
        self.defined: dict[str, list[ast.stmt]] = defaultdict(list)
        self.imported: dict[str, tuple[str, str | None]] = {}
        self.always: list[ast.stmt] = []
        for statement in ast.parse(text).body:
            self._take(statement)

    def _take(self, statement: ast.stmt) -> None:
        if isinstance(statement, (ast.Import, ast.ImportFrom)):
            self.imported |= dict(self.bindings(statement))
        if isinstance(statement, ast.If) and "TYPE_CHECKING" in ast.unparse(statement.test):
            return  # never runs
        for name in _names_bound(statement):
            self.defined[name].append(statement)
        documents = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
        if not documents and not isinstance(statement, _QUIET):
            self.always.append(statement)

    def bindings(self, statement: ast.stmt) -> Iterator[tuple[str, tuple[str, str | None]]]:
        """Local name to (module, name in it) for each name that an import brings."""
        if isinstance(statement, ast.Import):
            for alias in statement.names:
                whole = alias.name if alias.asname else alias.name.split(".")[0]
                yield alias.asname or whole, (whole, None)
        elif isinstance(statement, ast.ImportFrom):
            base = statement.module or ""
            if statement.level:
                parts = self.package.split(".")
                parent = ".".join(parts[: len(parts) - statement.level + 1])
                base = f"{parent}.{base}" if base else parent
            for alias in statement.names:
                yield alias.asname or alias.name, (base, alias.name)


def _names_bound(statement: ast.stmt) -> list[str]:
    """Names that a statement at the top of a module defines."""
    if isinstance(statement, _DOCUMENTED):
        return [statement.name]
    found = (n for n in ast.walk(statement) if isinstance(n, ast.Name))
    names = [n.id for n in found if isinstance(n.ctx, ast.Store)]
    inside = [n.name for n in ast.walk(statement) if isinstance(n, _DOCUMENTED)]
    return names + inside


def _without_magics(source: str) -> str:
    """Python code of notebook cells: lines that begin with % or ! are IPython's."""
    return "\n".join(re.sub(r"^(\s*)[%!].*$", r"\1pass", line) for line in source.splitlines())


@functools.lru_cache(maxsize=512)
def _read(path: Path, changed: int, name: str) -> _Module:
    return _Module(path.read_text(encoding="utf-8"), name, is_package=path.name == "__init__.py")


def _module(root: Path, name: str) -> _Module | None:
    """A module below ``root`` by its dotted name; ``None`` for anything else."""
    if not name.startswith(FAMILY):
        return None
    path = root.joinpath(*name.split("."))
    for file in (path.with_suffix(".py"), path / "__init__.py"):
        if file.is_file():
            return _read(file, file.stat().st_mtime_ns, name)
    return None


def _closure(
    root: Path, wanted: Iterable[tuple[str, str]], known: dict[str, _Module] | None = None
) -> Identity:
    """Follow definitions until no new one is reached."""
    known = known or {}
    waiting, seen = list(wanted), set()
    pieces: dict[str, dict[str, str]] = defaultdict(dict)
    outside: set[str] = set()
    while waiting:
        item = waiting.pop()
        if item in seen:
            continue
        seen.add(item)
        name, wanted_name = item
        module = known.get(name) or _module(root, name)
        if module is None:
            outside.add(name.split(".")[0])
            continue
        pieces[name]  # a module counts as reached even if only its imports are used
        parent = name.rpartition(".")[0]
        waiting += [(name, ""), *([(parent, "")] if parent else [])]
        below = f"{name}.{wanted_name}"
        if wanted_name == "*":
            waiting += [(name, other) for other in module.defined]
        elif wanted_name == "":
            _add(pieces, module, "", module.always, waiting)
        elif wanted_name in module.defined:
            _add(pieces, module, wanted_name, module.defined[wanted_name], waiting)
        elif wanted_name in module.imported:
            waiting.append(_target(*module.imported[wanted_name]))
        elif _module(root, below) is not None:
            waiting.append((below, ""))
    pieces.pop("__main__", None)
    code = {name: short_hash(repr(sorted(parts.items()))) for name, parts in pieces.items()}
    return Identity(dict(sorted(code.items())), _versions(outside))


def _target(module: str, name: str | None) -> tuple[str, str]:
    return module, name or "*"


def _add(
    pieces: dict[str, dict[str, str]],
    module: _Module,
    name: str,
    statements: list[ast.stmt],
    waiting: list[tuple[str, str]],
) -> None:
    """Note the meaning of some statements and what they reach."""
    if module.name.startswith(SETTINGS_DO_NOT_COUNT) and name.strip("_").isupper():
        return
    words = not module.name.startswith(WORDS_DO_NOT_COUNT)
    pieces[module.name][name] = "".join(_spell(s, words=words) for s in statements)
    for statement in statements:
        waiting += _reached(module, statement)


def _reached(module: _Module, statement: ast.stmt) -> Iterator[tuple[str, str]]:
    """Definitions and modules that a statement names."""
    nodes = list(ast.walk(statement))
    bound = dict(module.imported)
    for node in nodes:
        bound |= dict(module.bindings(node))
    attributes = {
        id(node.value): node.attr
        for node in nodes
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
    }
    for node in nodes:
        if isinstance(node, (ast.Import, ast.ImportFrom)):  # inside of a function: it runs
            yield from ((base, name or "") for _, (base, name) in module.bindings(node))
        elif isinstance(node, ast.Name):
            if node.id in module.defined:
                yield module.name, node.id
            elif node.id in bound:
                base, name = bound[node.id]
                attribute = attributes.get(id(node))
                if name is None:
                    yield base, attribute or "*"
                else:
                    yield base, name
                    if base.startswith(FAMILY):  # it may be a module
                        yield f"{base}.{name}", attribute or "*"


@functools.cache
def _distributions() -> dict[str, list[str]]:
    return dict(importlib.metadata.packages_distributions())


def _versions(packages: Iterable[str]) -> dict[str, str]:
    found = {name for package in packages for name in _distributions().get(package, ())}
    found -= set(_distributions().get(__name__.split(".")[0], ()))  # followed, not counted
    return {name: importlib.metadata.version(name) for name in sorted(found)}
