"""A search's result and the pattern in, the same with what lines and network say of it out."""

import functools
import math
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from unimat_powder.answer import LEFT_OVER, Lattice, SearchResult
from unimat_powder.combine import Read, Unread, combined, is_sure, load_weights
from unimat_powder.index.index import FEWEST_LINES, index
from unimat_powder.index.observed import Observed
from unimat_powder.index.refine import IndexedCell, with_symmetries
from unimat_powder.network.predict import load_reader, read_pattern
from unimat_powder.network.reader import Reader
from unimat_powder.pattern import Pattern, PatternError
from unimat_powder.peak_finding import LineList, find_lines
from unimat_powder.peak_warnings import FEWEST_TO_PROVE


class Lines:
    """The lines of a pattern, and the cells that they have without any library.

    These take some seconds to find, and are only looked for when they are asked for.
    """

    def __init__(self, pattern: Pattern, found: LineList | None = None) -> None:
        found = find_lines(pattern) if found is None else found
        self.number = int((~found.spurious).sum())
        self.observed = Observed.of(found, start=float(pattern.two_theta[0]))

    @functools.cached_property
    def trials(self) -> Sequence[IndexedCell]:
        """Cells that explain the lines, best first."""
        return index(self.observed)


@functools.cache
def shipped_reader() -> Reader:
    """The network that comes with this package."""
    return load_reader(Path(__file__).parent / "network/shipped/reader.safetensors")


def with_witnesses(
    result: SearchResult,
    pattern: Pattern,
    lines: Lines,
    reader: Reader,
    *,
    elements: Collection[str] | None = None,
    formula: str | None = None,
) -> SearchResult:
    """Weigh the library's lattices with what lines and network say, and add those of the lines.

    Without a line nothing is known, however well a crystal follows the noise. And of a few lines it
    cannot be said which share a cell leaves.

    Args:
        result: Of :func:`.search`.
        pattern: The measurement.
        lines: Of the pattern.
        reader: The network.
        elements: Symbols that the crystal consists of, as they were told to the search.
        formula: Its formula, where one was given.
    """
    if not lines.number:
        nothing = {"matches": (), "lattices": (), "second_phase": None, "none_probability": 1.0}
        return replace(result, **nothing, curves=replace(result.curves, computed=None), warnings=())
    cells = np.array([[*one.lengths, *one.angles] for one in result.lattices]).reshape(-1, 6)
    listed = of_cells(cells, lines.observed)
    read = _read(reader, pattern, elements, formula)
    setting = "pattern" if elements is None else "elements"
    trials = () if is_sure(result.lattices) else lines.trials
    said = result.lattices, result.matches, [*trials, *listed], read
    lattices = combined(*said, load_weights(setting))
    warnings = result.warnings
    if lines.number >= FEWEST_LINES and lattices and lattices[0].stray > LEFT_OVER:
        warnings = (*warnings, _left_over(lattices[0].stray))
    doubts = doubts_about(lattices, lines.number)
    return replace(result, lattices=lattices, warnings=warnings, doubts=doubts)


def doubts_about(lattices: Sequence[Lattice], lines: int) -> tuple[str, ...]:
    """Why the first lattice is not to be relied on, however likely it is.

    Args:
        lattices: The likeliest first.
        lines: How many the pattern has.
    """
    if lines < FEWEST_TO_PROVE:
        return ("so few lines prove no cell",)
    if not lattices:
        return ()
    if math.isnan(lattices[0].stray):
        return ("the lines do not give this cell",)
    if lattices[0].stray > LEFT_OVER:
        share = 100 * lattices[0].stray
        return (f"{share:.0f} % of the lines, by amplitude, are left unexplained",)
    return ()


def _left_over(stray: float) -> str:
    return (
        f"the first cell leaves {100 * stray:.0f} % of the lines unexplained, strong ones counting "
        "more: the sample may hold a second phase, or the cell be wrong"
    )


def of_cells(cells: np.ndarray, observed: Observed) -> list[IndexedCell]:
    """What lines say of some Niggli cells, lengths and angles ``[N, 6]``."""
    if not len(cells) or len(observed) < FEWEST_LINES:
        return []
    return with_symmetries(cells, np.zeros((len(cells), 2)), observed)


def _read(
    reader: Reader,
    pattern: Pattern,
    elements: Collection[str] | None,
    formula: str | None,
) -> Read:
    told = {"formula": formula} if formula is not None else {"elements": elements}
    try:
        return read_pattern(reader, pattern, **told)
    except PatternError:  # outside of what it was trained on: the others answer
        return Unread()
