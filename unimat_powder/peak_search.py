"""Points of a pattern in; the peaks that stand out of its noise, fitted, out."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
from scipy.ndimage import gaussian_filter1d, maximum_filter1d, uniform_filter1d

from unimat_powder.peak_fit import Errors, Fit, errors_of, fit_peaks
from unimat_powder.peak_noise import (
    Noise,
    curvature,
    estimate_noise,
    first_background,
    instrument_width,
)
from unimat_powder.peak_profile import Model, Points, draw, second_line, spline_basis

CLEAR = 4.0  # standard deviations of its height that a peak must have
CLEAR_OF_CORRELATED = 5.0  # the same where noise is correlated, which is known less well
SMALLEST = 2e-3  # of the highest peak: below, profiles are not known well enough
NEAR = 0.7  # widths: peaks that are closer count as one
MODEL_ERROR = 0.02  # of a peak's height at each of its points: no profile is a pseudo-Voigt
_LEAST_BENT = 0.5  # standard deviations of the curvature that a peak must have
_WIDE = 0.3  # logarithm of a width over the common one that one peak hardly has
_DOUBT = 1.3, 30.0  # times and plus the score of single lines: a doublet may be worse by that
_STRONG = 0.1  # of the highest: peaks that decide whether there is a doublet
_TAIL_ERROR = 0.003  # of the highest peak within some widths
_CERTAIN = 10.0  # standard deviations that no noise has
_CANDIDATE = 3.5  # standard deviations that make a peak worth fitting
_SHADOW = 0.2  # of the curve of other peaks: what is lower may be an error of their profile
_FOOT = 0.02  # the same of the highest curve within some widths: no tail is known better
_FOOT_REACH = 3.0  # widths
_POINTS_PER_WIDTH = 5.0  # more say nothing more
_WIDEST = 1.5  # degrees
MOST_PEAKS = 300
_ROUNDS, _LAST_ROUNDS = 4, 8
_FIRST_SHAPE = (0.0, 0.0, 0.5, 0.0, 0.0)  # after the width: see peak_profile.Model


class Found(NamedTuple):
    """Fitted peaks of a pattern, with the points they were fitted to."""

    model: Model
    errors: Errors  # with correlated noise and a fit that is not perfect
    points: Points
    peaks: np.ndarray  # [n] sum of the peaks at the points
    noise: Noise


class _Setting(NamedTuple):
    """What stays the same during a search."""

    points: Points
    uncertainty: np.ndarray | None  # of the points, stated
    noise: Noise
    step: float  # degrees between two points
    width: float  # degrees, of most peaks
    start: Model  # without peaks; its shape is where priors are centred

    def variance(self, peaks: np.ndarray) -> np.ndarray:
        """Of the points ``[n]`` with peaks on them, noise and what profiles are wrong by."""
        tails = _TAIL_ERROR * self.highest_near(peaks)
        return self.noise.at(peaks) + (MODEL_ERROR * peaks) ** 2 + tails**2

    def highest_near(self, peaks: np.ndarray) -> np.ndarray:
        """The highest of the peaks' curve within some widths of each point, ``[n]``."""
        reach = 2 * max(int(_FOOT_REACH * self.width / self.step), 1) + 1
        return maximum_filter1d(peaks, reach, mode="nearest")

    @property
    def clear(self) -> float:
        """Standard deviations of its height that a peak must have."""
        return CLEAR if len(self.noise.correlation) == 1 else CLEAR_OF_CORRELATED

    def inflation(self, width: np.ndarray) -> np.ndarray:
        """Of variances, for peaks of some widths in degrees."""
        return self.noise.inflation(width / self.step)


def search_peaks(
    two_theta: np.ndarray,
    intensity: np.ndarray,
    *,
    uncertainty: np.ndarray | None,
    ratio: float,
) -> Found:
    """Find and fit the peaks of a pattern.

    Maxima of the pattern and of its curvature that are clear of the noise are fitted all at once;
    what the residual still shows is added, what is not clear of its own uncertainty is taken away,
    four times.

    Args:
        two_theta: ``[P]`` degrees, rising, at least 16.
        intensity: ``[P]``.
        uncertainty: Stated standard deviations ``[P]``, if there are any.
        ratio: Second wavelength over the first of the tube's doublet; 1 for a single line. Whether
            the second is in the pattern is decided by a fit with and without.
    """
    setting = _prepare(two_theta, intensity, uncertainty)
    fit = _first_fit(setting, ratio)
    fit = _fit(setting, _split(fit.model), fit.peaks, rounds=4)
    for _ in range(_ROUNDS):
        setting = _measured_again(setting, fit)
        keep = _kept(setting, fit)
        position, height = _missing(setting, fit)
        if keep.all() and not len(position):
            break
        model = fit.model.select(keep).with_peaks(position, height)
        fit = _fit(setting, model, fit.peaks, rounds=4)
    setting = _measured_again(setting, fit)
    for _ in range(_LAST_ROUNDS):
        keep = _kept(setting, fit)
        if keep.all():
            break
        fit = _fit(setting, fit.model.select(keep), fit.peaks, rounds=3)
    fit, errors = _clear_of_residual(setting, fit)
    return Found(fit.model, errors, setting.points, fit.peaks, setting.noise)


def _prepare(x: np.ndarray, y: np.ndarray, uncertainty: np.ndarray | None) -> _Setting:
    """Bin the points to what widths need, measure background and noise."""
    step = float(np.median(np.diff(x)))
    width = instrument_width(y, longest=int(max(min(_WIDEST / step, len(y) / 8), 2)))
    bins = max(len(x) // max(int(width / _POINTS_PER_WIDTH), 1), 16)
    edges = np.linspace(0, len(x), bins + 1).round().astype(int)
    size = np.diff(edges)
    width, step = width * bins / len(x), step * len(x) / bins
    x = np.add.reduceat(x, edges[:-1]) / size
    y = np.add.reduceat(y, edges[:-1]) / size
    if uncertainty is not None:
        uncertainty = np.sqrt(np.add.reduceat(uncertainty**2, edges[:-1])) / size
    background = first_background(y, width=width)
    noise = estimate_noise(y, background, np.zeros_like(y), uncertainty=uncertainty)
    points = Points(x, y, spline_basis(x, max(4.0, 8 * width * step)))
    some = slice(None, None, max(len(x) // 4000, 1))
    splines = np.linalg.lstsq(points.basis[some], background[some], rcond=None)[0]
    none = np.zeros(0)
    shape = np.array([np.log(width * step), *_FIRST_SHAPE])
    start = Model(none, none, none, splines, shape, (x[0], x[-1]), 1.0)
    return _Setting(points, uncertainty, noise, step, width * step, start)


def _measured_again(setting: _Setting, fit: Fit) -> _Setting:
    """The same with the noise of what a fit leaves."""
    points, model = setting.points, fit.model
    certain = model.height > _CERTAIN * _rough_errors(setting, fit)
    peaks = draw(points, model.select(certain))
    noise = estimate_noise(
        points.y,
        points.basis @ model.background,
        peaks,
        doubtful=fit.peaks - peaks,
        uncertainty=setting.uncertainty,
    )
    return setting._replace(noise=noise)


def _rough_errors(setting: _Setting, fit: Fit) -> np.ndarray:
    """Standard deviations of the heights ``[K]`` if no peaks overlapped."""
    model = fit.model
    variance = np.interp(model.position, setting.points.x, setting.variance(fit.peaks))
    points = np.maximum(0.75 * model.fwhm / setting.step, 1)  # the square of a Gaussian, summed
    return np.sqrt(variance / points * setting.inflation(model.fwhm))


def _first_candidates(setting: _Setting) -> Model:
    """Maxima of the pattern and of its curvature that may be peaks, not yet fitted."""
    points, width = setting.points, setting.width
    rest = points.y - points.basis @ setting.start.background
    smooth = gaussian_filter1d(rest, width / setting.step / 2.3548 / 1.5, mode="nearest")
    variance = setting.noise.at(smooth)
    clear, height = _significance(setting, rest, variance, np.full(len(rest), width))
    bent = curvature(points.y, width / setting.step)
    bent = bent / np.sqrt(variance * setting.inflation(np.array(width)))
    least = SMALLEST * smooth.max()
    place = np.union1d(_maxima(clear, height > least), _maxima(bent, smooth > least))
    height = np.maximum(smooth[place], 0.3 * height[place])
    model = setting.start.with_peaks(points.x[place], height)
    model = model.select(_apart(model, width))
    if len(model.height) > MOST_PEAKS:
        model = model.select(np.sort(np.argsort(-model.height)[:MOST_PEAKS]))
    return model


def _significance(
    setting: _Setting, rest: np.ndarray, variance: np.ndarray, width: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Of a Gaussian of the given width at each point: how clear of noise it is, and its height.

    Args:
        setting: The search.
        rest: What peaks are looked for in, ``[n]``.
        variance: Of its points, ``[n]``.
        width: Full widths at half maximum in degrees, ``[n]``.
    """
    grades = np.geomspace(width.min(), max(width.max(), 1.01 * width.min()), 6)
    grade = np.interp(np.log(width), np.log(grades), np.arange(6)).round().astype(int)
    clear, height = np.zeros_like(rest), np.zeros_like(rest)
    for i in np.unique(grade):
        sigma = max(grades[i] / setting.step / 2.3548, 0.3)
        sum_ = np.sqrt(2 * np.pi) * sigma * gaussian_filter1d(rest / variance, sigma)
        square = np.sqrt(np.pi) * sigma * gaussian_filter1d(1 / variance, sigma / np.sqrt(2))
        here = grade == i
        height[here] = (sum_ / square)[here]
        clear[here] = (sum_ / np.sqrt(square))[here]
    return clear / np.sqrt(setting.inflation(width)), height


def _maxima(clear: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Places of local maxima of a significance."""
    middle = clear[1:-1]
    top = (middle > clear[:-2]) & (middle >= clear[2:]) & (middle > _CANDIDATE)
    return np.flatnonzero(top & high[1:-1]) + 1


def _first_fit(setting: _Setting, ratio: float) -> Fit:
    """Fit the first candidates, with and without the second line of a doublet if there may be one.

    A doublet must not be much worse: where peaks are too wide to tell, it is taken to be there, as
    in nearly all laboratories; the spacings that follow are the same.
    """
    first = _first_candidates(setting)
    background = setting.points.basis @ first.background
    smooth = gaussian_filter1d(setting.points.y - background, setting.width / setting.step / 3)
    models = [first]
    if ratio > 1:
        double = replace(first, ratio=ratio)
        models.append(double.select(~_is_second_line(double, setting.width)))
    fits = [_fit(setting, model, smooth, rounds=6) for model in models]
    fits = [
        _fit(setting, fit.model.select(_kept(setting, fit)), fit.peaks, rounds=3) for fit in fits
    ]
    scores = _scores(setting, fits)
    return fits[-1] if scores[-1] <= _DOUBT[0] * scores[0] + _DOUBT[1] else fits[0]


def _split(model: Model) -> Model:
    """The same with two peaks for each that is far wider than the others; the fit will tell."""
    wide = model.own_width > _WIDE
    offset = 0.35 * model.fwhm[wide]
    position, height = model.position[wide], 0.6 * model.height[wide]
    both = np.concatenate([position - offset, position + offset])
    return model.select(~wide).with_peaks(both, np.concatenate([height, height]))


def _scores(setting: _Setting, fits: list[Fit]) -> list[float]:
    """Of models by the criterion of Schwarz, the lower the better, where there are strong peaks.

    Weak lines of other wavelengths and phases may be single or wide; they must not decide.
    """
    points = setting.points
    highest = np.max([setting.highest_near(fit.peaks) for fit in fits], axis=0)
    strong = highest > _STRONG * highest.max(initial=0)
    variance = setting.variance(np.mean([fit.peaks for fit in fits], axis=0))
    chi2, count = [], []
    for fit in fits:
        rest = points.y - fit.peaks - points.basis @ fit.model.background
        chi2.append(float((rest**2 / variance)[strong].sum()))
        count.append(int((fit.model.height > 0.1 * _STRONG * highest.max(initial=0)).sum()))
    scale = max(min(chi2) / max(strong.sum(), 1), 1.0)
    price = 2 * np.log(len(points.x))
    return [one / scale + price * number for one, number in zip(chi2, count, strict=True)]


def _apart(model: Model, width: np.ndarray | float) -> np.ndarray:
    """Which peaks remain ``[K]`` when each higher one takes those away that are too near to it."""
    reach = NEAR * np.broadcast_to(width, model.height.shape)
    keep = np.ones(len(model.height), dtype=bool)
    low = np.searchsorted(model.position, model.position - reach, side="right")
    high = np.searchsorted(model.position, model.position + reach)
    for i in np.argsort(-model.height, kind="stable"):
        if keep[i]:
            keep[low[i] : high[i]] = False
            keep[i] = True
    return keep


def _is_second_line(model: Model, width: float) -> np.ndarray:
    """Which maxima ``[K]`` lie where the second line of a higher one is, at about its height."""
    gone = np.zeros(len(model.height), dtype=bool)
    second = second_line(model.position, model.ratio)
    for i in np.argsort(-model.height, kind="stable"):
        if not gone[i] and np.isfinite(second[i]):
            part = model.height / model.height[i]
            near = np.abs(model.position - second[i]) < 0.6 * width
            gone |= near & (part > 0.25) & (part < 0.75)
    return gone


def _fit(setting: _Setting, model: Model, peaks: np.ndarray, *, rounds: int) -> Fit:
    """Fit a model with the variances that follow from the peaks so far."""
    variance = setting.variance(np.maximum(peaks, 0))
    start = replace(setting.start, ratio=model.ratio)
    return fit_peaks(setting.points, model, variance, start=start, rounds=rounds)


def _missing(setting: _Setting, fit: Fit) -> tuple[np.ndarray, np.ndarray]:
    """Places and heights of peaks that the residual of a fit still shows."""
    points, model = setting.points, fit.model
    rest = points.y - fit.peaks - points.basis @ model.background
    width = np.clip(model.common_width(points.x), setting.step, 5 * _WIDEST)
    variance = setting.variance(fit.peaks)
    clear, height = _significance(setting, rest, variance, width)
    least = np.maximum(_SHADOW * fit.peaks, _FOOT * setting.highest_near(fit.peaks))
    least = np.maximum(least, SMALLEST * fit.peaks.max(initial=0))
    place = _maxima(clear, height > least)
    if len(model.height) and len(place):
        near = np.abs(points.x[place][:, None] - model.position).min(1)
        place = place[near > NEAR * width[place]]
    room = max(MOST_PEAKS - len(model.height), 0)
    place = np.sort(place[np.argsort(-clear[place])[:room]])
    return points.x[place], height[place]


def _errors(setting: _Setting, fit: Fit) -> Errors:
    """Standard deviations of the peaks of a fit, with correlated noise."""
    variance = setting.variance(fit.peaks)
    start = replace(setting.start, ratio=fit.model.ratio)
    errors = errors_of(setting.points, fit.model, variance, start=start)
    factor = np.sqrt(setting.inflation(fit.model.fwhm))
    return Errors(*(each * factor for each in errors))


def _clear_of_residual(setting: _Setting, fit: Fit) -> tuple[Fit, Errors]:
    """Drop peaks that are no larger than what the fit leaves near them; errors that tell so."""
    while True:
        lack = _lack_of_fit(setting, fit)
        errors = Errors(*(each * lack for each in _errors(setting, fit)))
        keep = fit.model.height > setting.clear * errors.height
        if keep.all():
            return fit, errors
        fit = _fit(setting, fit.model.select(keep), fit.peaks, rounds=3)


def _lack_of_fit(setting: _Setting, fit: Fit) -> np.ndarray:
    """What standard deviations near each peak must grow by to explain the residual, 1 or more."""
    points, model = setting.points, fit.model
    rest = points.y - fit.peaks - points.basis @ model.background
    size = 2 * int(np.clip(2 * setting.width / setting.step, 1, len(rest) / 2)) + 1
    chi2 = uniform_filter1d(rest**2 / setting.variance(fit.peaks), size, mode="nearest")
    return np.sqrt(np.maximum(np.interp(model.position, points.x, chi2), 1))


def _bent(setting: _Setting, fit: Fit) -> np.ndarray:
    """Which peaks ``[K]`` the pattern bends at, or at a higher one that they are a shoulder of.

    A hump that is wider than a peak can be a row of overlapping peaks, none of which is there.
    """
    points, model = setting.points, fit.model
    width = float(np.median(model.fwhm))
    bent = curvature(points.y, 1.5 * width / setting.step)
    bent = bent / np.sqrt(setting.noise.at(fit.peaks))
    bent = maximum_filter1d(bent, 2 * int(0.3 * width / setting.step) + 1, mode="nearest")
    own = np.interp(model.position, points.x, bent) > _LEAST_BENT
    near = np.abs(model.position[:, None] - model.position) < 2.5 * model.fwhm
    return own | (near & own & (model.height > model.height[:, None])).any(1)


def _kept(setting: _Setting, fit: Fit) -> np.ndarray:
    """Which peaks of a fit ``[K]`` are clear of noise, of errors of other profiles and of others.

    Of peaks that overlap only the lowest goes at a time: without it the others may well be clear.
    """
    model, x = fit.model, setting.points.x
    if not len(model.height):
        return np.ones(0, dtype=bool)
    errors = _errors(setting, fit)
    shadow = np.interp(model.position, x, _FOOT * setting.highest_near(fit.peaks))
    others = np.interp(model.position, x, fit.peaks) - model.height
    least = np.maximum(setting.clear * errors.height, SMALLEST * model.height.max())
    least = np.maximum(least, np.maximum(shadow, _SHADOW * others))
    keep = model.height > least
    keep &= (model.position >= x[0]) & (model.position <= x[-1])
    keep &= _apart(model, model.fwhm) & _bent(setting, fit)
    for i in np.flatnonzero(~keep):
        near = np.abs(model.position - model.position[i]) < 1.5 * model.fwhm[i]
        near[i] = False
        keep[i] = (model.height[near & ~keep] < model.height[i]).any()
    return keep
