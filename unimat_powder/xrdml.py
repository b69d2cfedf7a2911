"""A PANalytical XRDML document in, its first scan out."""

import logging
from xml.etree import ElementTree

import numpy as np
import torch

from unimat_lib.views.grid import CU_K_ALPHA
from unimat_powder.pattern import Pattern, PatternError, check_points

log = logging.getLogger(__name__)

_MAX_TAGS = 10**6  # a scan has some fifty


class _PlainTree(ElementTree.TreeBuilder):
    def doctype(self, name: str, *_: object) -> None:  # entities, and bombs of them, come in one
        raise ValueError(f"a DOCTYPE {name[:40]} is not allowed: remove it")


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
    if max(data.count(b"<"), data.count(b"=")) > _MAX_TAGS:  # or attributes
        raise PatternError(f"{name}: expected one scan, but came more than {_MAX_TAGS} tags")
    try:
        root = ElementTree.fromstring(data, ElementTree.XMLParser(target=_PlainTree()))
    except (ElementTree.ParseError, ValueError, LookupError) as error:  # or an unknown encoding
        raise PatternError(f"{name}: not a readable XML document ({error})") from None
    scan, *more = root.findall(".//{*}scan") or [None]
    if scan is None:
        raise PatternError(f"{name}: expected an XRDML document with a <scan>, but found none")
    if more:
        log.warning("%s holds %d scans; the first one is used", name, 1 + len(more))
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
    elif None in ends:
        raise PatternError(f"{name}: the 2Theta positions are no list and no start and end")
    else:
        two_theta = np.linspace(*(_xml_number(end, name) for end in ends), len(intensity))
    check_points(two_theta, intensity, name, lambda i: f"point {i + 1}")
    wavelength = _xrdml_wavelength(root, name) or wavelength
    return Pattern(torch.from_numpy(two_theta), torch.from_numpy(intensity), wavelength)


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
