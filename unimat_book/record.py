"""Numbers and tables that a chapter hands to its own page, to other pages and to later chapters.

Nothing in the prose is typed by hand: a chapter records a value once, the value lands in
``{run_dir}/results/{chapter}.json`` and, inside a notebook, in the notebook itself, where
MyST-NB's ``glue`` roles find it.
"""

from __future__ import annotations

import json
import math
import numbers
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unimat_lib.files import file_hash, replacing
from unimat_lib.paths import book_root

if TYPE_CHECKING:
    import pandas as pd
    from IPython.display import Markdown


KEY = re.compile(r"[a-z][a-z0-9_]*")
MAX_COLUMNS = 6
"""Of a table on a page: more are cut where a window is no wider than a laptop's."""
GLUE_PREFIX = "application/papermill.record/"  # MyST-NB's mark for "glued, not shown"

# Set by unimat-book: what belongs into the run folder waits in the staging folder until the run has
# succeeded, so that a run that fails leaves the last good files.
STAGING, RUN_DIR = "UNIMAT_STAGING", "UNIMAT_RUN_DIR"
STAGED = ("results", "pretrained")
"""Folders of a run folder that are published; checkpoints, in ``runs``, stay where they are."""

READ_NOTES = "read.jsonl"
"""File of the staging folder that lists what the chapter has read."""


def project_root() -> Path:
    """Folder of the book, see :func:`.book_root`.

    Raises:
        FileNotFoundError: There is none.
    """
    root = book_root()
    if root is None:
        raise FileNotFoundError(
            f"No params.yml in {Path.cwd()} or any folder above it: work inside a clone of the "
            "book, or set UNIMAT_ROOT to its folder."
        )
    return root


def product(path: str | os.PathLike[str]) -> Path:
    """Where to write a file (or to put a folder) that a chapter publishes.

    Args:
        path: Where it belongs; relative ones from the project root.

    Returns:
        The same place under the staging folder while ``unimat-book`` runs the chapter.
    """
    path = project_root() / path
    staging, run_dir = os.environ.get(STAGING), os.environ.get(RUN_DIR)
    if staging and run_dir and any(path.is_relative_to(f"{run_dir}/{kind}") for kind in STAGED):
        return Path(staging) / path.relative_to(run_dir)
    return path


def note_read(path: Path) -> Path:
    """Note in the stamp that a chapter read a file which another one wrote; returns ``path``.

    What a chapter keeps for itself in ``runs`` (checkpoints and what they predict) does not count:
    it is not published, and made anew where it does not fit.
    """
    staging, run_dir = os.environ.get(STAGING), os.environ.get(RUN_DIR)
    if not staging:
        return path
    own = path.is_relative_to(staging) or path.is_relative_to(f"{run_dir}/runs")
    real, root = path.resolve(), project_root()
    if not own and real.is_relative_to(root):
        line = json.dumps([str(real.relative_to(root)), file_hash(path)])
        Path(staging).mkdir(parents=True, exist_ok=True)
        with open(Path(staging) / READ_NOTES, "a", encoding="utf-8") as handle:
            handle.write(line + "\n")
    return path


def require_file(path: str | os.PathLike[str], *, made_by: str) -> Path:
    """Return ``path`` (relative ones from the project root) if the file is there.

    The file counts as read: a chapter is stale when it changes. A file that this very run has
    written is taken before the published one.

    Args:
        path: File an earlier chapter, or a command, wrote.
        made_by: The exact command that makes it, for the error message.

    Raises:
        FileNotFoundError: If the file is missing; the message holds the command.
    """
    found = product(path)
    if not found.is_file():
        found = project_root() / path
    if not found.is_file():
        raise FileNotFoundError(f"{path} is missing. Make it with:\n    {made_by}")
    return note_read(found)


def chapter_results(chapter: str, run_dir: str | os.PathLike[str]) -> dict[str, Any]:
    """Load what an earlier chapter recorded.

    Args:
        chapter: Name such as ``03_encoders``.
        run_dir: The profile's folder, the chapter parameter ``run_dir``.

    Raises:
        FileNotFoundError: If that chapter has not been run; the message holds the command.
    """
    # `_build/...` is where the quick profile lives; see params.yml.
    profile = "quick" if Path(run_dir).parts[:1] == ("_build",) else "full"
    path = require_file(
        Path(run_dir) / "results" / f"{chapter}.json",
        made_by=f"unimat-book run {chapter.split('_')[0]} --profile {profile}",
    )
    return json.loads(path.read_text(encoding="utf-8"))


class Recorder:
    """Records the numbers and tables of one chapter.

    Args:
        chapter: Name such as ``03_encoders``; also the name of the JSON file.
        run_dir: The profile's folder, the chapter parameter ``run_dir``.
    """

    def __init__(self, chapter: str, run_dir: str | os.PathLike[str]) -> None:
        """Start with nothing recorded; an earlier run's file is replaced at the first record."""
        self.chapter = chapter
        self.path = product(project_root() / run_dir / "results" / f"{chapter}.json")
        self._recorded: dict[str, Any] = {}

    def __call__(self, key: str, value: Any, fmt: str | None = None) -> Any:
        """Record one number or short text, glue it into the page and return it as plain Python.

        Args:
            key: Lower-case letters, digits and underscores; once per chapter.
            value: A finite number (Python, NumPy or a tensor of one element), a bool or a string.
            fmt: Format specification such as ``.3f``. With it the page gets the formatted text, to
                be pasted without a format of its own; without it the page gets the number.

        Raises:
            ValueError: If the key is malformed or already used, or the number is not finite.
            TypeError: If the value is neither a number nor a string.
        """
        plain = _plain(key, value)
        self._store(key, plain)
        shown = plain if fmt is None else format(plain, fmt)
        _glue(key, {"text/plain": repr(shown)})
        return plain

    def table(
        self,
        key: str,
        frame: pd.DataFrame,
        *,
        caption: str,
        float_format: str | Mapping[str, str] = ".3f",
        shown: pd.DataFrame | None = None,
    ) -> None:
        """Record a table and glue it as a numbered MyST table.

        Its label is ``tab-{key}`` with hyphens for underscores. Paste it with ``{glue:md}`` and
        ``:format: myst``.

        Args:
            key: As for a number.
            frame: Columns as they are to be read; the index is shown only if it has a name.
            caption: One or two sentences, MyST markup allowed.
            float_format: One format specification for all columns of floats, or one per column
                (others get ``.3f``). Missing values are shown as a dash.
            shown: What the page shows in place of a frame with many columns, see
                :func:`unimat_book.tables.stacked`; the frame is what the files hold.

        Raises:
            ValueError: If the frame is empty, a value is infinite, the key is malformed or used, or
                the page would show more than six columns.
        """
        if not len(frame) or not len(frame.columns):
            raise ValueError(f"table {key!r} has no rows or no columns: there is nothing to show.")
        columns, rows = _rows(key, frame)
        recorded = [dict(zip(columns, row, strict=True)) for row in rows]
        if shown is not None:
            columns, rows = _rows(key, shown)
        if len(columns) > MAX_COLUMNS:
            raise ValueError(
                f"table {key!r} shows {len(columns)} columns, a page has room for {MAX_COLUMNS}: "
                "merge some into a frame `shown` (unimat_book.tables.stacked), or split the table."
            )
        self._store(key, recorded)
        markdown = _markdown_table(columns, rows, float_format)
        label = f"tab-{key.replace('_', '-')}"
        text = f"```{{table}} {' '.join(caption.split())}\n:name: {label}\n\n{markdown}\n```\n"
        _glue(key, {"text/plain": repr(text), "text/markdown": text})

    def _store(self, key: str, value: Any) -> None:
        if not KEY.fullmatch(key):
            raise ValueError(
                f"key {key!r}: expected lower-case letters, digits and underscores, "
                "starting with a letter (hyphens and dots do not survive in a glue role)."
            )
        if key in self._recorded:
            raise ValueError(f"key {key!r} was already recorded in {self.chapter}: choose another.")
        self._recorded[key] = value
        form = {"indent": 1, "sort_keys": True, "allow_nan": False, "ensure_ascii": False}
        text = json.dumps(self._recorded, **form)
        with replacing(self.path) as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")


def plural(number: int, thing: str) -> str:
    """``1 seed``, ``5 seeds``."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def data_note(provenance: Mapping[str, Any]) -> Markdown:
    """Say on the page which data it was made from: Markdown, to be the last expression of a cell.

    Args:
        provenance: What :func:`.dataset_provenance` returns: a ``text`` in words, a ``name``, and
            any number of counts (mappings from a label to a whole number).

    Raises:
        ValueError: If there is no ``text``.
    """
    from IPython.display import Markdown

    if not provenance.get("text"):
        raise ValueError(
            f"provenance has no 'text' (keys: {sorted(provenance)}): prepare the data set anew."
        )
    lines = [f"**Data: `{provenance.get('name', 'unnamed')}`.** {provenance['text']}"]
    for label, counts in provenance.items():
        if isinstance(counts, Mapping) and counts and all(type(n) is int for n in counts.values()):
            listed = ", ".join(f"{name} {int(n):,}" for name, n in counts.items())
            lines.append(f"{label.replace('_', ' ').capitalize()}: {listed}.")
    return Markdown("\n>\n".join(f"> {line}" for line in lines))


def _plain(key: str, value: Any) -> Any:
    """Turn NumPy scalars and one-element tensors into Python values; refuse what is not finite."""
    if not isinstance(value, str) and hasattr(value, "item"):
        try:
            value = value.item()
        except (ValueError, RuntimeError):
            raise TypeError(
                f"{key}: expected one number, got an array of shape {tuple(value.shape)}: "
                "reduce it, or use table()."
            ) from None
    if isinstance(value, (bool, int, str)):
        return value
    if not isinstance(value, numbers.Real):
        raise TypeError(f"{key}: expected a number or a string, got {type(value).__name__}.")
    value = float(value)
    if not math.isfinite(value):
        raise ValueError(f"{key} is {value}: only finite numbers are published. Find out why.")
    return value


def _rows(key: str, frame: pd.DataFrame) -> tuple[list[str], list[list[Any]]]:
    """Names of the columns, a named index first, and plain values by row."""
    if any(frame.index.names):
        frame = frame.reset_index()
    columns = [str(column) for column in frame.columns]
    rows = [
        [_cell(key, column, value) for column, value in zip(columns, row, strict=True)]
        for row in frame.itertuples(index=False, name=None)
    ]
    return columns, rows


def _cell(key: str, column: str, value: Any) -> Any:
    """Like :func:`_plain` for a table's cell, where a missing value is allowed."""
    if value is None or value != value or type(value).__name__ == "NAType":
        return None
    return _plain(f"{key}[{column}]", value)


def _markdown_table(
    columns: list[str], rows: list[list[Any]], float_format: str | Mapping[str, str]
) -> str:
    def show(column: str, value: Any) -> str:
        if value is None:
            return "–"
        if isinstance(value, float):
            spec = float_format if isinstance(float_format, str) else float_format.get(column)
            return format(value, spec or ".3f")
        if isinstance(value, int) and not isinstance(value, bool):
            return f"{value:,}"
        return str(value).replace("|", "\\|").replace("\n", " ")

    kinds = [set(map(type, column)) for column in zip(*rows, strict=True)]
    numeric = [found <= {int, float, type(None)} for found in kinds]
    header = [column.replace("|", "\\|") for column in columns]
    body = [[show(c, v) for c, v in zip(columns, row, strict=True)] for row in rows]
    lines = ["| " + " | ".join(cells) + " |" for cells in (header, *body)]
    lines.insert(1, "|" + "|".join(" ---: " if number else " :--- " for number in numeric) + "|")
    return "\n".join(lines)


def _glue(key: str, bundle: Mapping[str, str]) -> None:
    """Do what ``myst_nb.glue(key, value, display=False)`` does, without needing myst_nb.

    A no-op outside a Jupyter kernel, so that the library runs in scripts and tests.
    """
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    if shell is None or not hasattr(shell, "kernel"):
        return
    from IPython.display import display

    metadata = {"scrapbook": {"name": key, "mime_prefix": GLUE_PREFIX}}
    marked = {GLUE_PREFIX + mime: text for mime, text in bundle.items()}
    display(marked, raw=True, metadata=metadata)
