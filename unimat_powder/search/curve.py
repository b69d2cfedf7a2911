"""A measured pattern in, the curve that candidates are compared with out.

Equidistant, without background, with its noise known and everything that noise explains set to
zero: on the square-root scale of the comparison a crowd of noise would outweigh the peaks.
"""

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter1d, median_filter

from unimat_powder.pattern import Pattern, PatternError
from unimat_powder.preparation import snip_background
from unimat_powder.radiation import K_ALPHA

STEP = 0.02  # degrees; finer steps are averaged
_SMOOTH = 0.04  # degrees, standard deviation: narrower than any laboratory's peak
_HALF_WINDOW = 1.5  # degrees: what is narrower than twice this is a peak, not background
_LEVEL = 2.0  # standard deviations of the smoothed noise that a signal must exceed
_SAME = 1.2e-3  # of a wavelength: K-alpha 1 and the mean of the doublet differ by 0.8e-3
_HUMP, _SHARP = 1.5, 0.25  # degrees; share of a line's height that smoothing by that takes away
_FEWEST = 50  # points of a curve that can be compared with anything


@dataclass(frozen=True, eq=False)
class MeasuredCurve:
    """One pattern, ready to be compared.

    Attributes:
        two_theta: ``[P]`` float64, equidistant, degrees.
        counts: ``[P]`` as measured, in the measurement's unit.
        background: ``[P]`` smooth level under the peaks.
        variance: ``[P]`` of the counting noise of ``counts``.
        signal: ``[P]``, ``counts`` smoothed, without background; zero where noise explains it.
        lines: Wavelength (angstrom) and share of each line of the radiation.
        otherwise: The same if K-alpha 2 is not there, where nobody says whether it is.
    """

    two_theta: np.ndarray
    counts: np.ndarray
    background: np.ndarray
    variance: np.ndarray
    signal: np.ndarray
    lines: tuple[tuple[float, float], ...]
    otherwise: tuple[tuple[float, float], ...] | None = None

    @property
    def wavelength(self) -> float:
        """Mean wavelength of the lines, angstrom."""
        return sum(wavelength * share for wavelength, share in self.lines)

    @property
    def noise(self) -> np.ndarray:
        """Standard deviation of the noise of ``signal``, ``[P]``."""
        return _smoothed_noise(self.variance, self.two_theta[1] - self.two_theta[0])

    @property
    def g(self) -> np.ndarray:
        """1/d of the points at the mean wavelength, 1/angstrom, ``[P]``."""
        return 2 * np.sin(np.radians(self.two_theta / 2)) / self.wavelength


def measured_curve(pattern: Pattern) -> MeasuredCurve:
    """Bring a measured pattern into the form that the search compares.

    Raises:
        PatternError: Too few points, or nothing rises above the background.
    """
    two_theta, counts = _equidistant(pattern.two_theta.numpy(), pattern.intensity.numpy())
    step = two_theta[1] - two_theta[0]
    smooth = gaussian_filter1d(counts, _SMOOTH / step)
    background = snip_background(smooth, half_window=round(_HALF_WINDOW / step))
    # Neighbouring points differ by their noise; 0.455 is the median of a squared normal deviate.
    squares = np.append(np.diff(counts) ** 2, 0.0) / 2 / 0.455
    variance = median_filter(squares, _odd(1.5 / step))
    variance = np.maximum(variance, (1e-5 * np.ptp(counts)) ** 2)
    noise = _smoothed_noise(variance, step)
    signal = smooth - background
    # Clipping lies below noisy data, not within: the level of what is no peak is added.
    quiet = np.where(signal < 4 * noise + np.median(signal), signal, np.median(signal))
    offset = median_filter(quiet, _odd(4 / step))
    background, signal = background + offset, signal - offset
    signal = np.where(signal > _LEVEL * noise, signal, 0.0)
    if not signal.any():
        raise PatternError("nothing rises above the background; check the intensity column")
    narrow = signal - gaussian_filter1d(signal, _HUMP / step)
    if narrow.max() < _SHARP * signal.max():
        raise PatternError(
            "no line stands out: what rises above the background is broad, as of a glass or a "
            "liquid; expected peaks narrower than about 2 degrees"
        )
    lines = lines_of(pattern.wavelength, k_alpha_2=pattern.k_alpha_2)
    otherwise = lines[:1] if pattern.k_alpha_2 is None and len(lines) > 1 else None
    otherwise = otherwise and ((otherwise[0][0], 1.0),)
    return MeasuredCurve(two_theta, counts, background, variance, signal, lines, otherwise)


def _smoothed_noise(variance: np.ndarray, step: float) -> np.ndarray:
    """Standard deviation that smoothing leaves of white noise; of smoothed patterns it is more."""
    return np.sqrt(variance * min(1.0, step / (2 * np.sqrt(np.pi) * _SMOOTH)))


def lines_of(wavelength: float, *, k_alpha_2: bool | None) -> tuple[tuple[float, float], ...]:
    """Wavelengths and shares of the radiation: the doublet where it is an anode's, else one line.

    Args:
        wavelength: Of the pattern, angstrom: an anode's mean K-alpha or K-alpha 1.
        k_alpha_2: Whether K-alpha 2 is in the beam; ``None``, unknown, counts as yes.
    """
    for first, second in K_ALPHA.values():
        mean = (2 * first + second) / 3
        if (
            k_alpha_2 is not False
            and min(abs(wavelength / first - 1), abs(wavelength / mean - 1)) < _SAME / 4
        ):
            return (first, 2 / 3), (second, 1 / 3)
    return ((wavelength, 1.0),)


def _equidistant(two_theta: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means over steps of ``STEP``, or of the measurement's own step where that is wider."""
    inside = (two_theta > 0.5) & (two_theta < 175)  # tan and 1 / sin stay finite
    two_theta, counts = two_theta[inside], counts[inside]
    step = max(STEP, float(np.median(np.diff(two_theta)))) if len(two_theta) > 1 else STEP
    points = int((two_theta[-1] - two_theta[0]) / step) + 1 if len(two_theta) else 0
    if points < _FEWEST:
        came = f"{len(two_theta)}"
        if len(two_theta) >= _FEWEST:
            span = two_theta[-1] - two_theta[0]
            came += f" within {span:.3g} degrees, as few as {points} in steps of {step:.3g} degrees"
        raise PatternError(
            f"expected at least {_FEWEST} points between 0.5 and 175 degrees, but came {came}"
        )
    place = np.minimum(((two_theta - two_theta[0]) / step + 0.5).astype(int), points - 1)
    number = np.bincount(place, minlength=points)
    total = np.bincount(place, counts, minlength=points)
    grid = two_theta[0] + step * np.arange(points)
    filled = number > 0
    return grid, np.interp(grid, grid[filled], total[filled] / number[filled])


def _odd(width: float) -> int:
    return 2 * int(width / 2) + 1
