"""A measured pattern or its lines in, the cells that explain it better than chance out, best first.

Trial cells of all fourteen Bravais lattices (:mod:`.trials`), fitted with zero shift and
displacement (:mod:`.fit`); each lattice then under every symmetry that it comes near
(:mod:`.refine`). Nothing need be known; a volume or similar cells help where they are.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from scipy.special import logsumexp

from unimat_powder.bravais import lattice_bases
from unimat_powder.index.fit import Fitted, fit_cells
from unimat_powder.index.observed import Observed
from unimat_powder.index.refine import IndexedCell, different_cells, with_symmetries
from unimat_powder.index.seeds import cells_near
from unimat_powder.index.trials import VOLUMES, trial_cells, volumes_of
from unimat_powder.pattern import Pattern
from unimat_powder.peak_finding import LineList

FEWEST_LINES = 4  # fewer say nothing of a cell
EVIDENCE = 0.0  # even odds; random lines have reached less in hundreds of searches
_REFINED, _ANSWERS = 30, 20  # cells that are fitted under several symmetries; that are returned
# Median volume of primitive cells and width of its logarithm among 20,000 known crystals, by the
# number of free numbers of their lattice.
_VOLUMES = np.array([0, 140, 240, 370, 370, 0, 370.0])
_SPREADS = np.array([1, 0.95, 0.85, 0.8, 0.75, 1, 0.75])
# A cell is about a seed within this (relative, degrees). Half of the prior lies there, on free
# numbers twenty times as exact as those of any cell: ln 20 each.
_SEED_LENGTH, _SEED_ANGLE, _PER_NUMBER = 0.08, 4.0, 3.0
_TAIL = 3.0  # standard deviations of a known volume that trial cells may be off


def index(
    source: Pattern | LineList | Observed,
    *,
    volume: Sequence[tuple[float, float]] | None = None,
    seeds: np.ndarray | None = None,
    least_evidence: float = EVIDENCE,
) -> list[IndexedCell]:
    """Find the cells that explain the lines of a pattern.

    Args:
        source: A measured pattern, the lines of :func:`.find_lines`, or :class:`.Observed` lines.
        volume: What is known of the volume of the primitive cell, one or more possibilities:
            cubic angstrom and the standard deviation of its logarithm.
        seeds: Cells that the crystal may have, roughly: lengths (angstrom) and angles (degrees)
            ``[N, 6]``, good to about 5 per cent; those of relatives in a library, or of a network.
        least_evidence: Cells with less are left out.

    Returns:
        At most twenty different cells, best first; none where none is better than chance.

    Raises:
        ValueError: A volume or a seed is impossible.
    """
    observed = source if isinstance(source, Observed) else Observed.of(source)
    volume = _checked(volume)
    seeds = None if seeds is None else np.asarray(seeds, dtype=float)
    if len(observed) < FEWEST_LINES:
        return []
    fits = _fits(observed, volume, seeds)
    fitted = Fitted(*(np.concatenate(column) for column in zip(*fits, strict=True)))
    if not len(fitted.metric):
        return []
    free = (np.abs(fitted.basis).sum(1) > 0).sum(1)
    prior = _log_prior(volumes_of(fitted.metric), free, volume)
    fitted = fitted._replace(evidence=fitted.evidence + prior)
    best, cells = different_cells(fitted, _REFINED)
    found = with_symmetries(cells, fitted.shift[best], observed)
    weighed = []
    for cell in found:
        prior = float(_log_prior(np.array(cell.volume), np.array(cell.free_numbers), volume))
        if seeds is not None and _near_seed(cell, seeds):
            prior += _PER_NUMBER * cell.free_numbers - math.log(2)
        weighed.append(replace(cell, evidence=cell.evidence + prior))
    weighed.sort(key=lambda cell: -cell.evidence)
    return [cell for cell in weighed if cell.evidence > least_evidence][:_ANSWERS]


def _fits(
    observed: Observed, volume: list[tuple[float, float]], seeds: np.ndarray | None
) -> Iterator[Fitted]:
    """Fitted trial cells, lattice by lattice."""
    low = min((v * np.exp(-_TAIL * s) for v, s in volume), default=VOLUMES[0])
    high = max((v * np.exp(_TAIL * s) for v, s in volume), default=VOLUMES[1])
    every = lattice_bases(torch.device("cpu")).numpy()
    if seeds is not None:
        yield fit_cells(*cells_near(seeds, observed), observed)
    for lattice, metric, shift in trial_cells(observed, (low, high)):
        bases = np.broadcast_to(every[lattice], (len(metric), 6, 6))
        shifts = np.stack([np.zeros_like(shift), shift], 1)
        yield fit_cells(metric, bases, shifts, observed)


def _near_seed(cell: IndexedCell, seeds: np.ndarray) -> bool:
    """Whether a cell is about one of the seeds ``[N, 6]``."""
    lengths = np.abs(np.array(cell.lengths) / seeds[:, :3] - 1).max(1)
    angles = np.abs(np.array(cell.angles) - seeds[:, 3:]).max(1)
    return bool(((lengths < _SEED_LENGTH) & (angles < _SEED_ANGLE)).any())


def _checked(volume: Sequence[tuple[float, float]] | None) -> list[tuple[float, float]]:
    volume = list(volume or ())
    for value, sigma in volume:
        if not (0 < value < np.inf and 0 < sigma < np.inf):
            raise ValueError(
                "expected volumes as (cubic angstrom, standard deviation of ln V), both positive, "
                f"but came ({value}, {sigma})"
            )
    return volume


def _log_prior(
    volumes: np.ndarray, free: np.ndarray, known: list[tuple[float, float]]
) -> np.ndarray:
    """Logarithm of how likely primitive cells of these volumes are, up to a constant.

    Args:
        volumes: ``[M]`` cubic angstrom.
        free: Numbers that the lattices leave free, ``[M]``.
        known: What is known of the volume, if anything.
    """
    if not known:
        return -0.5 * (np.log(volumes / _VOLUMES[free]) / _SPREADS[free]) ** 2
    each = [-0.5 * (np.log(volumes / v) / spread) ** 2 - np.log(spread) for v, spread in known]
    return logsumexp(each, axis=0) - np.log(len(known))
