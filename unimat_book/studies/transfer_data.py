"""Crystals in; which are left out of training, set apart, and how near to training they are out."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import gemmi
import numpy as np
import pandas as pd
import torch
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from unimat_book.novelty import NOVELTY, novelty, structure_types
from unimat_book.statistics import bootstrap_mean
from unimat_book.studies.results import Mean
from unimat_lib.crystals.table import CrystalTable

INSIDE = ("elements", "structure_types", "chemical_systems")
"""Domains inside of a data set, each a part of its elements, structure types or systems."""

SHARE = 0.15
"""Of the training crystals, that belong to such a domain."""

TWINS = 0.02
"""Relative difference of each length up to which two crystals may be the same one."""


# ---- what is left out -----------------------------------------------------------------------


def groups_of(table: CrystalTable, kind: str) -> list[frozenset[str]]:
    """Names of the groups that each crystal belongs to.

    Args:
        table: The crystals.
        kind: One of :data:`INSIDE`: a crystal belongs to each of its elements, or to one structure
            type (:func:`.structure_types`), or to one chemical system (its set of elements).

    Raises:
        ValueError: There is no such kind.
    """
    types, elements = structure_types(table)
    names = [frozenset(gemmi.Element(z).name for z in some) for some in elements]
    if kind == "elements":
        return names
    if kind == "structure_types":
        return [frozenset((name,)) for name in types]
    if kind == "chemical_systems":
        return [frozenset(("-".join(sorted(some)),)) for some in names]
    raise ValueError(f"expected a kind of {INSIDE}, got {kind!r}")


def held_out(
    train: Sequence[frozenset[str]], test: Sequence[frozenset[str]], *, share: float, seed: int
) -> frozenset[str]:
    """Groups, picked at random, that a share of the training crystals belongs to, never more.

    Only groups that test crystals belong to as well are of use. They are gone through in a random
    order, and each is taken that still fits.

    Args:
        train: Groups of each training crystal.
        test: Groups of each test crystal.
        share: Between 0 and 1.
        seed: Of the order.

    Raises:
        ValueError: Not one group is that small and has test crystals.
    """
    rows = defaultdict(list)
    for row, names in enumerate(train):
        for name in names:
            rows[name].append(row)
    names = sorted(frozenset().union(*test) & rows.keys())
    out, taken = np.zeros(len(train), dtype=bool), []
    for number in np.random.default_rng(seed).permutation(len(names)):
        mine = rows[names[number]]
        if out.sum() + (~out[mine]).sum() <= share * len(train):
            out[mine] = True
            taken.append(names[number])
    if not taken:
        what = f"none of {len(names)} groups that training and test crystals both have"
        raise ValueError(f"{what} is at most {share:.0%} of the {len(train)} training crystals")
    return frozenset(taken)


def belongs(groups: Sequence[frozenset[str]], taken: frozenset[str]) -> np.ndarray:
    """Which crystals belong to one of some groups, bool ``[C]``."""
    return np.array([not taken.isdisjoint(names) for names in groups], dtype=bool)


def without_as_many(rows: Tensor, inside: Tensor, *, seed: int) -> Tensor:
    """Training rows less as many at random as are ``inside``, all of which stay: the control.

    Args:
        rows: int64 ``[T]``.
        inside: Which of them belong to the domain, bool ``[T]``.
        seed: Of the choice.

    Raises:
        ValueError: More are inside than outside.
    """
    outside, number = (~inside).nonzero()[:, 0], int(inside.sum())
    if number > len(outside):
        raise ValueError(f"{number} crystals of {len(rows)} are inside, more than the half")
    order = torch.randperm(len(outside), generator=torch.Generator().manual_seed(seed))
    keep = torch.ones(len(rows), dtype=torch.bool)
    keep[outside[order[:number]]] = False
    return rows[keep]


# ---- equal compute --------------------------------------------------------------------------


def paced(
    rows: Tensor, *, steps: int, batch_size: int, most_epochs: int, seed: int
) -> tuple[Tensor, int]:
    """Rows of an epoch and a number of epochs that make exactly so many steps.

    Epochs divide the steps evenly; among such numbers the one is taken that comes nearest to seeing
    each crystal once an epoch. Then crystals are repeated, or left out, at random to fit.

    Args:
        rows: The crystals, int64 ``[n]``.
        steps: How many are wanted.
        batch_size: Crystals per step.
        most_epochs: No more of them.
        seed: Of the random choice.

    Returns:
        int64 ``[m]`` with ``steps / epochs`` whole batches, and the number of epochs.
    """
    even = [n for n in range(1, min(steps, most_epochs) + 1) if steps % n == 0]
    wanted = steps * batch_size / len(rows)
    epochs = min(even, key=lambda n: abs(math.log(n / wanted)))
    size = steps // epochs * batch_size
    if size <= len(rows) < size + batch_size:
        return rows, epochs
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))
    return rows[torch.cat([order.repeat(size // len(rows)), order[: size % len(rows)]])], epochs


# ---- foreign domains ------------------------------------------------------------------------


@dataclass(frozen=True)
class Parts:
    """A foreign domain taken apart; rows of its table, int64 each.

    Attributes:
        pool: What models may be tuned on, in a random order, so that 10 of it are among 100.
        asked: What they are asked about; no crystal has a near twin in the pool.
        shared: Crystals whose formula and space group training has too, asked about apart.
    """

    pool: Tensor
    asked: Tensor
    shared: Tensor


def foreign_parts(table: CrystalTable, known: CrystalTable, *, pool: int, seed: int = 0) -> Parts:
    """Set a pool for tuning apart.

    Near twins (one formula, space group, number of atoms, lengths within :data:`TWINS`, also by way
    of others) stay together: a random search finds diamond a hundred times.

    Args:
        table: All crystals of the domain.
        known: Those of training.
        pool: Size of the pool.
        seed: Of the choice.

    Raises:
        ValueError: Nothing is left to ask about.
    """
    seen = set(_formula_and_group(known))
    shared = np.array([key in seen for key in _formula_and_group(table)], dtype=bool)
    twins, rng = twin_groups(table), np.random.default_rng(seed)
    new = np.flatnonzero(~shared)
    names = rng.permutation(np.unique(twins[new]))
    sizes = np.bincount(twins[new], minlength=twins.max() + 1)[names]
    number = int(np.searchsorted(sizes.cumsum(), pool)) + 1
    mine = np.isin(twins[new], names[:number])
    if mine.all():
        raise ValueError(f"a pool of {pool} leaves nothing of {len(new)} crystals to ask about")
    picked = rng.permutation(new[mine])[:pool]
    parts = picked, new[~mine], np.flatnonzero(shared)
    return Parts(*(torch.from_numpy(np.asarray(rows, dtype=np.int64)) for rows in parts))


def twin_groups(table: CrystalTable, *, tolerance: float = TWINS) -> np.ndarray:
    """A number for each crystal, int64 ``[C]``; near twins of near twins have the same."""
    members = defaultdict(list)
    keys = zip(_formula_and_group(table), table.num_atoms.tolist(), strict=True)
    for row, key in enumerate(keys):
        members[key].append(row)
    lengths, found, first = table.lengths.log().cpu().numpy(), np.zeros(len(table), np.int64), 0
    for rows in members.values():
        gap = np.abs(lengths[rows][:, None] - lengths[rows]).max(2)
        number, labels = connected_components(gap <= math.log1p(tolerance), directed=False)
        found[rows] = first + labels
        first += number
    return found


def _formula_and_group(table: CrystalTable) -> list[str]:
    return (table.info["formula"] + " " + table.info["space_group"].astype(str)).tolist()


# ---- distance to training -------------------------------------------------------------------


def distances(crystals: CrystalTable, known: CrystalTable) -> pd.DataFrame:
    """How far ``C`` crystals are from those of training.

    Returns:
        ``C`` rows: ``elements_seen``, the share of a crystal's elements that training has;
        ``composition``, the share of its atoms that have to become others to get the nearest
        composition of training (0: the same one, 1: no element in common with any);
        ``formula``, ``formula_and_group``, ``structure_type``, ``chemical_system``, whether
        training has the same; ``category``, see :func:`.novelty`; and ``num_atoms``.
    """
    types, systems = structure_types(crystals)
    known_types, known_systems = (set(x) for x in structure_types(known))
    elements = frozenset().union(*known_systems)
    pairs = set(_formula_and_group(known))
    return pd.DataFrame(
        {
            "elements_seen": [len(some & elements) / len(some) for some in systems],
            "composition": composition_distance(crystals, known),
            "formula": crystals.info["formula"].isin(known.info["formula"]).to_numpy(),
            "formula_and_group": [key in pairs for key in _formula_and_group(crystals)],
            "structure_type": [name in known_types for name in types],
            "chemical_system": [some in known_systems for some in systems],
            "category": novelty(crystals, known, tolerance=TWINS)["category"],
            "num_atoms": crystals.num_atoms.cpu().numpy(),
        }
    )


def composition_distance(crystals: CrystalTable, known: CrystalTable) -> np.ndarray:
    """Half the sum of differences of atomic fractions to the nearest known ones, ``[C]``, 0 to 1.

    It is the share of the atoms that would have to be replaced by others.
    """
    mine, place = np.unique(_fractions(crystals), axis=0, return_inverse=True)
    theirs = np.ascontiguousarray(np.unique(_fractions(known), axis=0).T)  # [119, F]
    found = np.empty(len(mine))
    for row, fractions in enumerate(mine):
        present = np.flatnonzero(fractions)
        common = np.minimum(theirs[present], fractions[present, None]).sum(0)
        found[row] = 1 - common.max()
    return np.clip(found, 0, 1).round(6)[place.reshape(-1)]


def _fractions(table: CrystalTable) -> np.ndarray:
    """Atomic fractions by atomic number, float32 ``[C, 119]``."""
    counts = np.zeros((len(table), 119))
    np.add.at(counts, (table.atom_crystal.cpu().numpy(), table.atomic_numbers.cpu().numpy()), 1)
    return (counts / counts.sum(1, keepdims=True)).astype(np.float32)


def what_is_shared(parts: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """What training has of some domains: a row for each, by name.

    Args:
        parts: Of each domain the :func:`distances` of its crystals.

    Returns:
        ``crystals``; how many of them training shares ``formula_and_group``, ``formula``,
        ``structure_type`` and ``chemical_system`` with; ``near_twins``; ``elements_seen``, how many
        have no new element; and the mean of ``composition``.
    """
    same = ["formula_and_group", "formula", "structure_type", "chemical_system"]
    rows = {
        name: {
            "crystals": len(frame),
            **{column: int(frame[column].sum()) for column in same},
            "near_twins": int((frame["category"] == NOVELTY[0]).sum()),
            "elements_seen": int((frame["elements_seen"] == 1).sum()),
            "composition": float(frame["composition"].mean()),
        }
        for name, frame in parts.items()
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("domain")


EDGES = (0.0, 0.1, 0.2, 0.35, 0.5, 1.0)
"""Where distances of compositions are cut; those that are known have a bin of their own."""


def by_distance(
    values: np.ndarray,
    distance: Sequence[object] | np.ndarray | pd.Series,
    *,
    edges: Sequence[float] = EDGES,
) -> pd.DataFrame:
    """Means of some values by distance, nearest first.

    Args:
        values: Errors, or 100 and 0, ``[n]``.
        distance: Of each crystal, ``[n]``: a column of :func:`distances`.
        edges: Where numbers are cut. A bin has its upper edge; the smallest edge is a bin too.

    Returns:
        A row for each bin that has a crystal: ``distance`` (in words), ``crystals``, ``mean``, and
        the 95 % interval over crystals ``low`` and ``high``.

    Raises:
        ValueError: There is not one distance for each value, or one lies beyond the edges.
    """
    if len(values) != len(distance):
        raise ValueError(f"{len(values)} values came with {len(distance)} distances")
    rows = []
    values = pd.Series(np.asarray(values, dtype=np.float64))
    for name, part in values.groupby(_bins(pd.Series(distance), edges), observed=True):
        ends = bootstrap_mean(part.to_numpy())
        rows.append((name, len(part), float(part.mean()), *ends))
    return pd.DataFrame(rows, columns=["distance", "crystals", "mean", "low", "high"])


def _bins(distance: pd.Series, edges: Sequence[float]) -> pd.Categorical:
    """The bin of each crystal, in words; bins in order, nearest first."""
    if pd.api.types.is_bool_dtype(distance):
        return pd.Categorical(np.where(distance, "known", "new"), ["known", "new"], ordered=True)
    if not pd.api.types.is_numeric_dtype(distance):
        return pd.Categorical(distance, NOVELTY, ordered=True)
    if distance.min() < edges[0] or distance.max() > edges[-1]:
        came = f"{distance.min():g} to {distance.max():g} came"
        raise ValueError(f"distances between {edges[0]:g} and {edges[-1]:g} expected, {came}")
    words = [f"{edges[0]:g}", *(f"{a:g} to {b:g}" for a, b in itertools.pairwise(edges))]
    places = np.searchsorted(edges, distance)  # 0 for the smallest edge itself
    return pd.Categorical.from_codes(places, words, ordered=True)


# ---- outcomes -------------------------------------------------------------------------------


SHOWN = (
    *("scaled_length_mae", "length_mae", "angle_mae", "crystal_system_accuracy"),
    *("scaled_length_mae_no_formula", "crystal_system_accuracy_no_formula"),
    *("scaled_length_mae_no_pattern", "crystal_system_accuracy_no_pattern"),
)
"""Metrics of :func:`transfer_table`."""


def transfer_table(means: Sequence[Mean]) -> pd.DataFrame:
    """What each variant reaches on each domain, a row for each of ``means``.

    Returns:
        ``domain``, ``variant``, ``crystals``, ``seeds``, each metric of :data:`SHOWN`, mean over
        seeds, and its standard deviation over seeds as ``<metric>_std`` (NaN for one seed).
    """
    rows = []
    for mean in means:
        row = {"domain": mean.domain, "variant": mean.variant}
        row |= {"crystals": len(next(iter(mean.values.values()))), "seeds": len(mean.seeds)}
        for metric in SHOWN:
            scores = mean.scores[metric]
            row[metric] = scores.mean()
            row[f"{metric}_std"] = scores.std(ddof=1) if len(scores) > 1 else np.nan
        rows.append(row)
    return pd.DataFrame(rows)
