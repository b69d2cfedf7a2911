"""A measured curve and a library in, the few crystals that explain it best and their fits out."""

import functools
from collections.abc import Collection
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from unimat_lib.crystals.table import concatenate
from unimat_powder.library.file import Library
from unimat_powder.library.lines import DELTA
from unimat_powder.pattern import Pattern
from unimat_powder.search.amplitude import Amplitude, amplitude_of
from unimat_powder.search.curve import MeasuredCurve, measured_curve
from unimat_powder.search.profile import Fits, fit_profiles
from unimat_powder.search.reflections import ISOTROPIC, Candidates
from unimat_powder.search.relax import Relaxed, relax, start_lines
from unimat_powder.search.shifts import SHIFTS, LineIndex, overlaps

RELAXED, FITTED = 200, 20
"""Crystals whose cells are relaxed, and crystals whose whole curves are fitted."""

PENALTY = 0.01
"""What half a squared standard deviation from the prior costs, in units of the cosine."""

RELATIVE = 0.99
"""Most kinship of a crystal that was not asked for."""

_STARTS = 3  # isotropic starts of each crystal where there are few
_FEW = 150
_APART = 6  # steps of DELTA between two starts
_CLEARLY = 0.9  # of the residual


@dataclass(frozen=True, eq=False)
class Ranked:
    """The crystals whose curves were fitted, in no order.

    Attributes:
        candidates: The crystals.
        index: int64 ``[K]``, their rows of the library.
        fits: What the fits found.
        kinship: float64 ``[K]``, share of elements that each has in common with what was asked for,
            hydrogen aside: of all that either has. 1 where nothing was asked.
    """

    candidates: Candidates
    index: Tensor
    fits: Fits
    kinship: Tensor

    @property
    def asked(self) -> Tensor:
        """Bool ``[K]``: which are of the elements that were asked for."""
        return self.kinship == 1

    @property
    def strain(self) -> Tensor:
        """float64 ``[K, 6, 6]``, see :class:`.Candidates`."""
        return self.candidates.strain

    @property
    def freedom(self) -> Tensor:
        """float64 ``[K]``, number of strains that the symmetry leaves."""
        return self.candidates.free.sum(1)

    @property
    def kinds(self) -> Tensor:
        """int64 ``[K]``, number of elements of each crystal."""
        table = self.candidates.table
        pairs = torch.unique(table.atom_crystal * 128 + table.atomic_numbers)
        return torch.bincount(pairs // 128, minlength=len(table))


@functools.lru_cache(maxsize=2)
def line_index(library: Library) -> LineIndex:
    """The library's lines, as the search of shifts reads them."""
    columns = (library.line_offsets, library.line_position)
    offsets, position = (torch.as_tensor(x).int() for x in columns)
    rest = (library.line_amplitude, library.line_overlap)
    return LineIndex(offsets, position, *(torch.as_tensor(x).float() for x in rest))


def best_candidates(
    curve: MeasuredCurve, library: Library, lines: LineIndex, among: Tensor | None = None
) -> Ranked:
    """Search the library, or the crystals ``among`` it (int64 ``[C]``), for what explains a curve.

    Three sieves, each slower and sharper than the one before: isotropic strains of all crystals,
    cells relaxed within the symmetry of the best 200, whole curves of the best 20.
    """
    amplitude = amplitude_of(curve)
    most = among is not None and 2 * len(among) > len(library)
    few = among is not None and not most
    coarse, starts = _starts(overlaps(amplitude, lines.select(among) if few else lines))
    if most:  # to copy their lines would take longer than to compare the few others too
        left_out = torch.ones(len(library), dtype=torch.bool)
        left_out[among] = False
        coarse[left_out] = -1.0
    kept = coarse.topk(min(RELAXED, len(coarse) if among is None else len(among))).indices
    rows = among[kept] if few else kept
    candidates = candidates_of(library, rows)
    relaxed = _relaxed(candidates, amplitude, starts[kept])
    score = relaxed.cosine - PENALTY * relaxed.penalty
    best = score.topk(min(FITTED, len(score))).indices
    candidates = candidates.select(best)
    fits = _fits(candidates, curve, relaxed.shape[best])
    return Ranked(candidates, rows[best], fits, torch.ones(len(best), dtype=torch.float64))


def most_alike(
    pattern: Pattern, library: Library, among: Tensor | None = None
) -> tuple[float, str]:
    """Score, see :class:`.Match`, and formula of the crystal that looks most like a pattern.

    Args:
        pattern: The measurement.
        library: The known crystals.
        among: Rows that are in question, int64 ``[C]``; without it, all.

    Raises:
        PatternError: The pattern cannot be compared with anything.
    """
    ranked = best_candidates(measured_curve(pattern), library, line_index(library), among)
    best = int(ranked.fits.cosine.argmax())
    return float(ranked.fits.cosine[best].clamp(0, 1)), library.formula(int(ranked.index[best]))


def with_elements(library: Library, elements: Collection[str]) -> Tensor:
    """Crystals of exactly these elements, with or without hydrogen, int64 ``[C]``, rising."""
    bare = frozenset(elements) - {"H"}
    found = [library.with_elements(exactly=bare | {"H"})]
    if bare:
        found.append(library.with_elements(exactly=bare))
    return torch.cat([torch.as_tensor(x) for x in found]).unique()


def with_relatives(asked: Ranked, every: Ranked, kinship: Tensor) -> Ranked:
    """Candidates that were asked for, and those of all elements that are not among them.

    Args:
        asked: Candidates of the given elements.
        every: Candidates of the whole library, for the same curve.
        kinship: Of these, float64 ``[K]``, see :class:`Ranked`.
    """
    new = (~torch.isin(every.index, asked.index)).nonzero()[:, 0]
    one, other = asked.candidates, every.candidates.select(new)
    table = concatenate([one.table, other.table])
    return Ranked(
        Candidates(table, torch.cat([one.strain, other.strain])),
        torch.cat([asked.index, every.index[new]]),
        asked.fits.joined(every.fits.select(new)),
        torch.cat([asked.kinship, kinship[new].clamp_max(RELATIVE)]),
    )


def _fits(candidates: Candidates, curve: MeasuredCurve, shape: Tensor) -> Fits:
    """Fits with K-alpha 2, or without where that explains the best three clearly better."""
    fits = fit_profiles(candidates, curve, shape)
    if curve.otherwise is None:
        return fits
    alone = replace(curve, lines=curve.otherwise)
    few = fits.residual.topk(min(3, len(candidates)), largest=False).indices
    tried = fit_profiles(candidates.select(few), alone, shape[few])
    if float(tried.residual.min()) > _CLEARLY * float(fits.residual.min()):
        return fits
    return fit_profiles(candidates, alone, shape)


def candidates_of(library: Library, rows: Tensor) -> Candidates:
    """Structures and strains of some rows of a library."""
    strain = torch.as_tensor(library.strain)[rows].double()
    return Candidates(library.crystals(rows), strain)


def _starts(overlap: Tensor) -> tuple[Tensor, Tensor]:
    """Best overlap of each crystal ``[C]``, an unlikely strain counting less, and where it starts.

    Starts are shifts in steps of ``DELTA``, float64 ``[C, N]``: several where crystals are few.
    """
    shift = torch.arange(SHIFTS[0], SHIFTS[1] + 1)
    mean, deviation = ISOTROPIC
    unlikely = ((-DELTA * shift.double() - mean) / deviation).square() / 2
    score = overlap - (PENALTY * unlikely).float()
    best, place = score.max(1)
    starts = [shift[place]]
    while len(starts) < _STARTS and len(overlap) <= _FEW:
        near = (shift[None] - starts[-1][:, None]).abs() < _APART
        score = score.masked_fill(near, -1.0)
        starts.append(shift[score.argmax(1)])
    return best, torch.stack(starts, dim=1).double()


def _relaxed(candidates: Candidates, amplitude: Amplitude, starts: Tensor) -> Relaxed:
    """Each candidate relaxed from each of its starts ``[K, N]``, the best kept."""
    lines = start_lines(candidates, amplitude)
    found = [relax(candidates, lines, amplitude, start) for start in starts.unbind(1)]
    score = torch.stack([one.cosine - PENALTY * one.penalty for one in found])
    best, row = score.argmax(0), torch.arange(len(candidates))
    return Relaxed(*(torch.stack(column)[best, row] for column in zip(*found, strict=True)))
