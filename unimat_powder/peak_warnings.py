"""A measured pattern and its lines in, warnings in words out."""

from collections import Counter

import numpy as np

from unimat_powder.pattern import Pattern
from unimat_powder.peak_finding import LineList
from unimat_powder.peak_search import CLEAR, MOST_PEAKS

FEWEST_TO_PROVE = 6
"""Lines of a pattern: fewer prove no cell, however well it explains them."""
_NARROWEST_RANGE = 0.35  # in 1/d, 1/angstrom: 10 to 42 degrees with copper
_BROADEST = 0.6  # degrees; by then most lines of a usual cell overlap
_CORRELATED = 1.5  # what smoothing adds to the variance of peaks
_FAINTEST = 0.03  # of the strongest line: what should still be visible
_HUMP = 0.5  # of the intensity of all lines
_HUMP_HEIGHT = 0.35  # of the background


def pattern_warnings(pattern: Pattern, lines: LineList) -> tuple[str, ...]:
    """Say what about a measurement makes answers from it doubtful.

    Args:
        pattern: The measurement.
        lines: What :func:`.find_lines` found in it.

    Returns:
        Sentences, none where nothing is to be said.
    """
    own = ~lines.spurious
    checks = (
        _narrow_range(pattern),
        _number_of_lines(int(own.sum())),
        _broad_lines(lines.fwhm[own], lines.intensity[own]),
        _amorphous_hump(pattern, lines),
        _smoothed(lines.correlation),
        _low_counts(lines.intensity[own], lines.significance[own]),
        _set_aside(lines.remark),
    )
    return tuple(filter(None, checks))


def _narrow_range(pattern: Pattern) -> str:
    low, high = pattern.two_theta[[0, -1]].tolist()
    reach = [2 * np.sin(np.radians(angle / 2)) / pattern.wavelength for angle in (low, high)]
    if reach[1] - reach[0] >= _NARROWEST_RANGE:
        return ""
    return (
        f"narrow range: {low:.1f} to {high:.1f} degrees only; many lines of a cell lie outside, "
        "so measure further if you can, and rely less on the percentages"
    )


def _number_of_lines(count: int) -> str:
    if count >= MOST_PEAKS:
        return f"too many peaks: the search ended at {MOST_PEAKS}, the clearest"
    if count >= FEWEST_TO_PROVE:
        return ""
    if count == 0:
        return "too few peaks: no line stood out of the noise, so nothing is known of a crystal"
    found, they = ("one line", "it tells") if count == 1 else (f"{count} lines", "they tell")
    return f"too few peaks: {found} stood out of the noise; alone {they} no cell from chance"


def _broad_lines(fwhm: np.ndarray, intensity: np.ndarray) -> str:
    if not len(fwhm):
        return ""
    order = np.argsort(fwhm)
    share = intensity[order].cumsum() / intensity.sum()
    typical = float(fwhm[order][np.searchsorted(share, 0.5)])
    if typical <= _BROADEST:
        return ""
    return (
        f"very broad peaks: about {typical:.2f} degrees wide; neighbouring lines are merged and "
        "positions are vague (small crystallites, or a wide slit)"
    )


def _amorphous_hump(pattern: Pattern, lines: LineList) -> str:
    x, level = pattern.two_theta.numpy(), lines.background
    hump = level - _lower_hull(x, level)
    top = int(hump.argmax())
    area = float((np.diff(x) * (hump[1:] + hump[:-1]) / 2).sum())
    high = hump[top] > max(_HUMP_HEIGHT * level[top], lines.noise[top] / 2)
    sure = 10 * float(lines.noise.mean()) * (x[-1] - x[0]) / np.sqrt(len(x))
    if not high or area < max(_HUMP * lines.intensity[~lines.spurious].sum(), sure):
        return ""
    return (
        f"amorphous hump: a broad maximum of the background near {x[top]:.0f} degrees holds "
        "intensity comparable to all lines together (glass, organic matter or the sample holder)"
    )


def _lower_hull(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The largest convex function below a curve, at its points."""
    hull: list[int] = []
    for i in range(len(x)):
        while len(hull) > 1:
            a, b = hull[-2], hull[-1]
            if (y[b] - y[a]) * (x[i] - x[a]) < (y[i] - y[a]) * (x[b] - x[a]):
                break
            hull.pop()
        hull.append(i)
    return np.interp(x, x[hull], y[hull])


def _smoothed(correlation: float) -> str:
    if correlation < _CORRELATED:
        return ""
    return (
        "strongly smoothed: neighbouring points are correlated, so the pattern was smoothed or "
        "interpolated; weak lines cannot be told from noise, use the raw counts if you have them"
    )


def _low_counts(intensity: np.ndarray, significance: np.ndarray) -> str:
    if not len(intensity):
        return ""
    weak = np.argsort(intensity)[: (len(intensity) + 1) // 2]
    faintest = float(np.median(CLEAR * intensity[weak] / significance[weak]) / intensity.max())
    if faintest < _FAINTEST:
        return ""
    return (
        f"low counts: lines below about {100 * faintest:.0f} % of the strongest are lost in noise; "
        "count longer"
    )


def _set_aside(remark: tuple[str, ...]) -> str:
    counts = Counter(filter(None, remark))
    if not counts:
        return ""
    parts = ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
    return f"set aside as not of the sample: {parts}"
