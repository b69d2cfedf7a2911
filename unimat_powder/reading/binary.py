"""A binary .raw file of Bruker, Siemens or STOE in, its scans and its X-rays out."""

import struct

import numpy as np

from unimat_powder.pattern import PatternError
from unimat_powder.radiation import K_ALPHA, Radiation
from unimat_powder.reading.vendor import read_scans
from unimat_powder.scans import Scan

MAGIC = (b"RAW1.0", b"RAW4.0", b"RAW2", b"RAW ", b"RAW_1.")
_BLOCK = 512  # bytes, of a STOE file


def read_raw(data: bytes, name: str) -> tuple[list[Scan], Radiation, list[str]]:
    """Scans of a ``.raw`` file, its X-rays, and notes.

    RAW1.01 and RAW4 go through geddes, which drops the header: wavelengths and counting times are
    read here. The older "RAW " and "RAW2" and STOE's "RAW_1.0" are read here alone, in the layouts
    that xylib (Wojdyr) and the converters of STOE users describe.

    Args:
        data: The file.
        name: What to call it in errors.

    Raises:
        PatternError: Of another kind, damaged, or not a scan of 2theta.
    """
    readers = {b"RAW1": _raw_3, b"RAW4": _raw_4, b"RAW2": _raw_2, b"RAW ": _raw_1, b"RAW_": _stoe}
    reader = readers.get(data[:4])
    if reader is None:
        raise PatternError(f"{name}: a .raw file of unknown kind; export it as .xy text")
    try:
        return reader(data, name)
    except (struct.error, ValueError, OverflowError, MemoryError) as error:
        if isinstance(error, PatternError):
            raise
        raise PatternError(f"{name}: the .raw file is damaged or cut short") from None


def _doubles(data: bytes, place: int, number: int) -> list[float | None]:
    """Wavelengths in angstrom; ``None`` for what can be none."""
    values = struct.unpack_from(f"<{number}d", data, place)
    return [value if 0.01 <= value <= 100 else None for value in values]


def _ratio(data: bytes, place: int) -> float | None:
    """Intensity of K-alpha 2 over K-alpha 1, if it can be one."""
    (value,) = struct.unpack_from("<d", data, place)
    return value if 0 <= value <= 1 else None


def _symbol(text: bytes) -> str | None:
    """Symbol of an anode."""
    symbol = text.split(b"\0")[0].decode("latin-1").strip().capitalize()
    return symbol if symbol in K_ALPHA else None


def _raw_3(data: bytes, name: str) -> tuple[list[Scan], Radiation, list[str]]:
    """RAW1.01: 712 bytes of header, then ranges with a header each."""
    scans = read_scans(data, "scan.raw", name)
    first, second = _doubles(data, 624, 2)
    said = Radiation(None, first, second, _ratio(data, 648), _symbol(data[608:612]))
    seconds, place = [], 712
    for scan in scans:
        length, points = struct.unpack_from("<II", data, place)
        (time,) = struct.unpack_from("<f", data, place + 192)
        record, extra = struct.unpack_from("<II", data, place + 252)
        seconds.append(time if 0 < time < 1e6 else None)
        if points != len(scan):
            return scans, said, []
        place += length + extra + points * max(record, 4)
    return [_timed(scan, time) for scan, time in zip(scans, seconds, strict=True)], said, []


def _timed(scan: Scan, seconds: float | None) -> Scan:
    """A scan with its counting time."""
    return Scan(scan.two_theta, scan.intensity, scan.uncertainty, seconds)


def _raw_4(data: bytes, name: str) -> tuple[list[Scan], Radiation, list[str]]:
    """RAW4: 61 bytes, then records of a type and a length; the ranges come last."""
    scans = read_scans(data, "scan.raw", name)
    said, place = Radiation(), 61
    while True:
        kind, length = struct.unpack_from("<II", data, place)
        if kind in (0, 160) or length < 8:
            break
        if kind == 30 and length >= 112:
            first, second = _doubles(data, place + 80, 2)
            said = Radiation(None, first, second, _ratio(data, place + 104))
        place += length
    timed = []
    for scan in scans:
        (points,) = struct.unpack_from("<I", data, place + 88)
        (time,) = struct.unpack_from("<f", data, place + 92)
        record, extra = struct.unpack_from("<II", data, place + 136)
        if points != len(scan):
            return scans, said, []
        timed.append(_timed(scan, time if 0 < time < 1e6 else None))
        place += 160 + extra + points * max(record, 4)
    return timed, said, []


def _raw_2(data: bytes, name: str) -> tuple[list[Scan], Radiation, list[str]]:
    """RAW2: 256 bytes of header, then ranges."""
    (ranges,) = struct.unpack_from("<H", data, 4)
    anode = _symbol(data[188:190])
    first, second, ratio = struct.unpack_from("<3f", data, 190)
    said = Radiation(
        None,
        first if 0.01 <= first <= 100 else None,
        second if 0.01 <= second <= 100 else None,
        ratio if 0 <= ratio <= 1 else None,
        anode,
    )
    scans, place = [], 256
    for _ in range(ranges):
        length, points = struct.unpack_from("<HH", data, place)
        time, step, start = struct.unpack_from("<3f", data, place + 8)
        if length < 48:
            raise PatternError(f"{name}: the .raw file is damaged or cut short")
        scans.append(_even_scan(data, place + length, points, start, step, time, name))
        place += length + 4 * points
    return scans, said, []


def _raw_1(data: bytes, name: str) -> tuple[list[Scan], Radiation, list[str]]:
    """RAW: ranges with 156 bytes of header each, whose last says whether another follows."""
    scans, place, more, said = [], 4, 1, Radiation()
    while more and len(scans) < 200:
        if scans and data[place : place + 4] == b"RAW ":
            place += 4
        points, time, step = struct.unpack_from("<Iff", data, place)
        (start,) = struct.unpack_from("<f", data, place + 20)
        first, second = struct.unpack_from("<2f", data, place + 68)
        (more,) = struct.unpack_from("<I", data, place + 148)
        if 0.01 <= first <= 100:
            said = Radiation(None, first, second if 0.01 <= second <= 100 else None)
        scans.append(_even_scan(data, place + 152, points, start, step, time, name))
        place += 152 + 4 * points
    return scans, said, []


def _even_scan(
    data: bytes, place: int, points: int, start: float, step: float, time: float, name: str
) -> Scan:
    """A scan of float32 counts in equal steps."""
    if not (0 < abs(step) < 10 and -180 < start < 180 and 2 <= points <= 10**6):
        raise PatternError(f"{name}: the .raw file is damaged: no range of 2theta in its header")
    with np.errstate(invalid="ignore"):  # what is no number is refused later, with its place
        counts = np.frombuffer(data, "<f4", points, place).astype(np.float64)
    # float32 steps are rounded to what somebody typed in
    angles = round(start, 5) + round(step, 6) * np.arange(points)
    return Scan(angles, counts, seconds=time if 0 < time < 1e6 else None)


def _stoe(data: bytes, name: str) -> tuple[list[Scan], Radiation, list[str]]:
    """STOE's RAW_1.0: blocks of 512 bytes, a header block before each block of uint32 counts."""
    first, second = struct.unpack_from("<2f", data, 0x142)
    said = Radiation(used=first if 0.01 <= first <= 100 else None)
    scans, notes, end = [], [], 0
    for place in range(_BLOCK, len(data) - _BLOCK + 1, _BLOCK):
        if place < end:
            continue
        (points,) = struct.unpack_from("<H", data, place + 0x22)
        start, _, stop, _, step, _ = struct.unpack_from("<6f", data, place + 0x2C)
        low, high = struct.unpack_from("<2I", data, place + 0x78)
        counts = np.frombuffer(data, "<u4", -1, place + _BLOCK)[:points]
        plausible = 0 < step < stop - start and 0 <= start < stop <= 180 and len(counts) == points
        if not plausible or points < 2 or abs((stop - start) / step + 1 - points) > 1:
            continue
        if high and (counts.min() != low or counts.max() != high):
            continue
        scans.append(Scan(np.linspace(start, stop, points), counts.astype(np.float64)))
        end = place + _BLOCK + 4 * points
    if not scans:
        raise PatternError(f"{name}: no scan found in this STOE .raw file; export it as .xy text")
    if len(scans) == 2 and np.array_equal(scans[0].intensity, scans[1].intensity):
        scans = scans[:1]  # the program writes the sum of one scan beside it
    if second and abs(second - first) > 1e-6:
        notes.append("of two wavelengths the first is used: STOE instruments part K-alpha 2")
    return scans, said, notes
