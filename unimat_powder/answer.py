"""What the search found for one pattern in, the answer that a reader sees or a program reads out.

``search`` returns a :class:`SearchResult`; :func:`make_answer` turns it into an :class:`Answer`:
a verdict, probabilities of the classes, the cells, the phases, and what to be wary of.
"""

import bisect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import gemmi
import numpy as np

from unimat_lib.crystals.table import CRYSTAL_SYSTEMS, LAST_SPACE_GROUP
from unimat_powder.index.observed import Observed
from unimat_powder.index.standard_errors import RefinedCell, refined_cell
from unimat_powder.index.symmetry import cell_matrix, conventional_cell, more_symmetric
from unimat_powder.pattern import Pattern
from unimat_powder.same_cell import SAME_LENGTH, same_cell

_T = TypeVar("_T")

CONFIDENT = 0.9
"""Least probability of the answer's cell and crystal system for the verdict ``"confident"``, which
besides needs lines enough, and a cell that leaves few of them unexplained."""

TENTATIVE = 0.5
"""Least probability for ``"tentative"``: more likely right than wrong. Below, ``"none"``."""

UNLIKELY = 0.05
"""Least probability of a phase that may well be the sample's."""

PERCENTAGES = {
    "verdict": "that the first cell and its crystal system are both right",
    "crystal system": "that the crystal has this system, whatever its cell; the seven sum to 100 %",
    "space group": "that the crystal has this space group, whatever its cell",
    "cell": "that the lattice is this one, whatever the crystal system",
    "phase": "that this very crystal is the sample's, as the library alone has it, before lines "
    "and network are heard",
}
"""What each percentage of an answer is the probability of, a sentence each."""

MOST = 10
"""Of phases, cells and space groups, as many as a list of an answer holds."""

LEFT_OVER = 0.15
"""Share of the lines, by amplitude, that the cell of a ``"confident"`` verdict may leave: six in
seven labelled cells of the first half leave less, the first cells of sums of two mostly more."""

_SHOWN = 3  # phases that a table for reading has, however unlikely
_UNSEEN = 0.1  # crystals added to each space group of a library, so that none is impossible
_ORIGIN = {
    "file": "stated by the file",
    "argument": "given by you",
    "default": "assumed: the file states none; give --wavelength if it is another",
}


@dataclass(frozen=True)
class Match:
    """A crystal of the library, and how well a pattern agrees with it."""

    material_id: str
    formula: str
    space_group: int  # international number, 1 to 230
    lengths: tuple[float, float, float]  # of the primitive Niggli cell, relaxed; angstrom
    angles: tuple[float, float, float]  # alpha, beta, gamma of that cell, degrees
    volume: float  # of that cell, cubic angstrom
    score: float  # 0 to 1, agreement of the curves
    probability: float  # that it is the structure of the sample
    figure_of_merit: float
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Lattice:
    """A cell and a crystal system that the sample may have, whichever crystal it is."""

    lengths: tuple[float, float, float]  # of the primitive Niggli cell, angstrom
    angles: tuple[float, float, float]  # degrees
    volume: float  # cubic angstrom
    system: str  # crystal system
    groups: Mapping[int, float]  # space groups and their shares, which sum to 1
    probability: float
    figure_of_merit: float
    source: str = "library"
    stray: float = 0.0  # share of the lines, by amplitude, not explained; NaN: lines say nothing


@dataclass(frozen=True, eq=False)
class Curves:
    """A pattern as measured and as computed from the best match, point by point."""

    two_theta: np.ndarray  #: ``[P]`` degrees, increasing
    measured: np.ndarray  #: ``[P]`` in units of the measurement
    computed: np.ndarray | None = None  #: ``[P]``, background included; ``None`` without a match
    background: np.ndarray | None = None  #: ``[P]``
    ticks: np.ndarray = field(default_factory=lambda: np.zeros(0))  #: ``[L]`` lines, degrees


@dataclass(frozen=True, eq=False)
class SearchResult:
    """What a search of the library says about one pattern."""

    matches: Sequence[Match]  #: the best first, up to ten
    none_probability: float  #: that no crystal of the library is the sample's
    curves: Curves | None = None  #: of the first match
    second_phase: Sequence[Match] | None = None  #: of what the first one leaves; None: no sign
    warnings: tuple[str, ...] = ()
    #: cells and systems that the sample may have, the likeliest first; their probabilities sum to
    #: at most 1. Without them, those of the matches
    lattices: Sequence[Lattice] = ()
    doubts: tuple[str, ...] = ()  #: why the first lattice is not relied on, however likely it is


@dataclass(frozen=True)
class Cell:
    """A cell that the answer offers: that of one match, or of several that share it."""

    lengths: tuple[float, float, float]  # of the primitive Niggli cell, angstrom
    angles: tuple[float, float, float]  # degrees
    volume: float  # cubic angstrom
    probability: float
    figure_of_merit: float
    source: str = "library"
    lattice: str = "aP"  # Pearson's letters, such as tP or mC, as its crystal system has it
    conventional: tuple[float, ...] = ()  # a, b, c (angstrom), alpha, beta, gamma of that lattice
    metrically: str = ""  # lattice system of the bare metric, where that is another

    @property
    def letters(self) -> str:
        """Those of the lattice, and what the metric is where it has more symmetry."""
        return f"{self.lattice} (metrically {self.metrically})" if self.metrically else self.lattice

    @property
    def conventional_volume(self) -> float:
        """Of the conventional cell, cubic angstrom."""
        return float(np.linalg.det(cell_matrix(np.array(self.conventional))))


@dataclass(frozen=True, eq=False)
class Answer:
    """What is known about one file; ``str()`` is for reading, :meth:`to_json` for programs.

    Where ``error`` is set, the file could not be answered, and the rest is empty.
    """

    file: str
    wavelength: float = math.nan  # angstrom
    wavelength_from: Literal["file", "argument", "default"] = "default"
    verdict: Literal["confident", "tentative", "none"] = "none"
    probability: float = 0.0  # of the first cell and its crystal system, what the verdict says
    crystal_system: Mapping[str, float] = field(default_factory=dict)  # 7 names; they sum to one
    space_group: Sequence[tuple[int, float]] = ()  # numbers and probabilities, likeliest first
    cells: Sequence[Cell] = ()  # likeliest first
    phases: Sequence[Match] = ()  # likeliest first
    second_phase: Sequence[Match] = ()  # of what the first phase leaves
    warnings: Sequence[str] = ()
    doubts: Sequence[str] = ()  # why the verdict is not "confident", however large the probability
    elements: Sequence[str] = ()  # the crystal was said to consist of exactly these
    formula: str = ""  # as it was understood, where one was given
    curves: Curves | None = None
    refined: RefinedCell | None = None  # the first cell on the pattern's lines, with errors
    error: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain objects for ``json.dumps``; what is not finite becomes ``None``.

        ``probability`` is what the verdict rests on: that the first cell and its crystal system are
        both right. ``doubts``, there only where there are any, say why a verdict is not confident
        however large that is. What each other probability says is in :data:`PERCENTAGES`. A cell
        has ``a`` to ``gamma`` of the primitive Niggli cell and, in ``conventional``, those of the
        conventional one, whose ``lattice`` is one of aP, mP, mC, oP, oC, oI, oF, tP, tI, hP, hR,
        cP, cI, cF; ``volume`` is of the cell that it stands with. Where the crystal system leaves a
        lattice less symmetry than its numbers have, ``metrically`` says theirs: ``"cubic"``.

        Without ``cells`` nothing is known of the crystal: systems and space groups are then as
        frequent as in the library. ``elements``, ``formula`` and ``second_phase`` are there only
        where they say something; a file without an answer has ``file`` and ``error`` alone.

        ``refined`` is the first cell in its conventional form, refined to the lines within its
        lattice: ``errors`` are standard errors, ``null`` of what symmetry fixes (and as a whole
        where ``why`` says why there are none). ``lines`` has each observed line with ``hkl``, the
        angle ``computed`` from that refined cell and the ``difference``, degrees; these are
        ``null`` of a line that it does not explain.
        """
        if self.error is not None:
            return {"file": self.file, "error": self.error}
        answer = {
            "file": self.file,
            "wavelength": _number(self.wavelength, 6),
            "wavelength_from": self.wavelength_from,
            "verdict": self.verdict,
            "probability": _number(self.probability),
            "verdict_text": self.verdict_text,
            "crystal_system": _to_one(self.crystal_system),
            "space_group": [
                {"number": number, "probability": _number(p)} for number, p in self.space_group
            ],
            "cells": [_cell_json(cell) for cell in self.cells],
            "phases": [_phase_json(match) for match in self.phases],
            "warnings": list(self.warnings),
        }
        if self.refined is not None:
            answer["refined"] = self.refined.to_json()
            answer["lines"] = self.refined.lines_json()
        if self.doubts:
            answer["doubts"] = list(self.doubts)
        if self.elements:
            answer["elements"] = list(self.elements)
        if self.formula:
            answer["formula"] = self.formula
        if self.second_phase:
            answer["second_phase"] = [_phase_json(match) for match in self.second_phase]
        return answer

    @property
    def verdict_text(self) -> str:
        """The verdict in words."""
        if not self.cells:
            return "no confident answer: nothing was found that fits"
        if self.verdict == "none":
            return "no confident answer: candidates follow, none is to be relied on"
        what = f"cell and crystal system ({self.system}, {percent(self.probability)})"
        said = f"confident of {what}"
        if self.verdict == "tentative":
            unsure = self.probability < CONFIDENT or not self.doubts
            check = ("check it against the alternatives",) * unsure
            said = "; ".join((f"tentative: {what}", *self.doubts, *check))
        agreeing = [phase.probability for phase in self.phases if self.agrees(phase)]
        if max(agreeing, default=0.0) < UNLIKELY:
            return f"{said}; {self._doubt_text}"
        if self.verdict == "tentative":
            return said
        sure = max(agreeing) >= CONFIDENT
        return f"{said}; {'and the phase' if sure else 'which crystal: see the phases'}"

    @property
    def _doubt_text(self) -> str:
        """What is to be said where no phase with the cell of the verdict is likely."""
        given = "formula" if self.formula else "elements" if self.elements else ""
        check = f": check the {given}" if given else ""
        if self.phases and (first := self.phases[0]).probability >= UNLIKELY:
            what = f"{first.formula} ({symbol_of(first.space_group)}, {percent(first.probability)})"
            return (
                f"but the likeliest phase, {what}, has another cell or crystal system, and one of "
                f"the two is wrong{check}"
            )
        if not given:
            return "which crystal is not known: none of the library with this cell is likely"
        return f"but no crystal of the {given} given with this cell is likely{check}"

    def agrees(self, phase: Match) -> bool:
        """Whether a phase has the system and, by its volume, the cell that the verdict is about."""
        same = abs(phase.volume / self.cells[0].volume - 1) <= 3 * SAME_LENGTH
        return same and system_of(phase.space_group) == self.system

    @property
    def system(self) -> str:
        """The likeliest crystal system."""
        return max(self.crystal_system, key=self.crystal_system.__getitem__)

    @property
    def wavelength_text(self) -> str:
        """The wavelength and who says so."""
        return f"{self.wavelength:.5f} angstrom ({_ORIGIN[self.wavelength_from]})"

    @property
    def asked_text(self) -> str:
        """What was said about the composition, or that nothing was."""
        if not self.elements:
            return "not given"
        exactly = f"exactly {', '.join(self.elements)}"
        return f"{exactly}, as {self.formula}" if self.formula else exactly

    def __str__(self) -> str:
        """A short table."""
        if self.error is not None:
            return f"{printable(self.file)}\n  error           {printable(self.error)}"
        likely = sorted(self.crystal_system.items(), key=lambda item: -item[1])[:3]
        lines = [
            self.file,
            f"  wavelength      {self.wavelength_text}",
            f"  elements        {self.asked_text}",
            f"  verdict         {self.verdict_text}",
        ]
        if self.cells:  # else the shares are the library's, and say nothing of the sample
            systems = ", ".join(f"{name} {percent(p)}" for name, p in likely)
            lines += [f"  crystal system  {systems}", *_cell_lines(self.cells[0])]
        if self.cells and self.refined is not None:
            lines += [f"{'':18}{text}" for text in self.refined.texts()]
        lines += _phase_lines(self.phases)
        if self.second_phase:
            lines += ["  perhaps a second phase, in what the first one leaves"]
            lines += _phase_lines(self.second_phase)
        lines += [f"  warning         {text}" for text in self.warnings]
        return "\n".join(printable(line) for line in lines)


def make_answer(
    result: SearchResult,
    pattern: Pattern,
    *,
    file: str,
    prior: np.ndarray,
    observed: Observed | None = None,
    warnings: Sequence[str] = (),
    elements: Sequence[str] = (),
    formula: str = "",
) -> Answer:
    """Turn what a search found into an answer.

    The verdict speaks of the cell and the crystal system of the first of the lattices. Those that
    share them have their probability together, the others the rest; what they leave is spread over
    the space groups as ``prior`` has them: nothing better is known of a crystal that is not there.

    Args:
        result: What the search found.
        pattern: The measurement.
        file: Name to call it by.
        prior: ``[230]`` probabilities of the space groups, see :func:`space_group_prior`.
        observed: Lines of the pattern, which the first cell is refined to.
        warnings: What is to be said about the measurement or the library.
        elements: Symbols that the crystal was said to consist of.
        formula: Formula that was given, as it was understood.
    """
    matches = sorted(result.matches, key=lambda match: -match.probability)[:MOST]
    lattices = result.lattices or lattices_of(matches)
    sure = lattices[0].probability if lattices else 0.0
    groups = _space_groups(lattices, prior)  # [230]
    systems = np.split(groups, LAST_SPACE_GROUP[:-1])
    order = np.argsort(-groups, kind="stable")[:MOST]
    second = tuple(result.second_phase or ())[:MOST]
    cells = _merged_cells(lattices)
    refined = None
    if observed is not None and cells:
        refined = refined_cell(cells[0].lattice, np.array(cells[0].conventional), observed)
    said = [*pattern.notes, *warnings, *result.warnings]
    if matches:
        said += matches[0].warnings
    if second:
        said.append(
            "lines are left that the first phase does not explain: the sample may hold a second "
            f"phase, perhaps {second[0].formula}"
        )
    return Answer(
        file=file,
        wavelength=pattern.wavelength,
        wavelength_from=pattern.wavelength_from or "default",
        verdict=verdict_of(sure, result.doubts),
        probability=sure,
        crystal_system=dict(zip(CRYSTAL_SYSTEMS, (float(p.sum()) for p in systems), strict=True)),
        space_group=tuple((int(i) + 1, float(groups[i])) for i in order if groups[i] > 0),
        cells=cells,
        phases=tuple(matches),
        second_phase=second,
        warnings=tuple(dict.fromkeys(said)),
        doubts=result.doubts,
        elements=tuple(elements),
        formula=formula,
        curves=result.curves or Curves(pattern.two_theta.numpy(), pattern.intensity.numpy()),
        refined=refined,
    )


def verdict_of(
    probability: float, doubts: Sequence[str] = ()
) -> Literal["confident", "tentative", "none"]:
    """The verdict that a first lattice of this probability deserves; never confident in doubt."""
    if probability >= CONFIDENT and not doubts:
        return "confident"
    return "tentative" if probability >= TENTATIVE else "none"


def space_group_prior(space_group: np.ndarray) -> np.ndarray:
    """Probabilities ``[230]`` of the space groups, as often as the crystals ``[C]`` have them.

    A tenth of a crystal is added to each, so that a small library calls nothing impossible.
    """
    counts = np.bincount(np.asarray(space_group), minlength=231)[1:] + _UNSEEN
    return counts / counts.sum()


def system_of(space_group: int) -> str:
    """Crystal system of a space group, 1 to 230; trigonal and hexagonal are kept apart."""
    return CRYSTAL_SYSTEMS[bisect.bisect_left(LAST_SPACE_GROUP, space_group)]


def symbol_parts(space_group: int) -> list[str]:
    """Lattice letter and axes of the short Hermann-Mauguin symbol in the standard setting."""
    letter, *axes = gemmi.find_spacegroup_by_number(space_group).hm.split()
    if len(axes) == 3 and axes[0] == axes[2] == "1":  # P 1 21/c 1
        axes = axes[1:2]
    return [letter, *axes]


def symbol_of(space_group: int) -> str:
    """Short Hermann-Mauguin symbol of a space group, such as P21/c."""
    return "".join(symbol_parts(space_group))


def percent(probability: float) -> str:
    """A probability for reading; certainty is left to those who have it."""
    if 0 < probability < 0.005:
        return "<1 %"
    return ">99 %" if 0.995 <= probability < 1 else f"{100 * probability:.0f} %"


def printable(text: str) -> str:
    """One line that a terminal or a page can show; what a file name may hold else is escaped."""
    return "".join(x if x.isprintable() else x.encode("unicode_escape").decode() for x in text)


def _cell_lines(cell: Cell) -> list[str]:
    """A cell in its conventional form and, where that is another, as the Niggli cell."""
    niggli = (*cell.lengths, *cell.angles)
    likely = f"{cell.letters}, probability {percent(cell.probability)}"
    size = f"cell of {cell.volume:.2f} cubic angstrom"
    if np.allclose(niggli, cell.conventional, rtol=0, atol=5e-5):
        rows = [_numbers_text(niggli), f"conventional and Niggli {size}, {likely}"]
    else:
        rows = [_numbers_text(cell.conventional), f"conventional cell, {likely}"]
        rows += [_numbers_text(niggli), f"its Niggli {size}"]
    return [f"  {'cell' if i == 0 else '':15} {row}" for i, row in enumerate(rows)]


def _numbers_text(cell: Sequence[float]) -> str:
    edges = "  ".join(f"{x:.4f}" for x in cell[:3])
    corners = "  ".join(f"{x:.2f}" for x in cell[3:])
    return f"{edges} angstrom  {corners} degrees"


def lattices_of(
    matches: Sequence[Match], cell_probability: float | None = None
) -> tuple[Lattice, ...]:
    """What crystals say of cell and crystal system, the likeliest first.

    Crystals that share cell and system count together: no powder pattern tells them apart where
    they are isostructural, but they agree on this.

    Args:
        matches: Crystals; their probabilities are shares of what is asked here.
        cell_probability: That those are right that share the first one's; the others have the rest.
            Without it, all keep what they have.
    """
    together = _grouped(matches, _same_class)
    shares = [math.fsum(match.probability for match in some) for some in together]
    if cell_probability is not None and shares:
        rest = max(1 - shares[0], 1e-12)
        others = [share * (1 - cell_probability) / rest for share in shares[1:]]
        shares = [cell_probability, *others]
    found = [
        Lattice(
            lengths=(first := some[0]).lengths,
            angles=first.angles,
            volume=first.volume,
            system=system_of(first.space_group),
            groups=_shares_of_groups(some),
            probability=min(1.0, share),
            figure_of_merit=first.figure_of_merit,
        )
        for some, share in zip(together, shares, strict=True)
    ]
    return tuple(sorted(found, key=lambda lattice: -lattice.probability))


def _grouped(found: Sequence[_T], same: Callable[[_T, _T], bool]) -> list[list[_T]]:
    """Those together that are the same as the first of a group, in order."""
    together: list[list[_T]] = []
    for one in found:
        alike = next((some for some in together if same(some[0], one)), None)
        if alike is None:
            together.append([one])
        else:
            alike.append(one)
    return together


def _shares_of_groups(matches: Sequence[Match]) -> dict[int, float]:
    """Space groups of crystals and their shares, which sum to one."""
    total = math.fsum(match.probability for match in matches)
    shares: dict[int, float] = {}
    for match in matches:
        share = match.probability / total if total > 0 else 1 / len(matches)
        shares[match.space_group] = shares.get(match.space_group, 0.0) + share
    return shares


def _same_class(one: Match, other: Match) -> bool:
    return same_cell(one, other) and system_of(one.space_group) == system_of(other.space_group)


def _space_groups(lattices: Sequence[Lattice], prior: np.ndarray) -> np.ndarray:
    """Probabilities ``[230]`` of the space groups; they sum to one."""
    groups = np.zeros(230)
    for lattice in lattices:
        for number, share in lattice.groups.items():
            groups[number - 1] += lattice.probability * share
    total = groups.sum()
    return groups + (1 - total) * prior if total < 1 else groups / total


def _merged_cells(lattices: Sequence[Lattice]) -> tuple[Cell, ...]:
    """Up to ten cells of the lattices, the likeliest first; those of two systems count together."""
    together = [
        (math.fsum(lattice.probability for lattice in some), some[0])
        for some in _grouped(lattices, same_cell)
    ]
    best = sorted(together, key=lambda pair: -pair[0])[:MOST]
    return tuple(_cell(first, min(1.0, share)) for share, first in best)


def _cell(lattice: Lattice, probability: float) -> Cell:
    niggli = np.array([*lattice.lengths, *lattice.angles])
    letters, cell = conventional_cell(niggli, lattice.system)
    return Cell(
        lengths=lattice.lengths,
        angles=lattice.angles,
        volume=lattice.volume,
        probability=probability,
        figure_of_merit=lattice.figure_of_merit,
        source=lattice.source,
        lattice=letters,
        conventional=tuple(cell.tolist()),
        metrically=more_symmetric(niggli, letters),
    )


def _phase_lines(phases: Sequence[Match]) -> list[str]:
    """A table of phases: aligned columns under a head; of those that are unlikely, the first."""
    if not phases:
        return []
    likely = sum(match.probability >= 0.005 for match in phases)
    left_out = len(phases[max(likely, _SHOWN) :])
    phases = phases[: max(likely, _SHOWN)]
    rows = [("", "formula", "space group", "probability", "score", "material")]
    rows += [
        (
            f"{rank}",
            match.formula,
            f"{symbol_of(match.space_group)} ({match.space_group})",
            percent(match.probability),
            f"{match.score:.3f}",
            match.material_id,
        )
        for rank, match in enumerate(phases, 1)
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    right = (True, False, False, True, True, False)
    texts = (
        "  ".join(
            cell.rjust(width) if flush else cell.ljust(width)
            for cell, width, flush in zip(row, widths, right, strict=True)
        )
        for row in rows
    )
    lines = [f"  {text}".rstrip() for text in texts]
    return [*lines, f"      and {left_out} more, each of less than 1 %"] if left_out else lines


def _number(value: float, digits: int = 6) -> float | None:
    """A number that JSON can hold."""
    return round(float(value), digits) if math.isfinite(value) else None


def _to_one(shares: Mapping[str, float]) -> dict[str, float]:
    """Shares rounded such that they still sum to one."""
    largest = max(shares, key=shares.__getitem__)
    rounded = {name: round(share, 6) for name, share in shares.items()}
    rest = math.fsum(share for name, share in rounded.items() if name != largest)
    return rounded | {largest: round(1 - rest, 6)}


def _cell_json(cell: Cell) -> dict[str, Any]:
    return {
        **_parameters((*cell.lengths, *cell.angles), cell.volume),
        "probability": _number(cell.probability),
        "figure_of_merit": _number(cell.figure_of_merit),
        "from": cell.source,
        "lattice": cell.lattice,
        "conventional": _parameters(cell.conventional, cell.conventional_volume),
    } | ({"metrically": cell.metrically} if cell.metrically else {})


def _parameters(cell: Sequence[float], volume: float) -> dict[str, float | None]:
    names = ("a", "b", "c", "alpha", "beta", "gamma")
    values = (_number(x, 5) for x in cell)
    return dict(zip(names, values, strict=True)) | {"volume": _number(volume, 4)}


def _phase_json(match: Match) -> dict[str, Any]:
    return {
        "material_id": match.material_id,
        "formula": match.formula,
        "space_group": match.space_group,
        "probability": _number(match.probability),
        "score": _number(match.score),
    }
