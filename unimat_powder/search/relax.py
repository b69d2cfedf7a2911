"""Candidates in, their cells out, relaxed within the symmetry until lines meet the pattern's.

No peaks are picked. Each line looks at the measured amplitude around it and says where it would
rather be; the strains that the symmetry allows, a zero shift and a displacement of the sample
follow what the lines say, weighted with what each contributes, against a prior. That is a step of
expectation maximisation for lines as wide as the smoothing, repeated from wide to narrow.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from unimat_powder.library.lines import DELTA
from unimat_powder.search.amplitude import WIDTHS, Amplitude, line_factor
from unimat_powder.search.reflections import (
    Candidates,
    Lines,
    merged,
    prior_mean,
    prior_precision,
    sticks_of,
    strongest_lines,
)

_STEPS = 5  # at each width
_WEIGHT = 300.0  # what the lines say against the prior: a pattern counts as this many photons
_NEIGHBOURS = 24  # lines on either side that overlap with one, at most
_REACH = 1.04  # lines that a strain may still pull into the range
_FAR = 0.92  # 1/angstrom, 90 degrees of Cu K-alpha: lines beyond it are many and weak


class Relaxed(NamedTuple):
    """Candidates after relaxation, ``K`` of them."""

    cosine: Tensor  # [K], of the measured and the computed root curve
    penalty: Tensor  # [K], half the squared distance from the prior in standard deviations
    shape: Tensor  # [K, 8]: six strains, zero shift and displacement in degrees


def start_lines(candidates: Candidates, amplitude: Amplitude) -> Lines:
    """The lines by which candidates are placed."""
    end = min(amplitude.end, _FAR) * _REACH
    sticks = merged(sticks_of(candidates, g_max=end))
    return strongest_lines(sticks, len(candidates), wavelength=amplitude.wavelength, end=end)


def relax(candidates: Candidates, lines: Lines, amplitude: Amplitude, shift: Tensor) -> Relaxed:
    """Relax the cells of candidates.

    In a short scan the one line of a crystal may lie where the pattern all but vanishes; its step
    can then be so large that no number holds the cell. Such a crystal goes back to the prior's
    mean, as all do whose lines have left the pattern.

    Args:
        candidates: ``K`` crystals.
        lines: Of :func:`start_lines`.
        amplitude: The measurement.
        shift: Isotropic start, ``[K]``, in steps of :data:`DELTA` of ln g.
    """
    precision, mean = prior_precision(), prior_mean()
    shape = torch.zeros(len(candidates), 8, dtype=torch.float64)
    shape[:, 0] = -(3**0.5) * DELTA * shift
    free = torch.cat([candidates.free, torch.ones(len(candidates), 2, dtype=torch.float64)], dim=1)
    for width in WIDTHS:
        for _ in range(_STEPS):
            g, slopes = _moved(lines, shape, amplitude.wavelength)
            lost = ~slopes.isfinite().flatten(1).all(1)
            if lost.any():
                shape = torch.where(lost[:, None], mean, shape)
                g, slopes = _moved(lines, shape, amplitude.wavelength)
            value, slope, inside = amplitude.at(g, width)
            height = (lines.intensity * line_factor(g, amplitude.wavelength) * inside).sqrt()
            total = (height * value).sum(1, keepdim=True).clamp_min(1e-9)
            share = height * value / total * _WEIGHT  # [K, L]
            wish = height * slope / total * _WEIGHT
            scaled = slopes * (share / (2 * width**2))[..., None]
            hessian = scaled.mT @ slopes + torch.diag(precision)
            gradient = (wish[:, None] @ slopes)[:, 0] - precision * (shape - mean)
            hessian = hessian * free[:, :, None] * free[:, None] + torch.diag_embed(1 - free)
            shape = shape + torch.linalg.solve(hessian, gradient * free)
    cosine = _cosine(lines, shape, amplitude)
    if (lost := cosine.isnan()).any():
        shape = torch.where(lost[:, None], mean, shape)
        cosine = _cosine(lines, shape, amplitude)
    distance = (shape - mean) * free
    return Relaxed(cosine, (precision * distance.square()).sum(1) / 2, shape * free)


def _moved(lines: Lines, shape: Tensor, wavelength: float) -> tuple[Tensor, Tensor]:
    """Places of the lines in g, ``[K, L]``, and their change with each of the 8 numbers."""
    g = lines.g * torch.exp((lines.moves @ shape[:, :6, None])[..., 0])
    cosine = (1 - (g * wavelength / 2).clamp_max(0.9995).square()).sqrt()
    # Degrees of 2theta to g: dg = 2 cos theta / lambda dtheta.
    zero = cosine / wavelength * math.radians(1)
    shifts = torch.stack([zero, zero * cosine], dim=-1)  # a displacement goes with cos theta
    slopes = torch.cat([lines.moves * g[..., None], shifts], dim=-1)
    return g + (shifts @ shape[:, 6:, None])[..., 0], slopes


def _cosine(lines: Lines, shape: Tensor, amplitude: Amplitude) -> Tensor:
    """Cosine of the measured amplitude and that of each candidate, its lines finely smoothed."""
    width = WIDTHS[-1]
    g, _ = _moved(lines, shape, amplitude.wavelength)
    value, _, inside = amplitude.at(g, width)
    height = (lines.intensity * line_factor(g, amplitude.wavelength) * inside).sqrt()
    g, order = g.sort(dim=1)
    sorted_height = height.gather(1, order)
    square = sorted_height.square().sum(1)
    for step in range(1, _NEIGHBOURS + 1):
        near = torch.exp(-((g[:, step:] - g[:, :-step]) ** 2) / (4 * width**2))
        square = square + 2 * (sorted_height[:, step:] * sorted_height[:, :-step] * near).sum(1)
    return (height * value).sum(1) / square.clamp_min(1e-12).sqrt()
