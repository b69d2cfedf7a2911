"""Header lines in, what they say of the X-rays and of the columns out."""

import re
from collections.abc import Sequence
from typing import Literal

from unimat_powder.pattern import PatternError
from unimat_powder.radiation import K_ALPHA, Radiation, anode_of

Kind = Literal["angle", "angle_rad", "theta", "q_a", "q_nm", "q", "d_a", "d_nm", "intensity",
               "uncertainty", "other", ""]  # fmt: skip

_VALUE = r"([0-9]+[.,][0-9]+(?:[eE][+-]?[0-9]+)?|\.[0-9]+|[0-9]+(?=\s*(?:nm|pm|Å|A\b)))"
_LINE = r"k?[\W_]{0,3}(?:alpha|α)[\W_]{0,3}"  # K-Alpha1, Alpha 1, Kα1
_FIRST = re.compile(rf"(?:{_LINE}1|k[\W_]?a[\W_]?1|_WL1)(?![0-9.,])[^0-9]{{0,40}}?{_VALUE}", re.I)
_SECOND = re.compile(rf"(?:{_LINE}2|k[\W_]?a[\W_]?2|_WL2)(?![0-9.,])[^0-9]{{0,40}}?{_VALUE}", re.I)
_USED = re.compile(
    rf"(?:wave[\s_-]?length(?:_?1(?![0-9.,]))?|lambda|lamda|labda|λ)[^0-9]{{0,30}}?"
    rf"{_VALUE}\s*(nm|pm|m\b)?",
    re.I,
)
_ENERGY = re.compile(r"energy[^0-9]{0,20}?([0-9]+\.?[0-9]*)\s*keV", re.I)
_ANODE = re.compile(r"(?:anode|target)[^A-Za-z]{0,5}(?:material|name|element)?(.{0,20})", re.I)
_KA = re.compile(
    rf"\b({'|'.join(K_ALPHA)})[\s_-]*K[\s_-]*(?:alpha|α|a)(?![a-z])[\s_-]*([12]?)", re.I
)
# The digits of K-alpha 1 are no wavelength.
_HIDDEN = re.compile(r"k[\W_]{0,3}(?:alpha|α|a)[\W_]{0,3}[12](?![0-9.])", re.I)
_LAST = re.compile(r"[0-9]*[.,]?[0-9]+\D*$")


def radiation_of(lines: Sequence[str], name: str, *, wavelength: float | None = None) -> Radiation:
    """What lines of text say of the X-rays, in any of the usual words.

    Args:
        lines: Header, comments, footer.
        name: What to call the file in errors.
        wavelength: What the caller says, angstrom: then what the lines leave open is no error.

    Raises:
        PatternError: Two wavelengths, or one that can be read in angstrom and in nanometres.
    """
    first = second = ratio = anode = None
    alone: bool | None = None
    used: list[float] = []
    for line in (line[:500] for line in lines[:2000]):
        low = line.lower()
        if "ratio" in low and ("alpha" in low or "wl" in low) and (found := _LAST.search(line)):
            ratio = _float(re.sub(r"\D*$", "", found[0]))
            continue
        one, two = _FIRST.search(line), _SECOND.search(line)
        first = first or (one and _float(one[1]))
        second = second or (two and _float(two[1]))
        if not (one or two or "beta" in low) and (found := _USED.search(_HIDDEN.sub(" ", line))):
            value = _float(found[1])
            if wavelength is None:
                value = _angstrom(value, found[2], line, name)
            used.append(value)
        elif found := _ENERGY.search(line):
            used.append(12.398419843 / max(_float(found[1]), 1e-3))
        if found := _KA.search(line):
            anode = anode or found[1].capitalize()
            alone = True if found[2] == "1" and not second else alone
        elif found := _ANODE.search(line):
            anode = anode or anode_of(found[1])
    if wavelength is None and used and max(used) > 1.005 * min(used):
        raise PatternError(
            f"{name}: the header states two wavelengths, {min(used):g} and {max(used):g} A; "
            "give the right one as wavelength"
        )
    if second is not None:
        alone = None
    stated = used[0] if used else None
    return Radiation(stated, first, second, ratio, anode, alone)


def _float(text: str) -> float:
    """A number with decimal point or comma."""
    return float(text.replace(",", "."))


def _angstrom(value: float, unit: str | None, line: str, name: str) -> float:
    """A stated length in angstrom."""
    if unit:
        return value * {"nm": 10, "pm": 0.01, "m": 1e10}[unit.lower()]
    lines = [x for pair in K_ALPHA.values() for x in (*pair, sum(pair) / 2) if x > 0.5]
    said = re.search(r"å|angstr|\ba\b", line, re.I)
    if not said and any(abs(value * 10 / x - 1) < 2e-3 for x in lines):
        raise PatternError(
            f"{name}: the wavelength {value:g} in {line.strip()[:40]!r} may be in A or in nm; "
            "write the unit, or give the wavelength in angstrom"
        )
    return value


def column_kind(label: str) -> Kind:
    """What a column of this name holds; ``""`` where the name says nothing.

    Args:
        label: A column name, such as ``"2Theta (deg)"``, ``"q_A^-1"`` or ``"Intensity"``.
    """
    text = label.strip().strip("\"'#!%;*: ").lower()
    base = re.split(r"[\[(]", text)[0]
    key = re.sub(r"[\s_\-.:*·°/,]", "", base)
    if re.fullmatch(r"(pos(ition)?|angle)?(2|two)(theta|thetha|teta|th|θ|ϑ)\w{0,12}", key):
        return "angle_rad" if re.search(r"\brad", text) else "angle"
    if re.fullmatch(r"tth|ttheta|angles?|position|pos|winkel|twothetas?|deg(rees?)?", key):
        return "angle_rad" if re.search(r"\brad", text) else "angle"
    if re.fullmatch(r"theta|θ|ϑ|th|omega|ω", key):
        return "theta"
    if re.match(r"(q|scattering vector|momentum transfer)(value)?($|[\s_(\[/^])", text):
        rest = re.sub(r"^(q|scattering vector|momentum transfer)(value)?", "", text)
        return "q_nm" if re.search("nm|nano", rest) else "q_a" if re.search("[aå]", rest) else "q"
    if re.match(r"d[\s_-]?(spacings?|values?|spc|wert)?($|[\s_(\[/])", text):
        return "d_nm" if "nm" in text else "d_a"
    if re.search(r"esd|sigma|σ|err|uncert|std|s\.u|deviation|^e$|^dy$|^di$|^su$|^s\.?d\.?$", text):
        return "uncertainty"
    if re.search(r"calc|bkg|backg|diff|resid|time|index|^no\.?$|temp|weight|^[hkl]$", text):
        return "other"
    if re.search(r"int|count|cps|cts|cnt|obs|signal|imp|^i$|^y$|yield|det", text):
        return "intensity"
    return ""


def column_names(header: Sequence[str], delimiter: str | None, columns: int) -> list[str]:
    """The column names of a header, or the name of the axis alone, or nothing.

    The last lines of the header are searched upwards for names among which one is an axis. Words in
    a row may be a sentence: where white space parts the columns, there must be as many of them as
    columns and none may be unknown, or the line must be no comment.

    Args:
        header: Lines before the numbers.
        delimiter: What parts the columns; ``None``: white space.
        columns: How many there are.
    """
    for line in [line for line in reversed(header) if line.strip()][:6]:
        for names in _split_names(line, delimiter):
            kinds = [column_kind(label) for label in names]
            axes = [i for i, k in enumerate(kinds) if k.startswith(("angle", "theta", "q", "d_"))]
            if not axes or any(len(label) > 40 for label in names):
                continue
            if len(names) == 1:
                words = re.split(r"[\[(]", names[0])[0].split()
                if len(words) == 1 or kinds[0].startswith("angle"):
                    return names
            elif axes[0] < columns and len(names) <= columns + 1:
                sentence = line.strip()[0] in "#!%;*'/" or len(names) != columns
                if _parted(line, delimiter) or not sentence or "intensity" in kinds:
                    return names
    return []


def _parted(line: str, delimiter: str | None) -> bool:
    """Whether something stronger than single spaces parts a line."""
    return any(mark in line for mark in (delimiter, "\t", ";", ",") if mark)


def _split_names(line: str, delimiter: str | None) -> list[list[str]]:
    """Ways to cut a line into names: by the delimiter, by wide gaps, by single spaces, not."""
    line = line.strip().lstrip("#!%;*'/ \t").strip()
    marks = [mark for mark in (delimiter, "\t", ";", ",") if mark and mark in line]
    if marks:
        return [[part.strip().strip("\"'") for part in line.split(marks[0])]]
    joined = re.sub(r"\s+([\[(])", r"\1", re.sub(r"(?i)\b(2|two)\s+theta", "2theta", line))
    return [re.split(r"\s{2,}", joined), joined.split(), [line]]
