"""Measured patterns of known crystals in, how often a search names them out.

The patterns are those of the RRUFF project as labelled in a public retrieval benchmark; they lie
outside of the book and are for testing only. Where they are not there, simulated measurements of
the embedded prototypes stand in, so that every page can be built.
"""

import functools
import hashlib
import multiprocessing
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from pymatgen.core import Composition
from pymatgen.core import Lattice as LatticeVectors

from unimat_lib.crystals.reduction import niggli_cell
from unimat_lib.crystals.table import CRYSTAL_SYSTEMS
from unimat_lib.processes import unordered
from unimat_lib.views.bragg import Reflections
from unimat_lib.views.grid import Grid
from unimat_powder.answer import (
    Answer,
    Cell,
    Lattice,
    SearchResult,
    make_answer,
    space_group_prior,
    system_of,
)
from unimat_powder.index.refine import IndexedCell
from unimat_powder.library.file import Library
from unimat_powder.network.predict import read_pattern
from unimat_powder.pattern import Pattern, PatternError
from unimat_powder.search.amplitude import amplitude_of
from unimat_powder.search.candidates import line_index
from unimat_powder.search.curve import measured_curve
from unimat_powder.search.search import search, with_elements
from unimat_powder.search.shifts import SHIFTS, LineIndex, overlaps
from unimat_powder.simulation.instruments import Instruments
from unimat_powder.simulation.ranges import RRUFF
from unimat_powder.simulation.scans import scans_of
from unimat_powder.simulation.symmetry import strain_projectors, tensor_of
from unimat_powder.witnesses import Lines, of_cells, shipped_reader, with_witnesses

SHA256 = {
    "rruff_labelled.csv": "85becebb7672692c9599002dd53e60d12dc539e59b9fedd887456d4557d353c2",
    "rruff_labelled.npz": "9479fc1625a4fef3b36584de4d27b9361949a49b912f504e41051b10f19c669e",
}
SAME = 0.05
"""Relative difference of lengths up to which a computed cell is that of the sample."""

READ_BY_HAND = {
    1: "theory's cells are off by 5 % and more; few lines on a high hump",
    2: "isostructural neighbour; 80 counts at the highest point",
    3: "theory's cell is off by 8 %; the lines are those of a close packing that many share",
    4: "isostructural neighbours: many face-centred metals have this cell",
    5: "isostructural neighbour: another divalent metal",
    9: "not in the library; hardly any line",
    10: "fluorine against oxygen in one framework",
    12: "crystals of other structures with the same cubic cell",
    14: "the right structure with an atom missing, in a larger cell",
    16: "not in the library; label without hydrogen",
    17: "a guest in the channels of the right framework",
    19: "another ordering of the same compound",
    20: "theory's cells are off by 6 %; label without hydrogen",
    22: "the right framework with a vacancy",
    23: "label without hydrogen; ordered mixed sites of the same framework",
    28: "isostructural neighbour: the next transition metal",
    29: "isostructural neighbour; the sample's cell lies between two members of the series",
    30: "fluorine against oxygen in one framework",
    31: "not in the library, which has the smaller cell of another order",
    33: "label without hydrogen; fluorine in its place",
    38: "ordered mixed sites of the same framework",
    39: "not in the library",
    44: "not in the library, which has relatives with other rare earths",
    46: "isostructural neighbour: the next rare earth",
    47: "isostructural neighbour: the next transition metal",
    49: "not in the library",
    51: "theory's cell is off by 5 %; one line outshines all others",
    52: "the same structure with three metals for two",
    55: "theory's cell is off by 9 %; isostructural neighbour",
}
"""What was seen in wrong answers to patterns of the first half, by their place in the sorted list,
from 1: curve, candidates and cells were looked at on 26 November 2026."""

NETWORK_READ_BY_HAND = {
    3: "nearly hexagonal: lines of the distortion and of the order do not show",
    9: "a line and a hump: no symmetry to read",
    13: "hardly above the noise; unsure itself",
    16: "grains lie flat: one line outshines all others; the elements mend it",
    19: "nearly tetragonal, and wide lines: nothing splits",
    29: "hardly above the noise",
    31: "more atoms than in any crystal it learned from; the average framework is monoclinic",
    42: "a toss-up",
    44: "hardly above the noise; mixed sites",
    45: "subcell: the superlattice is too weak to see; its own subgroup read",
    46: "few lines above the noise; the elements mend it",
    49: "more atoms than in any crystal it learned from",
    50: "subcell: every second layer of lines is too weak to see",
    51: "grains lie flat: one line outshines all others",
    54: "nothing unusual to see",
}
"""What was seen where the network reads the wrong crystal system off patterns of the first half, by
the same places: curve, probabilities and cells were looked at on 27 November 2026."""

KINDS = (
    "right",
    "not in the library",
    "another structure of the same elements",
    "the same structure type with other elements",
    "unlike in both",
)
"""What a first answer is; its place here is the number on file."""


_WAYS = ((False, True), (False, False), (True, True), (True, False))  # told elements; known


@dataclass(frozen=True, eq=False)
class Labelled:
    """A measured pattern whose crystal is known."""

    sample: str
    pattern: Pattern
    formula: str
    space_group: int
    lengths: tuple[float, float, float]  # of the primitive Niggli cell, angstrom
    angles: tuple[float, float, float]  # degrees


def load_rruff(folder: Path) -> list[Labelled]:
    """The labelled RRUFF patterns, sorted by sample.

    Args:
        folder: Where ``rruff_labelled.csv`` and ``.npz`` lie.

    Raises:
        FileNotFoundError: They are not there.
        ValueError: They are others than those of the published numbers.
    """
    for name, expected in SHA256.items():
        found = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        if found != expected:
            raise ValueError(f"{folder / name}: expected sha256 {expected}, but found {found}")
    table = pd.read_csv(folder / "rruff_labelled.csv")
    with np.load(folder / "rruff_labelled.npz") as arrays:
        flat = {name: arrays[name].astype(np.float64) for name in ("two_theta", "intensity")}
        offsets = arrays["offsets"]
    labelled = []
    for place, row in enumerate(table.itertuples()):
        inside = slice(*offsets[place : place + 2])
        two_theta, intensity = (torch.from_numpy(flat[name][inside]) for name in flat)
        cell = [float(x) for x in row.niggli.split()]
        pattern = Pattern(two_theta, intensity)
        labelled.append(
            Labelled(
                row.sample, pattern, row.formula, row.space_group, tuple(cell[:3]), tuple(cell[3:])
            )
        )
    return sorted(labelled, key=lambda one: one.sample)


def simulated_measurements(library: Library, number: int, *, seed: int) -> list[Labelled]:
    """Some crystals of a library as one laboratory would measure them, for a page without data.

    The cells stated are those of the strained crystals, as a refinement would find them.
    """
    rows = torch.randperm(len(library), generator=torch.Generator().manual_seed(seed))[:number]
    table = library.crystals(rows)
    grid = Grid(5.0, 90.0, 8501)
    counts, _, reflections, instruments = scans_of(table, RRUFF, grid, seed=seed)
    cells = _strained_cells(table.lattice, reflections, instruments)
    return [
        Labelled(
            sample=f"simulated {i + 1}",
            pattern=Pattern(grid.two_theta, counts[i].round().double()),
            formula=table.info["formula"].iloc[i],
            space_group=int(table.space_group[i]),
            lengths=cells[i].lengths,
            angles=cells[i].angles,
        )
        for i in range(number)
    ]


def _strained_cells(
    lattice: torch.Tensor, reflections: Reflections, instruments: Instruments
) -> list[LatticeVectors]:
    """Niggli cells of the main crystals of some instruments."""
    number = len(lattice)
    projector = strain_projectors(reflections.reciprocal)
    strain = tensor_of((projector @ instruments.strain[:number, :, None])[..., 0]).double()
    scale = (1 + instruments.isotropic[:number]).double()[:, None, None]
    strained = lattice @ (torch.eye(3, dtype=torch.float64) + strain) * scale
    return [LatticeVectors(niggli_cell(cell)) for cell in strained.numpy()]


def bare_formula(formula: str) -> str:
    """Reduced formula without hydrogen, which many refinements leave out."""
    left = {e: n for e, n in Composition(formula).items() if e.symbol not in ("H", "D")}
    return (Composition(left) if left else Composition(formula)).reduced_formula


def right_rows(labelled: Labelled, library: Library) -> list[int]:
    """Rows of the library that are the sample's crystal.

    The same formula, hydrogen aside, and the same cell within 5 per cent and 12 per cent of its
    volume; or the same formula and space group, and a quarter of the volume: theory gets some soft
    crystals that wrong.
    """
    rows = with_elements(library, symbols_of(labelled))
    table = library.crystals(rows)
    volume = LatticeVectors.from_parameters(*labelled.lengths, *labelled.angles).volume
    right = []
    for i, row in enumerate(rows.tolist()):
        formula = library.formula(row)
        if bare_formula(formula) != bare_formula(labelled.formula):
            continue
        off = np.abs(np.sort(table.lengths[i]) / np.sort(labelled.lengths) - 1).max()
        larger = abs(float(table.volume[i]) / volume - 1)
        exact = (
            Composition(formula).reduced_formula == Composition(labelled.formula).reduced_formula
        )
        alike = exact and int(table.space_group[i]) == labelled.space_group
        if (off < SAME and larger < 0.12) or (alike and larger < 0.25):
            right.append(row)
    return right


def outcomes(
    labelled: Sequence[Labelled], library: Library, *, workers: int = 1
) -> dict[tuple[bool, bool], pd.DataFrame]:
    """What is answered, one row a pattern.

    Args:
        labelled: The patterns.
        library: The known crystals.
        workers: Processes.

    Returns:
        For each (elements told, right crystal known) a frame with ``in_library``; ``rank`` of the
        right crystal, from 0 (-1: not among ten) and ``probability`` of the first one (0 without
        any); ``cell_rank`` of the right cell and ``p_cell`` of the first one; ``system_right`` and
        ``p_system`` of the likeliest crystal system; ``group_right``, of the likeliest space group;
        ``confident``, the verdict, ``p_answer``, what it is worth, and ``answer_right``, whether
        the cell and the crystal system that it speaks of are right; ``residual``, what the first
        match's fit leaves; ``kind``, place in :data:`KINDS`; and what each witness would have said
        alone: ``library_cell``, ``library_system``, ``lines_cell``, ``network_system``,
        ``network_group``, whether they were right, and ``network_length_error``, mean over the
        three lengths, per cent. ``label_stray`` and ``answer_stray`` are the shares of the lines,
        by amplitude, that the labelled cell and the first answer's leave unexplained; NaN where
        the lines are too few, or do not give that cell.
    """
    jobs = [(place, one, str(library.path)) for place, one in enumerate(labelled)]
    found = dict(unordered(_asked_four_ways, jobs, workers=workers))
    return {
        way: pd.DataFrame([found[place][way] for place in range(len(labelled))]) for way in _WAYS
    }


def _asked_four_ways(
    place: int, one: Labelled, path: str
) -> tuple[int, dict[tuple[bool, bool], dict[str, object]]]:
    library = _opened(path)
    prior = space_group_prior(library.space_group.numpy())
    right = right_rows(one, library)
    names = {library.material_id(i) for i in right}
    rows = {}
    lines = Lines(one.pattern)
    label = stray_of_label(one, lines)
    for elements, known in _WAYS:
        symbols = symbols_of(one) if elements else None
        without = () if known else frozenset(right)
        listed = search(one.pattern, library, elements=symbols, without=without)
        found = with_witnesses(listed, one.pattern, lines, shipped_reader(), elements=symbols)
        answer = make_answer(found, one.pattern, file=one.sample, prior=prior)
        alone = _each_witness(one, listed, lines, symbols)
        left = found.lattices[0].stray if found.lattices else np.nan
        strays = {"label_stray": label, "answer_stray": left}
        rows[elements, known] = _outcome(one, answer, names, known) | alone | strays
    return place, rows


def stray_of_label(one: Labelled, lines: Lines) -> float:
    """Share of the lines that the sample's own cell does not explain, NaN of too few lines.

    A label may be of another piece of the mineral than the one that was measured.
    """
    label = of_cells(np.array([[*one.lengths, *one.angles]]), lines.observed)
    return label[0].stray if label else np.nan


def _each_witness(
    one: Labelled, listed: SearchResult, lines: Lines, symbols: Collection[str] | None
) -> dict[str, object]:
    """What library, lines and network would each have answered alone."""
    truth = system_of(one.space_group)
    library, trial = (next(iter(some), None) for some in (listed.lattices, lines.trials))
    read = read_pattern(shipped_reader(), one.pattern, elements=symbols)
    lengths = np.divide(read.cells[0].lengths, one.lengths)
    return {
        "library_cell": library is not None and cell_is_right(library, one),
        "library_system": library is not None and library.system == truth,
        "lines_cell": trial is not None and cell_is_right(trial, one),
        "network_system": CRYSTAL_SYSTEMS[int(read.system.argmax())] == truth,
        "network_group": int(read.group.argmax()) + 1 == one.space_group,
        "network_length_error": float(100 * np.abs(lengths - 1).mean()),
    }


@functools.lru_cache(maxsize=1)
def _opened(path: str) -> Library:
    # Two processes with two threads each wait for one another on a computer of two cores.
    if multiprocessing.parent_process() is not None:
        torch.set_num_threads(1)
    return Library.open(path)


def systems_of_many(
    folder: Path, library: Library, *, workers: int
) -> tuple[np.ndarray, np.ndarray]:
    """Whether crystal system and space group are right for ``rruff_dev``, bool ``[454]`` each.

    Patterns of the same project that were processed before they were collected: background taken
    off, the highest point set to 1000. The library may hold the right crystal or not; no elements
    are told.
    """
    with np.load(folder / "rruff_dev.npz") as arrays:
        curves, groups = arrays["intensity"], arrays["spacegroup_number"]
    jobs = [
        (i, x, int(g), str(library.path))
        for i, (x, g) in enumerate(zip(curves, groups, strict=True))
    ]
    found = dict(unordered(_system_of_one, jobs, workers=workers))
    system, group = np.array([found[i] for i in range(len(jobs))]).T
    return system, group


def _system_of_one(
    place: int, curve: np.ndarray, group: int, path: str
) -> tuple[int, tuple[bool, bool]]:
    library = _opened(path)
    two_theta = 5 + 0.01 * torch.arange(len(curve), dtype=torch.float64)
    pattern = Pattern(two_theta, torch.from_numpy(curve.astype(np.float64) / 65))
    try:
        found = search(pattern, library)
    except PatternError:
        return place, (False, False)
    prior = space_group_prior(library.space_group.numpy())
    answer = make_answer(found, pattern, file="", prior=prior)
    system = max(answer.crystal_system, key=answer.crystal_system.__getitem__)
    return place, (system == system_of(group), answer.space_group[0][0] == group)


def symbols_of(one: Labelled) -> set[str]:
    """Chemical elements of a sample."""
    return {element.symbol for element in Composition(one.formula).elements}


def _outcome(one: Labelled, answer: Answer, right: set[str], known: bool) -> dict[str, object]:
    ranks = [i for i, match in enumerate(answer.phases) if match.material_id in right]
    cells = [i for i, cell in enumerate(answer.cells) if cell_is_right(cell, one)]
    system = max(answer.crystal_system, key=answer.crystal_system.__getitem__)
    first = answer.phases[0] if answer.phases else None
    return {
        "in_library": bool(right) and known,
        "rank": ranks[0] if ranks else -1,
        "confident": answer.verdict == "confident",
        "p_answer": answer.probability,
        "probability": first.probability if first else 0.0,
        "system_right": system == system_of(one.space_group),
        "p_system": answer.crystal_system[system],
        "group_right": answer.space_group[0][0] == one.space_group,
        "cell_rank": cells[0] if cells else -1,
        "p_cell": answer.cells[0].probability if answer.cells else 0.0,
        "answer_right": cells[:1] == [0] and system == system_of(one.space_group),
        "residual": 1 / first.figure_of_merit if first else 1.0,
        "kind": KINDS.index(_kind(one, answer, ranks[:1] == [0], bool(right) and known)),
    }


def _kind(one: Labelled, answer: Answer, first_right: bool, there: bool) -> str:
    """What the first answer is, a word of :data:`KINDS`."""
    if first_right:
        return "right"
    if not there or not answer.phases:
        return "not in the library"
    first = answer.phases[0]
    if {e.symbol for e in Composition(first.formula).elements} - {"H"} == symbols_of(one) - {"H"}:
        return "another structure of the same elements"
    larger = abs(
        first.volume / LatticeVectors.from_parameters(*one.lengths, *one.angles).volume - 1
    )
    if first.space_group == one.space_group and larger < 0.1:
        return "the same structure type with other elements"
    return "unlike in both"


def cell_is_right(cell: Cell | Lattice | IndexedCell, one: Labelled) -> bool:
    """All lengths within 1 per cent and all angles within 1 degree of the sample's cell."""
    lengths = np.abs(np.divide(cell.lengths, one.lengths) - 1).max()
    return bool(lengths <= 0.01 and np.abs(np.subtract(cell.angles, one.angles)).max() <= 1.0)


def baseline(labelled: Sequence[Labelled], library: Library, *, elements: bool) -> pd.DataFrame:
    """The same for the plain cosine of root intensities over 25 isotropic scales, with no fit.

    Columns ``in_library``, ``rank``, ``system_right`` as in :func:`outcomes`.
    """
    lines = line_index(library)
    rows = []
    for one in labelled:
        right = right_rows(one, library)
        among = with_elements(library, symbols_of(one)) if elements else None
        some = lines if among is None else lines.select(among)
        score = _plain_cosine(one.pattern, some)
        order = torch.argsort(score, descending=True)[:10]
        best = order if among is None else among[order]
        ranks = [i for i, row in enumerate(best.tolist()) if row in right]
        first = int(library.space_group[best[0]]) if len(best) else 1
        rows.append(
            {
                "in_library": bool(right),
                "rank": ranks[0] if ranks else -1,
                "system_right": system_of(first) == system_of(one.space_group),
            }
        )
    return pd.DataFrame(rows)


def _plain_cosine(pattern: Pattern, lines: LineIndex) -> torch.Tensor:
    """Best cosine over 25 scales, 0.15 per cent apart, ``[C]``."""
    scores = overlaps(amplitude_of(measured_curve(pattern)), lines)  # [C, S]
    middle = -SHIFTS[0]
    return scores[:, middle - 12 : middle + 13].max(1).values
