"""What library, indexing and network say of one pattern in, one calibrated list of lattices out.

Each witness sees something else. The library knows intensities, but not the crystal that nobody has
listed; the lines know the cell, but not the atoms; the network knows what symmetry looks like, but
no number to the last digit. A hypothesis is a cell with a crystal system. What the witnesses say of
it is weighed, and a second weighing says how likely the best hypothesis is right.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from scipy.special import logsumexp

from unimat_lib.crystals.table import CRYSTAL_SYSTEMS, LAST_SPACE_GROUP
from unimat_powder.answer import Lattice, Match, system_of
from unimat_powder.same_cell import same_cell

WEIGHTS = Path(__file__).with_name("combine.json")
"""How much each witness counts, fitted by ``benchmarks/calibrate_search.py``."""

FEATURES = (
    *("library", "crystals", "unlisted", "lines", "unindexed", "system", "group", "volume"),
    *("volume_squared", "polymorph"),
)
"""What the witnesses say of a hypothesis: ln of the library's probability of such a lattice, and of
its crystals being the sample's; whether it has none; how far its cell's evidence from the lines is
below the best one's, and whether it has none; ln of the network's probability of the system, and of
the likeliest of its groups; minus how far ln of the volume is from the network's, in its standard
deviations, and that squared; whether the system is trigonal on a lattice that is hexagonal."""

AGREEMENT = (
    *("lead", *FEATURES, "evidence", "listed_first", "indexed_first", "library_sure"),
    *("large", "network_sure", "stray", "one"),
)
"""What counts for the best hypothesis: by how much it leads the others, in log odds; what the
witnesses say of it; ln of the evidence of the lines; whether library and indexing have it first;
the library's log odds of its own best; ln of the volume; ln of the network's largest probability of
a system; the share of the lines that the best one's cell does not explain; a constant."""

SURE = 0.97
"""Probability of a library's lattice above which the lines are only asked about the library's."""

_LEAST = 1e-3  # of the library's probability, which is not surer than that of anything
_FAR = -25.0  # of evidence
_SHARE = 0.02  # of a lattice system: less is no hypothesis
_FLOOR = 1e-3  # of the network's probabilities
_SYSTEMS_OF = {"rhombohedral": ("trigonal",), "hexagonal": ("trigonal", "hexagonal")}
_NO_RIVAL = 10.0
_ASTRAY = 0.5  # what counts for the share that is astray where the lines do not give a cell


class Indexed(Protocol):
    """A cell that explains the lines, see :class:`.IndexedCell`."""

    lengths: tuple[float, float, float]
    angles: tuple[float, float, float]
    volume: float
    systems: Mapping[str, float]
    evidence: float
    m20: float
    stray: float


class Read(Protocol):
    """What a network read, see :class:`.Reading`."""

    system: np.ndarray
    group: np.ndarray
    volume: float
    volume_error: float


class Unread:
    """What a network says that says nothing."""

    system = np.full(7, 1 / 7)
    group = np.full(230, 1 / 230)
    volume = volume_error = math.nan


@dataclass(frozen=True, eq=False)
class Weights:
    """How the witnesses count, in log odds: of one hypothesis against others; of the best one."""

    hypothesis: tuple[float, ...]
    best: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class Hypotheses:
    """Cells with a crystal system, and what is said of each, float64 ``[H, 10]``."""

    lattices: tuple[Lattice, ...]
    features: np.ndarray
    facts: tuple[float, float]  # ln evidence of the lines, the library's log odds of its best
    network: float  # ln of the largest probability of a system

    def __len__(self) -> int:
        """How many."""
        return len(self.lattices)


def load_weights(setting: str) -> Weights:
    """Weights of ``"pattern"`` (nothing else is known) or of ``"elements"``."""
    found = json.loads(WEIGHTS.read_text(encoding="utf-8"))[setting]
    return Weights(tuple(found["hypothesis"]), tuple(found["best"]))


def is_sure(lattices: Sequence[Lattice]) -> bool:
    """Whether a library alone is sure enough that cells need not be sought without it."""
    return max((one.probability for one in lattices), default=0.0) >= SURE


def combined(
    lattices: Sequence[Lattice],
    matches: Sequence[Match],
    indexed: Sequence[Indexed],
    read: Read,
    weights: Weights,
) -> tuple[Lattice, ...]:
    """Lattices with calibrated probabilities, the likeliest first.

    Args:
        lattices: What the library says of cells and systems.
        matches: What it says of crystals.
        indexed: What the lines say, of the library's cells too.
        read: What the network says.
        weights: Of the setting.
    """
    return judged(hypotheses(lattices, matches, indexed, read), weights)


def judged(found: Hypotheses, weights: Weights) -> tuple[Lattice, ...]:
    """Hypotheses with calibrated probabilities, the likeliest first."""
    if not len(found):
        return ()
    odds = found.features @ np.array(weights.hypothesis)
    best = int(odds.argmax())
    facts = agreement_of(found, odds)
    sure = float(1 / (1 + np.exp(-np.clip(facts @ np.array(weights.best), -50, 50))))
    share = np.exp(odds - logsumexp(odds))
    rest = max(1 - share[best], 1e-12)
    chances = np.where(np.arange(len(odds)) == best, sure, share * (1 - sure) / rest)
    order = sorted(range(len(odds)), key=lambda i: -chances[i])
    return tuple(replace(found.lattices[i], probability=float(chances[i])) for i in order)


def hypotheses(
    lattices: Sequence[Lattice],
    matches: Sequence[Match],
    indexed: Sequence[Indexed],
    read: Read,
) -> Hypotheses:
    """All cells with their systems, and the columns of :data:`FEATURES`."""
    best = max((one.evidence for one in indexed), default=0.0)
    rows = [(one, one.probability, *_indexed_as(one, indexed)) for one in lattices]
    for one in indexed:
        for system, share in _systems_of(one).items():
            new = _lattice(one, system)
            if share >= _SHARE and not any(same_lattice(new, other) for other, *_ in rows):
                rows.append((new, 0.0, one.evidence + np.log(share), one.stray))
    columns = [
        _columns(lattice, listed, _crystals(lattice, matches), lines, best, read)
        for lattice, listed, lines, _ in rows
    ]
    features = np.array(columns).reshape(len(rows), len(FEATURES))
    first = max((one.probability for one in lattices), default=0.0)
    odds = np.log(np.clip(first, 1e-4, 0.9999) / (1 - np.clip(first, 1e-4, 0.9999)))
    facts = float(np.log1p(max(best, 0.0))), float(odds)
    found = tuple(
        replace(one, groups=_groups(one, p, read), stray=stray) for one, p, _, stray in rows
    )
    return Hypotheses(found, features, facts, float(np.log(read.system.max())))


def agreement_of(found: Hypotheses, odds: np.ndarray) -> np.ndarray:
    """The columns of :data:`AGREEMENT`, float64 ``[19]``, for the best of some hypotheses."""
    best = int(odds.argmax())
    others = np.delete(odds, best)
    lead = odds[best] - logsumexp(others) if len(others) else _NO_RIVAL
    evidence, sure = found.facts
    column = {name: found.features[:, i] for i, name in enumerate(FEATURES)}
    return np.array(
        [
            np.clip(lead, -_NO_RIVAL, _NO_RIVAL),
            *found.features[best],
            evidence,
            float(column["library"][best] >= column["library"].max()),
            float(column["lines"][best] >= column["lines"].max() - 0.7),
            sure,
            np.log(found.lattices[best].volume),
            found.network,
            _ASTRAY if math.isnan(stray := found.lattices[best].stray) else stray,
            1.0,
        ]
    )


def _crystals(lattice: Lattice, matches: Sequence[Match]) -> float:
    """Probability that a crystal of this lattice is the sample's."""
    return math.fsum(
        match.probability
        for match in matches
        if system_of(match.space_group) == lattice.system and same_cell(match, lattice)
    )


def _columns(
    lattice: Lattice,
    listed: float,
    crystals: float,
    lines: float | None,
    best: float,
    read: Read,
) -> list[float]:
    groups = read.group[_groups_of(lattice.system)]
    off = abs(np.log(lattice.volume / read.volume)) / np.maximum(read.volume_error, 0.02)
    off = 0.0 if math.isnan(off) else min(float(off), 5.0)
    polymorph = lattice.system == "trigonal" and _has_sixfold(lattice)
    return [
        float(np.log(max(listed, _LEAST))),
        float(np.log(max(crystals, _LEAST))),
        float(listed == 0),
        _FAR if lines is None else max(lines - best, _FAR),
        float(lines is None),
        float(np.log(max(read.system[CRYSTAL_SYSTEMS.index(lattice.system)], _FLOOR))),
        float(np.log(max(groups.max(), _FLOOR))),
        -off,
        -(off**2),
        float(polymorph),
    ]


def _indexed_as(lattice: Lattice, indexed: Sequence[Indexed]) -> tuple[float | None, float]:
    """Evidence that the lines give a listed lattice, and the share of them that is astray.

    Where they give none: ``None``, and NaN.
    """
    found = [
        (one.evidence + np.log(max(_systems_of(one).get(lattice.system, 0.0), 1e-6)), one.stray)
        for one in indexed
        if same_cell(one, lattice)
    ]
    return max(found, default=(None, math.nan))


def _systems_of(one: Indexed) -> dict[str, float]:
    """Probabilities of the crystal systems that an indexed cell may have."""
    shares: dict[str, float] = {}
    for lattice_system, share in one.systems.items():
        names = _SYSTEMS_OF.get(lattice_system, (lattice_system,))
        for name in names:
            shares[name] = shares.get(name, 0.0) + share / len(names)
    return shares


def _lattice(one: Indexed, system: str) -> Lattice:
    return Lattice(one.lengths, one.angles, one.volume, system, {}, 0.0, one.m20, source="indexing")


def _groups(lattice: Lattice, listed: float, read: Read) -> dict[int, float]:
    """Space groups of a lattice: those of its crystals, as the network has them, and others.

    The library's crystals count with their share times what the network thinks of their groups;
    where there are none, the network's groups of the system stand alone.
    """
    numbers = np.arange(1, 231)[_groups_of(lattice.system)]
    network = np.maximum(read.group[_groups_of(lattice.system)], 1e-6)
    network = network / network.sum()
    known = np.array([lattice.groups.get(int(number), 0.0) for number in numbers])
    share = (known + 0.02) * network**0.5 if listed > 0 else network
    share = share / share.sum()
    return {int(n): float(x) for n, x in zip(numbers, share, strict=True) if x > 1e-4}


def _groups_of(system: str) -> slice:
    place = CRYSTAL_SYSTEMS.index(system)
    return slice(([0, *LAST_SPACE_GROUP])[place], LAST_SPACE_GROUP[place])


def _has_sixfold(lattice: Lattice) -> bool:
    """Whether a trigonal crystal's cell is that of a hexagonal lattice: angles 90, 90, 120."""
    return bool(np.ptp([sorted(lattice.angles), [90.0, 90.0, 120.0]], 0).max() < 0.1)


def same_lattice(one: Lattice, other: Lattice) -> bool:
    """Whether cell and crystal system of two are the same."""
    return one.system == other.system and same_cell(one, other)
