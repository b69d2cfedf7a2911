"""Candidates in, their curves fitted to the measured one out: how well each can explain it.

All candidates at once, by Gauss-Newton steps on scale, displacement factor, strains within the
symmetry, zero shift, displacement, width, Lorentzian share, texture and a smooth background. The
texture is the lowest term that a crystal allows: intensities times 1 + n T n, with T in the same
space of symmetric tensors as the strain. Curves are drawn on an axis u in which all peaks are
equally wide, so that one Fourier transform applies the profile to a whole row.
"""

import math
from dataclasses import dataclass, fields

import numpy as np
import torch
from scipy.fft import next_fast_len
from scipy.ndimage import gaussian_filter1d
from torch import Tensor
from torch.nn.functional import max_pool1d

from unimat_lib.views.grid import lorentz_polarisation
from unimat_powder.search.curve import MeasuredCurve
from unimat_powder.search.reflections import (
    Candidates,
    Sticks,
    merged,
    prior_mean,
    prior_precision,
    sticks_of,
)

_STEPS = 8
_WIDE = 3  # first steps with wide peaks, whose flanks reach lines that are not met yet
_WIDE_WIDTH = 0.35  # degrees
_DU = 0.025  # step of the axis, degrees at low angles
_TERMS = 8  # Chebyshev terms of what is left of the background
# Where fits start: full width in degrees, Lorentzian share, B in square angstrom.
_WIDTH, _LORENTZ, _DISPLACEMENT = 0.15, 0.5, 0.7
# Standard deviations of the prior: of B, of ln width, of the Lorentzian share, of the texture.
_PRIOR = {"displacement": 0.7, "width": 0.5, "lorentz": 0.3, "texture": 0.35}
_WIDTHS = (0.04, 1.2)  # degrees
_INTENSITY_ERROR = 0.12  # of a computed intensity: atoms are where theory puts them
_CURVE_ERROR = 0.05  # of the measured signal
_MERIT_ERRORS = 0.03, 0.1  # of the measured and the computed signal, in the weighted residual
_CLEAR = 4.5  # standard deviations by which a maximum of the signal is no noise
_FAINT = 3e-4  # of a candidate's strongest reflection: weaker ones are left out
_STRAINS, _SHIFTS, _TEXTURE = slice(2, 8), slice(8, 10), slice(12, 18)
# Largest change of each parameter in one step.
_LIMITS = [0.5, 0.7, *[0.01] * 6, *[0.06] * 2, 0.3, 0.2, *[0.3] * 6, *[math.inf] * _TERMS]


@dataclass(frozen=True, eq=False)
class Fits:
    """Fits of ``K`` candidates to one curve of ``M`` points.

    Attributes:
        two_theta: ``[M]`` degrees; steps follow the width of the peaks.
        measured: ``[M]`` counts without background.
        computed: ``[K, M]`` without background.
        background: ``[K, M]`` what the fit added to the smooth background.
        residual: ``[K]`` profile residual of the root curves, 0 (all is explained) to about 1.
        weighted: ``[K]`` the same of the curves themselves, weighted by counting noise.
        cosine: ``[K]`` of the measured and the computed root curve.
        penalty: ``[K]`` half the squared distance of cell and shifts from the prior.
        texture: ``[K]`` the same of the texture.
        shape: ``[K, 8]`` strains and shifts, as in :class:`.Relaxed`.
        width: ``[K]`` full width at half maximum at low angles, degrees.
        met: ``[K]`` share of the measured peaks, weighted with their root heights, at which there
            is a line, however weak.
        covered: ``[K]`` share of the pattern that is as near to a line.
    """

    two_theta: np.ndarray
    measured: np.ndarray
    computed: Tensor
    background: Tensor
    residual: Tensor
    weighted: Tensor
    cosine: Tensor
    penalty: Tensor
    texture: Tensor
    shape: Tensor
    width: Tensor
    met: Tensor
    covered: Tensor

    def select(self, index: Tensor) -> "Fits":
        """Fits of some of the candidates; ``index`` is int64 ``[B]``."""
        some = {f.name: getattr(self, f.name)[index] for f in fields(self)[2:]}
        return Fits(self.two_theta, self.measured, **some)

    def joined(self, other: "Fits") -> "Fits":
        """These fits and others to the same curve."""
        names = [f.name for f in fields(self)[2:]]
        both = {name: torch.cat([getattr(self, name), getattr(other, name)]) for name in names}
        return Fits(self.two_theta, self.measured, **both)


class _Axis:
    """Points equally far apart in units of the local peak width, and a curve on them."""

    def __init__(self, curve: MeasuredCurve) -> None:
        fine = curve.two_theta
        u = np.concatenate([[0.0], np.cumsum(np.diff(fine) / width_law(fine[1:]))])
        self.two_theta = np.interp(np.arange(0, u[-1], _DU), u, fine)
        net = curve.counts - curve.background
        self.net = torch.from_numpy(np.interp(self.two_theta, fine, net)).float()
        smooth = gaussian_filter1d(curve.variance, 3)
        self.variance = torch.from_numpy(np.interp(self.two_theta, fine, smooth)).float()
        base = np.clip(curve.background, 0, None) + np.sqrt(smooth)
        self.base = torch.from_numpy(np.interp(self.two_theta, fine, base)).float()
        signal, noise = (np.interp(self.two_theta, fine, x) for x in (curve.signal, curve.noise))
        self.root = torch.from_numpy(np.sqrt(signal)).float()
        self.clear = torch.from_numpy(signal > _CLEAR * noise)
        angles = np.arange(0, 180, 0.01)
        places = np.interp(angles, fine, u / _DU, left=np.nan, right=np.nan)
        self._places = torch.from_numpy(places)

    def place(self, two_theta: Tensor) -> Tensor:
        """Where angles lie, in points; NaN outside of the measurement."""
        at = (two_theta * 100).clamp(0, 17998)
        left = at.long()
        return self._places[left].lerp(self._places[left + 1], at - left)


def width_law(two_theta: np.ndarray) -> np.ndarray:
    """How peak widths grow with the angle, 1 at 0 degrees: size, strain and optics together."""
    return np.sqrt(1 + np.tan(np.radians(two_theta / 2)) ** 2)


def fit_profiles(candidates: Candidates, curve: MeasuredCurve, shape: Tensor) -> Fits:
    """Fit every candidate's computed curve to the measured one.

    Args:
        candidates: ``K`` crystals.
        curve: The measurement.
        shape: Where strains and shifts start, ``[K, 8]``, see :class:`.Relaxed`.
    """
    axis = _Axis(curve)
    end = 2 * math.sin(math.radians(min(curve.two_theta[-1] / 2 + 0.3, 89)))
    g_max = 1.03 * end / min(wavelength for wavelength, _ in curve.lines)
    sticks = merged(sticks_of(candidates, g_max=g_max, wavelength=curve.wavelength))
    sticks = _seen(sticks, curve, len(candidates))
    count = len(candidates)
    # Columns: ln scale, B, strains, zero, displacement, ln width, Lorentzian share, texture.
    values = torch.zeros(count, 18, dtype=torch.float64)
    values[:, 1], values[:, 10], values[:, 11] = _DISPLACEMENT, math.log(_WIDE_WIDTH), _LORENTZ
    values[:, 2:10] = shape
    mean, precision, free = _prior(candidates)
    limits = torch.tensor(_LIMITS, dtype=torch.float64)
    points = len(axis.net)
    smooth = torch.cos(torch.arange(_TERMS)[:, None] * torch.acos(torch.linspace(-1, 1, points)))
    smooth = smooth * axis.variance.mean().sqrt()
    scale = None
    for step in range(_STEPS + 1):
        drawn = _draw(sticks, values, axis, curve.lines)
        if scale is None:
            scale = (drawn[0] * axis.net / axis.variance).sum(1)
            scale = scale / (drawn[0].square() / axis.variance).sum(1).clamp_min(1e-30)
            scale = scale.clamp_min(1e-12)
        model = drawn[0] * scale[:, None]
        slopes = torch.cat([model[None], drawn[1:] * scale[:, None]])  # [18, K, M]
        slopes = torch.cat([slopes, smooth[:, None].expand(-1, count, -1)]).permute(1, 0, 2)
        error = (_INTENSITY_ERROR * model) ** 2 + (_CURVE_ERROR * axis.net.clamp_min(0)) ** 2
        # Three points make one resolved piece of information.
        weighted = slopes / (3 * (axis.variance + error))[:, None]
        hessian = (weighted @ slopes.mT).double() + torch.diag(precision)
        gradient = (weighted @ (axis.net - model)[..., None])[..., 0].double()
        gradient[:, :18] -= precision[:18] * (values - mean)
        both = free[:, :, None] * free[:, None]
        hessian = hessian * both + torch.diag_embed(1 - free)
        if step == _STEPS:
            break
        damping = 1e-4 * hessian.diagonal(dim1=1, dim2=2) + 1e-9
        change = torch.linalg.solve(hessian + torch.diag_embed(damping), gradient * free)
        change = torch.maximum(torch.minimum(change, limits), -limits)
        if step < _WIDE:
            change[:, 10:12] = 0
        scale = scale * (1 + change[:, 0]).float()
        values = values + torch.cat([change.new_zeros(count, 1), change[:, 1:18]], dim=1)
        values[:, 1].clamp_(-0.5, 5)
        values[:, 10].clamp_(*(math.log(width) for width in _WIDTHS))
        values[:, 11].clamp_(0, 1)
    level = torch.linalg.solve(hessian[:, 18:, 18:], gradient[:, 18:]).float() @ smooth
    met, covered = _met(sticks, values, axis, curve.lines)
    return _judged(axis, model, level, values, free, met, covered)


def _met(
    sticks: Sticks, values: Tensor, axis: _Axis, lines: tuple[tuple[float, float], ...]
) -> tuple[Tensor, Tensor]:
    """Share of the measured peaks that have a line; of the pattern that is near to one: ``[K]``.

    Near is within half of the width of the peaks. Where the cell is right, all peaks have a line,
    whatever the atoms; in a crowd of lines that says little.
    """
    count, points = len(values), len(axis.root)
    near = torch.zeros(count, points)
    for wavelength, _ in lines:
        place = _places(sticks, values, axis, wavelength)[0]
        seen = place.isfinite()
        near[sticks.crystal[seen], place[seen].round().long().clamp(0, points - 1)] = 1.0
    width = float(values[:, 10].exp().median())
    reach = round(width / 2 / _DU) + 1
    near = max_pool1d(near[:, None], 2 * reach + 1, stride=1, padding=reach)[:, 0]
    top = max_pool1d(axis.root[None, None], 2 * reach + 1, stride=1, padding=reach)[0, 0]
    peaks = ((axis.root == top) & axis.clear).nonzero()[:, 0]
    height = axis.root[peaks]
    met = (near[:, peaks] * height).sum(1) / height.sum().clamp_min(1e-30)
    return met.double(), near.mean(1).double()


def _judged(
    axis: _Axis,
    model: Tensor,
    level: Tensor,
    values: Tensor,
    free: Tensor,
    met: Tensor,
    covered: Tensor,
) -> Fits:
    """How good the fitted curves are."""
    # On the root scale counting noise is equal everywhere, and a line that is not there weighs no
    # more than one that is not explained.
    base = axis.base.sqrt()
    seen = (axis.net.clamp_min(0) + axis.base).sqrt()
    drawn = ((model + level).clamp_min(0) + axis.base).sqrt()
    residual = (seen - drawn).square().sum(1) / (seen - base).square().sum().clamp_min(1e-30)
    known = axis.variance + (_MERIT_ERRORS[0] * axis.net) ** 2
    error = known + (_MERIT_ERRORS[1] * model) ** 2
    weighted = ((axis.net - model - level).square() / error).sum(1)
    weighted = weighted / (axis.net.square() / known).sum().clamp_min(1e-30)
    root = model.clamp_min(0).sqrt()
    cosine = (root @ axis.root) / (root.norm(dim=1) * axis.root.norm()).clamp_min(1e-30)
    off = (values[:, 2:10] - prior_mean()) * free[:, 2:10]
    texture = values[:, _TEXTURE] * free[:, _TEXTURE]
    return Fits(
        two_theta=axis.two_theta,
        measured=axis.net.double().numpy(),
        computed=model,
        background=level,
        residual=residual.sqrt().double(),
        weighted=weighted.sqrt().double(),
        cosine=cosine.double(),
        penalty=(prior_precision() * off.square()).sum(1) / 2,
        texture=texture.square().sum(1) / (2 * _PRIOR["texture"] ** 2),
        shape=values[:, 2:10],
        width=values[:, 10].exp(),
        met=met,
        covered=covered,
    )


def _prior(candidates: Candidates) -> tuple[Tensor, Tensor, Tensor]:
    """Mean ``[18]`` and precision ``[18 + TERMS]`` of the parameters, and which are free."""
    mean = torch.zeros(18, dtype=torch.float64)
    mean[1], mean[2:10], mean[10], mean[11] = (
        _DISPLACEMENT, prior_mean(), math.log(_WIDTH), _LORENTZ,
    )  # fmt: skip
    precision = torch.full((18 + _TERMS,), 1e-3, dtype=torch.float64)
    precision[0] = 1e-6
    precision[1], precision[2:10] = _PRIOR["displacement"] ** -2, prior_precision()
    precision[10], precision[11] = _PRIOR["width"] ** -2, _PRIOR["lorentz"] ** -2
    precision[_TEXTURE] = _PRIOR["texture"] ** -2
    free = torch.ones(len(candidates), 18 + _TERMS, dtype=torch.float64)
    free[:, _STRAINS] = free[:, _TEXTURE] = candidates.free
    free[:, 12] = 0  # the isotropic term of the texture is the scale
    return mean, precision, free


def _seen(sticks: Sticks, curve: MeasuredCurve, number: int) -> Sticks:
    """Reflections that are not negligible beside their crystal's strongest."""
    sine = (sticks.g * curve.wavelength / 2).clamp_max(0.999)
    height = sticks.intensity * lorentz_polarisation(sine)
    strongest = height.new_zeros(number).scatter_reduce(0, sticks.crystal, height, "amax")
    kept = height > _FAINT * strongest[sticks.crystal]
    return Sticks(*(x[kept] for x in (sticks.crystal, sticks.g, sticks.intensity, sticks.moves)))


def _draw(
    sticks: Sticks, values: Tensor, axis: _Axis, lines: tuple[tuple[float, float], ...]
) -> Tensor:
    """Curves ``[K, M]`` at unit scale, and their slopes: ``[18, K, M]``, the curve first."""
    count, points = len(values), len(axis.net)
    row = next_fast_len(points + points // 4 + 64, real=True)  # tails wrap around in the margin
    maps = torch.zeros(16, count * row)
    for wavelength, share in lines:
        place, heights = _heights(sticks, values, axis, wavelength, share)
        left = place.floor()
        right_share = (place - left).float()
        target = sticks.crystal * row + left.long()
        maps.index_add_(1, target, heights * (1 - right_share))
        maps.index_add_(1, target + 1, heights * right_share)
    spectrum = torch.fft.rfft(maps.view(16, count, row))  # y, dB, 8 that move peaks, 6 of texture
    k = 2 * math.pi * torch.fft.rfftfreq(row)
    width = (values[:, 10].exp() / _DU).float()[:, None]
    variance = (width / 2.3548).square()
    # Linear interpolation has widened each peak by a variance of 1/6 already.
    gauss = torch.exp(-k.square() * (variance - 1 / 6).clamp_min(0.05) / 2)
    lorentz = torch.exp(-k * width / 2)
    eta = values[:, 11].float()[:, None]
    profile = gauss.lerp(lorentz, eta)
    by_width = -gauss * (1 - eta) * k.square() * variance - lorentz * eta * k * width / 2
    parts = (
        spectrum[:2] * profile,
        spectrum[2:10] * (profile * (-1j * k)),
        (spectrum[0] * by_width)[None],
        (spectrum[0] * (lorentz - gauss))[None],
        spectrum[10:] * profile,
    )
    return torch.fft.irfft(torch.cat(parts), n=row)[..., :points]


def _heights(
    sticks: Sticks, values: Tensor, axis: _Axis, wavelength: float, share: float
) -> tuple[Tensor, Tensor]:
    """Where one line of the radiation puts the reflections, and their heights ``[16, R]``.

    Heights: the curve's; its slope with B; for the eight that move peaks, the curve's times the
    distance; its slopes with the six of the texture.
    """
    of = values[sticks.crystal]
    place, g, sine, two_theta = _places(sticks, values, axis, wavelength)
    seen = place.isfinite()
    place = place.nan_to_num()
    cosine = (1 - sine.square()).sqrt()
    bare = share * sticks.intensity * lorentz_polarisation(sine) * seen
    bare = bare * torch.exp(-of[:, 1] / 2 * g.square())
    height = bare * (1 + (sticks.moves * of[:, _TEXTURE]).sum(1)).clamp_min(0.05)
    per_degree = 1 / torch.from_numpy(width_law(two_theta.numpy())) / _DU
    by_strain = height * per_degree * torch.rad2deg(2 * sine / cosine)
    heights = [height, -height * g.square() / 2]
    heights += [by_strain * sticks.moves[:, j] for j in range(6)]
    heights += [height * per_degree, height * per_degree * cosine]
    heights += [bare * sticks.moves[:, j] for j in range(6)]
    return place, torch.stack(heights).float()


def _places(
    sticks: Sticks, values: Tensor, axis: _Axis, wavelength: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Points at which reflections lie (NaN: outside), their g, sin theta and 2theta, ``[R]``."""
    of = values[sticks.crystal]
    g = sticks.g * torch.exp((sticks.moves * of[:, _STRAINS]).sum(1))
    sine = g * wavelength / 2
    reached = sine < 0.995
    sine = sine.clamp_max(0.995)
    cosine = (1 - sine.square()).sqrt()
    two_theta = 2 * torch.rad2deg(torch.asin(sine)) + of[:, 8] + of[:, 9] * cosine
    place = torch.where(reached, axis.place(two_theta), math.nan)
    return place, g, sine, two_theta
