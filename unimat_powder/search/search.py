"""A measured pattern and a library in, ranked matches with probabilities and curves out."""

import functools
from collections.abc import Collection
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from unimat_lib.crystals.reduction import niggli_cell
from unimat_lib.crystals.table import CrystalTable
from unimat_powder.answer import MOST, Curves, Match, SearchResult
from unimat_powder.library.file import Library
from unimat_powder.pattern import Pattern
from unimat_powder.search.candidates import Ranked, best_candidates, line_index
from unimat_powder.search.curve import MeasuredCurve, measured_curve
from unimat_powder.search.profile import Fits
from unimat_powder.search.rank import evidence_of, load_weights, probabilities
from unimat_powder.search.reflections import sticks_of
from unimat_powder.search.shifts import LineIndex

_LEFT = 0.1  # of the signal: less of it left over is no sign of a second phase
_TOLERANCE = 0.15  # of a computed curve: what its misfit may leave behind
_SURE = 0.5  # probability of a first phase before a second is looked for
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
) -> SearchResult:
    """Which crystals of a library can explain a measured pattern.

    Args:
        pattern: The measurement.
        library: The known crystals.
        elements: Symbols that the crystal consists of, exactly these; hydrogen may be there too,
            which neither X-ray diffraction nor fluorescence sees. ``None``: unknown.
        formula: Reduced formula; crystals of another one are left out where it has some.

    Raises:
        PatternError: The pattern cannot be compared with anything.
    """
    curve = measured_curve(pattern)
    among = None if elements is None else with_elements(library, elements)
    if formula is not None and among is not None:
        alike = [i for i in among.tolist() if library.formula(i) == formula]
        among = torch.tensor(alike) if alike else among
    if among is not None and len(among) == 0:
        what = f"the library holds no crystal of {', '.join(sorted(elements or ()))} alone"
        return SearchResult((), 1.0, _measured(curve), warnings=(what,))
    ranked, shares, none = _ranked(curve, library, among)
    order = torch.argsort(shares, descending=True)
    matches = _matches(library, ranked, shares, order[:MOST])
    best = int(order[0])
    curves = _curves(curve, ranked.fits, best, library, ranked)
    second = None
    if float(shares[best]) > _SURE:
        rest = _rest(curve, curves)
        if rest is not None:
            other, its_shares, its_none = _ranked(rest, library, among=None)
            if its_none < 1 - _SURE:
                its_order = torch.argsort(its_shares, descending=True)[:MOST]
                second = _matches(library, other, its_shares, its_order)
    return SearchResult(matches, none, curves, second_phase=second)


def with_elements(library: Library, elements: Collection[str]) -> Tensor:
    """Crystals of exactly these elements, with or without hydrogen, int64 ``[C]``, rising."""
    bare = frozenset(elements) - {"H"}
    found = [library.with_elements(exactly=bare | {"H"})]
    if bare:
        found.append(library.with_elements(exactly=bare))
    return torch.cat([torch.as_tensor(x) for x in found]).unique()


def _ranked(
    curve: MeasuredCurve, library: Library, among: Tensor | None
) -> tuple[Ranked, Tensor, float]:
    """Candidates, their probabilities, and that of none of them."""
    ranked = best_candidates(curve, library, _lines_of(library), among)
    asked = len(library) if among is None else len(among)
    weights = load_weights("pattern" if among is None else "elements")
    return ranked, *probabilities(evidence_of(ranked), weights, asked=asked)


def _matches(library: Library, ranked: Ranked, shares: Tensor, order: Tensor) -> tuple[Match, ...]:
    table = library.crystals(ranked.index[order])
    fits = ranked.fits
    matches = []
    for place, i in enumerate(order.tolist()):
        row = int(ranked.index[i])
        lattice = niggli_cell(_strained(table, ranked, place, i))
        lengths = np.linalg.norm(lattice, axis=1)
        a, b, c = lattice / lengths[:, None]
        cosines = np.clip([b @ c, a @ c, a @ b], -1, 1)
        matches.append(
            Match(
                material_id=library.material_id(row),
                formula=library.formula(row),
                space_group=int(library.space_group[row]),
                lengths=tuple(lengths.tolist()),
                angles=tuple(np.degrees(np.arccos(cosines)).tolist()),
                volume=abs(float(np.linalg.det(lattice))),
                score=float(fits.cosine[i].clamp(0, 1)),
                probability=float(shares[i]),
                figure_of_merit=float(1 / fits.residual[i].clamp_min(1e-3)),
            )
        )
    return tuple(matches)


def _strained(table: CrystalTable, ranked: Ranked, place: int, i: int) -> np.ndarray:
    """Cell vectors ``[3, 3]`` of a candidate after the strain that its fit found."""
    six = ranked.fits.shape[i, :6] @ ranked.strain[i]
    x, y, z, yz, xz, xy = (six / torch.tensor([1, 1, 1, 2**0.5, 2**0.5, 2**0.5])).tolist()
    strain = np.array([[x, xy, xz], [xy, y, yz], [xz, yz, z]])
    return table.lattice[place].numpy() @ (np.eye(3) + strain)


def _measured(curve: MeasuredCurve) -> Curves:
    return Curves(curve.two_theta, curve.counts, background=curve.background)


def _curves(
    curve: MeasuredCurve, fits: Fits, best: int, library: Library, ranked: Ranked
) -> Curves:
    """The measured curve, the best candidate's computed one, and where its lines are."""
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


def _rest(curve: MeasuredCurve, curves: Curves) -> MeasuredCurve | None:
    """What a first phase leaves of a curve, or ``None`` where that is next to nothing."""
    phase = np.clip(curves.computed - curves.background, 0, None)
    signal = np.clip(curve.signal - (1 + _TOLERANCE) * phase, 0, None)
    signal[phase > 0.3 * curve.signal] = 0.0  # flanks of the first phase's own lines
    if signal.sum() < _LEFT * curve.signal.sum():
        return None
    return replace(curve, counts=curve.counts - phase, signal=signal)
