"""Parameters of peaks in, their profiles and derivatives at the points of a pattern out.

Every peak is a split pseudo-Voigt. Width, Lorentzian share and asymmetry are smooth functions of
the angle that all peaks share; each width may leave the common one a little. Where K-alpha 2 is in
the beam, each peak is two of these, the second at the same spacing and half as high.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from scipy.interpolate import BSpline

K_ALPHA_2_SHARE = 0.5  # height of the second line of a doublet; theory and measurements agree
REACH = 12.0  # widths from its position that a peak is drawn
CHUNK = 128  # points
NUM_SHAPE = 6
_LN2 = np.log(2.0)
LORENTZ_AREA, GAUSS_AREA = np.pi / 2, np.sqrt(np.pi / _LN2) / 2  # with unit height and width


class Points(NamedTuple):
    """``n`` points of a pattern with what is fixed in a fit."""

    x: np.ndarray  # [n] 2theta in degrees
    y: np.ndarray  # [n]
    basis: np.ndarray  # [n, b] B-splines by rising angle that make the background


@dataclass(frozen=True)
class Model:
    """Parameters of ``K`` peaks on a background.

    ``shape`` holds the logarithm of the common width as a parabola (3), the Lorentzian share as a
    line (2), in a variable that runs from -1 to 1 over the pattern, and the asymmetry (1).
    """

    height: np.ndarray  # [K] of the first line, in units of the pattern
    position: np.ndarray  # [K] of the first line, degrees, rising
    own_width: np.ndarray  # [K] logarithm of the width over the common one
    background: np.ndarray  # [b]
    shape: np.ndarray  # [6]
    ends: tuple[float, float]  # first and last angle of the pattern
    ratio: float  # second wavelength over the first; 1 for a single line

    @property
    def fwhm(self) -> np.ndarray:
        """Full widths at half maximum, degrees ``[K]``."""
        return self.common_width(self.position) * np.exp(self.own_width)

    def common_width(self, two_theta: np.ndarray) -> np.ndarray:
        """The width that peaks have at some angles, degrees."""
        u = self.variable(two_theta)
        return np.exp(self.shape[0] + self.shape[1] * u + self.shape[2] * u**2)

    def lorentzian(self, two_theta: np.ndarray) -> np.ndarray:
        """The Lorentzian share of peaks at some angles, 0 to 1."""
        return np.clip(self.shape[3] + self.shape[4] * self.variable(two_theta), 0.0, 1.0)

    def asymmetry(self, two_theta: np.ndarray) -> np.ndarray:
        """By how much the left half is wider than the mean, as a share; axial divergence."""
        return np.clip(self.shape[5] * _cotangent(two_theta), -0.6, 0.6)

    @property
    def area(self) -> np.ndarray:
        """Integrated intensity of both lines, ``[K]``, in units of the pattern times degrees."""
        lines = 1 + K_ALPHA_2_SHARE * (self.ratio > 1)
        return self.height * self.fwhm * self.form * lines

    @property
    def form(self) -> np.ndarray:
        """Areas of profiles of unit height and width, ``[K]``."""
        eta = self.lorentzian(self.position)
        return eta * LORENTZ_AREA + (1 - eta) * GAUSS_AREA

    def variable(self, two_theta: np.ndarray) -> np.ndarray:
        """What the shape depends on: -1 to 1 over the pattern."""
        low, high = self.ends
        return (2 * two_theta - low - high) / (high - low)

    def select(self, index: np.ndarray) -> Model:
        """Some of the peaks, a mask or places ``[K]``."""
        return replace(
            self,
            height=self.height[index],
            position=self.position[index],
            own_width=self.own_width[index],
        )

    def with_peaks(self, position: np.ndarray, height: np.ndarray) -> Model:
        """The same with more peaks."""
        where = np.concatenate([self.position, position])
        order = np.argsort(where, kind="stable")
        return replace(
            self,
            height=np.concatenate([self.height, height])[order],
            position=where[order],
            own_width=np.concatenate([self.own_width, np.zeros(len(position))])[order],
        )


def _cotangent(two_theta: np.ndarray) -> np.ndarray:
    return 1 / np.tan(np.radians(np.clip(two_theta, 10.0, 90.0)))


def second_line(position: np.ndarray, ratio: float) -> np.ndarray:
    """Where the second wavelength puts peaks of the first, degrees; NaN where it puts none."""
    sine = np.sin(np.radians(position / 2)) * ratio
    return np.degrees(2 * np.arcsin(np.where(sine < 1, sine, np.nan)))


def spline_basis(x: np.ndarray, distance: float) -> np.ndarray:
    """Cubic B-splines ``[n, b]`` for a background.

    Their knots lie about ``distance`` degrees apart at 40 degrees, closer at lower angles, where
    the direct beam and the air make the background steep.
    """
    low, high = np.sqrt(x[0] + 1), np.sqrt(x[-1] + 1)
    pieces = round((high - low) * 2 * np.sqrt(40.0) / distance)
    pieces = int(min(max(pieces, 1), max(len(x) // 8, 1), 40))
    inner = np.linspace(low, high, pieces + 1) ** 2 - 1
    inner[0], inner[-1] = x[0], x[-1]
    knots = np.concatenate([[inner[0]] * 3, inner, [inner[-1]] * 3])
    return BSpline.design_matrix(x, knots, 3).toarray()


class Drawn(NamedTuple):
    """Values of ``n`` points with the derivatives of the points near each peak.

    A point ``p`` of chunk ``c`` keeps the derivatives by peak ``k`` at ``band[p, k - first[c]]``.
    """

    peaks: np.ndarray  # [n] sum of the peaks
    band: np.ndarray  # [n, M, 3] by height, position and own width
    shape: np.ndarray  # [n, 6]
    first: np.ndarray  # [chunks]
    last: np.ndarray  # [chunks]


def draw(points: Points, model: Model) -> np.ndarray:
    """The peaks of a model without its background, ``[n]``."""
    pieces = [_line(points.x, model, second) for second in _lines(model)]
    total = np.zeros(len(points.x))
    for piece in pieces:
        np.add.at(total, piece.point, piece.value * model.height[piece.peak])
    return total


def _lines(model: Model) -> tuple[bool, ...]:
    return (False, True) if model.ratio > 1 else (False,)


class _Line(NamedTuple):
    """One line of all peaks at the points that it reaches; flat ``[m]``."""

    point: np.ndarray
    peak: np.ndarray
    value: np.ndarray  # with height 1
    by_position: np.ndarray
    by_width: np.ndarray  # by the logarithm of the width
    by_lorentzian: np.ndarray
    by_asymmetry: np.ndarray


def _reach(x: np.ndarray, model: Model) -> tuple[np.ndarray, np.ndarray]:
    """First point and one after the last that each peak reaches, ``[K]`` each."""
    reach = REACH * model.fwhm
    start = np.searchsorted(x, model.position - reach)
    end = model.position + reach
    if model.ratio > 1:
        end = np.fmax(end, second_line(model.position, model.ratio) + reach)
    return start, np.searchsorted(x, end)


def _line(x: np.ndarray, model: Model, second: bool) -> _Line:
    centre, weight, slope = model.position, 1.0, 1.0
    if second:
        centre = second_line(model.position, model.ratio)
        weight = K_ALPHA_2_SHARE
        cosine = np.cos(np.radians(centre / 2))
        slope = model.ratio * np.cos(np.radians(model.position / 2)) / np.maximum(cosine, 1e-3)
    width, reach = model.fwhm, REACH * model.fwhm
    there = np.isfinite(centre)
    safe = np.where(there, centre, 0.0)
    start = np.searchsorted(x, safe - reach)
    count = np.where(there, np.searchsorted(x, safe + reach) - start, 0)
    peak = np.repeat(np.arange(len(count)), count)
    point = np.arange(count.sum()) - np.repeat(count.cumsum() - count - start, count)

    offset = x[point] - safe[peak]
    left = offset < 0
    asymmetry = model.asymmetry(model.position)
    side = np.where(left, 1 + asymmetry[peak], 1 - asymmetry[peak])
    half = width[peak] * side
    u = offset / half
    eta = model.lorentzian(model.position)[peak]
    u2 = u * u
    gauss = np.exp(-4 * _LN2 * np.minimum(u2, 100.0))
    lorentz = 1 / (1 + 4 * u2)
    edge = 1 / (1 + 4 * REACH**2)  # of the Lorentzian: it goes to zero where drawing ends
    cut = np.maximum((lorentz - edge) / (1 - edge), 0)
    value = weight * (eta * cut + (1 - eta) * gauss)
    by_u = weight * (-8 * eta * u * lorentz**2 - 8 * _LN2 * (1 - eta) * u * gauss)
    slope = np.broadcast_to(slope, len(count))[peak]
    return _Line(
        point,
        peak,
        value,
        by_position=-by_u / half * slope,
        by_width=-u * by_u,
        by_lorentzian=weight * (cut - gauss),
        by_asymmetry=-u * by_u * np.where(left, 1, -1) / side,
    )


def draw_all(points: Points, model: Model) -> Drawn:
    """Peaks and derivatives at all points."""
    n, height = len(points.x), model.height
    start, end = _reach(points.x, model)
    edges = np.arange(0, n + CHUNK, CHUNK)
    chunks = len(edges) - 1
    # Peaks by rising position: those that touch a chunk are neighbours, nearly.
    touches = (start[None] < edges[1:, None]) & (end[None] > edges[:-1, None])  # [chunks, K]
    first, last = np.zeros((2, chunks), dtype=int)
    if len(height):
        some = touches.any(1)
        first = np.where(some, touches.argmax(1), 0)
        last = np.where(some, len(height) - touches[:, ::-1].argmax(1), 0)
    most = int(max((last - first).max(initial=0), 1))
    band = np.zeros((n, most, 3))
    value = np.zeros(n)
    shape = np.zeros((n, NUM_SHAPE))
    u = model.variable(model.position)
    eta = model.lorentzian(model.position)
    inside = (eta > 0) & (eta < 1)
    cot = _cotangent(model.position)
    for second in _lines(model):
        line = _line(points.x, model, second)
        p, k = line.point, line.peak
        place = k - first[p // CHUNK]
        a = height[k]
        band[p, place, 0] += line.value
        band[p, place, 1] += a * line.by_position
        band[p, place, 2] += a * line.by_width
        value += np.bincount(p, a * line.value, n)
        width, lorentz = a * line.by_width, a * line.by_lorentzian * inside[k]
        columns = width, width * u[k], width * u[k] ** 2, lorentz, lorentz * u[k]
        for i, column in enumerate((*columns, a * line.by_asymmetry * cot[k])):
            shape[:, i] += np.bincount(p, column, n)
    return Drawn(value, band, shape, first, last)
