"""What the witnesses see in simulated and measured patterns, kept for calibration.

Crystals of the library that nobody tunes on otherwise (MP-20's validation split and further ones)
are measured with one laboratory's habits and with everybody's, and searched for; the evidence of
the best candidates is kept. The same is done with the library's own crystals, where it is a small
one without those; with the half of the measured patterns that may be looked at; and with patterns
that no single crystal made.

    python benchmarks/collect_evidence.py LIBRARY OUT.npz [--number 3000] [--workers 16]
    python benchmarks/collect_evidence.py LIBRARY OWN.npz --own
    python benchmarks/collect_evidence.py LIBRARY MEASURED.npz --measured FOLDER
    python benchmarks/collect_evidence.py LIBRARY HARD.npz --hard FOLDER
"""

from __future__ import annotations

import argparse
import functools
import multiprocessing
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from pymatgen.core import Composition

from unimat_book.ledger.measured import FIRST_HALF
from unimat_book.measured import Labelled, bare_formula, load_rruff, right_rows
from unimat_lib.crystals.table import CrystalTable
from unimat_lib.datasets.preparation import load_dataset
from unimat_lib.views.grid import WAVELENGTHS, Grid
from unimat_powder.bravais import LATTICE_SYSTEMS
from unimat_powder.index.index import index
from unimat_powder.index.observed import Observed
from unimat_powder.index.refine import IndexedCell
from unimat_powder.library.file import Library
from unimat_powder.network.predict import load_reader, read_pattern
from unimat_powder.network.reader import Reader
from unimat_powder.pattern import Pattern, PatternError
from unimat_powder.search.candidates import best_candidates, line_index, with_elements
from unimat_powder.search.cells import relaxed_cells
from unimat_powder.search.curve import MeasuredCurve, measured_curve
from unimat_powder.search.rank import EVIDENCE, facts_of
from unimat_powder.search.search import narrowed, search
from unimat_powder.search.shifts import LineIndex
from unimat_powder.simulation.ranges import RRUFF, LaboratoryRanges
from unimat_powder.simulation.scans import scans_of
from unimat_powder.tubes import with_other_tubes, within_reach
from unimat_powder.witnesses import of_cells

GRID = Grid(5.0, 90.0, 8501)
CHUNK = 5


def measured(table: CrystalTable, ranges: LaboratoryRanges, seed: int) -> list[Pattern | None]:
    """A simulated measurement of every crystal; ``None`` where nothing is left to see."""
    counts, mask, *_ = scans_of(table, ranges, GRID, seed=seed)
    patterns: list[Pattern | None] = []
    for row, seen in zip(counts, mask, strict=True):
        try:
            patterns.append(Pattern(GRID.two_theta[seen], row[seen].double()))
        except PatternError:
            patterns.append(None)
    return patterns


def same(library: Library, rows: torch.Tensor, *, table: CrystalTable, i: int) -> torch.Tensor:
    """Which rows of the library are crystal ``i`` of the table: composition and cell within 5 %."""
    found = library.crystals(rows)
    close = (found.lengths / table.lengths[i] - 1).abs().amax(1) < 0.05
    formula = bare_formula(table.info["formula"].iloc[i])
    alike = [bare_formula(text) == formula for text in found.info["formula"]]
    return close & torch.tensor(alike)


@functools.cache
def opened(library: Path, reader: Path | None) -> tuple[Library, LineIndex, Reader | None]:
    """Library, its lines, and the network, once in each process."""
    torch.set_num_threads(1)
    found = Library.open(library)
    return found, line_index(found), None if reader is None else load_reader(reader)


def work(
    library: Path,
    reader: Path | None,
    deadline: float,
    name: str | None,
    rows: list[int],
    ranges: str,
    seed: int,
) -> list[tuple]:
    """Evidence of the candidates of some crystals, for both settings; none after a deadline.

    They are of the data set ``name``, or the library's own.
    """
    if time.time() > deadline:
        return []
    crystals, lines, network = opened(library, reader)
    some = torch.tensor(rows)
    table = crystals.crystals(some) if name is None else load_dataset(name).select(some)
    habits = RRUFF if ranges == "rruff" else LaboratoryRanges(anodes=(("Cu", 1.0),))
    results = []
    for i, pattern in enumerate(measured(table, habits, seed)):
        if pattern is None:
            continue
        try:
            curve = measured_curve(pattern)
        except PatternError:
            continue
        symbols = {e.symbol for e in Composition(table.info["formula"].iloc[i]).elements}
        truth = true_cell(crystals, lines, table, i, curve, with_elements(crystals, symbols))
        about = ranges == "rruff", int(table.space_group[i])
        right = partial(same, crystals, table=table, i=i)
        witnesses = pattern, curve, network, crystals, lines
        results += evidence_of(*witnesses, symbols, right, truth, about)
    return results


def evidence_of(
    pattern: Pattern,
    curve: MeasuredCurve,
    reader: Reader | None,
    library: Library,
    lines: LineIndex,
    symbols: set[str],
    right: Callable[[torch.Tensor], torch.Tensor],
    truth: np.ndarray,
    about: tuple[bool, int],
) -> list[tuple]:
    """What is known of the candidates for one pattern: without its elements, and with them.

    The last of the numbers about it is that of its lines.
    """
    rows = with_elements(library, symbols)
    every = best_candidates(curve, library, lines)
    asked = narrowed(every, curve, library, lines, (symbols, rows))
    observed = Observed.of(pattern)
    trials = index(observed)
    found = []
    for setting, (ranked, number) in enumerate(((every, len(library)), (asked, len(rows)))):
        facts, cells = facts_of(ranked, asked=number)
        correct = right(ranked.index).numpy()
        # The right crystals' cells apart: they are taken out together.
        parts = trials, *(of_cells(cells[some], observed) for some in (~correct, correct))
        witness = {
            "lines": lines_table(parts),
            "read": read_of(reader, pattern, symbols if setting else None),
        }
        groups = library.space_group[ranked.index].numpy()
        columns = facts.evidence.numpy(), correct, groups, cells
        found.append((*columns, truth, (setting, number, *about, len(observed)), witness))
    return found


LINES_WIDTH, LINES_MOST = 11 + len(LATTICE_SYSTEMS), 80
READ_WIDTH = 239


def lines_table(parts: Sequence[Sequence[IndexedCell]]) -> np.ndarray:
    """Cells as numbers ``[80, 18]``: cell, volume, evidence, M20, stray, origin, systems."""
    table = np.full((LINES_MOST, LINES_WIDTH), np.nan, dtype=np.float32)
    rows = [
        [*one.lengths, *one.angles, one.volume, one.evidence, one.m20, one.stray, origin]
        + [one.systems[name] for name in LATTICE_SYSTEMS]
        for origin, part in enumerate(parts)
        for one in part
    ][:LINES_MOST]
    if rows:
        table[: len(rows)] = rows
    return table


def read_of(reader: Reader | None, pattern: Pattern, symbols: set[str] | None) -> np.ndarray:
    """What the network read ``[239]``: systems, groups, volume and its error; NaN without one."""
    if reader is None:
        return np.full(READ_WIDTH, np.nan, dtype=np.float32)
    read = read_pattern(reader, pattern, elements=symbols)
    return np.array([*read.system, *read.group, read.volume, read.volume_error], dtype=np.float32)


def true_cell(
    library: Library,
    lines: LineIndex,
    table: CrystalTable,
    i: int,
    curve: MeasuredCurve,
    alike: torch.Tensor,
) -> np.ndarray:
    """The cell of crystal ``i`` as it was measured, ``[6]``: that of a fit that starts from it.

    ``alike`` int64 ``[C]`` are the library's crystals of its elements, among which it is looked up.
    """
    name = table.info["material_id"].iloc[i]
    itself = [row for row in alike.tolist() if library.material_id(row) == name][:1]
    if not itself:
        return np.full(6, np.nan)
    return relaxed_cells(best_candidates(curve, library, lines, torch.tensor(itself)))[0][0]


@functools.cache
def first_half(folder: Path) -> list[Labelled]:
    """The measured patterns that may be looked at, read and checked once in each process."""
    return load_rruff(folder)[:FIRST_HALF]


def measured_work(library: Path, reader: Path | None, folder: Path, place: int) -> list[tuple]:
    """The same for one measured pattern of the half that may be looked at."""
    crystals, lines, network = opened(library, reader)
    one = first_half(folder)[place]
    rows = torch.tensor(right_rows(one, crystals))
    symbols = {e.symbol for e in Composition(one.formula).elements}
    truth = np.array([*one.lengths, *one.angles])
    return evidence_of(
        one.pattern,
        measured_curve(one.pattern),
        network,
        crystals,
        lines,
        symbols,
        partial(torch.isin, test_elements=rows),
        truth,
        (True, one.space_group),
    )


KINDS = ("sum", "lines", "few", "hump", "noise", "tube")
"""Patterns that no single crystal made, or of which nobody can say it: see :func:`hard_pattern`."""


def hard_pattern(kind: str, number: int, folder: Path, library: Library) -> Pattern:
    """A pattern without a right answer: two measured ones of the first half added up, lines at
    random places, so few of them that nothing follows, a hump without lines, noise alone, a crystal
    of the library measured with a tube that nobody names, so that it is read as copper's."""
    random = np.random.default_rng([KINDS.index(kind), number])
    if kind == "tube":
        return within_reach(other_tube(library, random))
    two_theta = GRID.two_theta.numpy()
    if kind == "sum":
        some = random.choice(FIRST_HALF, 2, replace=False)
        patterns = [first_half(folder)[i].pattern for i in some]
        curves = [
            np.interp(two_theta, one.two_theta.numpy(), one.intensity.numpy()) for one in patterns
        ]
        share = random.uniform(0.25, 1.0)
        counts = curves[0] + share * curves[0].max() / curves[1].max() * curves[1]
        return Pattern(GRID.two_theta, torch.from_numpy(counts.round()))
    level = random.uniform(20, 400)
    rate = np.full_like(two_theta, level)
    if kind in ("lines", "few", "hump"):
        centre, width = random.uniform(18, 40), random.uniform(4, 9)
        rate += level * random.uniform(0.5, 4) * np.exp(-((two_theta - centre) ** 2) / 2 / width**2)
    if kind in ("lines", "few"):
        width = random.uniform(0.06, 0.2)
        number = random.integers(8, 40) if kind == "lines" else random.integers(1, 5)
        for place in random.uniform(12, 80, number):
            height = level * np.exp(random.normal(1.5, 1.2))
            rate += height / (1 + ((two_theta - place) / width * 2) ** 2)
    return Pattern(GRID.two_theta, torch.from_numpy(random.poisson(rate).astype(float)))


def other_tube(library: Library, random: np.random.Generator) -> Pattern:
    """A crystal of the library in the radiation of another tube, as a pattern of copper's."""
    anode = str(random.choice(("Co", "Mo", "Fe", "Cr")))
    habits = replace(RRUFF, anodes=((anode, 1.0),), impurity=0.0)
    grid = Grid(15.0, 50.0 if anode == "Mo" else 95.0, 8001, WAVELENGTHS[f"{anode}Ka"])
    crystal = library.crystals([int(random.integers(len(library)))])
    counts = scans_of(crystal, habits, grid, seed=int(random.integers(2**31))).counts
    return Pattern(grid.two_theta, counts[0].double())


def hard_work(
    library: Path, reader: Path | None, folder: Path, kind: str, number: int
) -> list[tuple]:
    """Evidence of a pattern that no single crystal made.

    In the place of the group stands whether a second phase is seen, 0 or 1; and 2 more where the
    wavelength is wrong and this is seen.
    """
    crystals, lines, network = opened(library, reader)
    try:
        pattern = hard_pattern(kind, number, folder, crystals)
        found = search(pattern, crystals)
    except PatternError:
        return []
    seen = int(found.second_phase is not None)
    if kind == "tube":
        seen += 2 * bool(with_other_tubes(found, pattern, crystals).doubts)
    about = KINDS.index(kind), seen
    nobody = partial(torch.isin, test_elements=torch.tensor([], dtype=torch.int64))
    unknown = np.full(6, np.nan)
    witnesses = pattern, measured_curve(pattern), network, crystals, lines
    return evidence_of(*witnesses, {"Fe"}, nobody, unknown, about)[:1]


def together(
    function: Callable[..., list[tuple]], jobs: Sequence[tuple], workers: int
) -> list[list[tuple]]:
    """Results of all jobs, in order; each process keeps what it has opened.

    Not by :func:`.unordered`: joblib sends the functions of a script by value, which their caches
    do not survive.
    """
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        return pool.starmap(function, jobs, chunksize=1)


def collect(options: argparse.Namespace) -> None:
    """Simulate (or take the measured patterns), search, and write the evidence."""
    start = time.perf_counter()
    if options.measured is not None:
        about = options.library, options.reader, options.measured
        jobs = [(*about, i) for i in range(FIRST_HALF)]
        parts = together(measured_work, jobs, options.workers)
    elif options.hard is not None:
        about = options.library, options.reader, options.hard
        jobs = []
        for kind in options.kinds:
            number = options.number if kind in ("sum", "lines") else options.number // 4
            first = number * options.seed
            jobs += [(*about, kind, i) for i in range(first, first + number)]
        parts = together(hard_work, jobs, options.workers)
    else:
        parts = together(work, simulated_jobs(options), options.workers)
    found = [one for part in parts for one in part]
    width = max(len(one[1]) for one in found)
    evidence = np.full((len(found), width, len(EVIDENCE)), np.nan, dtype=np.float32)
    right = np.zeros((len(found), width), dtype=bool)
    groups = np.zeros((len(found), width), dtype=np.uint8)
    cells = np.full((len(found), width, 6), np.nan, dtype=np.float32)
    for row, (values, is_right, group, cell, *_) in enumerate(found):
        evidence[row, : len(values)], cells[row, : len(values)] = values, cell
        right[row, : len(values)], groups[row, : len(values)] = is_right, group
    truth = np.array([one[4] for one in found], dtype=np.float32)
    about = np.array([one[5] for one in found], dtype=np.int32)
    kept = dict(evidence=evidence, right=right, groups=groups, cells=cells, truth=truth)
    for name in ("lines", "read"):
        kept[name] = np.stack([one[6][name] for one in found])
    np.savez_compressed(options.out, **kept, about=about)
    print(f"{len(found)} searches in {time.perf_counter() - start:.0f} s", flush=True)
    for setting in (0, 1):
        for habits in (0, 1):
            of = (about[:, 0] == setting) & (about[:, 2] == habits)
            if of.any():
                share = right[of].any(1).mean()
                print(setting, habits, of.sum(), "right one among the best:", share)


TUNED = ("mp_20", "val"), ("mp_extra", "extra")
"""Data sets and their splits that nobody tunes on otherwise."""


def chosen(name: str, split: str, number: int, generator: np.random.Generator) -> np.ndarray:
    """Rows of so many crystals of a split, int64."""
    rows = np.flatnonzero(load_dataset(name).info["split"] == split)
    return generator.choice(rows, number, replace=False)


def simulated_jobs(options: argparse.Namespace) -> list[tuple]:
    """Arguments of :func:`work`: crystals that nobody tunes on otherwise, in pieces."""
    generator = np.random.default_rng(options.seed)
    about = options.library, options.reader, time.time() + options.seconds
    if options.own:
        drawn = {None: generator.permutation(len(Library.open(options.library)))}
    else:
        drawn = {name: chosen(name, split, options.number // 2, generator) for name, split in TUNED}
    pieces: list[tuple] = []
    for name, rows in drawn.items():
        parts = np.array_split(rows, max(len(rows) // CHUNK, 1))
        pieces += [(k, name, part.tolist()) for k, part in enumerate(parts)]
    pieces.sort(key=lambda piece: piece[0])  # both sets alike, however far it comes
    return [
        (*about, name, rows, "rruff" if k % 2 else "all", 10_000 * options.seed + place)
        for place, (k, name, rows) in enumerate(pieces)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("library", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument(
        "--number", type=int, default=3000, help="crystals, or sums and lists of lines"
    )
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--measured", type=Path, help="folder of the measured patterns")
    what = "folder of the measured patterns: make patterns of which no single crystal is right"
    parser.add_argument("--hard", type=Path, help=what)
    what = "of these only (see --hard)"
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS, help=what)
    what = "crystals of the library itself, each once"
    parser.add_argument("--own", action="store_true", help=what)
    parser.add_argument("--reader", type=Path, help="the network's file")
    parser.add_argument("--seed", type=int, default=0)
    what = "begin with no further simulated crystals after so long"
    parser.add_argument("--seconds", type=float, default=1e9, help=what)
    collect(parser.parse_args())


if __name__ == "__main__":
    main()
