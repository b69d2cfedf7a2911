"""Text with counts in rows behind start, step and stop in, one scan out."""

import re
from collections.abc import Sequence

import numpy as np

from unimat_powder.reading.table import COMMENT
from unimat_powder.scans import Scan

_NUMBERS = re.compile(r"[\s,]*+((?:[+-]?+[0-9]++\.?[0-9]*+(?:[eE][+-]?[0-9]++)?[\s,]++){3})")
_SEARCHED = 20  # lines for the one with start, step and stop


def read_counts_in_rows(
    lines: Sequence[str], name: str
) -> tuple[Scan, list[str], list[str]] | None:
    """A scan whose angles stand in one line only, the lines that are no counts, and notes.

    A line "start step stop" is followed by as many counts as there are steps, several in a row;
    where as many numbers again follow, these are their uncertainties (PSI, ILL and DBWS write such
    files). ``None``: the text is nothing of the kind.

    Args:
        lines: The text.
        name: What to call it in errors.
    """
    for i, line in enumerate(lines[:_SEARCHED]):
        found = _NUMBERS.match(line[:200] + " ")
        if not found or line.lstrip().startswith(COMMENT):
            continue
        start, step, stop = map(float, re.split(r"[\s,]+", found[1].strip(" \t,")))
        if not (1e-5 < step < stop - start and -180 <= start < stop <= 180):
            return None
        steps = (stop - start) / step
        number = round(steps) + 1
        if abs(steps - round(steps)) > 0.02 or number > 10**6:
            return None
        return _read_rows(lines, i, start, step, number)
    return None


def _read_rows(
    lines: Sequence[str], place: int, start: float, step: float, number: int
) -> tuple[Scan, list[str], list[str]] | None:
    """The counts behind line ``place``, if there are as many as promised."""
    values: list[float] = []
    behind = len(lines)
    widths = []
    for i, line in enumerate(lines[place + 1 :], start=place + 1):
        try:
            row = [float(field) for field in line.replace(",", " ").split()]
        except ValueError:
            behind = i
            break
        if len(row) > 30:
            return None
        values += row
        widths.append(len(row))
        if len(values) >= 2 * number:
            behind = i + 1
            break
    if len(values) < number or len(values) not in (number, 2 * number):
        return None
    columns = widths and set(widths) == {2} and abs(values[2] - values[0] - step) < step / 2
    if columns:  # angles and counts side by side, behind a header of start, step and stop
        return None
    notes = [f"counts in rows behind line {place + 1}, angles from start, step and stop"]
    if behind < len(lines):
        shown = lines[behind].strip()[:40]
        notes.append(f"text behind the points left out (line {behind + 1}: {shown!r})")
    counts = np.array(values[:number])
    error = np.array(values[number:]) if len(values) == 2 * number else None
    angles = start + step * np.arange(number)
    return Scan(angles, counts, error), [*lines[: place + 1], *lines[behind:]], notes
