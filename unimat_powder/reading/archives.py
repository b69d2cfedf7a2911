"""A zip archive of an instrument (.brml, .rasx) in, its scans and its X-rays out."""

import io
import re
import zipfile
import zlib
from xml.etree.ElementTree import Element

import numpy as np

from unimat_powder.pattern import PatternError
from unimat_powder.radiation import Radiation
from unimat_powder.reading.vendor import read_scans
from unimat_powder.scans import Scan
from unimat_powder.xrdml import parse_xml

_MAX_BYTES = 2**26  # unpacked, of all members that are read: four times the largest file
_MAX_MEMBERS = 10_000
_BRML = re.compile(r"(Experiment\d+/)(DataContainer|RawData\d+)\.xml")
_RASX = re.compile(r"root\.xml|Data\d+/(Profile|Mea?surementConditions)\d+\.(txt|xml)")


def read_archive(data: bytes, name: str) -> tuple[list[Scan], Radiation, list[str]]:
    """Scans of a Bruker ``.brml`` or Rigaku ``.rasx`` file, its X-rays, and notes.

    Only members that hold scans are unpacked, up to a limit, and packed anew for the library that
    reads them: it never sees a hostile archive.

    Args:
        data: The file.
        name: What to call it in errors.

    Raises:
        PatternError: Not such an archive, damaged, or one that unpacks into too much.
    """
    members = _unpack(data, name)
    if any(_BRML.fullmatch(member) for member in members):
        return _read_brml(members, name)
    return _read_rasx(members, name)


def _unpack(data: bytes, name: str) -> dict[str, bytes]:
    """Content of the members that hold scans."""
    members: dict[str, bytes] = {}
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names = archive.namelist()
            if "[Content_Types].xml" in names:
                raise PatternError(f"{name}: this is an office document; save the columns as .csv")
            wanted = [n for n in names[:_MAX_MEMBERS] if _BRML.fullmatch(n) or _RASX.fullmatch(n)]
            left = _MAX_BYTES
            for member in wanted:
                with archive.open(member) as file:
                    members[member] = file.read(left + 1)  # whatever size the archive claims
                left -= len(members[member])
                if left < 0:
                    raise PatternError(
                        f"{name}: expected one measurement, but it unpacks into more than "
                        f"{_MAX_BYTES >> 20} MiB"
                    )
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, NotImplementedError) as error:
        raise PatternError(f"{name}: the archive is damaged ({str(error)[:80]})") from None
    except (RuntimeError, ValueError, IndexError, OverflowError) as error:  # encrypted, or nonsense
        if isinstance(error, PatternError):
            raise
        raise PatternError(f"{name}: the archive cannot be opened ({str(error)[:80]})") from None
    if not set(members) - {"root.xml"}:
        raise PatternError(
            f"{name}: a zip archive without scans (expected a Bruker .brml or a Rigaku .rasx)"
        )
    return members


def _repack(members: dict[str, bytes]) -> bytes:
    """An archive of these members, not compressed."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
        for member, content in members.items():
            archive.writestr(member, content)
    return packed.getvalue()


def _read_brml(members: dict[str, bytes], name: str) -> tuple[list[Scan], Radiation, list[str]]:
    """Scans of a Bruker archive."""
    raw = [m for m in members if "RawData" in m]
    roots = {member: parse_xml(members[member], name=name) for member in raw}
    scans = read_scans(_repack(members), "scan.brml", name)
    said = next((_brml_radiation(root) for root in roots.values()), Radiation())
    routes: dict[int, list[tuple]] = {}  # by their number of points, in the order of the file
    for root in roots.values():
        for route in root.iterfind(".//{*}DataRoute[@RouteFlag='Measured']"):
            rows = [row.text or "" for row in route.iterfind("{*}Datum")]
            routes.setdefault(len(rows), []).append((route, rows))
    full = []
    for scan in scans:
        found = routes.get(len(scan))
        full.append(_with_brml_time(scan, *found.pop(0)) if found else scan)
    return full, said, []


def _brml_radiation(root: Element) -> Radiation:
    """What a measurement of a Bruker archive says of the X-rays."""
    lengths = {}
    for key in ("Alpha1", "Alpha2", "Ratio"):
        element = root.find(f".//{{*}}WaveLength{key}")
        lengths[key] = None if element is None else _positive(element.get("Value"))
    anode = (root.findtext(".//{*}TubeMaterial") or "").strip()
    first, second = lengths["Alpha1"] or None, lengths["Alpha2"] or None
    return Radiation(None, first, second, lengths["Ratio"], anode or None)


def _with_brml_time(scan: Scan, route: Element, rows: list[str]) -> Scan:
    """A scan with the counting time that its route records.

    There is a column of absorption factors, too, but they are in the intensities already: those
    behind an absorber are whole counts only once they are divided by its factor.
    """
    columns = {
        view.get("LogicName"): int(view.get("Start", "-1"))
        for view in route.iterfind(".//{*}RawDataView")
        if (view.get("Start") or "").isdigit()
    }
    time = _column(rows, columns.get("MeasuredTime"))
    if time is None or not (time > 0).all():
        return scan
    return Scan(scan.two_theta, scan.intensity, scan.uncertainty, float(time.mean()))


def _column(rows: list[str], column: int | None) -> np.ndarray | None:
    """One column of comma-separated rows, where all of them have it."""
    if column is None or not rows:
        return None
    try:
        return np.array([float(row.split(",")[column]) for row in rows])
    except (ValueError, IndexError):
        return None


def _read_rasx(members: dict[str, bytes], name: str) -> tuple[list[Scan], Radiation, list[str]]:
    """Scans of a Rigaku archive, with their attenuators undone."""
    notes: list[str] = []
    profiles = sorted((m for m in members if "Profile" in m), key=_number_of)
    scans = read_scans(_repack(members), "scan.rasx", name)
    said = Radiation()
    full = []
    for i, scan in enumerate(scans):
        factors = None
        if i < len(profiles):
            factors = third_column(members[profiles[i]].decode("utf-8-sig", "replace"))
        pattern = re.compile(rf"Data{i}/Mea?surementConditions{i}\.xml")
        conditions = [content for member, content in members.items() if pattern.fullmatch(member)]
        seconds = None
        if conditions:
            root = parse_xml(conditions[0], name=name)
            seconds = rigaku_seconds(
                {
                    key: root.findtext(f".//{{*}}ScanInformation/{{*}}{key}") or ""
                    for key in ("Step", "Speed", "SpeedUnit", "IntensityUnit")
                }
            )
            if i == 0:
                said = rigaku_radiation({
                    key: root.findtext(f".//{{*}}{key}") or ""
                    for key in ("WavelengthKalpha1", "WavelengthKalpha2", "WaveType", "TargetName",
                                "WavelengthKbeta")
                })  # fmt: skip
        full.append(undo_attenuation(scan, factors, seconds, notes))
    return full, said, notes


def _number_of(member: str) -> int:
    """The number in ``Data3/Profile3.txt``."""
    return int(re.search(r"\d+", member)[0][:9])


def third_column(text: str) -> np.ndarray | None:
    """The third column of rows of three numbers, if all rows have one."""
    try:
        values = np.loadtxt(io.StringIO(text), ndmin=2)
    except ValueError:
        return None
    return values[:, 2] if values.shape[1] == 3 else None


def undo_attenuation(
    scan: Scan, factors: np.ndarray | None, seconds: float | None, notes: list[str]
) -> Scan:
    """A Rigaku scan times its attenuator's factors, where it has any; adds to ``notes``."""
    intensity = scan.intensity
    if factors is not None and len(factors) == len(scan) and (factors > 0).all():
        intensity = intensity * factors
        if np.ptp(factors) > 0:
            notes.append(f"beam attenuation undone (factors up to {factors.max():g})")
    return Scan(scan.two_theta, intensity, scan.uncertainty, seconds)


def rigaku_radiation(said: dict[str, str]) -> Radiation:
    """What Rigaku's keys, of .ras or .rasx, say of the X-rays."""
    kind = said.get("WaveType", "").lower()
    first, second, beta = (
        _positive(said.get(f"WavelengthK{line}")) or None for line in ("alpha1", "alpha2", "beta")
    )
    if kind == "kb":
        return Radiation(used=beta)
    alone = {"ka1": True, "ka": False}.get(kind)
    return Radiation(None, first, second, None, said.get("TargetName") or None, alone)


def rigaku_seconds(said: dict[str, str]) -> float | None:
    """Counting time of a step, seconds, where intensities are counts."""
    step, speed = _positive(said.get("Step")), _positive(said.get("Speed"))
    if said.get("IntensityUnit", "").lower() != "counts" or not step or not speed:
        return None
    unit = said.get("SpeedUnit", "").lower().rstrip(".")
    if unit == "deg/min":
        return 60 * step / speed
    return speed if unit in ("sec", "s", "second", "seconds") else None


def _positive(text: str | None) -> float | None:
    """A number that is not negative, or ``None``."""
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if 0 <= value < 1e6 else None
