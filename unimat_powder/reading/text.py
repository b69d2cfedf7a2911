"""Columns of text in, the pattern that they hold out."""

import re
from collections.abc import Sequence

import numpy as np

from unimat_powder.pattern import Pattern, PatternError, check_values
from unimat_powder.radiation import Radiation, settle_wavelength
from unimat_powder.reading.header import column_kind, column_names, radiation_of
from unimat_powder.reading.rows import read_counts_in_rows
from unimat_powder.reading.table import Table, read_table
from unimat_powder.scans import Scan, make_pattern

_MAX_LINES = 10**6  # ten times a long scan
# An angle, then what may be 1 and 234, or 1,234.
_GROUPED = re.compile(r"[-+0-9.]+(?:\s*,\s*|\s+)[1-9][0-9]{0,2}(?:,|\s)[0-9]{3}(?:\.[0-9]*)?$")
_AXES = ("angle", "angle_rad", "q_a", "q_nm", "d_a", "d_nm", "q", "theta")


def parse_text(text: str, *, name: str = "text", wavelength: float | None = None) -> Pattern:
    """Read columns of an angle (or d, or Q) and an intensity, perhaps with an uncertainty.

    Columns are found by their names where a header gives them; otherwise the first is 2theta in
    degrees, the second the intensity, and a third the uncertainty where its numbers can be that.
    Lines before the first pair of numbers are a header and are searched for a wavelength or an
    anode; comments (``#``, ``!``, ``%``, ``'``, ``/``, ``*``, ``;``) may stand anywhere. Counts in
    rows behind a line "start step stop" are read too.

    Args:
        text: Content of the file.
        name: What to call it in errors; one ending in ``.xye`` promises uncertainties.
        wavelength: X-ray wavelength in angstrom; wins over the file.

    Raises:
        PatternError: Nothing numeric in it, a line that is not a point, something that can be read
            in two ways, or points that make no pattern.
    """
    if text.count("\n") > _MAX_LINES or len(lines := text.rstrip().splitlines()) > _MAX_LINES:
        raise PatternError(f"{name}: expected one scan, but came more than {_MAX_LINES} lines")
    if rows := read_counts_in_rows(lines, name):
        scan, rest, notes = rows
        said = radiation_of(rest, name, wavelength=wavelength)
        return make_pattern([scan], said, name=name, wavelength=wavelength, notes=notes)
    table = read_table(lines, name)
    said = radiation_of([*table.header, *table.remarks], name, wavelength=wavelength)
    notes = list(table.notes)
    said = _lone_wavelength(table.header, said, notes)
    names = column_names(table.header, table.delimiter, table.values.shape[1])
    if len(names) < 3:
        _check_thousands(table, lines, name)
    kinds = [column_kind(label) for label in names]
    axis, column = _choose_columns(kinds, names, table, name, notes)
    start, said = _numeric_header(table.values[:, axis], said, table, notes)
    values, numbers = table.values[start:], table.lines[start:]
    for label, i in (("2theta", axis), ("intensity", column)):
        check_values(values[:, i], label, name, lambda j: f"line {numbers[j]}")
    error = _uncertainty(kinds, values, name, notes)
    length = settle_wavelength(said, wavelength, name=name)[0]
    kind = kinds[axis] if kinds else "angle"
    x, inside = _to_two_theta(values[:, axis], kind, length, name, notes)
    places = numbers[inside]
    return make_pattern(
        [Scan(x, values[inside, column], None if error is None else error[inside])],
        said,
        name=name,
        wavelength=wavelength,
        notes=notes,
        where=lambda i: f"line {places[i]}",
    )


def _choose_columns(
    kinds: Sequence[str], names: Sequence[str], table: Table, name: str, notes: list[str]
) -> tuple[int, int]:
    """Columns of the axis and of the intensity."""
    width = table.values.shape[1]
    if not kinds:
        _check_unnamed(table, name)
        return 0, 1
    axis = next(kinds.index(kind) for kind in _AXES if kind in kinds[:width])
    if kinds[axis] == "theta":
        raise PatternError(
            f"{name}: the axis is called {names[axis]!r}: is it theta or 2theta? Name it 2theta, "
            "with twice the values where it is theta"
        )
    if kinds[axis] == "q":
        raise PatternError(
            f"{name}: the axis {names[axis]!r} needs its unit: name it Q (1/A) or Q (1/nm)"
        )
    if len(kinds) == 1:
        return 0, 1
    named = [i for i, kind in enumerate(kinds[:width]) if kind == "intensity"]
    others = [i for i, kind in enumerate(kinds[:width]) if kind == "" and i > axis]
    if not named + others:
        raise PatternError(
            f"{name}: none of the columns {', '.join(names)[:80]} is an intensity; name it so"
        )
    column = (named + others)[0]
    if len(named or others) > 1:
        notes.append(f"of several intensities, {names[column]!r} is used")
    return axis, column


def _check_thousands(table: Table, lines: Sequence[str], name: str) -> None:
    """Refuse rows whose third column is probably the rest of a number with grouped thousands."""
    if table.delimiter not in (",", None) or table.values.shape[1] < 3:
        return
    longer = [n for n, third in zip(table.lines, table.values[:, 2], strict=True) if third >= 0]
    rests = [_GROUPED.match(lines[n - 1].strip()) is not None for n in longer[:1000]]
    if rests and all(rests):
        line = lines[longer[0] - 1].strip()[:40]
        raise PatternError(
            f"{name}: {line!r} at line {longer[0]} may hold two numbers, with thousands grouped, "
            "or three; leave out the thousands separators, or name all columns"
        )


def _check_unnamed(table: Table, name: str) -> None:
    """Refuse columns without names that are probably not angle and intensity."""
    values, line = table.values, table.lines[0]
    if len(values) < 10 or not np.isfinite(values[:, :2]).all():
        return
    x, y = values[:, 0], values[:, 1]
    remedy = "name the columns in a header line (2theta, intensity)"
    whole = (x == x.round()).all() and (np.diff(x) == 0).mean() > 0.5
    if table.delimiter == "," and values.shape[1] > 2 and whole:
        raise PatternError(
            f"{name}: the numbers at line {line} look like decimal commas parted by commas; "
            "part the columns by semicolons"
        )
    rises, other = _is_even(x), _is_even(y)
    if other and not rises and not (np.diff(x) > 0).all():
        raise PatternError(f"{name}: the second column looks like the angle; {remedy}")
    if rises and other and values.shape[1] > 2:
        raise PatternError(
            f"{name}: the first and the second column both rise evenly from line {line}; {remedy}"
        )


def _is_even(x: np.ndarray) -> bool:
    """Whether values rise in equal steps."""
    with np.errstate(invalid="ignore"):
        steps = np.diff(x)
        return bool(steps.min() > 0 and np.ptp(steps) < 0.2 * np.median(steps))


def _numeric_header(
    x: np.ndarray, said: Radiation, table: Table, notes: list[str]
) -> tuple[int, Radiation]:
    """How many leading rows are a header in numbers, and the wavelength that stands in it.

    A row is one only if the axis jumps behind it, runs evenly from then on, and its numbers are
    the axis' own: the step, the ends, the number of points, or a known wavelength.
    """
    for start in (1, 2, 3):
        rest = x[start:]
        if len(rest) < 10 or not np.isfinite(x[: start + 10]).all():
            break
        steps = np.diff(rest)
        step = float(np.median(steps))
        even = step > 0 and (np.abs(steps - step) < 0.2 * step).mean() > 0.95
        if not even or 0 <= rest[0] - x[start - 1] < 10 * step:
            continue
        row = table.values[start - 1]
        row = row[np.isfinite(row)]
        facts = np.array([step, rest[0], rest[-1], len(rest)])
        matches = np.isclose(row[:, None], facts, rtol=1e-4, atol=1e-9).any(axis=1)
        lines = [_is_tube_line(value) for value in row.tolist()]
        if not (matches.any() or any(lines)):
            continue
        number = table.lines[start - 1]
        notes.append(f"line {number} taken as a header: {' '.join(f'{v:g}' for v in row)}")
        length = next((v for v, is_line in zip(row.tolist(), lines, strict=True) if is_line), None)
        if length is not None and said == Radiation():
            said = Radiation(used=length)
        return start, said
    return 0, said


def _lone_wavelength(header: Sequence[str], said: Radiation, notes: list[str]) -> Radiation:
    """Where nothing else is said, a header line that is a known wavelength and nothing more."""
    for line in header[:20] if said == Radiation() else ():
        text = line.strip().replace(",", ".")
        if re.fullmatch(r"[0-9]\.[0-9]{4,8}", text) and _is_tube_line(float(text)):
            notes.append(f"{text} in the header taken as the wavelength")
            return Radiation(used=float(text))
    return said


def _is_tube_line(value: float) -> bool:
    """Whether a bare number can only be the wavelength of a usual X-ray tube."""
    if not 0.5 < value < 2.5 or round(value, 3) == value:  # a step or a width has fewer digits
        return False
    return settle_wavelength(Radiation(used=value), None, name="")[3] == ()


def _uncertainty(
    kinds: Sequence[str], values: np.ndarray, name: str, notes: list[str]
) -> np.ndarray | None:
    """Standard uncertainties, from the column of that name or one that can be nothing else."""
    width = values.shape[1]
    if "uncertainty" in kinds[:width]:
        column = kinds.index("uncertainty")
    elif len(kinds) < 2 and width >= 3:
        column = 2
        error, counts = values[:, 2], np.maximum(values[:, 1], 1)
        finite = np.isfinite(error).all() and (error >= 0).all()
        poisson = finite and np.median(np.abs(error / np.sqrt(counts) - 1)) < 0.02
        if not finite or not (poisson or name.lower().endswith(".xye")):
            notes.append("columns behind the second are not used: they have no names")
            return None
    else:
        return None
    error = values[:, column]
    if not (np.isfinite(error).all() and (error >= 0).all()):
        notes.append("uncertainties left out: some are missing or negative")
        return None
    return error


def _to_two_theta(
    x: np.ndarray, kind: str, wavelength: float, name: str, notes: list[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Angles in degrees and which points have one; an axis in Q or d is converted."""
    everything = np.ones(len(x), dtype=bool)
    if kind == "angle":
        return x, everything
    if kind == "angle_rad":
        notes.append("axis in radians converted")
        return np.degrees(x), everything
    with np.errstate(divide="ignore", invalid="ignore"):
        if kind.startswith("q"):
            sine = x * (0.1 if kind == "q_nm" else 1.0) * wavelength / (4 * np.pi)
        else:
            sine = wavelength / (2 * x * (10.0 if kind == "d_nm" else 1.0))
    inside = (np.abs(sine) <= 1) & ((x > 0) | kind.startswith("q"))
    unit = {"q_a": "Q (1/A)", "q_nm": "Q (1/nm)", "d_a": "d (A)", "d_nm": "d (nm)"}[kind]
    notes.append(f"axis in {unit} converted to 2theta at {wavelength:.6g} A")
    if left := int((~inside).sum()):
        notes.append(f"{left} points out of reach of this wavelength left out")
    if inside.sum() < 2:
        raise PatternError(
            f"{name}: no point of the axis in {unit} can be reached at {wavelength:g} angstrom; "
            "give the right wavelength"
        )
    return 2 * np.degrees(np.arcsin(sine[inside])), inside
