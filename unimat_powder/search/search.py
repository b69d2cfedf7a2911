"""A measured pattern and a library in, ranked matches with probabilities and curves out."""

import functools
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from unimat_powder.answer import MOST, Curves, Match, SearchResult
from unimat_powder.library.file import Library
from unimat_powder.pattern import Pattern
from unimat_powder.search.candidates import Ranked, best_candidates, line_index
from unimat_powder.search.cells import relaxed_cells, volumes
from unimat_powder.search.curve import MeasuredCurve, measured_curve
from unimat_powder.search.rank import evidence_of, judge, load_weights
from unimat_powder.search.reflections import sticks_of
from unimat_powder.search.second import LEAST_COSINE, LEAST_GAIN, cleaned, gain
from unimat_powder.search.second import without as without_phase
from unimat_powder.search.shifts import LineIndex

_FEW = 20_000  # crystals
_TICK = 0.005  # of the strongest line: fainter ones get no tick


@functools.lru_cache(maxsize=2)
def _lines_of(library: Library) -> LineIndex:
    return line_index(library)


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
    setting = "pattern" if elements is None else "elements"
    among = None if elements is None else with_elements(library, elements)
    if formula is not None and among is not None:
        alike = [i for i in among.tolist() if library.formula(i) == formula]
        among = torch.tensor(alike) if alike else among
    everything = None  # what a second phase is looked for in: it may have other elements
    if without:
        every, gone = torch.arange(len(library)), torch.tensor(sorted(without))
        everything = every[~torch.isin(every, gone)]
        among = everything if among is None else among[~torch.isin(among, gone)]
    if among is not None and len(among) == 0:
        what = f"the library holds no crystal of {', '.join(sorted(elements or ()))} alone"
        return SearchResult((), 1.0, _measured(curve), warnings=(what,))
    found = _found(curve, library, among, setting)
    curves = _curves(curve, found.ranked, found.best)
    second: tuple[Match, ...] | None = None
    if (rest := without_phase(curve, curves)) is not None:
        other = _found(rest, library, everything, "pattern")
        added = _curves(rest, other.ranked, other.best)
        alike = float(other.ranked.fits.cosine[other.best])
        if gain(curve, curves, added) > LEAST_GAIN and alike > LEAST_COSINE:
            again = _found(cleaned(curve, added), library, among, setting)
            if again.matches[0].material_id == found.matches[0].material_id:
                found, second = again, other.matches
    return SearchResult(
        found.matches, found.none, curves, second_phase=second, cell_probability=found.cell
    )


@dataclass(frozen=True, eq=False)
class _Found:
    """One search: the candidates and what they are worth."""

    ranked: Ranked
    matches: tuple[Match, ...]
    best: int  # place among the candidates
    none: float  # probability that no crystal is right
    cell: float  # probability that cell and crystal system of the best are right


def _found(curve: MeasuredCurve, library: Library, among: Tensor | None, setting: str) -> _Found:
    ranked = best_candidates(curve, library, _lines_of(library), among)
    asked = len(library) if among is None else len(among)
    # Weights of the whole library know what fits by chance among many; of a few crystals one leads
    # the others easily, and those of known elements, which are few too, know that.
    weights = load_weights("elements" if asked < _FEW else setting)
    evidence = evidence_of(ranked)
    cells = relaxed_cells(ranked)
    groups = library.space_group[ranked.index]
    judged = judge(evidence, cells, groups, weights, asked=asked)
    order = torch.argsort(judged.shares, descending=True)
    matches = _matches(library, ranked, cells, judged.shares, order[:MOST])
    return _Found(ranked, matches, int(order[0]), judged.none, judged.cell)


def with_elements(library: Library, elements: Collection[str]) -> Tensor:
    """Crystals of exactly these elements, with or without hydrogen, int64 ``[C]``, rising."""
    bare = frozenset(elements) - {"H"}
    found = [library.with_elements(exactly=bare | {"H"})]
    if bare:
        found.append(library.with_elements(exactly=bare))
    return torch.cat([torch.as_tensor(x) for x in found]).unique()


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
    kept = strong > _TICK * strong.max()
    inside = (two_theta >= curve.two_theta[0]) & (two_theta <= curve.two_theta[-1])
    return np.unique(two_theta[kept & inside].numpy().round(3))
