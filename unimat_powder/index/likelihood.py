"""Lines of cells and observed lines in; how much better than chance the cells explain them out.

A list of lines is one hypothesis's doing: each resolved line of the cell shows with a probability
v, off by the error of its position; strangers lie anywhere. Chance has strangers only. Half of the
lines of a true cell may be faint or extinct, those with odd l, say, as atoms sit or glide planes
want it: so v may differ between the lines of an index-2 sublattice and the others. Integrals over v
are exact (Beta functions), and the sublattice is summed over.
"""

import math
from typing import NamedTuple

import numpy as np
from scipy.special import betaln, logsumexp

from unimat_powder.index.observed import Observed

FAR = 400.0  # degrees between the lines of two cells on one axis
_LONG_TAIL = 0.12, 4.0  # share of the lines whose error is that many times as large
_SPLIT = 0.5  # prior probability that some sublattice is fainter or extinct
_BETA = 2.0  # of the prior of v: few cells show nearly all or nearly none of their lines
_BLOB = 0.6  # of the resolution: computed lines nearer to an observed one are not missed
_SAME = 1e-4  # degrees: reflections nearer than that are one line
_ROUNDS = 6


class Computed(NamedTuple):
    """Lines of ``M`` cells on one axis, and the nearest to each observed line."""

    place: np.ndarray  # [L] angles + FAR times the cell, rising
    parity: np.ndarray  # [L] which of h, k, l are odd, bits 0 to 2
    rows: np.ndarray  # [M, K, 6] products of the indices of the nearest
    off: np.ndarray  # [M, K] observed minus computed, degrees
    nearest: np.ndarray  # [M, K] places of the nearest among the L


def list_likelihood(
    near: Computed, observed: Observed, sigma: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Logarithms of odds against chance ``[M]``, with positions as they are.

    Also the probability ``[M, K]`` that each observed line is the cell's.

    Args:
        near: Lines of the cells.
        observed: The lines.
        sigma: Their standard deviations ``[K]``, degrees.
    """
    odd = _odd_bits(near.parity, near.place)
    missed, missed_odd = _missed(near.place, odd, len(near.off), observed)  # [M], [M, 7]
    nearest_odd = (odd[near.nearest][..., None] >> np.arange(7)) & 1 == 1  # [M, K, 7]
    none_odd = np.zeros((*near.off.shape, 1), bool)  # no sublattice apart
    odd_line = np.concatenate([none_odd, nearest_odd], 2)  # [M, K, 8]
    lost_odd = np.concatenate([np.zeros((len(missed), 1)), missed_odd], 1)  # [M, 8]
    lost_even = missed[:, None] - lost_odd
    crowd = _crowd(near.place, len(near.off), observed)
    certain = _match(near.off, observed, sigma) / crowd  # odds were all lines visible
    even, uneven = (0.5 * (odd_line == want).sum(1) for want in (False, True))
    for _ in range(_ROUNDS):  # a fixed point of how many lines show and which are explained
        v_even = (even + _BETA) / (even + lost_even + 2 * _BETA)
        v_odd = (uneven + _BETA) / (uneven + lost_odd + 2 * _BETA)
        here = certain[..., None] * np.where(odd_line, v_odd[:, None], v_even[:, None])
        probability = here / (1 + here)  # [M, K, 8]
        uneven = (probability * odd_line).sum(1)
        even = probability.sum(1) - uneven
    value = np.log1p(here).sum(1) + even + uneven
    for shown, lost, v in ((even, lost_even, v_even), (uneven, lost_odd, v_odd)):
        value += betaln(shown + _BETA, lost + _BETA) - betaln(_BETA, _BETA) - shown * np.log(v)
    value += np.log(1 - observed.reliability).sum()
    prior = np.log([1 - _SPLIT, *[_SPLIT / 7] * 7])
    total = logsumexp(value + prior, axis=1)
    share = np.exp(value + prior - total[:, None])
    return total, (probability * share[:, None]).sum(2)


def _match(off: np.ndarray, observed: Observed, sigma: np.ndarray) -> np.ndarray:
    """Odds ``[M, K]`` of each line's being at its computed place against being a stranger."""
    density = len(observed) / (observed.end - observed.start)
    share, wide = _LONG_TAIL
    z2 = (off / sigma) ** 2
    match = (1 - share) * np.exp(-z2 / 2) + share / wide * np.exp(-z2 / (2 * wide**2))
    match = match / (math.sqrt(2 * math.pi) * sigma * density)
    return match * observed.reliability / (1 - observed.reliability)


def _crowd(place: np.ndarray, count: int, observed: Observed) -> np.ndarray:
    """How many different lines each observed one cannot be told from, ``[M, K]``, at least 1.

    Together they show as one line, which lies at one of them.
    """
    different = np.cumsum(_different(place))
    centre = observed.two_theta + FAR * np.arange(count)[:, None]
    reach = _BLOB * observed.resolution
    left, right = (np.searchsorted(place, centre + sign * reach) for sign in (-1, 1))
    padded = np.concatenate([[0], different])
    return np.maximum(padded[right] - padded[left], 1)


def _odd_bits(parity: np.ndarray, place: np.ndarray) -> np.ndarray:
    """For which of the seven sublattices lines have reflections outside of it only, 7 bits."""
    table = [
        sum((bin(indices & p).count("1") & 1) << (p - 1) for p in range(1, 8))
        for indices in range(8)
    ]
    line = _different(place)
    outside = np.bitwise_and.reduceat(np.array(table)[parity], np.flatnonzero(line))
    return outside[np.cumsum(line) - 1]


def _different(place: np.ndarray) -> np.ndarray:
    """Which reflections, by rising angle, begin another line."""
    return np.diff(place, prepend=-np.inf) > _SAME


def _missed(
    place: np.ndarray, odd: np.ndarray, count: int, observed: Observed
) -> tuple[np.ndarray, np.ndarray]:
    """Resolved lines of each cell in the range that no observed line hides, ``[M]``.

    Also how many of them have lines outside of each of the seven sublattices only, ``[M, 7]``.
    """
    size = observed.resolution
    cell = np.floor(place / FAR + 0.25).astype(int)
    angle = place - FAR * cell
    bins = np.arange(observed.start, observed.end + size, size)
    hidden = np.abs(bins[:, None] + size / 2 - observed.two_theta).min(1) < _BLOB * size
    inside = (angle > observed.start) & (angle < observed.end)
    slot = ((angle - observed.start) / size).clip(0, len(bins) - 1).astype(int)
    inside &= ~hidden[slot]
    if not inside.any():
        return np.zeros(count), np.zeros((count, 7))
    cell, slot, odd = cell[inside], slot[inside], odd[inside]
    first = np.flatnonzero(np.diff(cell * len(bins) + slot, prepend=-1))
    both = np.bitwise_and.reduceat(odd, first)
    missed = np.bincount(cell[first], minlength=count).astype(float)
    each = [
        np.bincount(cell[first], (both >> sublattice) & 1, minlength=count)
        for sublattice in range(7)
    ]
    return missed, np.stack(each, 1)
