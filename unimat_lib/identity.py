"""Names of functions in, the identity of the code and packages that they run out.

What a result depends on is not a file but the definitions that were reached on the way to it. So
the closure is followed from definition to definition, through every import, also those inside of
functions. Code is compared by meaning: comments, docstrings and layout do not count, nor do the
words in a figure and the launch settings of a kernel, which change no number. It cannot
see what is chosen by a text at run time (``getattr``, ``importlib.import_module``). In doubt more
is followed than runs, never less.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.metadata
import re
import symtable
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

#: Packages beside this one whose names begin like this are followed; others have a version.
FAMILY = "unimat_"
#: Modules below this package draw: their strings are labels.
WORDS_DO_NOT_COUNT = "unimat_book.figures"
#: Modules below this package hold kernels: their capital constants say how they are launched.
SETTINGS_DO_NOT_COUNT = "unimat_lib.kernels"

_LAUNCH_WORDS = ("num_warps", "num_stages")
_NOT_IMPORTED = ("TYPE_CHECKING", "typing.TYPE_CHECKING", "__name__ == '__main__'")
_MAGIC = re.compile(r"(\s*)(?:%time(?:it)? (.*)|[%!?].*)$")
_distributions = functools.cache(importlib.metadata.packages_distributions)
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_DEFINITIONS = (ast.ClassDef, *_FUNCTIONS)

Place = tuple[str, str]
"""A module and a name in it; "*" is all of it, "" what it does when it is imported."""


class Identity(NamedTuple):
    """What some functions run."""

    code: dict[str, str]  # module to the hash of its definitions that were reached
    versions: dict[str, str]  # package outside the family to its installed version

    @property
    def digest(self) -> str:
        """12 hexadecimal digits over both."""
        return short_hash(repr((sorted(self.code.items()), sorted(self.versions.items()))))


def short_hash(text: str) -> str:
    """First 12 hexadecimal digits of the SHA-256 of a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]


@functools.cache
def identity_of(*names: str) -> Identity:
    """Identity of what definitions (``"unimat_lib.model:UniMat"``) reach, else a ``ValueError``."""
    root = Path(__file__).resolve().parents[1]
    places = [tuple(name.split(":")) for name in names]
    for module, name in places:
        found = _module(root, module)
        if found is None or name not in found.defined:
            raise ValueError(f"module {module} defines no {name!r}: name one of its definitions")
    return _closure(root, places)


def identity_of_source(source: str, root: Path) -> Identity:
    """Identity of what cells reach in packages below ``root``; ``SyntaxError`` if no Python."""
    code = _Module(_without_magics(source), "__main__", is_package=False)
    return _closure(root, [("__main__", "*")], code)


def normal_form(source: str) -> str:
    """What code means, without comments, layout or docstrings; no Python is kept line by line."""
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return "\n".join(line.rstrip() for line in source.strip().splitlines())
    silent = ";" if source.rstrip().endswith(";") else ""  # in a notebook it hides the output
    return _spell(tree) + silent


def _spell(node: Any, *, words: bool = True) -> str:
    """The meaning of syntax as text; that of ``ast.dump`` differs between Python versions."""
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
    if isinstance(node, _DEFINITIONS):
        fields["body"] = [statement for statement in node.body if not _documents(statement)]
    inner = ",".join(
        f"{name}={_spell(value, words=words)}"
        for name, value in sorted(fields.items())
        if value not in (None, []) or isinstance(node, ast.Constant)
    )
    return f"{type(node).__name__}({inner})"


def _documents(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


class _Module:
    """A module taken apart: what each name is bound to, and what always runs."""

    def __init__(self, text: str, name: str, *, is_package: bool) -> None:
        self.name = name
        self.package = name if is_package else name.rpartition(".")[0]
        self.defined: dict[str, list[ast.stmt]] = defaultdict(list)
        self.imported: dict[str, list[Place]] = defaultdict(list)
        self.always: list[ast.stmt] = []
        self.runs: list[Place] = []  # what the imports at its top run
        self._scopes = symtable.symtable(text, name, "exec").get_children()
        for statement in ast.parse(text).body:
            self._take(statement)

    def _take(self, statement: ast.stmt) -> None:
        maybe = isinstance(statement, ast.If) and self.name != "__main__"
        if maybe and ast.unparse(statement.test) in _NOT_IMPORTED:
            for other in statement.orelse:
                self._take(other)
            return
        for node in [statement] if isinstance(statement, _DEFINITIONS) else ast.walk(statement):
            for name, place, run in self.imports(node):
                self.imported[name].append(place)
                self.runs += [p for p in run if p[0].startswith(FAMILY) or p[1]]
            if isinstance(node, _DEFINITIONS):
                self.defined[node.name].append(statement)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                self.defined[node.id].append(statement)
        if not _documents(statement) and not self._only_binds(statement):
            self.always.append(statement)

    def _only_binds(self, statement: ast.stmt) -> bool:
        """Whether a statement counts only where somebody uses the names that it binds."""
        if isinstance(statement, _DEFINITIONS):  # a decorator of ours may register what it is given
            names = {name.id for part in statement.decorator_list for name in _names(part)}
            modules = [module for name in names for module, _ in self.imported.get(name, ())]
            return not (names & set(self.defined) or any(m.startswith(FAMILY) for m in modules))
        if isinstance(statement, (ast.Assign, ast.AnnAssign)):
            targets = getattr(statement, "targets", None) or [statement.target]
            nodes = [node for target in targets for node in ast.walk(target)]
            return not any(isinstance(node, (ast.Attribute, ast.Subscript)) for node in nodes)
        return isinstance(statement, (ast.Import, ast.ImportFrom))

    def imports(self, node: ast.AST) -> Iterator[tuple[str, Place, list[Place]]]:
        """For each name that an import brings: what it stands for, and the modules that it runs."""
        if isinstance(node, ast.Import):
            for alias in node.names:
                whole = alias.name if alias.asname else alias.name.split(".")[0]
                yield alias.asname or whole, (whole, "*"), [(alias.name, "")]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = self.package.split(".")
                base = ".".join([*parts[: len(parts) - node.level + 1], *filter(None, [base])])
            for alias in node.names:
                run = [(base, "*" if alias.name == "*" else ""), (f"{base}.{alias.name}", "")]
                yield alias.asname or alias.name, (base, alias.name), run

    def _hidden(self, statement: ast.stmt) -> set[str]:
        """Names that a function has for itself, whatever the module calls by them."""
        if not isinstance(statement, _FUNCTIONS):
            return set()
        header = [*statement.decorator_list, statement.args, statement.returns or ast.Pass()]
        free, every = {name.id for part in header for name in _names(part)}, set()
        scopes = [s for s in self._scopes if s.get_lineno() == statement.lineno]
        for scope in scopes:  # grows while it is read
            scopes += scope.get_children()
            every |= set(scope.get_identifiers())
            in_class = scope.get_type() == "class"
            free |= {s.get_name() for s in scope.get_symbols() if in_class or s.is_global()}
        return every - free

    def reached(self, root: Path, statement: ast.stmt) -> tuple[set[Place], set[str]]:
        """Places that a statement names, and what the imported names in it stand for."""
        places, meaning = set(), set()
        local, chains = defaultdict(list), {}
        for node in ast.walk(statement):
            for name, place, run in self.imports(node):
                local[name].append(place)
                places |= set(run)
            attributes, inner = [], node
            while isinstance(inner, ast.Attribute):
                attributes.insert(0, inner.attr)
                inner = inner.value
            if attributes:
                chains.setdefault(id(inner), attributes)  # the longest chain comes first
        hidden = self._hidden(statement)
        for node in _names(statement):  # also in annotations: whose methods are called
            if isinstance(node.ctx, ast.Store):
                continue
            outer = [] if node.id in hidden else self.imported.get(node.id, [])
            if node.id not in hidden and node.id in self.defined:
                places.add((self.name, node.id))
            meaning |= {f"{node.id}={place}" for place in outer}
            for place in local[node.id] + outer:
                places |= set(_follow(root, place, chains.get(id(node), [])))
        return places, meaning


def _names(node: ast.AST) -> Iterator[ast.Name]:
    return (inner for inner in ast.walk(node) if isinstance(inner, ast.Name))


def _follow(root: Path, place: Place, attributes: list[str]) -> Iterator[Place]:
    """What an imported name with attributes behind it is: ``module.part.function`` or a value."""
    module, name = place
    if name != "*":
        yield place
        if _module(root, module := f"{module}.{name}") is None:
            return
    for attribute in [*attributes, "*"]:
        if _module(root, f"{module}.{attribute}") is None:
            yield module, attribute
            return
        module = f"{module}.{attribute}"


def _without_magics(source: str) -> str:
    """Python code of notebook cells: of the lines that are IPython's, what they time remains."""
    lines = source.splitlines()
    while True:
        try:
            ast.parse(text := "\n".join(lines))
            return text
        except SyntaxError as error:
            number = (error.lineno or 0) - 1
            found = _MAGIC.match(lines[number]) if 0 <= number < len(lines) else None
            if found is None:
                raise
            lines[number] = found[1] + (found[2] or "pass")


@functools.lru_cache(maxsize=512)
def _read(path: Path, changed: int, name: str) -> _Module:
    return _Module(path.read_text(encoding="utf-8"), name, is_package=path.name == "__init__.py")


def _module(root: Path, name: str) -> _Module | None:
    """A module below ``root`` by its dotted name; ``None`` for anything else."""
    if not name.startswith(FAMILY):
        return None
    path = root.joinpath(*name.split("."))
    files = filter(Path.is_file, (path.with_suffix(".py"), path / "__init__.py"))
    return next((_read(file, file.stat().st_mtime_ns, name) for file in files), None)


def _closure(root: Path, waiting: list[Place], main: _Module | None = None) -> Identity:
    """Follow definitions until no new one is reached."""
    seen, pieces = set(), defaultdict(dict)
    while waiting:
        name, wanted_name = place = waiting.pop()
        if place in seen:
            continue
        seen.add(place)
        module = main if name == "__main__" else _module(root, name)
        setting = name.startswith(SETTINGS_DO_NOT_COUNT) and wanted_name.strip("_").isupper()
        if module is None or setting:
            continue
        waiting += [(name, ""), (name.rpartition(".")[0], "")]
        statements, imported = module.defined.get(wanted_name, []), []
        if wanted_name == "*":
            others = set() if name == "__main__" else set(module.imported)
            waiting += [(name, other) for other in others | set(module.defined)]
        elif wanted_name == "":
            statements = module.always
            waiting += module.runs
        else:
            imported = module.imported.get(wanted_name, [])
            waiting += [other for place in imported for other in _follow(root, place, [])]
        words = not name.startswith(WORDS_DO_NOT_COUNT)
        parts = [str(place) for place in imported]
        for statement in statements:
            places, meaning = module.reached(root, statement)
            waiting += places
            parts += [_spell(statement, words=words), *sorted(meaning)]
        if parts:
            pieces[name][wanted_name] = "".join(parts)
        elif wanted_name:
            waiting.append((f"{name}.{wanted_name}", ""))  # it may be a module
    pieces.pop("__main__", None)
    code = {name: short_hash(repr(sorted(parts.items()))) for name, parts in sorted(pieces.items())}
    packages = {name.split(".")[0] for name, _ in seen if not name.startswith(FAMILY)}
    found = sorted({name for package in packages for name in _distributions().get(package, ())})
    return Identity(code, {name: importlib.metadata.version(name) for name in found})
