"""A measured pattern in, its lines with their uncertainties out.

For what an instrument wrote: background, noise, doublet, foreign lines. Peaks of computed patterns,
many at once, are found by :mod:`.clean_peaks`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from unimat_lib.views.grid import WAVELENGTHS
from unimat_powder.pattern import Pattern
from unimat_powder.peak_remarks import SPIKE, Peaks, find_spikes, remarks_of
from unimat_powder.peak_search import Found, search_peaks

_FEWEST_POINTS = 16
_TUBE = 1e-3  # relative: how near a wavelength must be to be that of a tube
_SKEW_ERROR = 0.3  # of the difference of both half widths
_LARGEST_POSITION_ERROR = 0.5  # widths: a line lies somewhere in its peak


@dataclass(frozen=True, eq=False)
class LineList:
    """Lines of one measured pattern by rising angle, ``K`` of them, or none.

    Lines that are closer than 0.7 of their width are one. All arrays are float64.

    Attributes:
        two_theta: ``[K]`` degrees, of the line of ``wavelength``.
        two_theta_sigma: ``[K]`` standard deviations of it, degrees. What shifts all lines together
            (zero, displacement) is not in them.
        intensity: ``[K]`` areas in units of the pattern times degrees, with K-alpha 2 where there
            is one.
        intensity_sigma: ``[K]`` standard deviations of it.
        fwhm: ``[K]`` full widths at half maximum of one line of the doublet, degrees.
        significance: ``[K]`` heights over their standard deviations.
        remark: ``[K]`` ``""`` for a line of the sample; what others are: ``"K-beta"``,
            ``"W L-alpha"`` or ``"spike"``.
        wavelength: What ``two_theta`` belongs to, angstrom: that of K-alpha 1 where the pattern
            shows the doublet, otherwise the pattern's.
        k_alpha_2: Whether K-alpha 2 was taken to be in the pattern.
        background: ``[P]`` under the peaks, at the points of the pattern.
        noise: ``[P]`` standard deviation of the points.
        correlation: What the variance of a peak is more than it would be with independent noise: 1
            for raw counts, more for smoothed ones.
    """

    two_theta: np.ndarray
    two_theta_sigma: np.ndarray
    intensity: np.ndarray
    intensity_sigma: np.ndarray
    fwhm: np.ndarray
    significance: np.ndarray
    remark: tuple[str, ...]
    wavelength: float
    k_alpha_2: bool
    background: np.ndarray
    noise: np.ndarray
    correlation: float

    def __len__(self) -> int:
        """Number of lines, spurious ones with them."""
        return len(self.two_theta)

    @property
    def spurious(self) -> np.ndarray:
        """Bool ``[K]``: lines that are not of the sample at ``wavelength``."""
        return np.array([bool(remark) for remark in self.remark], dtype=bool)


def find_lines(pattern: Pattern) -> LineList:
    """Find the lines of a measured pattern.

    Noise, its correlation and the background are estimated from the pattern. All peaks are fitted
    at once with split pseudo-Voigt profiles, whose width, Lorentzian share and asymmetry are smooth
    functions of the angle; with the second line of the K-alpha doublet where the wavelength is that
    of a tube and the pattern does not say otherwise. A line is kept when its height is four
    standard deviations or more, 0.2 % of the highest, 2 % of the
    highest within three widths, and a fifth of the curve of other peaks at its place. At most
    300 are looked for, the clearest.

    Args:
        pattern: The measurement, any number of points; below 16 there are no lines.

    Returns:
        The lines; an empty list where nothing stands out of the noise.

    Source: in the manner of Pawley, J. Appl. Cryst. 14, 357 (1981), with free positions.
    """
    x = pattern.two_theta.double().numpy()
    y = pattern.intensity.double().numpy()
    if len(x) < _FEWEST_POINTS or not y.max() > y.min():
        return _no_lines(pattern.wavelength, y)
    unit = float(np.abs(y).max())
    uncertainty = pattern.uncertainty
    if uncertainty is not None:
        uncertainty = uncertainty.double().numpy() / unit
    y = y / unit
    spikes = find_spikes(y)
    first, ratio = _doublet(pattern.wavelength)
    if pattern.k_alpha_2 is False:
        ratio = 1.0
    clean = y.copy()
    clean[spikes] = (y[spikes - 1] + y[spikes + 1]) / 2
    found = search_peaks(x, clean, uncertainty=uncertainty, ratio=ratio)
    double = found.model.ratio > 1
    return _line_list(
        found, x, y, spikes, unit=unit, wavelength=first if double else pattern.wavelength
    )


def _doublet(wavelength: float) -> tuple[float, float]:
    """K-alpha 1 for the given K-alpha 1 or mean wavelength of a tube, and K-alpha 2 over it.

    The ratio is 1 for any other wavelength.
    """
    for name, first in WAVELENGTHS.items():
        if not name.endswith("Ka1"):
            continue
        mean = WAVELENGTHS[name[:-1]]
        second = 3 * mean - 2 * first  # the mean weighs them as 2 to 1
        for stated, scale in ((first, 1.0), (mean, first / mean)):
            if abs(wavelength / stated - 1) < _TUBE / 4:
                return wavelength * scale, second / first
    return wavelength, 1.0


def _no_lines(wavelength: float, y: np.ndarray) -> LineList:
    none = np.zeros(0)
    level = np.full(len(y), np.median(y))
    return LineList(
        none, none, none, none, none, none, (), wavelength, False, level, 0 * level, 1.0
    )


def _line_list(
    found: Found,
    x: np.ndarray,
    y: np.ndarray,
    spikes: np.ndarray,
    *,
    unit: float,
    wavelength: float,
) -> LineList:
    """Lines of fitted peaks and of spikes together, in units of the pattern."""
    model, points = found.model, found.points
    background = np.interp(x, points.x, points.basis @ model.background)
    noise = np.sqrt(np.interp(x, points.x, found.noise.at(found.peaks)))
    noise = noise * np.sqrt(len(x) / len(points.x))  # the points are means of the pattern's
    excess = y[spikes] - (y[spikes - 1] + y[spikes + 1]) / 2
    step = (x[spikes + 1] - x[spikes - 1]) / 2
    height = np.maximum(model.height, 1e-300)
    # Where an asymmetric peak has its line depends on what made it so.
    skew = _SKEW_ERROR * model.asymmetry(model.position) * model.fwhm
    position_error = np.hypot(found.errors.position, skew)
    limit = _LARGEST_POSITION_ERROR * model.fwhm
    columns = (
        (model.position, x[spikes]),
        (np.minimum(position_error, limit), step / 2),
        (unit * model.area, unit * excess * step),
        (unit * model.area * found.errors.area, unit * noise[spikes] * step),
        (model.fwhm, step),
        (height / np.maximum(found.errors.height, 1e-12 * height), excess / noise[spikes]),
    )
    faintest = model.area * found.errors.height / height  # with a known width
    peaks = Peaks(model.position, model.area, faintest, model.fwhm)
    remark = [*remarks_of(peaks, wavelength, start=x[0]), *[SPIKE] * len(step)]
    both = [np.concatenate(column) for column in columns]
    order = np.argsort(both[0], kind="stable")
    width = float(np.median(model.fwhm)) if len(height) else 0.1
    return LineList(
        *(column[order] for column in both),
        remark=tuple(remark[i] for i in order),
        wavelength=wavelength,
        k_alpha_2=model.ratio > 1,
        background=unit * background,
        noise=unit * noise,
        correlation=float(found.noise.inflation(width / np.median(np.diff(points.x)))),
    )
