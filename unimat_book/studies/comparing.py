"""Patterns in, ranks of the right crystals by comparing patterns out: search without learning.

What is compared are roots of intensities, which lift weak peaks. A cell that is a little larger
moves all peaks; so a query may be stretched by a range of scales, the best of which counts. Sizes
are small enough for a GPU: a scan of one query over 161,198 crystals and 67 scales is 9e10
multiplications.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from unimat_lib.crystals.table import CrystalTable
from unimat_lib.views.bragg import bragg_reflections, g_max_of
from unimat_lib.views.grid import Grid
from unimat_lib.views.render import render

WIDTH = 0.3
"""Full width in degrees to which peaks are brought before they are compared.

Of 0.1, 0.2, 0.3 and 0.5 on 62 validation crystals among 754, strained by 1 %: the best of all
scales finds 95, 100, 100 and 98 %, the plain cosine 2, 5, 11 and 44 %. Wider peaks forgive a strain
and what lies between two scales, and tell less apart.
"""

TIE = 1e-5
"""Cosines closer than this count as equal, against us; rounding makes less."""

SCAN_TIE = 1e-4
"""The same for scans, which are computed with ten binary digits."""

STEP = 0.00092
"""Steps of the scales, in the logarithm. Of the strains that are asked about only 0 lies on one."""

_STEPS = 33  # to either side: 3.1 %
_FWHM_PER_SIGMA = 2 * math.sqrt(2 * math.log(2))
_CRYSTALS = 2048  # whose reflections are in memory at once
_BYTES_GPU, _BYTES_CPU = 2**31, 2**27  # in memory at once, about
_COLUMNS = 2**14  # crystals of the gallery that are multiplied at once


@dataclass(frozen=True)
class Patterns:
    """Computed patterns of ``G`` crystals.

    Attributes:
        roots: Roots of intensities, float16 ``[G, P]``, highest point 1.
        norms: Their lengths, float32 ``[G]``.
    """

    roots: Tensor
    norms: Tensor

    def __len__(self) -> int:
        """Number of crystals."""
        return len(self.roots)

    def select(self, index: Tensor) -> Patterns:
        """Those of some crystals, int64 ``[B]``."""
        return Patterns(self.roots[index], self.norms[index])


def computed_patterns(table: CrystalTable, grid: Grid, *, fwhm: float, device: str) -> Patterns:
    """Clean patterns of all crystals of a table, on the device."""
    roots = torch.empty(len(table), grid.num_points, dtype=torch.float16, device=device)
    reach = g_max_of(grid)
    for rows in torch.arange(len(table)).split(_CRYSTALS):
        reflections = bragg_reflections(table.select(rows).to(device), g_max=reach)
        every = torch.arange(len(rows), device=device)
        roots[rows[0] : rows[-1] + 1] = render(reflections, every, grid, fwhm=fwhm).sqrt().half()
    parts = roots.split(_CRYSTALS)
    norms = torch.cat([part.float().norm(dim=1) for part in parts])
    return Patterns(roots, norms.clamp_min(1e-12))


def widened(patterns: Tensor, grid: Grid, *, fwhm: float) -> Tensor:
    """Intensities ``[Q, P]`` whose peaks of width ``fwhm`` (degrees) become :data:`WIDTH` wide.

    Wider ones stay; the dtype stays.
    """
    sigma = math.sqrt(max(0.0, WIDTH**2 - fwhm**2)) / _FWHM_PER_SIGMA / grid.step
    if sigma < 0.1:  # of a step
        return patterns
    reach = math.ceil(4 * sigma)
    offsets = torch.arange(-reach, reach + 1, device=patterns.device)
    kernel = torch.exp(-(offsets / sigma).square() / 2)
    kernel = (kernel / kernel.sum())[None, None]
    parts = [
        functional.conv1d(part.float()[:, None], kernel, padding=reach)[:, 0].to(patterns.dtype)
        for part in patterns.split(_CRYSTALS)
    ]
    return torch.cat(parts)


def scales() -> Tensor:
    """Factors of cell lengths that a scan tries, float64 ``[S]``, 1 in the middle."""
    return (STEP * torch.arange(-_STEPS, _STEPS + 1, dtype=torch.float64)).exp()


class Stretcher:
    """Patterns as they were if cells had not been stretched, for each of :func:`scales`.

    A cell stretched by f has its peaks where sin theta is f times smaller; so the value at 2theta
    is looked up there, linear between the points of the grid, and is zero beyond its ends.
    """

    def __init__(self, grid: Grid, device: torch.device | str) -> None:
        factors = scales()[:, None]
        sine = torch.sin(torch.deg2rad(grid.two_theta.double() / 2))[None] / factors
        place = (2 * torch.rad2deg(torch.asin(sine.clamp(max=1))) - grid.two_theta_min) / grid.step
        last = grid.num_points - 1
        left = place.floor().clamp(0, last - 1)
        inside = (place >= 0) & (place <= last)
        self.left = left.long().to(device)  # [S, P]
        self.part = (place - left).float().to(device)
        self.inside = inside.float().to(device)

    def __call__(self, patterns: Tensor) -> Tensor:
        """Roots ``[B, P]`` -> stretched ones of unit length, float32 ``[B, S, P]``."""
        low, high = patterns[:, self.left], patterns[:, self.left + 1]
        drawn = torch.lerp(low, high, self.part[None]) * self.inside
        return drawn / drawn.norm(dim=2, keepdim=True).clamp_min(1e-12)


@torch.no_grad()
def cosine_ranks(queries: Tensor, gallery: Patterns, target: Tensor) -> Tensor:
    """Rank of the right crystal by the plain cosine, int64 ``[Q]``; 1 is best, ties against us.

    Args:
        queries: Intensities ``[Q, P]``.
        gallery: Patterns to compare with, ``G`` of them.
        target: The right one of each query, int64 ``[Q]``.
    """
    ranks = []
    with _precision("highest"):
        for rows, right in _chunks(queries, target, numbers=2 * len(gallery)):
            unit = functional.normalize(_roots(rows), dim=1)
            found = torch.cat([unit @ part.mT for part in _unit_rows(gallery)], 1)
            ranks.append(_rank(found, right, TIE))
    return torch.cat(ranks)


@torch.no_grad()
def scan_ranks(
    queries: Tensor, gallery: Patterns, target: Tensor, *, stretcher: Stretcher
) -> Tensor:
    """As :func:`cosine_ranks`, by the largest cosine over all scales."""
    ranks = []
    number = len(stretcher.left)
    room = number * (6 * gallery.roots.shape[1] + _COLUMNS)
    with _precision("high"):
        for rows, right in _chunks(queries, target, numbers=room):
            unit = stretcher(_roots(rows)).flatten(0, 1)  # [B * S, P]
            found = [
                (unit @ part.mT).unflatten(0, (len(rows), number)).amax(1)
                for part in _unit_rows(gallery)
            ]
            ranks.append(_rank(torch.cat(found, 1), right, SCAN_TIE))
    return torch.cat(ranks)


@torch.no_grad()
def reranked(
    queries: Tensor,
    gallery: Patterns,
    candidates: Tensor,
    target: Tensor,
    *,
    stretcher: Stretcher,
) -> Tensor:
    """Rank among a few candidates by the largest cosine over all scales, int64 ``[Q]``.

    Args:
        queries: Intensities ``[Q, P]``.
        gallery: Patterns of all crystals.
        candidates: Crystals that are compared, different ones, int64 ``[Q, K]``.
        target: The right crystal of each query, int64 ``[Q]``; where it is no candidate the rank
            is K + 1.
        stretcher: Scales to try.
    """
    few, points = candidates.shape[1], gallery.roots.shape[1]
    ranks = []
    with _precision("high"):
        numbers = 2 * points * (4 * len(stretcher.left) + few)
        pairs = _chunks(queries, torch.cat([target[:, None], candidates], 1), numbers=numbers)
        for rows, known in pairs:
            right, some = known[:, :1], known[:, 1:]
            unit = stretcher(_roots(rows))  # [B, S, P]
            compared = gallery.select(some.flatten())
            others = (compared.roots.float() / compared.norms[:, None]).unflatten(0, some.shape)
            found = (unit @ others.mT).amax(1)  # [B, K]
            mine = some == right
            own = found.masked_fill(~mine, float("-inf")).amax(1, keepdim=True)
            above = (~(found < own - SCAN_TIE)).sum(1)
            ranks.append(torch.where(mine.any(1), above, few + 1))
    return torch.cat(ranks)


def _roots(intensities: Tensor) -> Tensor:
    return intensities.float().clamp_min(0).sqrt()


def _unit_rows(gallery: Patterns) -> Iterator[Tensor]:
    """Root patterns of unit length, float32, some crystals at a time."""
    for roots, norms in zip(
        gallery.roots.split(_COLUMNS), gallery.norms.split(_COLUMNS), strict=True
    ):
        yield roots.float() / norms[:, None]


def _rank(found: Tensor, right: Tensor, tie: float) -> Tensor:
    """Ranks of the columns ``right`` ``[B]`` in ``[B, G]``; not a number counts against us."""
    own = found.gather(1, right[:, None])
    return (~(found < own - tie)).sum(1)


def _chunks(*tensors: Tensor, numbers: int) -> Iterator[tuple[Tensor, ...]]:
    """Rows of tensors, so many at a time that ``numbers`` floats for each fit into memory."""
    limit = _BYTES_CPU if tensors[0].device.type == "cpu" else _BYTES_GPU
    size = max(1, limit // (4 * numbers))
    return zip(*(tensor.split(size) for tensor in tensors), strict=True)


@contextlib.contextmanager
def _precision(name: str) -> Iterator[None]:
    """How exactly products of float32 matrices are computed, inside."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(name)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
