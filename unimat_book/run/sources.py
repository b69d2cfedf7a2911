"""Where the chapters are, what their parameters are, and which values a profile gives them."""

from __future__ import annotations

import ast
import difflib
import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jupytext
import nbformat

from unimat_book.run.plain_yaml import BookError, in_short, read_yaml
from unimat_lib.paths import book_root

PROFILES = ("quick", "full")
LONGEST_SETTING = 2_000
"""Characters; a longer value only wears out Python's parser."""


@dataclass(frozen=True)
class Chapter:
    """One chapter source, read but not run."""

    name: str
    path: Path

    @property
    def number(self) -> str:
        """What the file's name begins with, ``03`` or ``A1``: the number of the chapter."""
        return self.name.split("_")[0]

    @cached_property
    def notebook(self) -> nbformat.NotebookNode:
        """The source as an unexecuted notebook with reproducible cell ids."""
        try:
            notebook = jupytext.read(self.path, fmt="md:myst")
        except Exception as error:  # jupytext has no error of its own
            raise BookError(f"{self.path} is no MyST notebook: {in_short(error)}") from None
        for number, cell in enumerate(notebook.cells):
            cell["id"] = f"cell-{number:03d}"
        return notebook

    @cached_property
    def parameters_index(self) -> int:
        """Position of the one cell tagged ``parameters``."""
        tagged = [i for i, cell in enumerate(self.notebook.cells) if is_parameters(cell)]
        if len(tagged) != 1:
            raise BookError(
                f"{self.path}: expected one cell tagged parameters, found {len(tagged)}"
            )
        return tagged[0]

    @cached_property
    def parameters(self) -> dict[str, Any]:
        """Names and default values of the parameters cell."""
        source = self.notebook.cells[self.parameters_index].source
        return {name: value for name, value, _ in self._literals(source)}

    def source_with(self, values: Mapping[str, Any]) -> str:
        """The parameters cell with ``values`` written in place of the defaults, comments kept."""
        source = self.notebook.cells[self.parameters_index].source
        lines = source.encode().splitlines(keepends=True)  # ast counts columns in bytes
        for name, default, node in reversed(self._literals(source)):
            value = values.get(name, default)
            if isinstance(default, tuple):
                value = tuple(value)  # a stamp, being JSON, knows only lists
            if value == default:
                continue
            head = lines[node.lineno - 1][: node.col_offset]
            tail = lines[node.end_lineno - 1][node.end_col_offset :]
            lines[node.lineno - 1 : node.end_lineno] = [head + repr(value).encode() + tail]
        return b"".join(lines).decode()

    def _literals(self, source: str) -> list[tuple[str, Any, ast.expr]]:
        # The cell's text stands in the source file as it is; find it to name the line.
        text = self.path.read_text(encoding="utf-8")
        first = text[: max(text.find(source), 0)].count("\n") + 1
        found: list[tuple[str, Any, ast.expr]] = []
        try:
            statements = ast.parse(source).body
        except SyntaxError as error:
            where = first + (error.lineno or 1) - 1
            raise BookError(f"{self.path}:{where}: parameters cell: {error.msg}") from None
        for node in statements:
            where = f"{self.path}:{first + node.lineno - 1}"
            try:
                (target,) = node.targets  # type: ignore[attr-defined]
                found.append((target.id, ast.literal_eval(node.value), node.value))
            except (AttributeError, TypeError, ValueError):
                raise BookError(
                    f"{where}: a parameters cell holds only `name = literal`, got "
                    f"`{ast.unparse(node)}`: derive values in a later cell"
                ) from None
        return found


@dataclass(frozen=True)
class Book:
    """The folders of one book."""

    root: Path

    @classmethod
    def here(cls) -> Book:
        """The book that one is in, see :func:`.book_root`."""
        root = book_root()
        if root is None or not (root / "params.yml").is_file():
            raise BookError(f"no params.yml in {root or Path.cwd()}: go to the book's folder")
        return cls(root)

    @cached_property
    def chapters(self) -> dict[str, Chapter]:
        """All chapters in reading order: that of the table of contents, then by number."""
        sources = sorted((self.root / "chapters/src").glob("[0-9A-Z][0-9]_*.md"))
        place = {Path(page).stem: i for i, page in enumerate(self.toc)}
        sources.sort(key=lambda path: place.get(path.stem, len(place)))
        return {path.stem: Chapter(path.stem, path) for path in sources}

    @cached_property
    def toc(self) -> list[str]:
        """Every page of ``_toc.yml``, with its extension, the landing page first."""
        content = read_yaml(self.root / "_toc.yml")
        try:
            pages = [content["root"]]
            for part in content.get("parts", [content]):
                pages += [entry["file"] for entry in part.get("chapters", [])]
        except (TypeError, KeyError, AttributeError) as error:
            raise BookError(
                "_toc.yml: expected `root: page`, then `parts` with `chapters` or `chapters`, each "
                f"a list of `file: page` ({type(error).__name__}: {error})"
            ) from None
        for page in pages:
            self.inside(page, "_toc.yml", (".md", ".ipynb"))
        return pages

    def inside(self, name: Any, where: str, endings: tuple[str, ...]) -> Path:
        """The file of that name below the book.

        Raises:
            BookError: It is no name of such a file, or leads out of the book, perhaps by a link.
        """
        path = Path(name if isinstance(name, str) else "/")
        ours = not path.is_absolute() and ".." not in path.parts and self.holds(self.root / path)
        if not ours or path.suffix not in endings:
            listed = " or ".join(f"name{ending}" for ending in endings)
            raise BookError(f"{where} names {name!r:.80}: expected {listed}, a file of the book")
        return self.root / path

    def holds(self, path: Path) -> bool:
        """Whether a path, links followed, lies in the folder of the book."""
        return path.resolve().is_relative_to(self.root.resolve())

    @cached_property
    def pending(self) -> dict[str, str]:
        """Published chapters that wait for a run, and what their page says about it."""
        path = self.root / "chapters/pending.yml"
        content = read_yaml(path) if path.exists() else {}
        for name, why in content.items():
            _known(name, self.chapters, f"chapters/pending.yml: no chapter {name!r:.80}")
            if not isinstance(why, str) or not why.strip():
                raise BookError(f"chapters/pending.yml: {name} needs a sentence that says why")
        return content

    def build_dir(self, profile: str) -> Path:
        """Where a profile's scratch work and pages go; never tracked."""
        return self.root / "_build" / profile

    def notebook_path(self, name: str, profile: str) -> Path:
        """Where a finished notebook of a profile lives; only ``full`` is in the tree."""
        folder = self.root if profile == "full" else self.build_dir(profile)
        return folder / "chapters" / f"{name}.ipynb"

    def results_dir(self, profile: str) -> Path:
        """Where a profile's recorded numbers live."""
        return self.root / ("data" if profile == "full" else f"_build/{profile}") / "results"

    def select(self, wanted: Iterable[str]) -> list[Chapter]:
        """Chapters by number (``3``, ``03``, ``A1``), by name, or ``all``; in reading order."""
        chosen: set[str] = set()
        for word in wanted:
            number = word.upper().zfill(2)
            found = {
                n for n, c in self.chapters.items() if word in ("all", n) or number == c.number
            }
            if not found:
                known = ", ".join(self.chapters) or f"none in {self.root / 'chapters/src'}"
                raise BookError(f"no chapter {word!r:.80}; chapters are: {known}")
            chosen |= found
        return [chapter for name, chapter in self.chapters.items() if name in chosen]

    def parameters(
        self, profile: str, settings: Mapping[str, Any] | None = None
    ) -> dict[str, dict[str, Any]]:
        """Values of every chapter: defaults, then params.yml, then ``settings``; all checked.

        Args:
            profile: ``quick`` or ``full``.
            settings: Overrides from the command line, for every chapter that knows the name.

        Returns:
            Chapter name to its complete parameters.

        Raises:
            BookError: For an unknown name, or a value whose type is not the default's.
        """
        where, blocks = f"params.yml, {profile}", self._params_yml().get(profile) or {}
        values = {name: dict(chapter.parameters) for name, chapter in self.chapters.items()}
        everywhere = {key for chapter in values.values() for key in chapter}
        shared, asked = (f"{where}/all", blocks.get("all") or {}), ("--set", settings or {})
        for source, given in (shared, asked):
            for key in given:
                _known(key, everywhere, f"{source}: no chapter has a parameter {key!r:.80}")
        for name, chapter in self.chapters.items():
            own = (f"{where}/{name}", blocks.get(name) or {})
            for key in own[1]:
                message = f"{own[0]}: the chapter has no parameter {key!r:.80}"
                _known(key, chapter.parameters, message)
            for source, given in (shared, own, asked):
                for key in given.keys() & chapter.parameters.keys():
                    default = chapter.parameters[key]
                    values[name][key] = coerce(given[key], default, f"{source}: {key}")
        return values

    def _params_yml(self) -> dict[str, Any]:
        content = read_yaml(self.root / "params.yml")
        for profile, blocks in content.items():
            _known(profile, PROFILES, f"params.yml: no profile {profile!r:.80}")
            if not isinstance(blocks or {}, dict):
                raise BookError(f"params.yml, {profile}: expected chapters with name: value lines")
            for name, block in (blocks or {}).items():
                known = ("all", *self.chapters)
                _known(name, known, f"params.yml, {profile}: no chapter {name!r:.80}")
                if not isinstance(block or {}, dict):
                    raise BookError(f"params.yml, {profile}/{name}: expected name: value lines")
        return content


def is_parameters(cell: Mapping[str, Any]) -> bool:
    """Whether a cell is the parameters cell."""
    return "parameters" in cell.get("metadata", {}).get("tags", [])


def _known(name: str, known: Iterable[str], message: str) -> None:
    known = sorted(known)
    if name not in known:
        close = difflib.get_close_matches(str(name)[:80], known, n=1, cutoff=0.5)
        hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"
        raise BookError(f"{message}; {hint}")


def coerce(value: Any, default: Any, where: str) -> Any:
    """Return ``value`` if its type is that of ``default`` (a whole number may stand for a float).

    Raises:
        BookError: If the types differ, also inside lists, or the value is nothing that a stamp can
            hold (JSON without NaN and infinity).
    """
    try:
        json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
        return _of_type(value, default, where)
    except (TypeError, ValueError, RecursionError, OverflowError):
        # Python cannot even print a number of thousands of digits, or lists in lists in lists.
        with suppress(ValueError, RecursionError):
            where = f"{where} is {in_short(repr(value))}"
        raise BookError(f"{where}: expected finite numbers, text, lists of them") from None


def _of_type(value: Any, default: Any, where: str) -> Any:
    if default is None:
        return value
    if isinstance(default, float) and type(value) is int:
        return float(value)
    if isinstance(default, tuple) and isinstance(value, list):
        value = tuple(value)
    if type(value) is not type(default):
        kinds = f"{type(default).__name__}, got {type(value).__name__}"
        message = f"{where} must be {kinds} {in_short(repr(value))}"
        if isinstance(default, float) and isinstance(value, str):
            with suppress(ValueError):
                message += f"; YAML reads {value} as text: write {float(value):.6e}"
        raise BookError(message)
    if isinstance(default, (list, tuple)) and default:
        items = (_of_type(v, default[0], f"{where}[{i}]") for i, v in enumerate(value))
        return type(default)(items)
    return value


def parse_settings(pairs: Iterable[str]) -> dict[str, Any]:
    """Read ``name=value`` pairs; a value that is no Python literal is taken as text.

    Raises:
        BookError: A pair has no name, or a value is beyond what Python's parser stands.
    """
    settings: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name.isidentifier():
            raise BookError(f"--set {in_short(pair)}: expected name=value")
        try:
            if len(text) > LONGEST_SETTING:
                raise MemoryError
            settings[name] = ast.literal_eval(text)
        except (MemoryError, RecursionError):
            raise BookError(f"--set {name}: the value is too long or too deeply nested") from None
        except (ValueError, SyntaxError, TypeError):
            settings[name] = text
    return settings
