"""Formulas and lists of elements as people type them in, elements and amounts out."""

import itertools
import math
import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction

import gemmi

MAX_CHARACTERS = 200
MAX_NESTING = 20  #: of brackets
MIN_AMOUNT, MAX_AMOUNT = 1e-3, 1e6  #: of atoms of one element in a formula

_DOTS = "·•∙⋅・‧●*"  # what stands before crystal water
_SUBSCRIPTS = str.maketrans("₀₁₂₃₄₅₆₇₈₉₊₋ₓ", "0123456789+-x")
_SUPERSCRIPTS = "⁰¹²³⁴⁵⁶⁷⁸⁹"
_MINUSES = str.maketrans("–—−‐‑", "-----")
_OPEN, _CLOSE = "([{", ")]}"
_LAST_NATURAL = 94  # plutonium: what is heavier stands in no formula of a powder
_RARE = frozenset((2, 10, 18, 36, 43, 54, 61, *range(84, 90), 91, 93, 94))  # unlikely readings
# Groups that are written in capitals without anybody thinking of cobalt or holmium.
_GROUPS = re.compile(r"C2?O[234]|HCO3|NH4|OH|\(HO2?\)|SCN|(?<![A-Z])D2O")
_AMOUNTS = f"amounts from {MIN_AMOUNT:g} to {MAX_AMOUNT:g} were expected"
_ROMAN = re.compile(r"\((?:II|III|IV|VI|VII|VIII|\d?\+)\)")  # Fe(III) and Fe(3+)

_NUMBER = r"(?:\d+/\d+|\d+(?:\.\d+)?|\.\d+)"
_LETTER = rf"{_NUMBER}?\s*(?:[-+±]\s*{_NUMBER}?)?\s*(?:[xyzδ]|delta)(?![a-z])"
_VARIABLE = re.compile(rf"{_LETTER}|{_NUMBER}\s*[-+±]\s*d(?![a-z])")
_AMOUNT = re.compile(rf"\s*({_NUMBER})")
_CHARGE = re.compile(r"\d?\+")  # as of a mineral's Fe2+ and Mn3+
_WATER = re.compile(r"(\d*)\.(?=(?:[nx]|\d*(?:\.\d+)?)(?:[HD]2O|\([HD]2O\))\)?\d*$)")


@dataclass(frozen=True, eq=False)
class Formula(Mapping[str, float]):
    """Elements of a formula and their amounts; iterates over the symbols, as a dictionary does.

    ``str()`` gives it as it was understood, which :func:`parse_formula` reads again.
    """

    amounts: dict[str, float]  #: by symbol, in the order of the text; NaN where unknown
    amounts_known: bool  #: False with ``x``, a delta or alternatives such as ``(Fe,Mg)``

    def __getitem__(self, symbol: str) -> float:
        """Amount of an element."""
        return self.amounts[symbol]

    def __iter__(self) -> Iterator[str]:
        """Symbols of the elements."""
        return iter(self.amounts)

    def __len__(self) -> int:
        """Number of elements."""
        return len(self.amounts)

    def __str__(self) -> str:
        """The formula as it was understood, elements in the order of the text."""
        if not self.amounts_known:
            return f"({','.join(self)})" if len(self) > 1 else f"{next(iter(self))}x"
        amounts = (f"{n:.6f}".rstrip("0").rstrip(".") for n in self.amounts.values())
        terms = [
            name + amount * (amount != "1") for name, amount in zip(self, amounts, strict=True)
        ]
        text = "".join(terms)
        return " ".join(terms) if _misread_pair(text) or _WATER.search(text) else text

    @property
    def reduced(self) -> str:
        """Reduced formula in pymatgen's order, as the tables of crystals have it.

        Raises:
            ValueError: The amounts are not known.
        """
        from pymatgen.core import Composition

        if not self.amounts_known:
            raise ValueError(
                f"the formula names the elements {', '.join(self)}, but not their amounts: "
                "give a number for each, or give the elements alone"
            )
        return Composition(self.amounts).reduced_formula


def parse_formula(text: str) -> Formula:
    """Read a chemical formula as people and minerals' lists write it.

    Hydrates with any dot (``CuSO4.5H2O``), subscripts, charges behind elements (``Fe2+2Ge4+O4``),
    brackets, decimals, ``D`` in ``D2O``. An ``x``, a delta and alternatives ``(Fe,Mg)2SiO4`` leave
    the amounts unknown. What could be misread is an error that names the likely reading: ``TIO2``.

    Args:
        text: At most ``MAX_CHARACTERS``.

    Raises:
        ValueError: The formula cannot be understood; the message, one line, says what to do.
    """
    plain = _plain(text)
    if not plain:
        raise ValueError("expected a chemical formula such as TiO2, but an empty one came")
    if pair := _misread_pair(plain):
        raise _error(text, f"{pair} may be one element or two: {_advice(plain)}")
    plain = _with_dots(plain, text)
    parser = _Parser(plain, text)
    amounts: dict[str, float] = {}
    for part in plain.split("·"):
        parser.part(part, amounts)
    if not amounts:
        raise _error(text, "it names no element")
    known = all(map(math.isfinite, amounts.values()))
    if known and not all(MIN_AMOUNT <= n <= MAX_AMOUNT for n in amounts.values()):
        raise _error(text, _AMOUNTS)
    return Formula(amounts if known else dict.fromkeys(amounts, math.nan), known)


def parse_elements(text: str) -> frozenset[str]:
    """Read a list of elements such as ``"Ti,O"``, parted by commas, spaces or hyphens.

    Raises:
        ValueError: A part is no symbol of an element as it is written; the message says which.
    """
    if not isinstance(text, str) or len(text) > MAX_CHARACTERS * 3:
        raise ValueError("expected elements such as Ti,O, but something else or too much came")
    names = [name for name in re.split(r"[\s,;+/-]+", text) if name]
    if not names:
        raise ValueError("expected elements such as Ti,O, but none came")
    for name in names:
        if not _is_element(name) and name != "D":
            shown = ascii(name[:20])[1:-1]
            if re.fullmatch(r"[A-Za-z]{1,2}", name) and _is_element(name.title()):
                raise ValueError(
                    f"expected elements such as Ti,O, but {shown} came: {name.title()}?"
                )
            readings = _readings(name) if name.isascii() and name.isalpha() else []
            hint = f": {','.join(readings[0])}?" if readings else "; a formula is given as such"
            raise ValueError(f"expected elements such as Ti,O, but {shown!r} came{hint}")
    return frozenset("H" if name == "D" else name for name in names)


def _plain(text: str) -> str:
    """The text in ASCII and the dot of hydrates, without the marks of subscripts and charges."""
    if not isinstance(text, str):
        raise ValueError(f"expected a chemical formula such as TiO2, not {type(text).__name__}")
    if len(text) > MAX_CHARACTERS:
        raise _error(text, f"at most {MAX_CHARACTERS} characters were expected")
    plain = re.sub(r"</?su[bp]>|\$|\\mathrm|~", "", text.strip()).translate(_SUBSCRIPTS)
    plain = re.sub(rf"[{_SUPERSCRIPTS}]*[⁺⁻]", "", plain)  # a charge
    if any(sign in plain for sign in _SUPERSCRIPTS):
        raise _error(text, "it has a superscript that is no charge")
    plain = re.sub(r"\^\{?\d*[+-]\d*\}?\^?", "", plain)  # Fe^2+^ and Fe^{2+}
    plain = re.sub(rf"_\{{?({_NUMBER})\}}?_?", r"\1", plain)  # O_4_ and O_{4}
    for dot in _DOTS:
        plain = plain.replace(dot, "·")
    plain = unicodedata.normalize("NFKC", plain).translate(_MINUSES)
    plain = _ROMAN.sub("", plain.replace("Δ", "δ").replace("\u2206", "δ"))
    if bad := re.search(r"[^A-Za-z0-9.,·+±/δ□()\[\]{} \t-]", plain):
        raise _error(text, f"the character {bad[0]!a} means nothing in it")
    if re.search(r"\d,\d", plain):
        raise _error(text, "a comma between digits: write decimals with a point")
    return plain


def _with_dots(plain: str, text: str) -> str:
    """A full stop before crystal water, or between formulas, becomes the dot of hydrates."""
    plain = re.sub(r"\s*([.·])\s*", r"\1", plain)
    plain = re.sub(r"(?<=[.·])(\d+(?:\.\d+)?)\s+(?=[A-Z(])", r"\1", plain)
    plain = re.sub(r"\s+(?=\d+(?:\.\d+)?H2O$)", "·", plain)

    def dot(match: re.Match[str]) -> str:
        if match[1] == "1":
            raise _error(text, "write the water with ·, or brackets around H2O")
        return match[0] if match[1] == "0" else f"{match[1]}·"

    if not re.search(r"·\s*\d+\.\d+[HD]2O$", plain):  # whose full stop is a decimal point
        plain = _WATER.sub(dot, plain)
    oxides = "·" in plain or plain[0].isdigit()  # 3CaO.2SiO2 counts formulas
    plain = re.sub(rf"(?<=[A-Za-z)\]}}])\.(?=[A-Z([{{]{'|[0-9]' if oxides else ''})", "·", plain)
    plain = re.sub(r"(?<=\d)\.(?=[A-Z([{])", "·", plain)
    if re.search(r"[A-Za-z)\]}]\s*\.\d", plain):
        raise _error(text, "a full stop before a number may part or divide: write 0.5, or ·5")
    return plain


class _Parser:
    """One part of a formula, between dots, in; its amounts added to those of the others."""

    def __init__(self, plain: str, text: str) -> None:
        self.text = text  # as it came, for messages
        self.plain = plain  # all parts, for the advice
        self.rest = ""  # what is still to be read

    def part(self, part: str, amounts: dict[str, float]) -> None:
        """Read a part such as ``5H2O`` or ``(Fe,Mg)2SiO4`` and add its atoms."""
        self.rest = part.strip()
        factor = 1.0
        if match := re.match(rf"(?:[xyzn]|{_NUMBER})\s*(?=[A-Z([{{])", self.rest):
            factor = math.nan if match[0].strip().isalpha() else self.number(match[0].strip())
            self.rest = self.rest[match.end() :]
        if not self.rest:
            raise self.error("nothing stands before or behind a dot")
        for name, amount in self.group(0).items():
            amounts[name] = amounts.get(name, 0.0) + factor * amount
        if self.rest:
            raise self.error(f"a bracket {self.rest[0]!r} was never opened")

    def group(self, depth: int) -> dict[str, float]:
        """Atoms up to the end or a closing bracket; alternatives stand between commas."""
        if depth > MAX_NESTING:
            raise self.error(f"more than {MAX_NESTING} brackets lie in each other")
        alternatives: list[dict[str, float]] = [{}]
        explicit = True  # whether each alternative says how much of it there is
        while self.rest and self.rest[0] not in _CLOSE:
            if self.rest[0] in ", ":
                if self.rest[0] == "," and not depth:
                    raise self.error("a comma outside brackets: write decimals with a point")
                if self.rest[0] == ",":
                    alternatives.append({})
                self.rest = self.rest[1:]
                continue
            names, counted = self.term(depth)
            explicit = explicit and counted
            for name, amount in names.items():
                alternatives[-1][name] = alternatives[-1].get(name, 0.0) + amount
        unknown = len(alternatives) > 1 and not explicit
        found: dict[str, float] = {}
        for names in alternatives:
            for name, amount in names.items():
                found[name] = found.get(name, 0.0) + (math.nan if unknown else amount)
        return found

    def term(self, depth: int) -> tuple[dict[str, float], bool]:
        """An element or bracket with its amount, and whether a number was written for it."""
        if self.rest[0] in _OPEN:
            close = _CLOSE[_OPEN.index(self.rest[0])]
            self.rest = self.rest[1:]
            if self.rest[:1] == close:
                raise self.error("a bracket is empty")
            names = self.group(depth + 1)
            if self.rest[:1] != close:
                raise self.error(f"a closing {close!r} is missing")
            self.rest = self.rest[1:]
        elif self.rest[0] == "□":  # a vacancy
            self.rest, names = self.rest[1:], {}
        else:
            names = {self.element(): 1.0}
        amount, counted = self.amount()
        return {name: n * amount for name, n in names.items()}, counted

    def element(self) -> str:
        """The symbol that comes next."""
        match = re.match(r"[A-Z][a-z]?", self.rest)
        for name in (match[0], match[0][0]) if match else ():
            # A small letter that belongs to no symbol may only be an amount.
            alone = name == match[0] or match[0][1] in "xyz" or self.rest[1:6] == "delta"
            if alone and (_is_element(name) or name == "D"):
                self.rest = self.rest[len(name) :]
                return "H" if name == "D" else name
        shown = ascii(self.rest[:12])[1:-1]
        raise self.error(f"no element is written {shown!r}: {_advice(self.plain)}")

    def amount(self) -> tuple[float, bool]:
        """The amount that comes next, 1 where none is written, and whether one is."""
        if match := _VARIABLE.match(self.rest):
            self.rest = self.rest[match.end() :]
            return math.nan, False
        if match := _CHARGE.match(self.rest):
            self.rest = self.rest[match.end() :]
        if not (match := _AMOUNT.match(self.rest)):
            return 1.0, False
        self.rest = self.rest[match.end() :]
        if self.rest[:1] in tuple("+-±"):
            raise self.error(f"a charge follows {match[1]}: leave charges out")
        return self.number(match[1]), True

    def number(self, text: str) -> float:
        """An amount as it is written, in bounds."""
        whole = Fraction(text) if "/" not in text or int(text.split("/")[1]) else 0
        if whole > MAX_AMOUNT or float(whole) < MIN_AMOUNT:
            raise self.error(_AMOUNTS)
        return float(whole)

    def error(self, why: str) -> ValueError:
        """What to raise."""
        return _error(self.text, why)


def _error(text: str, why: str) -> ValueError:
    shown = ascii(text[:40])[1:-1]
    return ValueError(f"expected a chemical formula such as TiO2, but {shown} came: {why}"[:380])


def _is_element(name: str) -> bool:
    return (
        bool(re.fullmatch(r"[A-Z][a-z]?", name))
        and name not in ("D", "X")
        and bool(gemmi.Element(name).atomic_number)
    )


def _misread_pair(plain: str) -> str:
    """Two capitals that may be meant as one symbol, in a text without small letters, or ""."""
    if re.search("[a-w]", plain):  # x to z may be amounts
        return ""
    for first, second in itertools.pairwise(_GROUPS.sub(" ", plain)):
        name = first + second.lower()
        if second.isupper() and _is_element(name) and _is_natural(name) and name != "Po":
            return f"{first}{second}"
    return ""


def _is_natural(name: str) -> bool:
    return gemmi.Element(name).atomic_number <= _LAST_NATURAL


def _advice(plain: str) -> str:
    """Likely readings of a text whose capitals are wrong, in words."""
    parts = re.split(r"([A-Za-z]+)", plain)
    found = [_readings(part)[:1] if part.isalpha() else [[part]] for part in parts if part]
    if not all(found):
        return "write symbols as Ti, with amounts behind them"
    likely = "".join("".join(part) for (part,) in found)
    if likely == plain:
        return "write symbols as Ti, with amounts behind them"
    apart = "" if re.search("[a-z]", plain) else ", or part the elements by spaces"
    return f"write {ascii(likely[:60])[1:-1]} if that is meant{apart}"


def _readings(letters: str) -> list[list[str]]:
    """Ways to cut letters of any case into symbols, the likeliest (fewest, commonest) first."""
    if len(letters) > 12:
        return []
    ways: list[list[list[str]]] = [[[]]] + [[] for _ in letters]
    for end in range(1, len(letters) + 1):
        for start in range(max(0, end - 2), end):
            name = letters[start:end].title()
            if _is_element(name) and _is_natural(name):
                ways[end] += [[*way, name] for way in ways[start]]
    return sorted(ways[-1], key=lambda way: (sum(map(_is_rare, way)), len(way)))


def _is_rare(name: str) -> bool:
    return gemmi.Element(name).atomic_number in _RARE
