"""Intensities of a measured pattern in; background, noise and how it is correlated out."""

from typing import NamedTuple

import numpy as np
from scipy.ndimage import gaussian_filter1d, percentile_filter, uniform_filter1d

from unimat_powder.preparation import snip_background

_WINDOW = 32  # points in which noise is measured
_LAGS = 8  # over how many points noise may be correlated
_QUIET = 0.3  # share of windows that hold no peaks
_TEMPLATES_PER_OCTAVE = 2
_WHITE = 1.5  # times what its differences say: the most variance of independent noise
_RESOLUTION = 1e-5  # of the largest intensity: nobody writes noise that is smaller


class Noise(NamedTuple):
    """What is not signal in ``n`` points of a pattern.

    The variance of a point of height ``h`` above the background is ``variance + per_count * h``.
    """

    background: np.ndarray  # [n]
    variance: np.ndarray  # [n] of the background's noise
    per_count: np.ndarray  # [n] variance per unit of intensity, 1 for raw counts
    correlation: np.ndarray  # [1 + lags], of points this far apart; 1 at 0

    def inflation(self, width: np.ndarray | float) -> np.ndarray:
        """What the variance of a sum over a peak is more than that of independent noise.

        Args:
            width: Full widths at half maximum in points, of any shape, which is returned.
        """
        sigma = np.asarray(width, dtype=float)[..., None] / 2.3548
        lags = np.arange(1, len(self.correlation))
        # A Gaussian of this sigma overlaps with itself, shifted, by exp(-lag^2 / (4 sigma^2)).
        overlap = np.exp(-((lags / np.maximum(sigma, 0.3)) ** 2) / 4)
        return np.maximum(1 + 2 * (overlap * self.correlation[1:]).sum(-1), 0.05)

    def at(self, height: np.ndarray) -> np.ndarray:
        """Variances ``[n]`` where peaks rise this much above the background."""
        return self.variance + self.per_count * np.maximum(height, 0)


def estimate_noise(
    intensity: np.ndarray,
    background: np.ndarray,
    peaks: np.ndarray,
    *,
    doubtful: np.ndarray | float = 0.0,
    uncertainty: np.ndarray | None = None,
) -> Noise:
    """Measure the noise of a pattern where it has no peaks.

    Where differences of neighbouring points are as large as independent noise would make them in
    the quietest parts, they give the variance, which peaks hardly disturb. Otherwise the noise was
    smoothed or rebinned: what the peaks leave is cut into windows of 32 points, straight lines are
    taken out. The quiet third of the windows near each point, compared with what Poisson noise of
    their level would be, gives the variance as a multiple of the level or of stated uncertainties
    squared. Windows with no more variance than that give the autocorrelation at lags of up to 8
    points.

    Args:
        intensity: ``[n]``, nearly equidistant.
        background: ``[n]``.
        peaks: What is certain of them, ``[n]``.
        doubtful: Further ones ``[n]`` that may be noise. They count as noise if it is smoothed:
            noise that was fitted as peaks would look too small.
        uncertainty: Stated standard deviations ``[n]``, if there are any.
    """
    n = len(intensity)
    most = max(intensity.max(), -intensity.min(), 1e-100)
    size = min(_WINDOW, n)
    starts = np.linspace(0, n - size, n // size).round().astype(int)
    windows = starts[:, None] + np.arange(size)  # [w, size]
    covariance = _autocovariance((intensity - peaks)[windows])
    expected = _expected_variance(background + peaks, uncertainty)[windows].mean(1)
    relative = covariance[:, 0] / expected
    rest = intensity - peaks - doubtful
    rough = (_fourth_differences(rest) ** 2)[windows].mean(1) / expected
    smooth = _autocovariance(rest[windows])[:, 0] / expected
    correlation = np.ones(1)
    if np.quantile(smooth / np.maximum(rough, 1e-300), 0.15) < _WHITE:
        level = _running_quantile(rough, 0.5)
    else:
        quiet = _running_quantile(relative, _QUIET)
        for _ in range(2):
            # How many independent points a window has says how far its variance may be off.
            spread = np.sqrt(2 * (2 * (correlation**2).sum() - 1) / size)
            level = quiet / np.maximum(1 - 0.52 * spread, 0.3)  # 0.52: the quantile of a normal
            usual = relative <= np.maximum((1 + 1.5 * spread) * level, relative.min())
            correlation = _correlation(covariance[usual], size)
    scale = np.interp(np.arange(n), starts + size / 2, level)
    scaled = scale * _expected_variance(background, uncertainty)
    variance = np.maximum(scaled, (_RESOLUTION * most) ** 2)
    # A level that is lost in its own noise says little about counts.
    above = np.maximum(background, 0.5 * np.sqrt(variance))
    per_count = np.minimum(variance / above, _variance_per_height(intensity, background))
    return Noise(background, variance, per_count, correlation)


def _expected_variance(background: np.ndarray, uncertainty: np.ndarray | None) -> np.ndarray:
    """What the variance is proportional to ``[n]``: the level, or stated uncertainties squared."""
    if uncertainty is not None and uncertainty.min() > 0:
        return uncertainty**2
    level = np.maximum(background, 0)
    return level + max(0.02 * level.mean(), 1e-12 * max(np.abs(background).max(), 1e-300)) + 1e-300


def _autocovariance(rows: np.ndarray) -> np.ndarray:
    """Autocovariances ``[w, 1 + lags]`` of rows ``[w, size]`` without their trend."""
    size = rows.shape[1]
    basis = np.linalg.qr(np.stack([np.ones(size), np.arange(size)], axis=1))[0]  # [size, 2]
    rest = rows - (rows @ basis) @ basis.T
    lags = min(_LAGS, size // 4)
    products = [(rest[:, lag:] * rest[:, : size - lag]).sum(1) for lag in range(lags + 1)]
    return np.stack(products, axis=1) / max(size - basis.shape[1], 1)


def _running_quantile(relative: np.ndarray, part: float) -> np.ndarray:
    """A quantile of the windows near each, smoothed, ``[w]``."""
    low = percentile_filter(relative, 100 * part, size=min(25, len(relative)), mode="nearest")
    return uniform_filter1d(low, min(9, len(low)), mode="nearest")


def _variance_per_height(intensity: np.ndarray, background: np.ndarray) -> float:
    """An upper bound of the noise of strong peaks per unit of height, from fourth differences.

    Those of a peak six points wide are below a hundredth of its height. Infinite where the pattern
    has no such points.
    """
    if len(intensity) < 16:
        return np.inf
    rough = _fourth_differences(intensity) ** 2
    height = intensity - background
    strong = height > max(0.2 * height.max(), 10 * np.median(np.maximum(background, 0)))
    strong[:2] = strong[-2:] = False
    if strong.sum() < 8:
        return np.inf
    return float(np.mean(rough[strong] / height[strong]))


def _fourth_differences(values: np.ndarray) -> np.ndarray:
    """Differences ``[n]`` with the standard deviation of independent noise of the values."""
    inner = np.convolve(values, [1, -4, 6, -4, 1], mode="valid") / np.sqrt(70)
    return np.pad(inner, 2, mode="reflect")


def _correlation(covariance: np.ndarray, size: int) -> np.ndarray:
    """Autocorrelation ``[1 + lags]`` from windows; it ends where it is not significant."""
    total = covariance.sum(0)
    if not total[0] > 0:
        return np.ones(1)
    rho = total / total[0]
    rho = rho + 2 / size * (2 * rho.clip(0).sum() - 1)  # what the straight line took out
    rho = rho / rho[0]
    doubt = 2.5 / np.sqrt(max(len(covariance) * size, 1))
    small = np.flatnonzero(rho < doubt)
    return rho[: small[0]] if len(small) else rho


def first_background(intensity: np.ndarray, *, width: float) -> np.ndarray:
    """A background ``[n]`` under peaks up to ``width`` points wide, by clipping a smoothed pattern.

    Clipping follows the lower edge of the noise; what it is too low by is added again.
    """
    smooth = gaussian_filter1d(intensity, max(width / 2.3548, 0.5), mode="nearest")
    half = int(min(max(5 * width, 8), max((len(intensity) - 1) // 2, 1)))
    clipped = snip_background(smooth, half_window=half)
    clipped = uniform_filter1d(clipped, max(int(2 * width), 1), mode="nearest")
    gap = smooth - clipped
    return clipped + np.quantile(gap, 0.25)


def instrument_width(intensity: np.ndarray, *, longest: int) -> float:
    """About the full width at half maximum, in points, of the narrow ones of the strong peaks.

    The answer of second derivatives to white noise being the same at all scales, that to a peak is
    largest where the derivative is of a Gaussian sqrt(5) times as wide. Up to sixty of the
    strongest answers vote; wide ones are several peaks, and even the narrow ones are doublets.

    Args:
        intensity: ``[n]``.
        longest: Largest width to look for, points.
    """
    steps = max(int(np.log2(max(longest, 2)) * 2 * _TEMPLATES_PER_OCTAVE), 1)
    widths = np.geomspace(1.5, max(longest, 1.6), steps)
    answers = np.stack([curvature(intensity, np.sqrt(5) * width) for width in widths])  # [s, n]
    best, scale = answers.max(0), answers.argmax(0)
    least = 8 * np.median(np.abs(answers[0])) / 0.67
    votes, free = [], np.ones(len(best), dtype=bool)
    for i in np.argsort(best)[::-1][: 2000 * len(widths)]:
        if len(votes) == 60 or best[i] <= least:
            break
        if free[i]:
            votes.append(widths[scale[i]])
            reach = int(2 * votes[-1]) + 1
            free[max(i - reach, 0) : i + reach] = False
    return float(np.quantile(votes, 0.15)) / 1.5 if votes else 3.0


def curvature(intensity: np.ndarray, width: float) -> np.ndarray:
    """How well a peak ``width`` points wide sits at each point, in units of noise, ``[n]``."""
    sigma = max(width / 2.3548, 0.4)
    answer = -gaussian_filter1d(intensity, sigma, order=2, mode="nearest")
    # The sum of squares of the second derivative of a Gaussian is 3 / (8 sqrt(pi) sigma^5).
    return answer * np.sqrt(8 * np.sqrt(np.pi) * sigma**5 / 3)
