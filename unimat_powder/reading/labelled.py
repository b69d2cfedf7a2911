"""Text with a vendor's labels (.uxd, .ras, GSAS) in, its scans and its X-rays out."""

import re

import numpy as np

from unimat_powder.pattern import PatternError
from unimat_powder.radiation import K_ALPHA, Radiation
from unimat_powder.reading.archives import (
    rigaku_radiation,
    rigaku_seconds,
    third_column,
    undo_attenuation,
)
from unimat_powder.reading.header import radiation_of
from unimat_powder.reading.vendor import read_scans
from unimat_powder.scans import Scan

_UXD_RANGE = re.compile(r"^_(?:2THETA)?(?:COUNTS|CPS)(?:TIME)?\b", re.M)
_EVEN_COUNTS = re.compile(
    r"^(?:\*COUNT\s*=.*|RawScan[\s,]*)$([^*/]*)(?=^\*|/|\Z)", re.M
)  # Rigaku, Philips
_START = re.compile(r"^(?:\*START\s*=|DataAngleRange\s*,)\s*([0-9.]+)", re.M)
_STEP = re.compile(r"^(?:\*STEP\s*=|ScanStepSize\s*,)\s*([0-9.]+)", re.M)
_TIME = re.compile(r"^ScanStepTime\s*,\s*([0-9.]+)", re.M)
_RAS_KEYS = {
    "WavelengthKalpha1": "HW_XG_WAVE_LENGTH_ALPHA1",
    "WavelengthKalpha2": "HW_XG_WAVE_LENGTH_ALPHA2",
    "WavelengthKbeta": "HW_XG_WAVE_LENGTH_BETA",
    "WaveType": "MEAS_COND_XG_WAVE_TYPE",
    "TargetName": "HW_XG_TARGET_NAME",
    "Step": "MEAS_SCAN_STEP",
    "Speed": "MEAS_SCAN_SPEED",
    "SpeedUnit": "MEAS_SCAN_SPEED_UNIT",
    "IntensityUnit": "MEAS_SCAN_UNIT_Y",
}


def read_uxd(text: str, name: str) -> tuple[list[Scan], Radiation, list[str]]:
    """Ranges of a Bruker UXD file, its X-rays, and notes.

    Args:
        text: The file.
        name: What to call it in errors.

    Raises:
        PatternError: geddes does not read it, with its reason.
    """
    scans = read_scans(text.encode(), "scan.uxd", name)
    keys = dict(re.findall(r"^_(\w+)\s*=\s*'?([^'\n]*)", text[:100_000], re.M))
    length = {key: _number(keys.get(key)) for key in ("WL1", "WL2", "WLRATIO")}
    anode = (keys.get("ANODE") or "").strip().capitalize()
    if (keys.get("WL_UNIT") or "A").strip().lower() == "nm":
        length |= {key: 10 * length[key] for key in ("WL1", "WL2") if length[key]}
    said = Radiation(
        None,
        length["WL1"] or None,
        length["WL2"] or None,
        length["WLRATIO"],
        anode if anode in K_ALPHA else None,
    )
    places = [found.start() for found in _UXD_RANGE.finditer(text)]
    if len(places) != len(scans):
        return scans, said, []
    timed, before, time = [], 0, None  # a label holds until it comes again
    for scan, place in zip(scans, places, strict=True):
        times = re.findall(r"^_STEPTIME\s*=\s*([0-9.eE+-]+)", text[before:place], re.M)
        time = _number(times[-1]) or None if times else time
        seconds = None if text.startswith(("_CPS", "_2THETACPS"), place) else time
        timed.append(Scan(scan.two_theta, scan.intensity, None, seconds))
        before = place
    return timed, said, []


def read_ras(text: str, name: str) -> tuple[list[Scan], Radiation, list[str]]:
    """Scans of a Rigaku RAS file with their attenuators undone, its X-rays, and notes.

    Args:
        text: The file.
        name: What to call it in errors.

    Raises:
        PatternError: geddes does not read it, with its reason.
    """
    scans = read_scans(text.encode(), "scan.ras", name)
    notes: list[str] = []
    said, full, before = Radiation(), [], 0
    parts = list(re.finditer(r"^\*RAS_INT_START\s*$(.*?)^\*RAS_INT_END", text, re.M | re.S))
    if len(parts) != len(scans):
        return scans, _ras_radiation(text, 0, len(text)), notes
    for i, (scan, part) in enumerate(zip(scans, parts, strict=True)):
        keys = _ras_keys(text[before : part.start()])
        said = rigaku_radiation(keys) if i == 0 else said
        full.append(undo_attenuation(scan, third_column(part[1]), rigaku_seconds(keys), notes))
        before = part.end()
    return full, said, notes


def _ras_radiation(text: str, start: int, stop: int) -> Radiation:
    """What a stretch of a RAS file says of the X-rays."""
    return rigaku_radiation(_ras_keys(text[start:stop]))


def _ras_keys(text: str) -> dict[str, str]:
    """Values of the labels that count, under the names that .rasx gives them."""
    found = dict(re.findall(r'^\*(\w+)\s+"([^"\n]*)"', text, re.M))
    return {key: found.get(label, "") for key, label in _RAS_KEYS.items()}


def read_even_counts(
    text: str, name: str, *, wavelength: float | None = None
) -> tuple[list[Scan], Radiation, list[str]]:
    """Scans of a Rigaku ``.asc`` or Philips ``.udf`` file: counts behind labels for start and step.

    Args:
        text: The file.
        name: What to call it in errors.
        wavelength: What the caller says, angstrom.

    Raises:
        PatternError: No start and step before the counts, or something else among these.
    """
    scans, before = [], 0
    for part in _EVEN_COUNTS.finditer(text):
        head = text[before : part.start(1)]
        before = part.end(1)
        start, step = (_last_number(pattern, head) for pattern in (_START, _STEP))
        if start is None or not step:
            raise PatternError(f"{name}: expected a start and a step before the counts")
        try:
            counts = np.array(part[1].replace(",", " ").split(), np.float64)
        except ValueError as error:
            raise PatternError(f"{name}: expected counts only ({str(error)[:60]})") from None
        angles = start + step * np.arange(len(counts))
        scans.append(Scan(angles, counts, seconds=_last_number(_TIME, head) or None))
    if not scans:
        raise PatternError(f"{name}: expected counts behind the labels, but found none")
    said = radiation_of(text[:20_000].splitlines(), name, wavelength=wavelength)
    return scans, said, []


def _last_number(pattern: re.Pattern[str], text: str) -> float | None:
    """The number behind the last label of a kind."""
    found = pattern.findall(text)
    return _number(found[-1]) if found else None


def read_gsas(
    text: str, name: str, *, wavelength: float | None = None
) -> tuple[list[Scan], Radiation, list[str]]:
    """The histogram of a GSAS file, what its title says of the X-rays, and notes.

    Args:
        text: The file.
        name: What to call it in errors.
        wavelength: What the caller says, angstrom.

    Raises:
        PatternError: Several banks (of a neutron instrument), or geddes does not read it.
    """
    scans = read_scans(text.encode(), "scan.gsas", name)
    if len(scans) > 1:
        raise PatternError(f"{name}: {len(scans)} banks in one file; export one of them alone")
    title, _, rest = text.partition("BANK")
    said = radiation_of(title.splitlines(), name, wavelength=wavelength)
    first, _, body = rest.partition("\n")
    error = None
    if re.search(r"\bFXYE\b", first):
        error = third_column(body)
    elif re.search(r"\bESD\b", first):
        error = _second_of_pairs(body)
    if error is not None and len(error) == len(scans[0]) and (error >= 0).all():
        scans = [Scan(scans[0].two_theta, scans[0].intensity, error)]
    return scans, said, []


def _second_of_pairs(text: str) -> np.ndarray | None:
    """Uncertainties of GSAS' ESD records: fields of eight characters, intensities in between."""
    rows = [line.rstrip() for line in text.splitlines()]
    fields = [row[i : i + 8] for row in rows for i in range(0, len(row), 8)]
    try:
        return np.array(fields[1::2], np.float64)
    except ValueError:
        return None


def _number(text: str | None) -> float | None:
    """A number that is finite and not negative, or ``None``."""
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if 0 <= value < np.inf else None
