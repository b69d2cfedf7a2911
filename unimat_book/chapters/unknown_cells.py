"""Patterns of known crystals in, how often an indexing finds their cells out.

One search, :func:`unimat_powder.index.index.index`, is told nothing, or what a network or an oracle
says of the cell.
"""

import multiprocessing
import os
import time
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
import torch

from unimat_book.measured import Labelled, cell_is_right
from unimat_lib.processes import unordered
from unimat_powder.answer import system_of
from unimat_powder.index.fit import fit_cells
from unimat_powder.index.index import EVIDENCE, FEWEST_LINES, index
from unimat_powder.index.observed import Observed
from unimat_powder.index.refine import IndexedCell, different_cells, with_symmetries
from unimat_powder.index.seeds import cells_near
from unimat_powder.index.symmetry import cell_matrix
from unimat_powder.network.predict import Reading, read_pattern
from unimat_powder.pattern import Pattern
from unimat_powder.peak_finding import LineList, find_lines
from unimat_powder.witnesses import shipped_reader

KNOWN: Mapping[str, str] = {
    "nothing": "nothing",
    "read_volume": "the network's volume",
    "read_cell": "the network's cells",
    "volume": "the volume to 10 %",
    "cell": "the cell to 5 %",
}
"""What the search is told, and how it is called on the page. The last two know the truth."""

LISTS: Mapping[str, str] = {
    "measured": "lines of the pattern",
    "scattered": "as many at random places",
    "shuffled": "its gaps in another order",
}
"""Lists of lines that are searched for each pattern. The last two have no cell."""

_VOLUME_ERROR, _CELL_ERROR, _ANGLE_ERROR = 0.1, 0.05, 1.5  # of what the oracles say
_READ_CELLS = 3  # of the network's, one for each of the likeliest Bravais lattices
_AROUND = 10  # cells near the true one that are fitted under all symmetries
_ABSENT = -1  # rank of a right cell that is not among those found


# ---- what is searched ----------------------------------------------------------------------------


def hints(
    one: Labelled, known: str, reading: Reading, generator: np.random.Generator
) -> dict[str, object]:
    """What :func:`.index` is told of a pattern, an entry of :data:`KNOWN`."""
    cell = np.array([*one.lengths, *one.angles])
    if known == "read_volume":
        return {"volume": [(reading.volume, reading.volume_error)]}
    if known == "read_cell":
        return {"seeds": np.array([[*c.lengths, *c.angles] for c in reading.cells[:_READ_CELLS]])}
    if known == "volume":
        volume = np.linalg.det(cell_matrix(cell)) * np.exp(generator.normal(0, _VOLUME_ERROR))
        return {"volume": [(volume, _VOLUME_ERROR)]}
    if known == "cell":
        oblique = np.abs(cell[3:] - 90) > 0.01
        cell[:3] *= 1 + _CELL_ERROR * generator.uniform(-1, 1, 3)
        cell[3:] += _ANGLE_ERROR * generator.uniform(-1, 1, 3) * oblique
        return {"seeds": cell[None]}
    return {}


def line_lists(pattern: Pattern, seed: int) -> dict[str, Observed]:
    """The lines of a pattern, and lists of the same length and errors that have no cell."""
    lines, generator = find_lines(pattern), np.random.default_rng(seed)
    return {
        "measured": Observed.of(pattern),
        "scattered": _random_lines(lines, generator, shuffled=False),
        "shuffled": _random_lines(lines, generator, shuffled=True),
    }


def _random_lines(lines: LineList, generator: np.random.Generator, *, shuffled: bool) -> Observed:
    keep = ~lines.spurious
    angles = lines.two_theta[keep]
    if shuffled:
        gaps = generator.permutation(np.diff(angles))
        angles = angles[:1] + np.concatenate([[0], np.cumsum(gaps)])[: len(angles)]
    elif len(angles):
        angles = np.sort(generator.uniform(angles[0], angles[-1], len(angles)))
    return Observed.from_lines(
        angles,
        sigma=lines.two_theta_sigma[keep],
        intensity=generator.permutation(lines.intensity[keep]),
        wavelength=lines.wavelength,
        width=float(np.median(lines.fwhm[keep])) if keep.any() else 0.1,
    )


def search_cells(
    labelled: Sequence[Labelled], *, random_lists: int = len(LISTS) - 1, workers: int = 1
) -> pd.DataFrame:
    """Search the lists of all patterns with all that may be known.

    Args:
        labelled: The patterns.
        random_lists: How many lists without a cell are searched for each.
        workers: Processes, at most one a core.

    Returns:
        One row per pattern, list (:data:`LISTS`) and way (:data:`KNOWN`): ``pattern`` (place),
        ``list``, ``known``; ``rank`` of the right cell, from 0 (-1: not found); of the first cell
        ``accepted``, ``evidence``, ``m20``, ``f20``, ``explained``, ``unexplained`` and ``volume``
        over the true one; ``true_evidence``, that of the true cell, fitted to the lines;
        ``system`` of the sample; ``lines``, how many there are, and ``angles``, their sum;
        ``seconds``. Random lists have no right cell.
    """
    lists = list(LISTS)[: 1 + random_lists]
    jobs = [(place, one, lists) for place, one in enumerate(labelled)]
    found = dict(unordered(_search_one, jobs, workers=_processes(workers)))
    return pd.DataFrame([row for place, *_ in jobs for row in found[place]])


def _processes(workers: int) -> int:
    return min(workers, len(os.sched_getaffinity(0)))


def _use_one_thread() -> None:
    """In a worker: processes with two threads each would wait for one another."""
    if multiprocessing.parent_process() is not None:
        torch.set_num_threads(1)


def _search_one(
    place: int, one: Labelled, lists: Sequence[str]
) -> tuple[int, list[dict[str, object]]]:
    _use_one_thread()
    generator, rows = np.random.default_rng(place), []
    reading = read_pattern(shipped_reader(), one.pattern)
    told = {known: hints(one, known, reading, generator) for known in KNOWN}
    every = line_lists(one.pattern, place)
    for name, observed in ((name, every[name]) for name in lists):
        real = name == "measured"
        about = {"pattern": place, "list": name, "system": system_of(one.space_group)}
        about["lines"] = len(observed)
        about["angles"] = float(observed.two_theta.sum())
        about["true_evidence"] = true_evidence(one, observed) if real else np.nan
        for known, what in told.items():
            start = time.process_time()
            cells = index(observed, least_evidence=-np.inf, **what)
            about |= {"known": known, "seconds": time.process_time() - start}
            rows.append(about | _first(cells, one, real=real))
    return place, rows


def _first(cells: Sequence[IndexedCell], one: Labelled, *, real: bool) -> dict[str, object]:
    """What is kept of the cells that were found."""
    right = [i for i, cell in enumerate(cells) if real and cell_is_right(cell, one)]
    first = cells[0] if cells else None
    names = ("evidence", "m20", "f20", "explained", "unexplained")
    row = {name: float(getattr(first, name)) if first else np.nan for name in names}
    return row | {
        "rank": right[0] if right else _ABSENT,
        "accepted": first is not None and first.evidence > EVIDENCE,
        "volume": first.volume / volume_of(one) if first else np.nan,
    }


def true_evidence(one: Labelled, observed: Observed) -> float:
    """Evidence of the true cell, searched for around what is stated; -inf where nothing fits."""
    cell = np.array([[*one.lengths, *one.angles]])
    if len(observed) < FEWEST_LINES:
        return -np.inf
    fitted = fit_cells(*cells_near(cell, observed), observed)
    best, cells = different_cells(fitted, _AROUND)
    if not len(best):
        return -np.inf
    found = with_symmetries(cells, fitted.shift[best], observed)
    return max((each.evidence for each in found if cell_is_right(each, one)), default=-np.inf)


def volume_of(one: Labelled) -> float:
    """Volume of the true primitive cell, cubic angstrom."""
    return float(np.linalg.det(cell_matrix(np.array([*one.lengths, *one.angles]))))


def added(one: Pattern, other: Pattern) -> Pattern:
    """Sum of two patterns, the second interpolated, with equal highest points."""
    y = one.intensity.numpy() / float(one.intensity.max())
    more = np.interp(one.two_theta.numpy(), other.two_theta.numpy(), other.intensity.numpy())
    total = y + more / float(other.intensity.max())
    return Pattern(one.two_theta, torch.from_numpy(total))


def search_sums(labelled: Sequence[Labelled], *, number: int, workers: int = 1) -> pd.DataFrame:
    """Search sums of two patterns: is a cell ``accepted``, and is it that of ``neither``?"""
    jobs = [(labelled[i], labelled[j]) for i, j in _pairs(len(labelled), number)]
    rows = list(unordered(_search_sum, jobs, workers=_processes(workers)))
    return pd.DataFrame(rows, columns=["accepted", "neither"])


def _pairs(count: int, number: int) -> Iterator[tuple[int, int]]:
    generator = np.random.default_rng(0)
    for _ in range(number):
        yield tuple(generator.choice(count, 2, replace=False))


def _search_sum(one: Labelled, other: Labelled) -> tuple[bool, bool]:
    _use_one_thread()
    found = index(added(one.pattern, other.pattern))
    neither = bool(found) and not any(cell_is_right(found[0], each) for each in (one, other))
    return bool(found), neither
