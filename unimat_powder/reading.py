"""A measured file in, a :class:`~unimat_powder.pattern.Pattern` out."""

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from unimat_lib.views.grid import CU_K_ALPHA
from unimat_powder.pattern import Pattern, PatternError, check_points
from unimat_powder.xrdml import parse_xrdml

SUFFIXES = (".xy", ".txt", ".dat", ".csv", ".xrdml")

# A million points, ten times a long scan, need no more, and fit into any memory.
_MAX_BYTES = 2**24
_MAX_LINES = 10**6

_COMMENT = ("#", "!", "%", "'", "/", "*", ";")

# Digits are taken possessively (++): "111...1x" is given up at once, not after all ways to cut it.
_NUMBER = r"[+-]?(?:(?:[0-9]++\.?[0-9]*+|\.[0-9]++)(?:[eE][+-]?[0-9]++)?|(?i:nan|inf(?:inity)?))"
_COMMA_NUMBER = r"[+-]?[0-9]++(?:,[0-9]++)?"


def _pair(number: str, separator: str) -> re.Pattern[str]:
    """Two numbers, perhaps in quotes, with more columns or nothing behind them."""
    one = rf"[\"']*+({number})[\"']*+"
    return re.compile(rf"{one}(?:\s*+{separator}\s*+|\s++){one}(?:\s|{separator}|$)")


_COMMA_PAIR = _pair(_COMMA_NUMBER, ";")  # "10,02 118" or "10,02;118"
_PAIR = _pair(_NUMBER, "[,;]")


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
    if suffix not in SUFFIXES:
        raise PatternError(
            f"{path.name}: expected one of {', '.join(SUFFIXES)}, but the file ends in {suffix!r}; "
            "export the pattern as two columns of text"
        )
    if path.exists() and not path.is_file():
        raise PatternError(f"{path.name}: expected a file, but this is a folder or a device")
    with path.open("rb") as file:
        data = file.read(_MAX_BYTES + 1)
    if len(data) > _MAX_BYTES:
        most = f"{_MAX_BYTES >> 20} MiB"
        raise PatternError(f"{path.name}: expected one scan, at most {most}; export it alone")
    if suffix == ".xrdml":
        return parse_xrdml(data, name=path.name, wavelength=wavelength)
    return parse_text(_decode(data, path.name), name=path.name, wavelength=wavelength)


def _decode(data: bytes, name: str) -> str:
    """Text of a file whose encoding nobody wrote down: UTF-8, UTF-16 with a mark, else Latin-1."""
    try:
        if data.startswith((b"\xff\xfe", b"\xfe\xff")):
            return data.decode("utf-16")
        if b"\0" in data:
            raise PatternError(
                f"{name}: this is a binary file, or UTF-16 without its mark; export the pattern as "
                "two columns of text in UTF-8"
            )
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if error.encoding == "utf-8":
            return data.decode("latin-1")
        raise PatternError(f"{name}: the text is not valid utf-16; save it as UTF-8") from None


def parse_text(text: str, *, name: str = "text", wavelength: float = CU_K_ALPHA) -> Pattern:
    """Read two columns, 2theta in degrees and intensity; further columns are ignored.

    Columns may be separated by commas, semicolons, tabs or spaces; beside the last three, a comma
    may also be the decimal mark. Lines before the first pair of numbers are a header; after it only
    blank lines and comments (``#``, ``!``, ``%``, ``'``, ``/``, ``*``, ``;``) may stand in between.

    Args:
        text: Content of the file.
        name: What to call it in errors.
        wavelength: X-ray wavelength in angstrom.

    Raises:
        PatternError: Nothing numeric in it, a line that is not a point, or points that make no
            pattern.
    """
    if text.count("\n") > _MAX_LINES or len(lines := text.rstrip().splitlines()) > _MAX_LINES:
        raise PatternError(f"{name}: expected one scan, but came more than {_MAX_LINES} lines")
    first = next((i for i, line in enumerate(lines) if _point(line)), len(lines))
    if first == len(lines):
        what = "has no line with two numbers (2theta, intensity)" if lines else "is empty"
        raise PatternError(f"{name}: the file {what}")
    numbers = range(first + 1, len(lines) + 1)
    how = dict(delimiter="," if "," in lines[first] else None, comments=None, usecols=(0, 1))
    try:  # nearly every file is like that, and read in a quarter of the time
        values = np.loadtxt(lines[first:], ndmin=2, **how)
    except ValueError:
        values = np.empty((0, 2))
    if len(values) < len(numbers):  # something else stands between the points
        found = dict(_points(lines, first, name))
        numbers, values = list(found), np.array(list(found.values()))
    check_points(values[:, 0], values[:, 1], name, lambda i: f"line {numbers[i]}")
    columns = torch.from_numpy(values).T.contiguous()
    return Pattern(columns[0], columns[1], wavelength)


def _points(lines: Sequence[str], first: int, name: str) -> Iterator[tuple[int, Sequence[float]]]:
    """Line numbers and points; blank lines and comments may stand between them, nothing else."""
    for number, line in enumerate(lines[first:], start=first + 1):
        if point := _point(line):
            yield number, point
        elif (content := line.strip()) and not content.startswith(_COMMENT):
            raise PatternError(
                f"{name}: expected two numbers (2theta, intensity) at line {number}, "
                f"but came {content[:40]!r}; begin comments with #"
            )


def _point(line: str) -> tuple[float, float] | None:
    """The first two numbers of a line, or ``None`` when it does not begin with two."""
    line = line.strip()
    if line.startswith(_COMMENT):
        return None
    if "," in line and (pair := _COMMA_PAIR.match(line)):
        return float(pair[1].replace(",", ".")), float(pair[2].replace(",", "."))
    pair = _PAIR.match(line)
    return pair and (float(pair[1]), float(pair[2]))
