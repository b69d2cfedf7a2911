"""What crystals scatter in, the ghosts that the tube's white radiation makes of it out."""

from __future__ import annotations

import torch
from torch import Tensor

from unimat_powder.simulation.instruments import Instruments
from unimat_powder.simulation.scattering import Beams

_NODES = 15  # wavelengths that stand for the hump of white radiation
_REACH = 2.0  # standard deviations on both sides
_WEAKEST = 0.003  # of a pattern's scattering; what is weaker casts no ghost worth a sum


def ghosts_of_white_radiation(
    beams: Beams, scale: Tensor, own: Tensor, instruments: Instruments
) -> Tensor:
    """Wide, weak copies of strong peaks at low angles, ``[B, T]`` per degree.

    Tubes emit most of their continuum at about a quarter of the wavelength of copper's K-alpha.
    Where neither a monochromator nor the detector keeps it out, every strong reflection shows
    again at a quarter of its sine, some degrees wide.

    Args:
        beams: Reflections of the batch.
        scale: Area of each crystal's peaks over the sum of its weights, ``[N]``.
        own: Angles of the knots, rising, equidistant on the grid, ``[B, T]``.
        instruments: Of the batch.
    """
    wavelength, spread, share = instruments.white.unbind(1)
    weight = beams.weight * scale.index_select(0, beams.entry)
    sine = beams.g * (instruments.lines[:, 0] / 2).index_select(0, beams.row)
    whole = weight * 2 / (sine * sine)  # with the Lorentz factor of small angles
    seen = (whole > _WEAKEST) & (share > 0).index_select(0, beams.row)
    seen = seen.nonzero()[:, 0]
    row, g, weight = (x.index_select(0, seen) for x in (beams.row, beams.g, weight))
    at = torch.linspace(-_REACH, _REACH, _NODES, device=own.device)
    bell = torch.exp(-at.square() / 2)
    bell = bell / bell.sum()
    length = wavelength[row, None] * torch.exp(spread[row, None] * at)  # [S, nodes]
    sine = (g[:, None] * length / 2).clamp(1e-3, 0.99)
    angle = torch.rad2deg(2 * torch.asin(sine))
    strength = (weight * share[row])[:, None] * bell * 2 / (sine * sine)
    rows = row[:, None].expand_as(angle)
    # The knot left of each angle: few rows have another axis than the grid's, so look it up.
    knot = torch.searchsorted(own[row].contiguous(), angle.contiguous()) - 1
    inside = (knot >= 0) & (knot < own.shape[1] - 1)
    knot = knot.clamp(0, own.shape[1] - 2)
    left, right = own[rows, knot], own[rows, knot + 1]
    width = (right - left).clamp_min(1e-3)
    part = ((angle - left) / width).clamp(0, 1)
    height = strength * inside / width
    ghosts = torch.zeros_like(own)
    ghosts.index_put_((rows, knot), height * (1 - part), accumulate=True)
    ghosts.index_put_((rows, knot + 1), height * part, accumulate=True)
    return ghosts
