"""How often indexing without a library finds the cell, how long it takes, and how chance fares.

    python benchmarks/indexing.py measured FOLDER
    python benchmarks/indexing.py simulated LIBRARY [--number 100]
    python benchmarks/indexing.py chance FOLDER [--number 200]

``measured`` takes the half of the labelled RRUFF patterns that may be looked at: with nothing
known, with the true volume up to 10 per cent, and with the true cell up to 5 per cent as a seed,
the most that a network could add. ``simulated`` does the first with simulated measurements.
``chance`` takes lists of random lines, as long and as exact as those of measured patterns, and sums
of two patterns.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from common import Result, device_name, record

from unimat_book.ledger.measured import FIRST_HALF
from unimat_book.measured import Labelled, load_rruff, simulated_measurements
from unimat_powder.index.index import EVIDENCE, index
from unimat_powder.index.observed import Observed
from unimat_powder.index.refine import IndexedCell
from unimat_powder.index.symmetry import cell_matrix
from unimat_powder.library.file import Library
from unimat_powder.pattern import Pattern
from unimat_powder.peak_finding import LineList, find_lines

SAME_LENGTH, SAME_ANGLE = 0.01, 1.0  # the book's rule
VOLUME_ERROR, CELL_ERROR, ANGLE_ERROR = 0.1, 0.05, 1.5  # of what a network might say
KNOWN = ("nothing", "volume", "cell")


def is_right(cell: IndexedCell, one: Labelled) -> bool:
    """Whether a cell is that of the sample."""
    lengths = np.abs(np.divide(cell.lengths, one.lengths) - 1).max()
    angles = np.abs(np.subtract(cell.angles, one.angles)).max()
    return bool(lengths <= SAME_LENGTH and angles <= SAME_ANGLE)


def hints(one: Labelled, known: str, generator: np.random.Generator) -> dict[str, object]:
    """What the search is told."""
    cell = np.array([*one.lengths, *one.angles])
    if known == "volume":
        volume = np.linalg.det(cell_matrix(cell)) * np.exp(generator.normal(0, VOLUME_ERROR))
        return {"volume": [(volume, VOLUME_ERROR)]}
    if known == "cell":
        oblique = np.abs(cell[3:] - 90) > 0.01
        cell[:3] *= 1 + CELL_ERROR * generator.uniform(-1, 1, 3)
        cell[3:] += ANGLE_ERROR * generator.uniform(-1, 1, 3) * oblique
        return {"seeds": cell[None]}
    return {}


def places(found: Sequence[IndexedCell], one: Labelled) -> int:
    """Place of the right cell, 99 without."""
    return next((i for i, cell in enumerate(found) if is_right(cell, one)), 99)


def measure(labelled: Sequence[Labelled], known: str, name: str) -> list[Result]:
    """Search all patterns and print what came out."""
    generator = np.random.default_rng(0)
    ranks, seconds, accepted = [], [], []
    by_system: dict[str, Counter[str]] = {}
    for one in labelled:
        lines = Observed.of(one.pattern)
        told = hints(one, known, generator)
        start = time.process_time()
        found = index(lines, least_evidence=-np.inf, **told)
        seconds.append(time.process_time() - start)
        rank = places(found, one)
        ranks.append(rank)
        accepted.append(bool(found) and found[0].evidence > EVIDENCE)
        counts = by_system.setdefault(system_word(one.space_group), Counter())
        counts.update(patterns=1, first=rank == 0, five=rank < 5)
        first = found[0] if found else None
        print(f"{one.sample:<26}{rank:>4}  " + (described(first) if first else "no cell"))
    rank, yes = np.array(ranks), np.array(accepted)
    wrong = (yes & (rank > 0)).sum() / max(yes.sum(), 1)
    for word, counts in by_system.items():
        print(f"  {word:<14}{counts['first']:>3} first {counts['five']:>3} of {counts['patterns']}")
    print(
        f"{name}, {known} known: {(rank == 0).mean():.1%} first, {(rank < 5).mean():.1%} among "
        f"five, {(rank < 20).mean():.1%} among twenty; {yes.mean():.1%} accepted, of them "
        f"{wrong:.1%} wrong; {np.median(seconds):.1f} s (largest {max(seconds):.1f})"
    )
    device = device_name("cpu")
    values = ((rank == 0).mean(), "first"), ((rank < 5).mean(), "among_five"), (wrong, "wrong")
    results = [
        Result(name=f"indexing_{name}_{known}_{what}", value=value, unit="1", device=device)
        for value, what in values
    ]
    duration = float(np.median(seconds))
    timing = Result(name=f"indexing_{name}_{known}", value=duration, unit="s", device=device)
    return [*results, timing]


def described(cell: IndexedCell) -> str:
    """A cell in a line."""
    return (
        f"{cell.lattice:<16}V {cell.volume:7.1f}  evidence {cell.evidence:6.1f}  "
        f"{cell.explained} + {cell.unexplained} lines  M {cell.m20:.0f}  F {cell.f20:.0f}"
    )


def system_word(space_group: int) -> str:
    """Crystal system of a space group."""
    ends = (2, "triclinic"), (15, "monoclinic"), (74, "orthorhombic"), (142, "tetragonal")
    ends += (167, "trigonal"), (194, "hexagonal"), (230, "cubic")
    return next(word for end, word in ends if space_group <= end)


def random_lines(lines: LineList, generator: np.random.Generator, *, shuffled: bool) -> Observed:
    """A list of random lines like one of a pattern, or that one with its gaps in another order."""
    keep = ~lines.spurious
    angles = lines.two_theta[keep]
    if shuffled:
        gaps = generator.permutation(np.diff(angles))
        angles = angles[0] + np.concatenate([[0], np.cumsum(gaps)])
    else:
        angles = np.sort(generator.uniform(angles[0], angles[-1], len(angles)))
    return Observed.from_lines(
        angles,
        sigma=lines.two_theta_sigma[keep],
        intensity=generator.permutation(lines.intensity[keep]),
        width=float(np.median(lines.fwhm[keep])),
    )


def added(one: Pattern, other: Pattern) -> Pattern:
    """Sum of two patterns, the second interpolated, with equal highest points."""
    y = one.intensity.numpy() / float(one.intensity.max())
    more = np.interp(one.two_theta.numpy(), other.two_theta.numpy(), other.intensity.numpy())
    total = y + more / float(other.intensity.max())
    return Pattern(one.two_theta, torch.from_numpy(total))


def chance(labelled: Sequence[Labelled], number: int) -> list[Result]:
    """Largest evidence of random lists, and how often mixtures are accepted."""
    generator = np.random.default_rng(0)
    lists = [find_lines(one.pattern) for one in labelled]
    largest = []
    for i in range(number):
        lines = lists[generator.integers(len(lists))]
        found = index(random_lines(lines, generator, shuffled=i % 2 == 1), least_evidence=-np.inf)
        largest.append(found[0].evidence if found else -np.inf)
    random = np.array(largest)
    quantiles = np.quantile(random, [0.5, 0.9, 0.95, 0.98, 0.99, 1.0])
    print("evidence of random lists (50, 90, 95, 98, 99, 100 %):", quantiles.round(1))
    accepted, foreign = 0, 0
    for _ in range(number // 4):
        one, other = generator.choice(len(labelled), 2, replace=False)
        found = index(added(labelled[one].pattern, labelled[other].pattern))
        both = labelled[one], labelled[other]
        accepted += bool(found)
        foreign += bool(found) and not any(is_right(found[0], each) for each in both)
    print(f"mixtures: {accepted} of {number // 4} accepted, {foreign} with the cell of neither")
    device = device_name("cpu")
    share = float((random > EVIDENCE).mean())
    return [
        Result(name="indexing_random_accepted", value=share, unit="1", device=device),
        Result(
            name="indexing_mixture_foreign",
            value=foreign / max(number // 4, 1),
            unit="1",
            device=device,
        ),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("measured", "simulated", "chance"))
    parser.add_argument("source", type=Path, help="folder of the patterns, or a library")
    parser.add_argument("--number", type=int, default=100)
    options = parser.parse_args()
    if options.what == "simulated":
        library = Library.open(options.source)
        labelled = simulated_measurements(library, options.number, seed=7)
        record(measure(labelled, "nothing", "simulated"))
        return
    labelled = load_rruff(options.source)[:FIRST_HALF]
    if options.what == "chance":
        record(chance(labelled, options.number))
    else:
        record([one for known in KNOWN for one in measure(labelled, known, "measured")])


if __name__ == "__main__":
    main()
