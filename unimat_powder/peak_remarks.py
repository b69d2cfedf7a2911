"""Lines of a measured pattern in; which of them are not the sample's, and warnings, out."""

from typing import NamedTuple

import numpy as np

SPIKE = "spike"

# Of tubes by their K-alpha 1, angstrom: K-beta; and L-alpha 1 of tungsten from an old filament.
# Source: International Tables for Crystallography C (2004), table 4.2.2.4.
_K_BETA = {
    1.54056: 1.39225, 0.70930: 0.63230, 1.78896: 1.62082, 1.93604: 1.75664, 2.28970: 2.08491,
    0.559421: 0.497082,
}  # fmt: skip
_W_L_ALPHA = 1.47642
_LARGEST_PART = {"K-beta": 0.25, "W L-alpha": 0.05}  # of the K-alpha line: more is another line
_FEWEST = {"K-beta": 1, "W L-alpha": 2}  # strong lines that must have the satellite
_LEAK = 0.05  # of the K-alpha line: more than a filter lets through needs a second witness
_STRONG = 0.05  # of the strongest line: those whose satellites are looked for
_SAME = 3.0  # factor by which shares may differ: absorption edges, overlap, texture in one scan


class Peaks(NamedTuple):
    """``K`` peaks by rising angle."""

    two_theta: np.ndarray  # [K] degrees
    intensity: np.ndarray  # [K]
    sigma: np.ndarray  # [K] of the intensity, if the width is known
    fwhm: np.ndarray  # [K] degrees


def remarks_of(peaks: Peaks, wavelength: float, *, start: float) -> list[str]:
    """Say which lines are those of another wavelength of the tube.

    A strong line has a satellite of K-beta at the same spacing, and so has every other, in the same
    share. So the strongest line must have one, others too as far as it would be visible, and then
    all lines at such places are satellites that are not much stronger than that share.

    Args:
        peaks: All peaks of a pattern.
        wavelength: Of the lines, angstrom.
        start: First angle of the pattern, degrees.

    Returns:
        ``K`` times ``""``, ``"K-beta"`` or ``"W L-alpha"``.
    """
    remark = [""] * len(peaks.two_theta)
    for tube, beta in _K_BETA.items():
        if abs(wavelength / tube - 1) < 1.5e-3 and len(remark) > 1:
            for name, other in (("K-beta", beta), ("W L-alpha", _W_L_ALPHA)):
                if other < wavelength:
                    for i in _satellites(peaks, other / wavelength, name, start):
                        remark[i] = remark[i] or name
    return remark


def _satellites(peaks: Peaks, ratio: float, name: str, start: float) -> list[int]:
    """Places of the lines that stronger ones make by a wavelength ``ratio`` times theirs."""
    x, intensity = peaks.two_theta, peaks.intensity
    there = np.degrees(2 * np.arcsin(np.sin(np.radians(x / 2)) * ratio))
    parents = np.flatnonzero((intensity > _STRONG * intensity.max()) & (there > start))
    near = np.abs(x - there[parents, None]) < np.maximum(0.35 * peaks.fwhm, 0.03)  # [parents, K]
    part = np.where(near, intensity / intensity[parents, None], 0.0)
    free = part.max(1, initial=0) < _LARGEST_PART[name]  # else another line lies there
    parents, part = parents[free], part[free]
    if not len(parents):
        return []
    share = part.max(1)
    expected = share[intensity[parents].argmax()]
    agree = (share > expected / _SAME) & (share < expected * _SAME)
    fewest = _FEWEST[name] if expected < _LEAK else 2
    visible = expected * intensity[parents] > 6 * np.median(np.sort(peaks.sigma)[: len(x) // 2])
    if agree.sum() < fewest or agree[visible].sum() < 0.6 * visible.sum():
        return []
    return np.flatnonzero(((part > 0) & (part < _SAME * expected)).any(0)).tolist()


def find_spikes(intensity: np.ndarray) -> np.ndarray:
    """Places of single points that stand out of both their neighbours, int ``[S]``.

    A cosmic ray or a glitch hits one point; a line that is measured at all covers several. Where
    many points are like that, the steps are too coarse for the lines, and none is a spike.

    Args:
        intensity: ``[n]``, at least 16.
    """
    n = len(intensity)
    offsets = np.array([-5, -4, -3, -2, 2, 3, 4, 5])
    middle = np.arange(1, n - 1)
    around = intensity[np.clip(middle[:, None] + offsets, 0, n - 1)]
    base = np.median(around, axis=1)
    excess = intensity[1:-1] - base
    beside = np.maximum(intensity[:-2], intensity[2:]) - base
    noise = _noise_of_steps(intensity)[1:-1]
    spikes = (excess > 8 * noise) & (beside < 0.2 * excess)
    found = middle[spikes & (excess > 8 * np.sqrt(np.maximum(base, 0) * _count(intensity)))]
    return found if len(found) <= max(3, n // 2000) else found[:0]


def _noise_of_steps(intensity: np.ndarray) -> np.ndarray:
    """Standard deviation near each point, from the median step between neighbours, ``[n]``."""
    steps = np.abs(np.diff(intensity))
    positive = steps[steps > 0]
    size = min(101, len(steps))
    starts = np.arange(0, len(steps) - size + 1, max(size // 2, 1))
    local = np.median(steps[starts[:, None] + np.arange(size)], axis=1) / 0.954
    least = positive.min() if len(np.unique(positive)) > 2 else 0.0  # a count is at least that
    return np.maximum(np.interp(np.arange(len(intensity)), starts + size / 2, local), least)


def _count(intensity: np.ndarray) -> float:
    """Size of one count in units of the pattern, where it is made of counts; else 0."""
    values = np.unique(intensity)
    if len(values) < 3:
        return 0.0
    quantum = float(np.diff(values).min())
    multiple = (values - values[0]) / quantum
    return quantum if np.abs(multiple - multiple.round()).max() < 0.02 else 0.0
