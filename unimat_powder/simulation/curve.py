"""Reflections and instruments in, the curves without background and noise ``[B, P]`` out.

Peaks change their width with angle, so a row is not convolved on its angles but on an axis u along
which all its peaks are equally wide: du = d2theta / FWHM, a table of some hundred knots per row,
linear between them. Sticks are put on that axis with quadratic B-splines, the profile is applied in
Fourier space, and the grid's points read the result off by linear interpolation; the variances of
spline and interpolation, 1/4 and 1/6, are taken off the profile.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import numpy as np
import torch
from scipy.fft import next_fast_len
from torch import Tensor
from torch.nn import functional

from unimat_lib.views.bragg import Reflections, check_reach, g_max_of
from unimat_lib.views.grid import Grid, lorentz_polarisation
from unimat_powder.simulation.instruments import Instruments
from unimat_powder.simulation.scattering import Beams, scattered
from unimat_powder.simulation.white import ghosts_of_white_radiation

_FWHM_PER_SIGMA = 2 * math.sqrt(2 * math.log(2))
SPACING = 32  # grid steps between two knots of a row's tables
_MARGIN = 2  # knots left and right of the grid: tails and shifts bring peaks in
_USED = 0.9  # share of a row's points on the axis u; the rest keeps its ends apart
_FIRST = 8  # where the axis u begins, so that sticks beside it stay in their row
_NARROWEST = 0.02  # degrees; no FWHM falls below
_WIDENED = 1 / 4 + 1 / 6  # variance in steps^2 that splines and interpolation add
_TAIL_NODES = 7
_LONG_TAIL = 0.5  # widths; shorter tails of axial divergence only shift a peak


class Axes(NamedTuple):
    """Tables of ``T`` knots, ``SPACING`` grid steps apart, and the axis u of each pattern."""

    own: Tensor  # 2theta at the pattern's wavelength, [B, T], degrees
    fwhm: Tensor  # [B, T], degrees
    u: Tensor  # [B, T], steps
    width: Tensor  # FWHM on u, steps, [B]


class Sticks(NamedTuple):
    """Lines of all crystals, ``M`` of them: where they are and how strong."""

    row: Tensor  # int64 [M]
    place: Tensor  # in knots [M]
    weight: Tensor  # [M]
    tail: Tensor  # of the asymmetry, degrees [M]


def expected_curve(
    reflections: Reflections,
    index: Tensor,
    grid: Grid,
    instruments: Instruments,
    *,
    generator: torch.Generator | None = None,
    symmetry: Tensor | None = None,
) -> Tensor:
    """The peaks of some crystals as the instruments widen, shift and distort them.

    Args:
        reflections: All crystals' reflections.
        index: Which crystals, int64 ``[B]``.
        grid: Where to draw them; angles of other wavelengths are converted, as :func:`.to_grid`
            does it.
        instruments: Drawn for these ``B`` patterns.
        generator: Source of the intensity errors; without it there are none.
        symmetry: :func:`.strain_projectors` of ``reflections.reciprocal``, ``[C, 6, 6]``; without
            it, they are worked out for the crystals drawn.

    Returns:
        float32 ``[B, P]`` per degree, as it is counted at the instruments' own wavelengths; the
        main crystal's peaks have the area 1. Not cut where nothing was measured.

    Raises:
        ValueError: The reflections do not reach the end of the grid.
    """
    check_reach(reflections, g_max_of(grid), f"a grid up to {grid.two_theta_max:g} degrees")
    axes = row_axes(grid, instruments)
    which = index[instruments.crystal]  # [N], places among the reflections' crystals
    reach = _reach(grid, instruments)
    beams = scattered(reflections, which, instruments, reach, generator, symmetry)
    sticks, scale = _all_lines(beams, grid, instruments)
    rows = torch.zeros(len(instruments), _row_length(grid), device=reflections.device)
    _put_sticks(rows, axes, sticks)
    response = _response(instruments, axes)
    curve = _read_off(_convolved(rows, axes, instruments), axes, grid, response)
    ghosts = ghosts_of_white_radiation(beams, scale, axes.own, instruments)
    return curve.add_(between_knots(ghosts * response, grid))


# ---- axes ---------------------------------------------------------------------------------------


def num_knots(grid: Grid) -> int:
    """Knots of a row's tables, the margins included."""
    return math.ceil((grid.num_points - 1) / SPACING) + 1 + 2 * _MARGIN


def row_axes(grid: Grid, instruments: Instruments) -> Axes:
    """The tables of each pattern."""
    device = instruments.lines.device
    knots = torch.arange(num_knots(grid), device=device) - _MARGIN
    angle = grid.two_theta_min + knots * (SPACING * grid.step)  # on the grid, [T]
    ratio = (instruments.stated / grid.wavelength)[:, None]
    own = converted(angle.clamp(0.0, 179.0)[None], ratio)  # [B, T]
    fwhm = _fwhm(own, instruments.caglioti)
    middle = (own[:, 1:] + own[:, :-1]) / 2
    steps = (own.diff(dim=1) / _fwhm(middle, instruments.caglioti)).cumsum(1)
    u = functional.pad(steps, (1, 0))
    width = _USED * _row_length(grid) / u[:, -1:]
    return Axes(own, fwhm, u * width + _FIRST, width[:, 0])


def converted(two_theta: Tensor, ratio: Tensor) -> Tensor:
    """Angles in degrees at a wavelength ``ratio`` times as long; 179 where there are none."""
    sine = torch.sin(torch.deg2rad(two_theta / 2)) * ratio
    return (2 * torch.rad2deg(torch.asin(sine.clamp(-1, 1)))).clamp_max(179.0)


def conversion(instruments: Instruments, axes: Axes, grid: Grid) -> Tensor:
    """What counts at a pattern's own wavelength are multiplied with on the grid, ``[B, T]``."""
    there = torch.sin(torch.deg2rad(axes.own / 2)).clamp_min(0.01)
    ratio = (grid.wavelength / instruments.stated)[:, None]
    here = (there * ratio).clamp_max(0.9999)
    stretch = ((1 - here**2) / (1 - there**2).clamp_min(1e-4)).sqrt() / ratio
    return lorentz_polarisation(here) / lorentz_polarisation(there) * stretch


def _fwhm(two_theta: Tensor, caglioti: Tensor) -> Tensor:
    t = torch.tan(torch.deg2rad(two_theta / 2)).clamp_max(20.0)
    u, v, w = (column[:, None] for column in caglioti.unbind(1))
    return ((u * t + v) * t + w).clamp_min(_NARROWEST**2).sqrt()


def _row_length(grid: Grid) -> int:
    """Points on the axis u: a product of small primes, two mostly, which transforms fastest."""
    return 128 * next_fast_len(math.ceil(1.25 * grid.num_points / 128), real=True)


def between_knots(table: Tensor, grid: Grid) -> Tensor:
    """A table ``[B, T]`` at the grid's points, ``[B, P]``, linear between knots."""
    inner = table[:, _MARGIN : table.shape[1] - _MARGIN]
    weight = torch.arange(SPACING, device=table.device) / SPACING
    points = torch.lerp(inner[:, :-1, None], inner[:, 1:, None], weight)  # [B, T-1, spacing]
    points = points.flatten(1)
    if points.shape[1] < grid.num_points:  # the last point is a knot
        points = torch.cat([points, inner[:, -1:]], dim=1)
    return points[:, : grid.num_points]


# ---- sticks -------------------------------------------------------------------------------------


def _all_lines(beams: Beams, grid: Grid, instruments: Instruments) -> tuple[Sticks, Tensor]:
    """The lines of all reflections on the grid or just beside it, and each crystal's scale."""
    row, entry, sine, weight = _emitted(beams, grid, instruments)
    cosine = (1 - sine * sine).sqrt()
    shift = instruments.displacement.index_select(0, row) * cosine
    shift = shift + instruments.zero.index_select(0, row)
    own = torch.rad2deg(2 * torch.asin(sine)) + shift
    ratio = (grid.wavelength / instruments.stated).index_select(0, row)
    place = (converted(own, ratio) - grid.two_theta_min) / (SPACING * grid.step) + _MARGIN
    weight = weight * lorentz_polarisation(sine.clamp_min(0.01))
    total = torch.zeros_like(instruments.share).index_add_(0, entry, weight)
    scale = instruments.share / total.clamp_min(1e-30)
    weight = weight * scale.index_select(0, entry)
    tail = instruments.asymmetry.index_select(0, row) * (1 - 2 * sine * sine)  # cot 2theta
    return Sticks(row, place, weight, tail / (2 * sine * cosine)), scale


def _reach(grid: Grid, instruments: Instruments) -> tuple[Tensor, Tensor]:
    """Smallest and largest 1/d of which any line falls on the tables, ``[B]``."""
    low, high = _sine_range(grid, instruments)
    dark = instruments.line_weights <= 0
    longest = instruments.lines.masked_fill(dark, 0).amax(1)
    shortest = instruments.lines.masked_fill(dark, math.inf).amin(1)
    return 2 * low / longest, 2 * high / shortest


def _emitted(
    beams: Beams, grid: Grid, instruments: Instruments
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Row, crystal, sin theta and weight of all reflections' lines of all wavelengths.

    K-alpha 1 and 2 are drawn for all reflections, with no weight where they fall off the grid; the
    other lines, which few patterns have, are picked out.
    """
    row, entry, g, weight = beams
    low, high = _sine_range(grid, instruments)
    first, last = low.index_select(0, row), high.index_select(0, row)
    parts = []
    for number in range(instruments.lines.shape[1]):
        strength = instruments.line_weights[:, number].contiguous()
        sine = g * (instruments.lines[:, number] / 2).contiguous().index_select(0, row)
        there = (sine > first) & (sine < last)
        if number < 2:
            scaled = weight * strength.index_select(0, row) * there
            parts.append((row, entry, sine.clamp_max(0.999), scaled))
        else:
            seen = (there & (strength > 0).index_select(0, row)).nonzero()[:, 0]
            found = [x.index_select(0, seen) for x in (row, entry, sine, weight)]
            found[3] = found[3] * strength.index_select(0, found[0])
            parts.append(tuple(found))
    return tuple(torch.cat(x) for x in zip(*parts, strict=True))


def _sine_range(grid: Grid, instruments: Instruments) -> tuple[Tensor, Tensor]:
    """Smallest and largest sin theta that reaches the tables of each pattern, ``[B]``."""
    margin = (_MARGIN - 1) * SPACING * grid.step
    ends = torch.tensor([grid.two_theta_min - margin, grid.two_theta_max + margin])
    sine = torch.sin(torch.deg2rad(ends.clamp(1.0, 175.0) / 2)).tolist()
    ratio = instruments.stated / grid.wavelength
    return sine[0] * ratio, (sine[1] * ratio).clamp_max(0.999)


# ---- profiles -----------------------------------------------------------------------------------


def _put_sticks(rows: Tensor, axes: Axes, sticks: Sticks) -> None:
    """Add the sticks to rows ``[B, n]`` of the axis u."""
    row, place, weight, tail = sticks
    knots = axes.u.shape[1]
    last = knots - 2
    at = row * knots + place.long().clamp(0, last)
    # A tail is as long in knots as the axis stretches there.
    per_degree = functional.pad(axes.own.diff(dim=1).clamp_min(1e-6).reciprocal(), (0, 1))
    per_degree = per_degree.reshape(-1).index_select(0, at)
    widths = tail.abs() / axes.fwhm.reshape(-1).index_select(0, at)
    far = widths > _LONG_TAIL
    long = far.nonzero()[:, 0]
    shift = tail / 6 * per_degree  # what a tail shifts the middle of a peak by
    nodes, shares = (torch.tensor(x, device=row.device) for x in _tail_nodes())
    moved = place[long, None] - (tail * per_degree)[long, None] * nodes
    kept = ((weight > 0) & ~far).nonzero()[:, 0]
    columns = place - shift, row, weight
    place, row_kept, weight_kept = (x.index_select(0, kept) for x in columns)
    place = torch.cat([place, moved.reshape(-1)])
    row, weight = (
        torch.cat([row_kept, row[long, None].expand_as(moved).reshape(-1)]),
        torch.cat([weight_kept, (weight[long, None] * shares).reshape(-1)]),
    )
    knot = place.floor().clamp(0, last)
    part = place - knot
    at = row * knots + knot.long()
    flat = axes.u.reshape(-1)
    left, right = flat.index_select(0, at), flat.index_select(0, at + 1)
    u = left + part * (right - left)
    n = rows.shape[1]
    u = u.clamp(1, n - 2)  # what lies beside the tables has no weight, but needs a place
    nearest = u.round()
    t = u - nearest  # -1/2 to 1/2
    target = row * n + nearest.long()
    middle = 0.75 - t * t
    values = [(0.5 - t).square() / 2, middle, (0.5 + t).square() / 2]
    flat = rows.view(-1)
    for offset, value in zip((-1, 0, 1), values, strict=True):
        flat.scatter_add_(0, target + offset, weight * value)


@functools.cache
def _tail_nodes() -> tuple[list[float], list[float]]:
    """Where the tail of a peak is put, in tail lengths, and with which shares.

    With receiving and sample slit equally long the axial angle phi has the density 2 (1 - phi) on
    0 to 1 and moves a ray by phi^2 of the largest shift, towards low angles below 90 degrees.

    Source: Finger, Cox and Jephcoat, J. Appl. Cryst. 27, 892 (1994), with H = S, small angles.
    """
    x, weights = np.polynomial.legendre.leggauss(_TAIL_NODES)
    phi = (x + 1) / 2
    shares = weights / 2 * 2 * (1 - phi)
    return (phi**2).tolist(), (shares / shares.sum()).tolist()


def _convolved(rows: Tensor, axes: Axes, instruments: Instruments) -> Tensor:
    """Sticks convolved with a pseudo-Voigt profile whose Lorentzian share changes along u."""
    n = rows.shape[1]
    k = _frequencies(n, rows.device)
    k2 = k.square()
    width = axes.width[:, None]
    variance = (width / _FWHM_PER_SIGMA).square()
    surplus = variance.clamp_max(_WIDENED)
    spectrum = torch.fft.rfft(rows)
    gauss = (k2 * ((surplus - variance) / 2)).exp_()
    lorentz = (k2 * (surplus / 2)).sub_(k * (width / 2)).exp_()
    narrow, broad = (torch.fft.irfft(spectrum * x, n=n) for x in (gauss, lorentz))
    along = torch.arange(n, device=rows.device) / (_USED * n)
    eta = instruments.eta[:, :1] + (instruments.eta[:, 1:] - instruments.eta[:, :1]) * along
    return narrow.addcmul_(broad.sub_(narrow), eta)


@functools.lru_cache(maxsize=16)
def _frequencies(n: int, device: torch.device) -> Tensor:
    return 2 * math.pi * torch.fft.rfftfreq(n, device=device)


def _read_off(curve: Tensor, axes: Axes, grid: Grid, factor: Tensor) -> Tensor:
    """Curves ``[B, n]`` along u, times ``factor`` ``[B, T]``, at the grid's points, ``[B, P]``."""
    u = between_knots(axes.u, grid)
    left = u.long()
    factor = factor * axes.width[:, None] / axes.fwhm  # steps of u per degree: areas stay
    low = curve.gather(1, left)
    high = curve.gather(1, left + 1)
    return low.lerp_(high, u.sub_(left)).mul_(between_knots(factor, grid))


def _response(instruments: Instruments, axes: Axes) -> Tensor:
    """What smoothly changes intensities, ``[B, T]``."""
    terms = chebyshev(instruments.response.shape[1], axes.u.shape[1], axes.u.device)
    return torch.exp(instruments.response @ terms) * on_sample(instruments, axes)


def on_sample(instruments: Instruments, axes: Axes) -> Tensor:
    """Share of the beam that falls on the sample, ``[B, T]``, sin theta below the spill angle."""
    sine, whole = (torch.sin(torch.deg2rad(x / 2)) for x in (axes.own, instruments.spill[:, None]))
    return (sine / whole.clamp_min(1e-6)).clamp_max(1)


@functools.lru_cache(maxsize=16)
def chebyshev(terms: int, points: int, device: torch.device) -> Tensor:
    """Chebyshev polynomials T1, T2, ... over equidistant points, ``[terms, points]``."""
    x = torch.linspace(-1, 1, points, device=device)
    order = torch.arange(1, terms + 1, device=device)
    return torch.cos(order[:, None] * torch.acos(x))
