"""Powder patterns as arrays: the grid that a network sees, and measured files brought onto it.

A measured pattern is read with :func:`read_pattern` and laid on a :class:`Grid` with
:func:`to_grid`; simulated ones are drawn on the same grid by :func:`unimat_lib.diffraction.render`.
"""

from __future__ import annotations

import logging
import math
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

log = logging.getLogger(__name__)

WAVELENGTHS = {
    "CuKa": 1.54184,
    "CuKa1": 1.54056,
    "CuKa2": 1.54439,
    "MoKa": 0.71073,
    "MoKa1": 0.70930,
    "CoKa": 1.79026,
    "CoKa1": 1.78896,
    "FeKa": 1.93735,
    "FeKa1": 1.93604,
    "CrKa": 2.29100,
    "CrKa1": 2.28970,
    "AgKa": 0.560885,
    "AgKa1": 0.559421,
}
"""Wavelengths of laboratory X-ray tubes in angstrom, the values of pymatgen's ``XRDCalculator``."""

CU_K_ALPHA = WAVELENGTHS["CuKa"]
"""Mean Cu K-alpha wavelength in angstrom."""

SNIP_HALF_WINDOW = 2.0
"""Half width in degrees of the background filter: what is narrower than twice this is a peak."""

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


class PatternError(ValueError):
    """A measured pattern cannot be used; the message says where and why."""


@dataclass(frozen=True)
class Grid:
    """Equidistant points in 2theta at a stated wavelength.

    Attributes:
        two_theta_min: First point, degrees.
        two_theta_max: Last point, degrees.
        num_points: Number of points ``P``.
        wavelength: X-ray wavelength in angstrom.
    """

    two_theta_min: float = 5.0
    two_theta_max: float = 90.0
    num_points: int = 4096
    wavelength: float = CU_K_ALPHA

    def __post_init__(self) -> None:
        """Refuse grids that no diffractometer has."""
        if not 0 <= self.two_theta_min < self.two_theta_max < 180:
            raise ValueError(
                "a grid needs 0 <= two_theta_min < two_theta_max < 180 degrees, "
                f"but came with {self.two_theta_min} and {self.two_theta_max}"
            )
        if self.num_points < 2:
            raise ValueError(f"a grid needs at least 2 points, but came with {self.num_points}")
        if not 0 < self.wavelength < math.inf:
            raise ValueError(
                f"the wavelength must be positive (angstrom), but is {self.wavelength}"
            )

    @property
    def two_theta(self) -> Tensor:
        """``[P]`` float64, the points in degrees."""
        return torch.linspace(
            self.two_theta_min, self.two_theta_max, self.num_points, dtype=torch.float64
        )

    @property
    def step(self) -> float:
        """Distance of two points in degrees."""
        return (self.two_theta_max - self.two_theta_min) / (self.num_points - 1)


@dataclass(frozen=True, eq=False)
class Pattern:
    """One measured powder pattern.

    Attributes:
        two_theta: ``[P]`` float64, strictly increasing, degrees.
        intensity: ``[P]`` float64, counts or any other unit; some may be negative, but not all.
        wavelength: X-ray wavelength in angstrom.
    """

    two_theta: Tensor
    intensity: Tensor
    wavelength: float = CU_K_ALPHA

    def __post_init__(self) -> None:
        """Refuse what is not a pattern."""
        _check_points(
            self.two_theta.numpy(), self.intensity.numpy(), "pattern", lambda i: f"point {i + 1}"
        )
        if not 0 < self.wavelength < math.inf:
            raise PatternError(
                f"the wavelength must be positive (angstrom), but is {self.wavelength}"
            )


def _check_points(
    two_theta: np.ndarray, intensity: np.ndarray, name: str, where: Callable[[int], str]
) -> None:
    """Raise ``PatternError`` unless the points make a pattern; ``where(i)`` names point ``i``."""
    if two_theta.ndim != 1 or two_theta.shape != intensity.shape:
        raise PatternError(
            f"{name}: expected as many intensities as angles, "
            f"but came {tuple(intensity.shape)} and {tuple(two_theta.shape)}"
        )
    if len(two_theta) < 2:
        raise PatternError(
            f"{name}: expected at least 2 points of 2theta and intensity, but came {len(two_theta)}"
        )
    for label, values in (("2theta", two_theta), ("intensity", intensity)):
        bad = np.flatnonzero(~np.isfinite(values))
        if len(bad):
            raise PatternError(
                f"{name}: expected finite numbers, but the {label} at {where(bad[0])} is "
                f"{values[bad[0]]}; "
                "remove or repair that point"
            )
    if two_theta[0] < 0 or two_theta[-1] > 180:
        raise PatternError(
            f"{name}: 2theta must lie in 0 to 180 degrees, "
            f"but runs from {two_theta[0]:g} to {two_theta[-1]:g}"
        )
    bad = np.flatnonzero(np.diff(two_theta) <= 0) + 1
    if len(bad):
        i = int(bad[0])
        kind = "repeats" if two_theta[i] == two_theta[i - 1] else "falls back to"
        raise PatternError(
            f"{name}: 2theta must increase, but {kind} {two_theta[i]:g} at {where(i)} "
            f"(after {two_theta[i - 1]:g}); sort the points and keep one of each angle"
        )
    if intensity.max() <= 0:
        raise PatternError(
            f"{name}: no intensity is positive (the largest is {intensity.max():g}); "
            "is this the right column?"
        )


# ------------------------------------------------------------------------------------ reading files


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
    _check_points(values[:, 0], values[:, 1], name, lambda i: f"line {lines[i]}")
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


def parse_xrdml(data: bytes, *, name: str = "xrdml", wavelength: float = CU_K_ALPHA) -> Pattern:
    """Read the first scan of a PANalytical XRDML document.

    Positions are the ``2Theta`` axis, given as a list or as start and end; intensities are
    ``intensities`` or ``counts``. The wavelength is ``kAlpha1``, or the weighted mean of
    ``kAlpha1`` and ``kAlpha2`` where the file says that "K-Alpha" was intended.

    Args:
        data: The XML, in whatever encoding it declares.
        name: What to call it in errors.
        wavelength: X-ray wavelength in angstrom where the document states none.

    Raises:
        PatternError: Not XML, not XRDML, or points that make no pattern.
    """
    try:
        root = ElementTree.fromstring(data)
    except (
        ElementTree.ParseError,
        ValueError,
        LookupError,
    ) as error:  # LookupError: unknown encoding
        raise PatternError(f"{name}: not a readable XML document ({error})") from None
    scans = root.findall(".//{*}scan")
    if not scans:
        raise PatternError(f"{name}: expected an XRDML document with a <scan>, but found none")
    if len(scans) > 1:
        log.warning("%s holds %d scans; the first one is used", name, len(scans))
    scan = scans[0]

    counts = scan.find(".//{*}intensities")
    counts = scan.find(".//{*}counts") if counts is None else counts
    if counts is None:
        raise PatternError(f"{name}: the scan has neither <intensities> nor <counts>")
    intensity = _xml_numbers(counts, name)
    axes = [p for p in scan.iterfind(".//{*}positions") if p.get("axis", "").lower() == "2theta"]
    if not axes:
        raise PatternError(f"{name}: the scan has no <positions axis='2Theta'>")
    listed = axes[0].find("{*}listPositions")
    ends = [axes[0].find(f"{{*}}{end}Position") for end in ("start", "end")]
    if listed is not None:
        two_theta = _xml_numbers(listed, name)
    elif None not in ends:
        two_theta = np.linspace(*(_xml_number(end, name) for end in ends), len(intensity))
    else:
        raise PatternError(
            f"{name}: the 2Theta positions are neither a list nor a start and an end"
        )
    _check_points(two_theta, intensity, name, lambda i: f"point {i + 1}")
    return Pattern(
        torch.from_numpy(two_theta),
        torch.from_numpy(intensity),
        _xrdml_wavelength(root, name) or wavelength,
    )


def _xrdml_wavelength(root: ElementTree.Element, name: str) -> float | None:
    """Wavelength in angstrom that the document states, if any."""
    used = root.find(".//{*}usedWavelength")
    first = None if used is None else used.find("{*}kAlpha1")
    if first is None:
        return None
    length = _xml_length(first, name)
    second, ratio = used.find("{*}kAlpha2"), used.find("{*}ratioKAlpha2KAlpha1")
    if (used.get("intended") or "").lower() != "k-alpha" or second is None:
        return length
    weight = 0.5 if ratio is None else _xml_number(ratio, name)
    return (length + weight * _xml_length(second, name)) / (1 + weight)


def _xml_length(element: ElementTree.Element, name: str) -> float:
    """The length in angstrom that an element states, in angstrom or nanometres."""
    return _xml_number(element, name) * (10 if element.get("unit", "").lower() == "nm" else 1)


def _xml_numbers(element: ElementTree.Element, name: str) -> np.ndarray:
    """float64 ``[n]``, the numbers that an element's text holds."""
    try:
        return np.array([float(word) for word in (element.text or "").split()])
    except ValueError as error:
        tag = element.tag.rpartition("}")[2]
        raise PatternError(f"{name}: <{tag}> must hold numbers only ({error})") from None


def _xml_number(element: ElementTree.Element, name: str) -> float:
    """The one number that an element's text holds."""
    values = _xml_numbers(element, name)
    if len(values) != 1 or not np.isfinite(values[0]):
        tag = element.tag.rpartition("}")[2]
        raise PatternError(
            f"{name}: <{tag}> must hold one finite number, but holds {element.text!r}"
        )
    return float(values[0])


# -------------------------------------------------------------------------------------- onto a grid


def to_grid(pattern: Pattern, grid: Grid, *, background: bool = True) -> Tensor:
    """Bring a measured pattern onto a grid, the way simulated ones come.

    Angles are converted to the grid's wavelength through d (sin theta / wavelength stays). Each
    grid point then gets the mean of the measured curve over its own interval of one step, so a peak
    keeps its area whether the grid is coarser or finer than the measurement. Where the wavelengths
    differ, intensities are then taken from the Lorentz-polarisation factor of the measured angle to
    that of the new one, and from the old axis to the new. Grid points outside the measured range
    are zero. The background is estimated with the SNIP filter, which peaks narrower than about
    twice ``SNIP_HALF_WINDOW`` survive.

    Args:
        pattern: The measurement.
        grid: Where to put it.
        background: Subtract the background; otherwise intensities are only clipped at zero and
            scaled.

    Returns:
        float32 ``[P]``, scaled to a maximum of 1.

    Raises:
        PatternError: No grid point lies inside the measured range, or nothing there rises above the
            background.

    Source: SNIP after Ryan et al., Nucl. Instrum. Methods B 34, 396 (1988), with the shrinking
        window of Morhac et al., Nucl. Instrum. Methods A 401, 113 (1997).
    """
    measured, intensity = pattern.two_theta.numpy(), pattern.intensity.numpy()
    sine = np.sin(np.radians(measured / 2)) * (grid.wavelength / pattern.wavelength)
    reachable = sine <= 1  # beyond, the d-spacing is too small for the grid's wavelength
    two_theta = 2 * np.degrees(np.arcsin(sine[reachable]))
    intensity = intensity[reachable]
    points = grid.two_theta.numpy()
    covered = np.zeros(grid.num_points, dtype=bool)
    if len(two_theta) > 1:
        # A hundredth of a step forgives the rounding of angles in files.
        slack = 0.01 * grid.step
        covered = (points >= two_theta[0] - slack) & (points <= two_theta[-1] + slack)
    if covered.sum() < 2:
        reached = f"{two_theta[0]:.2f} to {two_theta[-1]:.2f}" if len(two_theta) else "nothing"
        raise PatternError(
            f"the pattern lies outside the grid: it covers {reached} degrees at {grid.wavelength} "
            f"angstrom, the grid {grid.two_theta_min:g} to {grid.two_theta_max:g}; "
            "check the wavelength or choose another grid"
        )
    values = _bin_means(two_theta, intensity, points[covered], grid.step)
    if background:
        values = values - snip_background(values, half_window=round(SNIP_HALF_WINDOW / grid.step))
    values = np.clip(values, 0, None) * _conversion(points[covered], grid, pattern.wavelength)
    if values.max() <= 1e-9 * np.abs(intensity).max():
        raise PatternError(
            "nothing rises above zero"
            + (" once the background is subtracted" if background else "")
            + " where the pattern overlaps the grid; check the intensity column"
        )
    result = np.zeros(grid.num_points, dtype=np.float32)
    result[covered] = values / values.max()
    return torch.from_numpy(result)


def lorentz_polarisation(sin_theta: Tensor) -> Tensor:
    """Factor of an unpolarised beam on a powder, (1 + cos^2 2theta) / (sin^2 theta cos theta)."""
    sin2 = sin_theta.square()
    return (1 + (1 - 2 * sin2).square()) / (sin2 * (1 - sin2).clamp_min(1e-12).sqrt())


def _conversion(two_theta: np.ndarray, grid: Grid, wavelength: float) -> np.ndarray:
    """What intensities measured at ``wavelength`` are multiplied with at angles of the grid."""
    if wavelength == grid.wavelength:
        return np.ones_like(two_theta)
    here = torch.sin(torch.deg2rad(torch.from_numpy(two_theta) / 2))
    there = here * (wavelength / grid.wavelength)  # below 1: these points were measured
    stretch = (
        ((1 - here**2) / (1 - there**2).clamp_min(1e-12)).sqrt() * wavelength / grid.wavelength
    )
    return (lorentz_polarisation(here) / lorentz_polarisation(there) * stretch).numpy()


def _bin_means(x: np.ndarray, y: np.ndarray, centres: np.ndarray, width: float) -> np.ndarray:
    """Exact means of the piecewise linear curve through (x, y) over intervals at ``centres``.

    Intervals are cut where the curve ends; every centre must lie inside it, give or take rounding.
    """
    slope = np.diff(y) / np.diff(x)  # [n-1]
    integral = np.concatenate([[0.0], np.cumsum(np.diff(x) * (y[1:] + y[:-1]) / 2)])  # [n]

    def antiderivative(at: np.ndarray) -> np.ndarray:
        i = np.clip(np.searchsorted(x, at, side="right") - 1, 0, len(x) - 2)
        return integral[i] + (at - x[i]) * (y[i] + slope[i] * (at - x[i]) / 2)

    low = np.clip(centres - width / 2, x[0], x[-1])
    high = np.clip(centres + width / 2, x[0], x[-1])
    return (antiderivative(high) - antiderivative(low)) / (high - low)


def snip_background(intensity: np.ndarray, *, half_window: int) -> np.ndarray:
    """Smooth background under the peaks (statistics-sensitive non-linear iterative peak clipping).

    Each point is replaced by the mean of its two neighbours at distance w where that is lower, for
    w shrinking from ``half_window`` to 1, on a double logarithmic and square-root scale that treats
    weak and strong peaks alike. The window shrinks by a fifth at a time: fewer steps wear less off
    a broad hump.

    Args:
        intensity: ``[n]``, equidistant.
        half_window: Half width of the widest peak to remove, in points.

    Returns:
        float64 ``[n]``, nowhere above the intensities.
    """
    floor = min(float(intensity.min()), 0.0)
    # On a scale of 1e4 the same background comes out whatever the unit of the intensity.
    scale = 1e4 / max(float(intensity.max()) - floor, 1e-300)
    level = np.log(np.log(np.sqrt((intensity - floor) * scale + 1) + 1) + 1)
    window = min(max(half_window, 1), (len(level) - 1) // 2)
    while window:
        w, window = window, window * 4 // 5
        mean = (level[: -2 * w] + level[2 * w :]) / 2
        level[w:-w] = np.minimum(level[w:-w], mean)
    clipped = ((np.exp(np.exp(level) - 1) - 1) ** 2 - 1) / scale + floor
    return np.minimum(clipped, intensity)
