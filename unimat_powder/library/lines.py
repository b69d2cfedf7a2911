"""Crystals in, the lines that each shows in a powder pattern out, ready for a search.

A line is what reflections within ``MERGE`` of one another make. Positions count steps of ln(1/d),
in which an isotropic strain is a shift. A coarse comparison of a crystal with a pattern is

    sum_j amplitude_j T(position_j) / sqrt(sum_j overlap_j D(position_j))

with T what the pattern has there and D what a pattern could have: the cosine of the roots of two
intensities, the computed one with lines of width ``SIGMA`` that overlap.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from unimat_lib.crystals.table import CrystalTable
from unimat_lib.views.bragg import bragg_reflections

DELTA = 0.0015  #: Step of ln(1/d)
G_START = 0.03  #: 1/d in 1/angstrom at position 0; lines below it are left out
G_MAX = 1.15  #: Largest 1/d in 1/angstrom; with Mo radiation 48 degrees, with Ag 38
MERGE = 0.002  #: 1/angstrom, the width of the bins within which reflections make one line
SIGMA = 0.0012  #: 1/angstrom, the standard deviation of the lines in overlaps
KEPT = 120  #: Most lines of a crystal
#: The lines kept are the strongest of this wavelength (angstrom) and range (degrees).
SHOWN = 1.5418, 5.0, 90.0
_DEBYE_WALLER = 0.6  # B in square angstrom, for what is shown only
_FAINT = 1e-3  # of the largest amplitude of a crystal; fainter lines are left out
_NEIGHBOURS = 5  # bins within which lines overlap; in the next, less than 1e-7 does


class Lines(NamedTuple):
    """Lines of ``C`` crystals, one crystal after the other, by rising position."""

    offsets: Tensor  #: int64 ``[C+1]``; crystal ``c`` has ``offsets[c]:offsets[c + 1]``
    #: uint16 ``[L]``, ln(g / G_START) / DELTA, rounded, of the intensity-weighted mean of ln g
    position: Tensor
    #: float16 ``[L]``, root of the sum of 2 ``|F|^2``, in units of the crystal's largest
    amplitude: Tensor
    #: float16 ``[L]``, amplitude_j sum_k amplitude_k exp(-(g_j - g_k)^2 / 4 SIGMA^2)
    overlap: Tensor


def shown_weight(g: Tensor) -> Tensor:
    """What a unit of 2 ``|F|^2`` at ``g`` (1/angstrom) adds to the Cu pattern, float64.

    Lorentz-polarisation and Debye-Waller factors; outside the range a value that is smaller than
    any inside, so that lines from there come last.
    """
    wavelength, low, high = SHOWN
    sine = (g * wavelength / 2).clamp_max(0.9)
    square = sine * sine
    lorentz = (1 + (1 - 2 * square) ** 2) / (square * (1 - square).sqrt())
    weight = lorentz * torch.exp(-_DEBYE_WALLER * g * g / 2)
    ends = (2 * math.sin(math.radians(x / 2)) / wavelength for x in (low, high))
    start, end = ends
    return torch.where((g >= start) & (g <= end), weight, weight * 1e-12)


def line_index(table: CrystalTable) -> Lines:
    """The lines of every crystal, on the CPU; one without any has an empty segment.

    Raises:
        ValueError: An element has no scattering parameters, see :func:`.bragg_reflections`.
    """
    reflections = bragg_reflections(table, g_max=G_MAX)
    bins = math.ceil(G_MAX * (1 + 1e-9) / MERGE) + 1
    start = math.floor(G_START / MERGE)
    inside = reflections.g >= G_START
    log_g = (reflections.g / G_START).log()
    place = reflections.crystal * bins + (reflections.g / MERGE).long()
    summed = log_g.new_zeros(2, len(table) * bins)
    weight = reflections.intensity * inside
    summed[0].index_add_(0, place, weight)
    summed[1].index_add_(0, place, weight * log_g)
    intensity, moment = summed.reshape(2, len(table), bins)[..., start:].unbind()  # [C, bins]
    mean = moment / intensity.clamp_min(1e-300)
    g = G_START * mean.exp()

    intensity = _strongest(intensity, shown_weight(g))
    amplitude = (intensity / intensity.amax(1, keepdim=True).clamp_min(1e-300)).sqrt()
    amplitude = torch.where(amplitude < _FAINT, 0.0, amplitude)
    overlap = _overlap(amplitude, g)
    crystal, column = amplitude.nonzero(as_tuple=True)
    counts = torch.bincount(crystal, minlength=len(table))
    return Lines(
        torch.cat([counts.new_zeros(1), counts.cumsum(0)]),
        (mean[crystal, column] / DELTA).round().to(torch.uint16),
        amplitude[crystal, column].half(),
        overlap[crystal, column].half(),
    )


def _strongest(intensity: Tensor, weight: Tensor) -> Tensor:
    """Intensities ``[C, bins]`` with all but the ``KEPT`` that weigh most set to zero."""
    kept = (intensity * weight).topk(KEPT, dim=1).indices
    return torch.zeros_like(intensity).scatter_(1, kept, intensity.gather(1, kept))


def _overlap(amplitude: Tensor, g: Tensor) -> Tensor:
    """``overlap`` of :class:`Lines` for dense bins ``[C, bins]``; empty ones have amplitude 0."""
    total = amplitude.clone()
    for step in range(1, _NEIGHBOURS + 1):
        low, high = slice(None, -step), slice(step, None)
        share = torch.exp(-((g[:, high] - g[:, low]) ** 2) / (4 * SIGMA**2))
        total[:, high] += amplitude[:, low] * share
        total[:, low] += amplitude[:, high] * share
    return total * amplitude
