"""A PANalytical XRDML document in, the pattern of its scans out."""

from xml.etree import ElementTree

import numpy as np

from unimat_powder.pattern import Pattern, PatternError
from unimat_powder.radiation import Radiation
from unimat_powder.scans import Scan, make_pattern

_MAX_TAGS = 10**6  # a scan has some fifty
_ANALYSER = ("ge", "si")  # crystals that part K-alpha 1 from K-alpha 2; graphite does not


class _PlainTree(ElementTree.TreeBuilder):
    def doctype(self, name: str, *_: object) -> None:  # entities, and bombs of them, come in one
        raise ValueError(f"a DOCTYPE {name[:40]} is not allowed: remove it")


def parse_xml(data: bytes, *, name: str = "xml") -> ElementTree.Element:
    """The tree of an XML document without document type.

    Args:
        data: The XML, in whatever encoding it declares.
        name: What to call it in errors.

    Raises:
        PatternError: Not XML, a document type, or far too many tags.
    """
    if max(data.count(b"<"), data.count(b"=")) > _MAX_TAGS:  # or attributes
        raise PatternError(f"{name}: expected one scan, but came more than {_MAX_TAGS} tags")
    try:
        return ElementTree.fromstring(data, ElementTree.XMLParser(target=_PlainTree()))
    except (ElementTree.ParseError, ValueError, LookupError) as error:  # or an unknown encoding
        raise PatternError(f"{name}: not a readable XML document ({error})") from None


def parse_xrdml(data: bytes, *, name: str = "xrdml", wavelength: float | None = None) -> Pattern:
    """Read all scans of a PANalytical XRDML document.

    Positions are the ``2Theta`` axis, given as a list or as start and end; intensities are
    ``intensities``, or ``counts`` times their attenuation factors. The wavelength is the weighted
    mean of ``kAlpha1`` and ``kAlpha2`` where both reach the sample: the ratio is not zero and the
    incident beam path holds no germanium or silicon monochromator. The word ``intended`` counts
    only where no beam path is given: instruments without any monochromator write "K-Alpha 1".

    Args:
        data: The XML, in whatever encoding it declares.
        name: What to call it in errors.
        wavelength: X-ray wavelength in angstrom; wins over that of the document.

    Raises:
        PatternError: Not XML, not XRDML, or points that make no pattern.
    """
    root = parse_xml(data, name=name)
    elements = root.findall(".//{*}scan")
    if not elements:
        raise PatternError(f"{name}: expected an XRDML document with a <scan>, but found none")
    notes: list[str] = []
    moving = [scan for scan in elements if _two_theta_axis(scan) is not None]
    if not moving:
        raise PatternError(f"{name}: the scan has no <positions axis='2Theta'>")
    if left := len(elements) - len(moving):
        notes.append(f"{left} scans without a 2Theta axis left out")
    scans = [_xrdml_scan(scan, name, notes) for scan in moving]
    radiation = _radiation(root, name)
    return make_pattern(scans, radiation, name=name, wavelength=wavelength, notes=notes)


def _two_theta_axis(scan: ElementTree.Element) -> ElementTree.Element | None:
    """The positions of the 2Theta axis, if it moves."""
    for positions in scan.iterfind(".//{*}positions"):
        moves = positions.find("{*}commonPosition") is None
        if positions.get("axis", "").lower() == "2theta" and moves:
            return positions
    return None


def _xrdml_scan(scan: ElementTree.Element, name: str, notes: list[str]) -> Scan:
    """One scan with attenuation undone; adds to ``notes``."""
    points = scan.find(".//{*}intensities")
    raw = points is None
    points = scan.find(".//{*}counts") if raw else points
    if points is None:
        raise PatternError(f"{name}: the scan has neither <intensities> nor <counts>")
    intensity = _xml_numbers(points, name)
    if raw:
        intensity = intensity * _attenuation(scan, len(intensity), name, notes)
    two_theta = _positions(_two_theta_axis(scan), len(intensity), name)
    seconds = None
    if (common := scan.find(".//{*}commonCountingTime")) is not None:
        seconds = _xml_number(common, name) or None
    elif (times := scan.find(".//{*}countingTimes")) is not None:
        each = _xml_numbers(times, name)
        if each.shape != intensity.shape or not (each > 0).all():
            raise PatternError(f"{name}: <countingTimes> must hold a positive time for each point")
        seconds = float(each.mean())
        if np.ptp(each) > 1e-3 * seconds:
            intensity = intensity * (seconds / each)
            notes.append("counting times differ from point to point: scaled to their mean")
    return Scan(two_theta, intensity, seconds=seconds)


def _attenuation(
    scan: ElementTree.Element, number: int, name: str, notes: list[str]
) -> np.ndarray | float:
    """What counts are multiplied with to undo a beam attenuator."""
    common = scan.find(".//{*}commonBeamAttenuationFactor")
    listed = scan.find(".//{*}beamAttenuationFactors")
    if listed is not None:
        factors = _xml_numbers(listed, name)
        if len(factors) != number or not (factors > 0).all():
            raise PatternError(
                f"{name}: <beamAttenuationFactors> must hold a positive factor for each of "
                f"{number} points, but holds {len(factors)}"
            )
    else:
        factors = np.array([1.0 if common is None else _xml_number(common, name)])
    if np.ptp(factors) > 0:
        notes.append(f"beam attenuation undone (factors up to {factors.max():g})")
    return factors if listed is not None else float(factors[0])


def _positions(axis: ElementTree.Element, number: int, name: str) -> np.ndarray:
    """float64 ``[number]`` degrees, listed or between two ends."""
    listed = axis.find("{*}listPositions")
    ends = [axis.find(f"{{*}}{end}Position") for end in ("start", "end")]
    if listed is not None:
        return _xml_numbers(listed, name)
    if None in ends:
        raise PatternError(f"{name}: the 2Theta positions are no list and no start and end")
    return np.linspace(*(_xml_number(end, name) for end in ends), number)


def _radiation(root: ElementTree.Element, name: str) -> Radiation:
    """What the document says of its X-rays: of all measurements, which must agree."""
    found = [_used_wavelength(used, name) for used in root.iterfind(".//{*}usedWavelength")]
    first = next((said for said in found if said.alpha_1 is not None), Radiation())
    for other in found:
        if other.alpha_1 and first.alpha_1 and abs(other.alpha_1 / first.alpha_1 - 1) > 1e-3:
            raise PatternError(
                f"{name}: scans at {first.alpha_1:g} and {other.alpha_1:g} angstrom in one file; "
                "export one of them alone"
            )
    if first.alpha_1 is None:
        return first
    beams = root.findall(".//{*}incidentBeamPath")
    if not beams:
        used = root.find(".//{*}usedWavelength")
        if "1" in (used.get("intended") or "1"):  # the mean only where the doublet is intended
            return Radiation(used=first.alpha_1, anode=first.anode, ratio=None)
        return first
    crystals = [
        (element.text or "").strip().lower()
        for element in beams[0].iterfind(".//{*}monochromator//{*}crystal")
    ]
    alone = any(crystal.startswith(_ANALYSER) for crystal in crystals)
    return Radiation(None, first.alpha_1, first.alpha_2, first.ratio, first.anode, alone)


def _used_wavelength(used: ElementTree.Element, name: str) -> Radiation:
    """Lengths in angstrom and the ratio that an element states."""
    first, second = used.find("{*}kAlpha1"), used.find("{*}kAlpha2")
    ratio = used.find("{*}ratioKAlpha2KAlpha1")
    if (used.get("intended") or "").lower().startswith("k-beta"):
        first, second = used.find("{*}kBeta"), None
    return Radiation(
        alpha_1=None if first is None else _xml_length(first, name),
        alpha_2=None if second is None else _xml_length(second, name),
        ratio=None if ratio is None else _xml_number(ratio, name),
    )


def _xml_length(element: ElementTree.Element, name: str) -> float:
    """The length in angstrom that an element states, in angstrom or nanometres."""
    return _xml_number(element, name) * (10 if element.get("unit", "").lower() == "nm" else 1)


def _xml_numbers(element: ElementTree.Element, name: str) -> np.ndarray:
    """float64 ``[n]``, the numbers that an element's text holds."""
    try:
        return np.fromiter(map(float, (element.text or "").split()), np.float64)
    except ValueError as error:
        tag, reason = element.tag.rpartition("}")[2], str(error)[:80]
        raise PatternError(f"{name}: <{tag}> must hold numbers only ({reason})") from None


def _xml_number(element: ElementTree.Element, name: str) -> float:
    """The one number that an element's text holds."""
    values = _xml_numbers(element, name)
    if len(values) != 1 or not np.isfinite(values[0]):
        tag, text = element.tag.rpartition("}")[2], (element.text or "")[:40]
        raise PatternError(f"{name}: <{tag}> must hold one finite number, but holds {text!r}")
    return float(values[0])
