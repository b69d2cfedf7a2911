"""Where the chapters are, what their parameters are, and which values a profile gives them."""

from __future__ import annotations

import ast
import difflib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jupytext
import nbformat
import yaml

PROFILES = ("quick", "full")


class BookError(Exception):
    """Something the user has to put right; the message says what and how."""


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
        notebook = jupytext.read(self.path, fmt="md:myst")
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
        """The book of ``UNIMAT_ROOT``, or the one this tool belongs to."""
        named = os.environ.get("UNIMAT_ROOT")
        root = Path(named).resolve() if named else Path(__file__).resolve().parents[2]
        if not (root / "params.yml").is_file():
            raise BookError(f"{root} has no params.yml: UNIMAT_ROOT must name the book's folder")
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
        content = yaml.safe_load((self.root / "_toc.yml").read_text(encoding="utf-8"))
        pages = [content["root"]]
        for part in content.get("parts", [content]):
            pages += [entry["file"] for entry in part.get("chapters", [])]
        return pages

    @cached_property
    def pending(self) -> dict[str, str]:
        """Published chapters that wait for a run, and what their page says about it."""
        path = self.root / "chapters/pending.yml"
        content = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else None
        for name, why in (content or {}).items():
            _known(name, self.chapters, f"chapters/pending.yml: no chapter {name!r}")
            if not isinstance(why, str) or not why.strip():
                raise BookError(f"chapters/pending.yml: {name} needs a sentence that says why")
        return content or {}

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
            matches = [
                name
                for name, chapter in self.chapters.items()
                if word in ("all", name) or word.upper().zfill(2) == chapter.number
            ]
            if not matches:
                known = ", ".join(self.chapters) or f"none in {self.root / 'chapters/src'}"
                raise BookError(f"no chapter {word!r}; chapters are: {known}")
            chosen.update(matches)
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
        content = self._params_yml()
        values = {name: dict(chapter.parameters) for name, chapter in self.chapters.items()}
        blocks = content.get(profile) or {}
        where = f"params.yml, {profile}"
        shared = blocks.get("all") or {}
        everywhere = {key for chapter in values.values() for key in chapter}
        for source, given in ((f"{where}/all", shared), ("--set", settings or {})):
            for key in given:
                _known(key, everywhere, f"{source}: no chapter has a parameter {key!r}")
        for name, chapter in self.chapters.items():
            own = blocks.get(name) or {}
            for key in own:
                message = f"{where}/{name}: the chapter has no parameter {key!r}"
                _known(key, chapter.parameters, message)
            for source, given in (
                (f"{where}/all", shared),
                (f"{where}/{name}", own),
                ("--set", settings or {}),
            ):
                for key in given.keys() & chapter.parameters.keys():
                    default = chapter.parameters[key]
                    values[name][key] = coerce(given[key], default, f"{source}: {key}")
        return values

    def _params_yml(self) -> dict[str, Any]:
        path = self.root / "params.yml"
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        except yaml.YAMLError as error:
            raise BookError(f"params.yml cannot be read: {error}") from None
        for profile, blocks in content.items():
            _known(profile, PROFILES, f"params.yml: no profile {profile!r}")
            for name, block in (blocks or {}).items():
                known = ("all", *self.chapters)
                _known(name, known, f"params.yml, {profile}: no chapter {name!r}")
                if not isinstance(block or {}, dict):
                    raise BookError(f"params.yml, {profile}/{name}: expected name: value lines")
        return content


def is_parameters(cell: Mapping[str, Any]) -> bool:
    """Whether a cell is the parameters cell."""
    return "parameters" in cell.get("metadata", {}).get("tags", [])


def _known(name: str, known: Iterable[str], message: str) -> None:
    known = sorted(known)
    if name not in known:
        close = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
        hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"
        raise BookError(f"{message}; {hint}")


def coerce(value: Any, default: Any, where: str) -> Any:
    """Return ``value`` if its type is that of ``default`` (a whole number may stand for a float).

    Raises:
        BookError: If the types differ, also inside lists.
    """
    if default is None:
        return value
    if isinstance(default, float) and type(value) is int:
        return float(value)
    if isinstance(default, tuple) and isinstance(value, list):
        value = tuple(value)
    if type(value) is not type(default):
        message = f"{where} must be {type(default).__name__}, got {type(value).__name__} {value!r}"
        if isinstance(default, float) and isinstance(value, str) and _is_number(value):
            message += f"; YAML reads {value} as text: write {float(value):.6e}"
        raise BookError(message)
    if isinstance(default, (list, tuple)) and default:
        items = (coerce(v, default[0], f"{where}[{i}]") for i, v in enumerate(value))
        return type(default)(items)
    return value


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def parse_settings(pairs: Iterable[str]) -> dict[str, Any]:
    """Read ``name=value`` pairs; a value that is no Python literal is taken as text."""
    settings: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name.isidentifier():
            raise BookError(f"--set {pair}: expected name=value")
        try:
            settings[name] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            settings[name] = text
    return settings
