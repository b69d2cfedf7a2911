"""A measured file in, a :class:`~unimat_powder.pattern.Pattern` out."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from unimat_lib.views.grid import CU_K_ALPHA
from unimat_powder.pattern import Pattern, PatternError, check_points
from unimat_powder.xrdml import parse_xrdml

TEXT_SUFFIXES = (".xy", ".txt", ".dat", ".csv")
_COMMENT = ("#", "!", "%", "'", "/", "*", ";")
_DECIMAL_COMMA = re.compile(r"[+-]?\d+(,\d+)?", re.ASCII)
_NUMBER = re.compile(
    r"[+-]?((\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|nan|inf(inity)?)", re.ASCII | re.IGNORECASE
)

# A line of two plain numbers. The quantifiers are possessive (++, *+): a line that does not fit is
# given up at once, and "123" is never taken for "12" and "3".
_PLAIN_NUMBER = r"[+-]?+(?:\d++\.?+\d*+|\.\d++)(?:[eE][+-]?+\d++)?+"
_PLAIN_LINE = (
    rf"[ \t]*+{_PLAIN_NUMBER}[ \t]*+(?:[,;][ \t]*+)?+(?<=[ \t,;]){_PLAIN_NUMBER}[ \t]*+\r?+"
)
_FIRST_PLAIN_LINE = re.compile(rf"^{_PLAIN_LINE}$", re.ASCII | re.MULTILINE)
_PLAIN_LINES = re.compile(rf"(?:{_PLAIN_LINE}\n)*+{_PLAIN_LINE}", re.ASCII)

# Between plain numbers; and a plus, which says nothing, is not to Arrow's liking.
_TO_WORDS = str.maketrans({",": " ", ";": " ", "+": None})


def read_pattern(path: str | os.PathLike[str], *, wavelength: float = CU_K_ALPHA) -> Pattern:
    """Read a measured pattern.

    Args:
        path: Two-column text (``.xy``, ``.txt``, ``.dat``, ``.csv``; see :func:`parse_text`) or
            PANalytical ``.xrdml``.
        wavelength: X-ray wavelength in angstrom, for files that do not state it. An ``.xrdml`` file
            does, and its own value wins.

    Raises:
        PatternError: The file holds no usable pattern; the message names the file and the line.
        FileNotFoundError: There is no such file.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in (*TEXT_SUFFIXES, ".xrdml"):
        raise PatternError(
            f"{path.name}: expected one of {', '.join((*TEXT_SUFFIXES, '.xrdml'))}, "
            f"but the file ends in {suffix!r}; "
            "export the pattern as two columns of text"
        )
    data = path.read_bytes()
    if suffix == ".xrdml":
        return parse_xrdml(data, name=path.name, wavelength=wavelength)
    return parse_text(_decode(data, path.name), name=path.name, wavelength=wavelength)


def _decode(data: bytes, name: str) -> str:
    """Text of a file whose encoding nobody wrote down: UTF-8, UTF-16 with a mark, else Latin-1."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        encodings = ("utf-16",)
    elif b"\0" in data:
        raise PatternError(
            f"{name}: this is a binary file; export the pattern as two columns of text"
        )
    else:
        encodings = ("utf-8-sig", "latin-1")
    for encoding in encodings:
        try:
            return data.decode(encoding)
        except UnicodeDecodeError:
            continue
    raise PatternError(f"{name}: the text is not valid {encodings[0]}; save it as UTF-8")


def parse_text(text: str, *, name: str = "text", wavelength: float = CU_K_ALPHA) -> Pattern:
    """Read two columns, 2theta in degrees and intensity; further columns are ignored.

    Columns may be separated by commas, semicolons, tabs or spaces; beside the last three, a comma
    may also be the decimal mark. Lines before the first pair of numbers are a header. After it only
    blank lines and comments (``#``, ``!``, ``%``, ``'``, ``/``, ``*``, ``;``) may stand between the
    points.

    Args:
        text: Content of the file.
        name: What to call it in errors.
        wavelength: X-ray wavelength in angstrom.

    Raises:
        PatternError: Nothing numeric in it, a line that is not a point, or points that make no
            pattern.
    """
    points, lines = _plain_points(text) or _any_points(text, name)
    if not len(points):
        what = (
            "is empty" if not text.strip() else "has no line with two numbers (2theta, intensity)"
        )
        raise PatternError(f"{name}: the file {what}")
    values = np.array(points)  # [P, 2]
    check_points(values[:, 0], values[:, 1], name, lambda i: f"line {lines[i]}")
    columns = torch.from_numpy(values).T.contiguous()
    return Pattern(columns[0], columns[1], wavelength)


def _plain_points(text: str) -> tuple[np.ndarray, Sequence[int]] | None:
    """Points ``[P, 2]`` and their line numbers, if every line after the header is a plain one.

    Nearly every file is like that, and reading it as a whole takes a tenth of the time. ``None``
    where something else stands in it: then each line has to be looked at.
    """
    first = _FIRST_PLAIN_LINE.search(text)
    if first is None:
        return None
    header, body = text[: first.start()].splitlines(), text[first.start() :].rstrip()
    if any(_numbers(line.strip()) for line in header):
        return None  # the points begin in an unusual form, or a comment looks like one
    if not _PLAIN_LINES.fullmatch(body):
        return None
    try:  # Arrow reads the same numbers as float() does, three times as fast
        values = pa.array(body.translate(_TO_WORDS).split()).cast(pa.float64())
    except pa.ArrowInvalid:
        return None
    values = values.to_numpy().reshape(-1, 2)
    return values, range(len(header) + 1, len(header) + 1 + len(values))


def _any_points(text: str, name: str) -> tuple[Sequence[tuple[float, float]], Sequence[int]]:
    """Points and their line numbers, whatever form they have; see :func:`parse_text`."""
    points: list[tuple[float, float]] = []
    lines: list[int] = []
    for number, line in enumerate(text.splitlines(), start=1):
        stripped = line.strip()
        if not stripped or stripped.startswith(_COMMENT):
            continue
        pair = _numbers(stripped)
        if pair is not None:
            points.append(pair)
            lines.append(number)
        elif points:
            raise PatternError(
                f"{name}: expected two numbers (2theta, intensity) at line {number}, "
                f"but came {stripped[:40]!r}; "
                "begin comments with #"
            )
    return points, lines


def _numbers(line: str) -> tuple[float, float] | None:
    """The first two numbers of a line, or ``None`` when it does not begin with two."""
    fields = [field.strip("\"'") for field in re.split(r"\s*;\s*|\s+", line)][:2]
    if len(fields) == 2 and all(_DECIMAL_COMMA.fullmatch(field) for field in fields):
        fields = [field.replace(",", ".") for field in fields]  # "10,02 118" or "10,02;118"
    else:
        fields = [field.strip("\"'") for field in re.split(r"\s*[,;]\s*|\s+", line)][:2]
    if len(fields) < 2 or not all(_NUMBER.fullmatch(field) for field in fields):
        return None
    return float(fields[0]), float(fields[1])
