"""The lowest lines at a trial shift in; quick scores of many trial cells out."""

import numpy as np
from scipy.special import gammaln

from unimat_powder.index.observed import Observed, to_q

_LOWEST = 20  # lines that choose among trial cells
_WINDOW = 0.03  # degrees: what a trial shift and the solved lines leave
_BINS = 8192  # of the table that says which lines lie at a value of Q
_CHUNK = 512  # cells at once: what fits a cache
_PASSED = 6000  # cells of a lattice that are compared with all their lines


class Sieve:
    """The lowest lines at one trial shift, ready to be compared with many cells.

    Attributes:
        q: ``[P]`` 1/d^2 of the lines, rising.
        strong: ``[S]`` of those that stand out among them: what trial cells may be solved for,
            where weak strangers crowd at low angles.
    """

    def __init__(self, observed: Observed, shift: float) -> None:
        angles = observed.two_theta[:_LOWEST] - shift
        window = _WINDOW + 1.5 * observed.sigma[:_LOWEST]
        low, high = (to_q(angles + sign * window, observed.wavelength) for sign in (-1.0, 1.0))
        self.q = to_q(angles, observed.wavelength)
        self.strong = to_q(observed.two_theta[observed.strong] - shift, observed.wavelength)
        self._reach = float(high[-1])
        self._table = np.zeros(_BINS + 2, dtype=np.int32)
        for line, (first, last) in enumerate(zip(low, high, strict=True)):
            a, b = (int(x / self._reach * _BINS) for x in (first, last))
            self._table[a : b + 1] |= 1 << line
        self._table[-1] = 0
        self._width = (high - low) / self._reach
        self._reliability = observed.reliability[:_LOWEST]

    def _compare(self, free: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Which lines cells ``[T, k]`` have, bool ``[T, P]``, and how many they have in all."""
        scale = (rows * (_BINS / self._reach)).astype(np.float32)
        bits = np.empty(len(free), dtype=np.int32)
        number = np.empty(len(free), dtype=np.int64)
        for start in range(0, len(free), _CHUNK):
            part = slice(start, start + _CHUNK)
            place = np.minimum(scale @ free[part].T.astype(np.float32), _BINS + 1).astype(np.int32)
            bits[part] = np.bitwise_or.reduce(self._table[place], axis=0)
            number[part] = (place <= _BINS).sum(0)
        return (bits[:, None] >> np.arange(len(self.q))) & 1 == 1, number

    def scores(self, free: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """How much better than chance cells explain the lines.

        Args:
            free: Their free numbers ``[T, k]``.
            rows: Lines as coefficients of the free numbers, ``[n, k]``.

        Returns:
            Logarithms of odds ``[T]``.
        """
        if len(free) <= 2 * _PASSED:
            return self._score(free, rows)
        order = np.argsort(np.abs(rows).sum(1), kind="stable")
        few = self._score(free, rows[order[: len(rows) // 3]])  # most low lines have low indices
        passed = np.argpartition(-few, _PASSED)[:_PASSED]
        score = np.full(len(free), -np.inf)
        score[passed] = self._score(free[passed], rows)
        return score

    def _score(self, free: np.ndarray, rows: np.ndarray) -> np.ndarray:
        # Share of a cell's lines (they crowd as Q^(3/2)) that lie in the window of each line.
        share = 1.5 * np.sqrt(self.q / self._reach) * self._width
        hit, number = self._compare(free, rows)
        gain = np.where(hit, np.log(self._reliability / share), np.log1p(-self._reliability))
        return gain.sum(1) - _choices(hit, number)

    def zone_scores(self, free: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The same for zones, whose lines lie evenly in Q and are not all there are.

        Returns:
            Logarithms of odds ``[T]``, and which lines each zone has, bool ``[T, P]``.
        """
        hit, number = self._compare(free, rows)
        gain = np.where(hit, np.log(self._reliability / self._width), 0.0)
        return gain.sum(1) - _choices(hit, number), hit


def _choices(hit: np.ndarray, number: np.ndarray) -> np.ndarray:
    """Which of its lines show is unknown: each was one of those not taken yet."""
    matched = np.minimum(hit.sum(1), number)
    return gammaln(number + 1) - gammaln(number - matched + 1)
