"""A measured pattern and a library in, ranked matches with probabilities and curves out."""

from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from unimat_powder.answer import MOST, Curves, Lattice, Match, SearchResult, lattices_of
from unimat_powder.library.file import Library
from unimat_powder.pattern import Pattern
from unimat_powder.search.candidates import (
    RELATIVE,
    Ranked,
    best_candidates,
    line_index,
    with_elements,
    with_relatives,
)
from unimat_powder.search.cells import volumes
from unimat_powder.search.curve import MeasuredCurve, measured_curve
from unimat_powder.search.rank import Judgement, facts_of, judge, load_weights
from unimat_powder.search.reflections import sticks_of
from unimat_powder.search.second import LEAST_COSINE, LEAST_GAIN, cleaned, gain
from unimat_powder.search.second import without as without_phase
from unimat_powder.search.shifts import LineIndex

Asked = tuple[Collection[str], Tensor]

FEW = 20_000
"""Crystals below which a library is a small one, where one of them leads the others easily."""

_TICK = 0.005  # of the strongest line: fainter ones get no tick


def search(
    pattern: Pattern,
    library: Library,
    *,
    elements: Collection[str] | None = None,
    formula: str | None = None,
    without: Collection[int] = (),
) -> SearchResult:
    """Which crystals of a library can explain a measured pattern.

    Args:
        pattern: The measurement.
        library: The known crystals.
        elements: Symbols that the crystal consists of, exactly these; hydrogen may be there too,
            which neither X-ray diffraction nor fluorescence sees. ``None``: unknown.
        formula: Reduced formula; crystals of another one are left out where it has some.
        without: Rows of the library that are treated as if they were not there, to see what an
            answer is worth whose crystal nobody knows.

    Raises:
        PatternError: The pattern cannot be compared with anything.
    """
    curve = measured_curve(pattern)
    among = None if elements is None else with_elements(library, elements)
    if formula is not None and among is not None:
        alike = [i for i in among.tolist() if library.formula(i) == formula]
        among = torch.tensor(alike) if alike else among
    known = None
    if without:
        gone = torch.tensor(sorted(without))
        known = torch.arange(len(library))
        known = known[~torch.isin(known, gone)]
        among = None if among is None else among[~torch.isin(among, gone)]
    asked = None if elements is None or among is None else (elements, among)
    found = _found(curve, library, known, asked)
    curves = _curves(curve, found.ranked, found.shown)
    second: tuple[Match, ...] | None = None
    if (rest := without_phase(curve, curves)) is not None:
        other = _found(rest, library, known, None)  # it may have other elements
        added = _curves(rest, other.ranked, other.shown)
        alike = float(other.ranked.fits.cosine[other.shown])
        if gain(curve, curves, added) > LEAST_GAIN and alike > LEAST_COSINE:
            again = _found(cleaned(curve, added), library, known, asked)
            if again.shown_index == found.shown_index:
                found, second = again, other.matches
    what: tuple[str, ...] = ()
    if among is not None and not len(among):
        what = (f"the library holds no crystal of {', '.join(sorted(elements or ()))} alone",)
    return SearchResult(
        found.matches,
        found.judged.none,
        curves,
        second_phase=second,
        warnings=what,
        lattices=found.lattices,
    )


@dataclass(frozen=True, eq=False)
class _Found:
    """One search: the candidates and what they are worth."""

    ranked: Ranked
    judged: Judgement
    matches: tuple[Match, ...]  # that were asked for
    lattices: tuple[Lattice, ...]  # of crystals of whatever elements
    shown: int  # place of the best match, or else of the best lattice

    @property
    def shown_index(self) -> int:
        return int(self.ranked.index[self.shown])


def _found(
    curve: MeasuredCurve, library: Library, known: Tensor | None, asked: Asked | None
) -> _Found:
    ranked = candidates_for(curve, library, line_index(library), known, asked)
    number = len(library) if known is None else len(known)
    # Weights of the whole library know what fits by chance among many; of a few crystals one leads
    # the others easily, and those of known elements, which are few too, know that.
    few = asked is not None or number < FEW
    facts, cells = facts_of(ranked, asked=number if asked is None else len(asked[1]))
    judged = judge(facts, load_weights("elements" if few else "pattern"))
    by_crystal, by_lattice = (
        torch.argsort(x, descending=True) for x in (judged.crystals, judged.lattices)
    )
    by_crystal = by_crystal[judged.crystals[by_crystal] > 0][:MOST]
    first = torch.tensor([judged.best])
    by_lattice = torch.cat([first, by_lattice[by_lattice != judged.best]])
    matches = _matches(library, ranked, cells, judged.crystals, by_crystal)
    relatives = _matches(library, ranked, cells, judged.lattices, by_lattice)
    lattices = lattices_of(relatives, judged.cell)
    shown = int(by_crystal[0]) if len(by_crystal) else judged.best
    return _Found(ranked, judged, matches, lattices, shown)


def candidates_for(
    curve: MeasuredCurve,
    library: Library,
    lines: LineIndex,
    known: Tensor | None,
    asked: Asked | None,
) -> Ranked:
    """The best candidates of a library, or those that were asked for and their relatives in it.

    Args:
        curve: The measurement.
        library: The known crystals.
        lines: Of :func:`.line_index`.
        known: Rows that count as known, int64 ``[C]``, rising; ``None``: all.
        asked: Elements that were asked for and the rows, int64, that count as having them.
    """
    every = best_candidates(curve, library, lines, known)
    return every if asked is None else narrowed(every, curve, library, lines, asked)


def narrowed(
    every: Ranked, curve: MeasuredCurve, library: Library, lines: LineIndex, asked: Asked
) -> Ranked:
    """The best candidates that were asked for, and of ``every`` the others as their relatives."""
    elements, rows = asked
    kinship = library.kinship(every.index, elements)
    if not len(rows):
        return replace(every, kinship=kinship.clamp_max(RELATIVE))
    return with_relatives(best_candidates(curve, library, lines, rows), every, kinship)


def _matches(
    library: Library, ranked: Ranked, cells: np.ndarray, shares: Tensor, order: Tensor
) -> tuple[Match, ...]:
    volume = volumes(cells)
    matches = []
    for i in order.tolist():
        row = int(ranked.index[i])
        matches.append(
            Match(
                material_id=library.material_id(row),
                formula=library.formula(row),
                space_group=int(library.space_group[row]),
                lengths=tuple(cells[i, :3].tolist()),
                angles=tuple(cells[i, 3:].tolist()),
                volume=float(volume[i]),
                score=float(ranked.fits.cosine[i].clamp(0, 1)),
                probability=float(shares[i]),
                figure_of_merit=float(1 / ranked.fits.residual[i].clamp_min(1e-3)),
            )
        )
    return tuple(matches)


def _measured(curve: MeasuredCurve) -> Curves:
    return Curves(curve.two_theta, curve.counts, background=curve.background)


def _curves(curve: MeasuredCurve, ranked: Ranked, best: int) -> Curves:
    """The measured curve, the best candidate's computed one, and where its lines are."""
    fits = ranked.fits
    levels = (fits.background[best], fits.computed[best])
    level, computed = (np.interp(curve.two_theta, fits.two_theta, x.numpy()) for x in levels)
    background = curve.background + level
    ticks = _ticks(curve, ranked, best)
    return Curves(curve.two_theta, curve.counts, background + computed, background, ticks)


def _ticks(curve: MeasuredCurve, ranked: Ranked, best: int) -> np.ndarray:
    """Angles of a candidate's visible lines at the first wavelength, degrees."""
    wavelength = curve.lines[0][0]
    end = 2 * np.sin(np.radians(curve.two_theta[-1] / 2)) / wavelength
    sticks = sticks_of(ranked.candidates.select(torch.tensor([best])), g_max=1.03 * end)
    shape = ranked.fits.shape[best]
    g = sticks.g * torch.exp(sticks.moves @ shape[:6])
    sine = (g * wavelength / 2).clamp_max(0.999)
    theta = torch.asin(sine)
    two_theta = torch.rad2deg(2 * theta) + shape[6] + shape[7] * torch.cos(theta)
    strong = sticks.intensity / sine.square()
    if not len(strong):  # a short scan at low angles may have no line of a crystal
        return np.zeros(0)
    kept = strong > _TICK * strong.max()
    inside = (two_theta >= curve.two_theta[0]) & (two_theta <= curve.two_theta[-1])
    return np.unique(two_theta[kept & inside].numpy().round(3))
