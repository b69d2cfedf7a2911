"""Lines of text in, the numbers that stand in their columns out, however people write numbers."""

import csv
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from unimat_powder.pattern import PatternError

COMMENT = ("#", "!", "%", "'", "/", "*", ";")
_LONGEST = 20_000  # characters of a line
_MOST_ROWS = 400_000  # that are taken apart one by one, a thousandth of a degree over 180 and more
_MOST_COLUMNS = 50
_SAMPLE = 2_000  # lines that a dialect is read off

# Digits are taken possessively (++): "111...1x" is given up at once, not after all ways to cut it.
_EXPONENT = r"(?:[eEdD][+-]?[0-9]++)?"
_PLAIN = rf"(?:[0-9]++(?:[.,][0-9]*+)?|[.,][0-9]++){_EXPONENT}"
_GROUPED = r"[0-9]{1,3}+(?:(?:,[0-9]{3})++(?:\.[0-9]*+)?|(?:\.[0-9]{3})++(?:,[0-9]*+)?)"
_SPACED = r"[0-9]{1,3}+(?:[ \u00a0\u202f'’][0-9]{3})++(?:[.,][0-9]*+)?"
_NONE = r"(?i:nan|inf(?:inity)?)"
_NUMBER = re.compile(rf"[+-]?(?:{_PLAIN}|{_GROUPED}|{_SPACED}|{_NONE})")
# What every row begins with: lines without it need no closer look.
_BEGINS = re.compile(
    r"[\"'\s]*+[+-]?(?:[0-9.,]++(?:[eEdD][+-]?[0-9]++)?|(?i:nan|inf(?:inity)?))"
    r"(?:[\"'’\s;,+\-nNiI]|$)"
)
_INLINE = re.compile(r"\s[#!%].*")
_FORTRAN = str.maketrans("dD", "ee")
_SPACES = str.maketrans("", "", " \u00a0\u202f'’")


@dataclass(frozen=True, eq=False)
class Table:
    """Columns of numbers.

    Attributes:
        values: ``[n, c]`` float64; NaN where a row is shorter or holds text.
        lines: ``[n]`` int64 line numbers, from 1.
        header: Lines before the numbers.
        remarks: Comments between the numbers and lines behind them.
        delimiter: What parts the columns; ``None``: white space.
        notes: What was done.
    """

    values: np.ndarray
    lines: np.ndarray
    header: tuple[str, ...]
    remarks: tuple[str, ...]
    delimiter: str | None
    notes: tuple[str, ...]


def read_table(lines: Sequence[str], name: str) -> Table:
    """The numbers of a text, its header and what else stands in it.

    Columns are parted by semicolons, tabs, white space or commas, whichever fits most lines; the
    decimal mark is a point or a comma, thousands may be grouped. Text between the points is
    accepted only between two scans, text behind them as a footer.

    Args:
        lines: The text.
        name: What to call it in errors.

    Raises:
        PatternError: No numbers, a line that is not a point, or numbers that can be read in two
            ways; the message names the line.
    """
    long = next((i for i, line in enumerate(lines) if len(line) > _LONGEST), None)
    if long is not None:
        raise PatternError(
            f"{name}: expected columns of numbers, but line {long + 1} has {len(lines[long])} "
            "characters"
        )
    first = next((i for i, line in enumerate(lines) if _looks_like_row(line)), len(lines))
    if first == len(lines):
        what = "has no line with two numbers (2theta, intensity)" if lines else "is empty"
        raise PatternError(f"{name}: the file {what}")
    return _read_at_once(lines, first) or _read_by_line(lines, first, name)


def _read_at_once(lines: Sequence[str], first: int) -> Table | None:
    """Nearly every file has nothing but numbers below its header; read in a quarter of the time."""
    delimiter = next((mark for mark in ";\t," if mark in lines[first]), None)
    if delimiter == "\t" or (delimiter == ";" and "," in lines[first]):
        delimiter = None  # tabs are white space; a comma beside semicolons is a decimal one
    try:
        values = np.loadtxt(lines[first:], ndmin=2, delimiter=delimiter, comments=None)
    except ValueError:
        return None
    if len(values) < max(2, len(lines) - first) or values.shape[1] < 2:
        return None  # of a single row nobody knows what its commas mean
    numbers = np.arange(first + 1, len(lines) + 1)
    return Table(values, numbers, tuple(lines[:first]), (), delimiter, ())


def _read_by_line(lines: Sequence[str], first: int, name: str) -> Table:
    """Rows one by one, with whatever stands between them."""
    rows = [line for line in lines[first:] if _is_content(line)]
    if len(rows) > _MOST_ROWS:
        raise PatternError(
            f"{name}: expected at most {_MOST_ROWS} lines of numbers with text or decimal commas "
            f"among them, but came {len(rows)}; export one scan as plain columns"
        )
    delimiter = _delimiter(rows[:_SAMPLE])
    decimal = _decimal_mark(lines, first, delimiter, name)
    values, numbers, remarks, strange = [], [], [], []
    for number, line in enumerate(lines[first:], start=first + 1):
        if not _is_content(line):
            remarks.append(line)
            continue
        row = [_number(field, decimal) for field in _fields(line, delimiter)[:_MOST_COLUMNS]]
        if len(row) < 2 or None in row[:2]:
            strange.append((number, line, len(values)))
            continue
        values.append([np.nan if value is None else value for value in row])
        numbers.append(number)
    notes = _explain_strange(strange, len(values), name)
    remarks += [line for _, line, _ in strange]
    if not values:
        raise PatternError(f"{name}: the file has no line with two numbers (2theta, intensity)")
    start = _first_of_width(values)
    if start:
        notes.append(f"line {numbers[0]} taken as a header: {lines[numbers[0] - 1].strip()[:40]!r}")
    columns = max(len(row) for row in values[start:])
    table = np.full((len(values) - start, columns), np.nan)
    for i, row in enumerate(values[start:]):
        table[i, : len(row)] = row
    return Table(
        table,
        np.array(numbers[start:]),
        tuple(lines[: numbers[start] - 1]),
        tuple(remarks),
        delimiter,
        tuple(notes),
    )


def _first_of_width(values: Sequence[Sequence[float]]) -> int:
    """Number of leading rows that are a header of numbers, such as start, step and stop.

    These have another length than nearly all rows, and the axis does not go on from them.
    """
    width = Counter(map(len, values)).most_common(1)[0][0]
    start = next(i for i, row in enumerate(values) if len(row) == width)
    with np.errstate(invalid="ignore"):  # 1e400 is infinite, and refused with its line later
        steps = np.diff([row[0] for row in values[start : start + 20]])
        gap = values[start][0] - values[start - 1][0]
        goes_on = len(steps) and 0 < gap < 10 * np.median(steps)
    return 0 if start > 5 or goes_on else start


def _explain_strange(strange: list[tuple[int, str, int]], points: int, name: str) -> list[str]:
    """Notes on lines that are no points: a footer, or text between scans; else an error."""
    notes = []
    for number, line, before in strange:
        begins = line.split(maxsplit=1)[0].strip("\"',;")
        broken = _NUMBER.fullmatch(begins) is not None
        footer = before == points
        between = min(before, points - before) >= 10
        if broken or not (footer or between):
            raise PatternError(
                f"{name}: expected two numbers (2theta, intensity) at line {number}, "
                f"but came {line.strip()[:40]!r}; repair it, or begin comments with #"
            )
        place = "behind" if footer else "between"
        notes.append(f"text {place} the points left out (line {number}: {line.strip()[:40]!r})")
    more = len(notes) - 2
    return notes if more < 2 else [*notes[:2], f"{more} more lines of text left out"]


def _is_content(line: str) -> bool:
    """Whether a line is neither blank nor a comment."""
    line = line.strip()
    return bool(line) and not line.startswith(COMMENT)


def _looks_like_row(line: str) -> bool:
    """Whether a line begins with two numbers under any delimiter."""
    if not _BEGINS.match(line) or not _is_content(line):
        return False
    return any(_leading_numbers(line, delimiter) >= 2 for delimiter in (";", "\t", None, ","))


def _fields(line: str, delimiter: str | None) -> list[str]:
    """The fields of a line, without quotes, inline comments and empty ends."""
    if "#" in line or "!" in line or "%" in line:
        line = _INLINE.sub("", line)
    if delimiter == "," and '"' in line:
        try:
            fields = next(csv.reader([line]), [])
        except csv.Error:
            fields = line.split(",")
    else:
        fields = line.split(delimiter)
    if '"' in line or "'" in line:
        fields = [field.strip().strip("\"'") for field in fields]
    fields = [field.strip() for field in fields]
    while fields and not fields[-1]:
        fields.pop()
    return fields


def _leading_numbers(line: str, delimiter: str | None) -> int:
    """How many of the first two fields look like numbers: 0, 1 or 2."""
    fields = _fields(line, delimiter)[:2]
    if delimiter == "," and '"' not in line and any("," in field for field in fields):
        return 0
    numbers = [_NUMBER.fullmatch(field) is not None for field in fields]
    return sum(numbers) if numbers and numbers[0] else 0


def _delimiter(rows: Sequence[str]) -> str | None:
    """The delimiter under which most rows begin with two numbers; the first of equals."""
    marks = (";", "\t", None, ",")
    return max(marks, key=lambda mark: sum(_leading_numbers(row, mark) == 2 for row in rows))


def _decimal_mark(lines: Sequence[str], first: int, delimiter: str | None, name: str) -> str:
    """Point or comma, from what stands in the file as a whole."""
    where, columns = [], []
    for number, line in enumerate(lines[first : first + _SAMPLE], start=first + 1):
        if _is_content(line):
            fields = [f for f in _fields(line, delimiter)[:6] if _NUMBER.fullmatch(f)]
            where += [(number, field, column) for column, field in enumerate(fields)]
    columns = [c for _, field, c in where if "," in field]
    if not columns:
        return "."
    grouped = re.compile(r"[+-]?[1-9][0-9]{0,2}(,[0-9]{3})+(\.[0-9]*)?")
    decimal, thousands = True, True
    for _, field, column in where:
        if "," in field:
            decimal &= field.count(",") == 1 and "." not in field.partition(",")[2]
            thousands &= grouped.fullmatch(field) is not None
        else:
            decimal &= "." not in field or bool(re.fullmatch(r"[+-]?\d{1,3}(\.\d{3})+", field))
            thousands &= column not in columns or not re.match(r"[+-]?[0-9]{4}", field)
    number, field = next((n, f) for n, f, _ in where if "," in f)
    if not decimal and not thousands:
        raise PatternError(
            f"{name}: expected one decimal mark, but {field!r} at line {number} and other numbers "
            "of the file differ; write all decimals with a point"
        )
    if decimal and thousands and 0 not in columns:  # an angle of 10,020 is no angle of ten thousand
        value = field.replace(",", ".")
        raise PatternError(
            f"{name}: {field!r} at line {number} may be {value} or {field.replace(',', '')}; write "
            "decimals with a point and leave out thousands separators"
        )
    return "," if decimal else "."


def _number(field: str, decimal: str) -> float | None:
    """The value of a field, or ``None`` where it is text."""
    quick = field if decimal == "." else "_" if "." in field else field.replace(",", ".")
    if "_" not in quick and quick.isascii():  # nearly all; float() takes 1_0, too
        try:
            return float(quick)
        except ValueError:
            pass
    if not _NUMBER.fullmatch(field):
        return None
    other = "," if decimal == "." else "."
    plain = field.translate(_SPACES).replace(other, "") if other in field else field
    if other in field and not re.fullmatch(
        rf"[+-]?[0-9]{{1,3}}(\{other}[0-9]{{3}})+(\{decimal}[0-9]*)?", field.translate(_SPACES)
    ):
        return None
    if decimal == ",":
        plain = plain.replace(",", ".")
    if field[-1].isalpha():  # nan, inf
        return float(plain)
    try:
        return float(plain.translate(_SPACES).translate(_FORTRAN))
    except ValueError:
        return None
