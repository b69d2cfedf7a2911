"""A measured file in, a :class:`~unimat_powder.pattern.Pattern` out."""

import os
import re
from pathlib import Path

from unimat_powder.pattern import Pattern, PatternError
from unimat_powder.radiation import Radiation
from unimat_powder.reading import binary
from unimat_powder.reading.archives import read_archive
from unimat_powder.reading.labelled import read_even_counts, read_gsas, read_ras, read_uxd
from unimat_powder.reading.powder_cif import read_powder_cif
from unimat_powder.reading.text import parse_text
from unimat_powder.scans import make_pattern
from unimat_powder.xrdml import parse_xrdml

__all__ = ["parse_text", "read_pattern"]

# A million points, ten times a long scan, need no more, and fit into any memory.
_MAX_BYTES = 2**24

_HEAD = 2000  # bytes, of which one sees what a document is
_PICTURES = (b"\x89PNG\r\n", b"\xff\xd8\xff", b"GIF8", b"II*\0", b"MM\0*")
_PAGE = re.compile(
    rb"(?:<\?xml[^>]*+>\s*+|(?><!--.*?-->)\s*+|<!doctype\s++(?!html|svg)[^>]*+>\s*+)*+"
    rb"<(?:!doctype\s++)?(html|svg)\b",
    re.I | re.S,
)
_GSAS = re.compile(r"^BANK\s+\d+\s+\d+", re.M)
_CIF = re.compile(r"\A(?:\s|#[^\n]*\n)*+data_|^[ \t]*+_pd_(?:meas|proc|calc)_", re.M | re.I)


def read_pattern(path: str | os.PathLike[str], *, wavelength: float | None = None) -> Pattern:
    """Read a measured pattern, as instruments and their programs write it.

    The content decides, not the suffix: columns of text in any dialect (see :func:`parse_text`),
    PANalytical ``.xrdml``, Bruker ``.raw``, ``.brml`` and ``.uxd``, Rigaku ``.ras``, ``.rasx`` and
    ``.asc``, Philips ``.udf``, STOE ``.raw``, GSAS, and powder CIF. All scans of a file become one
    pattern; what was done on the way stands in its ``notes``.

    Args:
        path: The file.
        wavelength: X-ray wavelength in angstrom; wins over what the file states, which wins over
            Cu K-alpha. ``wavelength_from`` of the pattern says which it was.

    Raises:
        PatternError: The file holds no usable pattern; the message names the file, the place and
            the remedy.
        FileNotFoundError: There is no such file.
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        raise PatternError(f"{path.name}: expected a file, but this is a folder or a device")
    with path.open("rb") as file:
        data = file.read(_MAX_BYTES + 1)
    if len(data) > _MAX_BYTES:
        most = f"{_MAX_BYTES >> 20} MiB"
        raise PatternError(f"{path.name}: expected one scan, at most {most}; export it alone")
    return _read_bytes(data, path.name, wavelength)


def _read_bytes(data: bytes, name: str, wavelength: float | None) -> Pattern:
    """The pattern of a file's content."""
    if kind := _document(data):
        raise PatternError(
            f"{name}: this is {kind}, not a measurement; give the file that the instrument wrote, "
            "or export the pattern as two columns of text"
        )
    if data.startswith(b"PK\x03\x04"):
        found = read_archive(data, name)
    elif data.startswith(binary.MAGIC) and b"\0" in data[:64]:
        found = binary.read_raw(data, name)
    elif _is_xml(data):
        return parse_xrdml(data, name=name, wavelength=wavelength)
    else:
        return _read_text(_decode(data, name), name, wavelength)
    scans, said, notes = found
    return make_pattern(scans, said, name=name, wavelength=wavelength, notes=notes)


def _document(data: bytes) -> str:
    """What a file is that shows a pattern, perhaps, but holds none; ``""`` for all others."""
    start = data[:_HEAD].lstrip(b"\xef\xbb\xbf \t\r\n")
    if start.startswith(b"%PDF-"):
        return "a PDF document"
    if start.startswith(_PICTURES) or (start.startswith(b"RIFF") and start[8:12] == b"WEBP"):
        return "a picture"
    if found := _PAGE.match(start):
        return "a picture" if found[1].lower() == b"svg" else "an HTML page"
    return ""


def _is_xml(data: bytes) -> bool:
    """Whether a file begins as XML, in any encoding of one or two bytes."""
    return data[:200].replace(b"\0", b"").lstrip(b"\xef\xbb\xbf\xff\xfe \t\r\n").startswith(b"<")


def _read_text(text: str, name: str, wavelength: float | None) -> Pattern:
    """The pattern of a file that is text."""
    head = text[:100_000]
    found: tuple[list, Radiation, list[str]]
    if "*RAS_" in head:
        found = read_ras(text, name)
    elif re.search(r"^_FILEVERSION|^_(?:2THETA)?(?:COUNTS|CPS)\b", head, re.M):
        found = read_uxd(text, name)
    elif _GSAS.search(head):
        found = read_gsas(text, name, wavelength=wavelength)
    elif re.search(r"^\*COUNT\s*=|^RawScan\b", head, re.M):
        found = read_even_counts(text, name, wavelength=wavelength)
    elif _CIF.search(head):
        scan, said, notes = read_powder_cif(text, name, wavelength=wavelength)
        found = [scan], said, notes
    else:
        return parse_text(text, name=name, wavelength=wavelength)
    scans, said, notes = found
    return make_pattern(scans, said, name=name, wavelength=wavelength, notes=notes)


def _decode(data: bytes, name: str) -> str:
    """Text of a file whose encoding nobody wrote down: UTF-8, UTF-16 with a mark, else Latin-1."""
    try:
        if data.startswith((b"\xff\xfe", b"\xfe\xff")):
            return data.decode("utf-16")
        if b"\0" in data:
            raise PatternError(
                f"{name}: this is a binary file of unknown kind, or UTF-16 without its mark; "
                "export the pattern as two columns of text in UTF-8"
            )
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if error.encoding == "utf-8":
            return data.decode("latin-1")
        raise PatternError(f"{name}: the text is not valid utf-16; save it as UTF-8") from None
