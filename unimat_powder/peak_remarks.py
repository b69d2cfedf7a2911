"""Lines of a measured pattern in; which of them are not the sample's, and warnings, out."""

import numpy as np

SPIKE = "spike"

# Of tubes by their K-alpha 1, angstrom: K-beta; and L-alpha 1 of tungsten from an old filament.
# Source: International Tables for Crystallography C (2004), table 4.2.2.4.
_K_BETA = {
    1.54056: 1.39225, 0.70930: 0.63230, 1.78896: 1.62082, 1.93604: 1.75664, 2.28970: 2.08491,
    0.559421: 0.497082,
}  # fmt: skip
_W_L_ALPHA = 1.47642
_LARGEST_PART = {"K-beta": 0.25, "W L-alpha": 0.1}  # of the K-alpha line: more is another line
_STRONG = 0.1  # of the strongest line: those whose satellites are looked for


def remarks_of(
    two_theta: np.ndarray, intensity: np.ndarray, fwhm: np.ndarray, wavelength: float
) -> list[str]:
    """Say which lines are those of another wavelength of the tube.

    A strong line has a satellite of K-beta at the same spacing. Its share is the same for all; so
    the wavelength is taken to be there only if the strong lines agree on it, and then lines at
    such places are satellites as long as they are not much stronger than that share.

    Args:
        two_theta: ``[K]`` degrees, rising.
        intensity: ``[K]``.
        fwhm: ``[K]`` degrees.
        wavelength: Of the lines, angstrom.

    Returns:
        ``K`` times ``""``, ``"K-beta"`` or ``"W L-alpha"``.
    """
    remark = [""] * len(two_theta)
    for tube, beta in _K_BETA.items():
        if abs(wavelength / tube - 1) < 1.5e-3 and len(two_theta) > 1:
            for name, other in (("K-beta", beta), ("W L-alpha", _W_L_ALPHA)):
                if other < wavelength:
                    for i in _satellites(two_theta, intensity, fwhm, other / wavelength, name):
                        remark[i] = remark[i] or name
    return remark


def _satellites(
    two_theta: np.ndarray, intensity: np.ndarray, fwhm: np.ndarray, ratio: float, name: str
) -> list[int]:
    """Places of the lines that stronger ones make by a wavelength ``ratio`` times theirs."""
    there = np.degrees(2 * np.arcsin(np.sin(np.radians(two_theta / 2)) * ratio))
    distance = np.abs(two_theta - there[:, None])  # [parents, K]
    fits = distance < np.maximum(0.35 * fwhm, 0.03)
    part = np.where(fits, intensity / intensity[:, None], 0.0)
    part[part > _LARGEST_PART[name]] = 0
    share = part.max(1)  # [K] of each parent's satellite
    least = intensity.min()
    strong = intensity > _STRONG * intensity.max()
    strong &= there > two_theta[0] - 1
    if not (share[strong] > 0).any():
        return []
    typical = np.median(share[strong & (share > 0)])
    # Satellites that would be too weak to be seen say nothing.
    visible = strong & (intensity * typical > 1.5 * least)
    if not visible.any() or np.mean(share[visible] > 0) < 0.6:
        return []
    return sorted({int(k) for k in np.flatnonzero(((part > 0) & (part < 3 * typical)).any(0))})


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
    least = positive.min() if len(positive) else 0.0
    return np.maximum(np.interp(np.arange(len(intensity)), starts + size / 2, local), least)


def _count(intensity: np.ndarray) -> float:
    """Size of one count in units of the pattern, where it is made of counts; else 0."""
    values = np.unique(intensity)
    if len(values) < 3:
        return 0.0
    quantum = float(np.diff(values).min())
    multiple = (values - values[0]) / quantum
    return quantum if np.abs(multiple - multiple.round()).max() < 0.02 else 0.0
