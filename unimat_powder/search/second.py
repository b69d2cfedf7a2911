"""A curve and the phase that explains most of it in, what it leaves and whether it is a second out.

A phase of a tenth already spoils the agreement of the first one: whether there are two is asked
before the first is believed. Two things must come together: with the second phase the computed
curve agrees clearly better, and what the first one leaves looks like the second.
"""

from dataclasses import replace

import numpy as np

from unimat_powder.answer import Curves
from unimat_powder.search.curve import MeasuredCurve

LEAST_GAIN = 0.2
"""By how much a second phase must lower ln of the profile residual. On simulated patterns of two
prototypes, one of them 10 to 40 %, it does by 0.23 to 0.9; on others' by at most 0.19."""

LEAST_COSINE = 0.75
"""Of the root curves of what the first phase leaves and of the second one; 0.79 to 0.94 there."""

_LEFT = 0.06  # of the signal: less of it left over is no sign of a second phase
_MISFIT = 0.15  # of a computed curve: what it may be wrong by
_OWN = 0.3  # of the signal: where a phase makes more, nothing can be said about another
_ERROR = 0.03  # of the measured signal, in the residual


def phase_of(curves: Curves) -> np.ndarray:
    """What a phase contributes, ``[P]``."""
    return np.clip(curves.computed - curves.background, 0, None)


def without(curve: MeasuredCurve, curves: Curves) -> MeasuredCurve | None:
    """What a first phase leaves of a curve, or ``None`` where that is next to nothing."""
    phase = phase_of(curves)
    signal = np.clip(curve.signal - (1 + _MISFIT) * phase, 0, None)
    signal[phase > _OWN * curve.signal] = 0.0  # flanks of the first phase's own lines
    if signal.sum() < _LEFT * curve.signal.sum():
        return None
    return _subtracted(curve, phase, signal)


def cleaned(curve: MeasuredCurve, curves: Curves) -> MeasuredCurve:
    """A curve from which a known second phase is taken."""
    phase = phase_of(curves)
    signal = np.clip(curve.signal - phase, 0, None)
    signal[signal < _MISFIT * phase] = 0.0
    return _subtracted(curve, phase, signal)


def _subtracted(curve: MeasuredCurve, phase: np.ndarray, signal: np.ndarray) -> MeasuredCurve:
    variance = curve.variance + (_MISFIT * phase) ** 2  # else its misfit would rule what is left
    return replace(curve, counts=curve.counts - phase, signal=signal, variance=variance)


def gain(curve: MeasuredCurve, first: Curves, second: Curves) -> float:
    """By how much ln of the profile residual falls with the second phase."""
    net = curve.counts - first.background
    weight = 1 / (curve.variance + (_ERROR * net) ** 2)
    alone = net - phase_of(first)
    both = alone - phase_of(second)
    return 0.5 * float(np.log((weight * alone**2).sum() / (weight * both**2).sum()))
