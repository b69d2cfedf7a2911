"""Ranges of what laboratories do in, instruments drawn for a batch of patterns out."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from unimat_lib.views.grid import CU_K_ALPHA, Grid
from unimat_powder.simulation.instruments import ANODES, TUNGSTEN, Instruments

Range = tuple[float, float]

_TAIL = 1.645  # standard deviations beyond which 5 % lie
_ORDER = (1.0, 0.4, 0.2, 0.1)  # how much smaller the higher terms of smooth curves are

_LEVELS = 1e-4, 3.0  # no background is lower or higher than that


@dataclass(frozen=True)
class LaboratoryRanges:
    """What laboratories do to a powder pattern.

    Pairs are the smallest and largest value of a uniform draw. Where it says (log), they are the
    values below and above which 5 % lie, of a normal distribution of the logarithm.

    The defaults are what fits to measured scans gave (:data:`RRUFF`; :mod:`.fit` makes them),
    widened to what other instruments do: 34 scans that fit well had widths of 0.04 to 0.2 degrees
    at 20 degrees, 1.4 to 3.6 times as much at 80, Lorentzian shares of 0.5 to 1.3, K-alpha 2 of
    0.45 to 0.51, K-beta of 0.7 to 1.9 %, displacements of 0.01 to 0.09 degrees, March-Dollase r of
    0.7 to 1.3, B of -0.7 to 2.7, and white radiation of 0.2 to 1.3 % at 0.354 angstrom. Cells of
    density-functional theory were 0.1 % shorter to 1.8 % longer than the measured ones.

    Attributes:
        anodes: Names of :data:`.ANODES` and how often each is met.
        doublet: Share of patterns with K-alpha 2; the others have K-alpha 1 alone.
        ratio: K-alpha 2 over K-alpha 1.
        k_beta: Share of patterns with a K-beta line.
        k_beta_weight: Its intensity over K-alpha 1 (log).
        tungsten: Share of patterns with W L-alpha, of the same intensities.
        white: Share of patterns with ghosts of strong peaks in the tube's white radiation.
        white_length: Its wavelength, angstrom.
        white_spread: Standard deviation of the logarithm of that wavelength.
        white_weight: Its intensity over K-alpha 1 (log).
        full: Share of patterns that cover the whole grid.
        first: First angle of the others, degrees of the grid.
        last: Last angle of the others, as a part of the way from the grid's first to its last.
        zero: Standard deviation of the zero shift, degrees.
        displacement: Standard deviation of the sample displacement, degrees (times cos theta).
        fwhm: Full width at half maximum at 20 degrees (log).
        growth: FWHM at 80 degrees over that at 20 (log).
        bend: V of the Caglioti formula over W.
        eta: Lorentzian share at the grid's ends.
        asymmetry: Length of the axial-divergence tail is this times cot 2theta, degrees (log).
        impurity: Share of patterns with a second crystal.
        impurity_share: Its scattered intensity over that of the first (log).
        isotropic: Strain of lengths, all alike; cells of density-functional theory are off by that.
        strain: Standard deviation of each further component of strain.
        texture: Standard deviation of ln r, March-Dollase.
        b_factor: Debye-Waller B, square angstrom.
        misfit: Error of structure factors relative to their mean (log).
        spread: Standard deviation of the logarithm of single intensities (log).
        response: Standard deviation of each smooth term of the logarithm of intensity.
        spill: Angle below which the beam is wider than the sample, degrees.
        level: Constant background over the area of all peaks, per degree, where that area is 1000
            counts times degrees (log).
        fade: Level and air scatter fall with this power of the counts: 1 where samples differ in
            how much they scatter, 0 where only the counting time does.
        slope: First Chebyshev term of the background, relative to its level; higher ones vary less.
        air: Air scatter at 5 degrees, as ``level`` (log).
        decay: Decay length of the air scatter, degrees.
        hump: Share of patterns with an amorphous hump.
        hump_height: Height over the constant background (log).
        hump_centre, hump_width: Place and standard deviation, degrees of Cu K-alpha.
        counts: Area of all peaks, counts at one point times degrees; its logarithm is uniform. The
            highest peak counts about as much: 0.3 to 10 times.
        step: Distance of measured points, degrees; its logarithm is uniform. Points finer than the
            grid's are added up.
        smoothed: Share of patterns whose counts were smoothed, once to ``smoothings`` times.
        smoothings: Most times.
        subtracted: Share of patterns whose background was subtracted before they were saved.
        cut: How far below the background the line ran that was subtracted, standard deviations.
    """

    anodes: tuple[tuple[str, float], ...] = (
        *(("Cu", 0.8), ("Co", 0.06), ("Mo", 0.06)),
        *(("Fe", 0.03), ("Cr", 0.03), ("Ag", 0.02)),
    )
    doublet: float = 0.85
    ratio: Range = (0.45, 0.55)
    k_beta: float = 0.2
    k_beta_weight: Range = (0.002, 0.03)
    tungsten: float = 0.05
    white: float = 0.3
    white_length: Range = (0.33, 0.42)
    white_spread: Range = (0.05, 0.12)
    white_weight: Range = (0.001, 0.02)
    full: float = 0.5
    first: Range = (5.0, 25.0)
    last: Range = (0.55, 1.0)
    zero: float = 0.02
    displacement: float = 0.06
    fwhm: Range = (0.035, 0.4)
    growth: Range = (1.0, 3.3)
    bend: Range = (-0.4, 0.3)
    eta: Range = (0.2, 1.15)
    asymmetry: Range = (0.008, 0.08)
    impurity: float = 0.35
    impurity_share: Range = (0.005, 0.3)
    isotropic: Range = (-0.03, 0.01)
    strain: float = 0.005
    texture: float = 0.2
    b_factor: Range = (0.0, 3.0)
    misfit: Range = (0.03, 0.3)
    spread: Range = (0.05, 0.4)
    response: float = 0.1
    spill: Range = (0.0, 12.0)
    level: Range = (0.001, 0.3)
    fade: float = 0.5
    slope: Range = (-0.4, 0.4)
    air: Range = (0.002, 0.08)
    decay: Range = (1.5, 8.0)
    hump: float = 0.5
    hump_height: Range = (0.1, 2.0)
    hump_centre: Range = (10.0, 42.0)
    hump_width: Range = (2.0, 15.0)
    counts: Range = (30.0, 1e6)
    step: Range = (0.005, 0.06)
    smoothed: float = 0.1
    smoothings: int = 4
    subtracted: float = 0.1
    cut: Range = (0.0, 2.5)

    def __post_init__(self) -> None:
        """Refuse ranges that are reversed and anodes that are not known."""
        for name, value in vars(self).items():
            if name != "anodes" and isinstance(value, tuple) and not value[0] <= value[1]:
                raise ValueError(f"{name} must run from its smallest to its largest, not {value}")
        if unknown := [name for name, _ in self.anodes if name not in ANODES]:
            raise ValueError(f"unknown anodes {unknown}; known are {list(ANODES)}")


RRUFF = LaboratoryRanges(
    anodes=(("Cu", 1.0),),
    doublet=1.0,
    ratio=(0.45, 0.52),
    k_beta=1.0,
    k_beta_weight=(0.006, 0.018),
    tungsten=0.0,
    white=1.0,
    white_length=(0.345, 0.365),
    white_spread=(0.06, 0.1),
    white_weight=(0.0016, 0.013),
    full=1.0,
    zero=0.008,
    displacement=0.055,
    fwhm=(0.032, 0.13),
    growth=(1.3, 3.3),
    bend=(-0.2, 0.15),
    eta=(0.7, 1.2),
    asymmetry=(0.016, 0.045),
    impurity=0.3,
    impurity_share=(0.005, 0.12),
    isotropic=(-0.02, 0.004),
    strain=0.002,
    texture=0.25,
    b_factor=(0.0, 2.3),
    misfit=(0.03, 0.2),
    spread=(0.05, 0.35),
    response=0.05,
    spill=(0.0, 9.0),
    level=(0.0033, 0.085),
    fade=0.7,
    slope=(-0.25, 0.15),
    air=(0.005, 0.03),
    decay=(1.2, 4.0),
    hump=0.8,
    hump_height=(0.1, 0.55),
    hump_centre=(26.0, 50.0),
    hump_width=(8.0, 18.0),
    counts=(220.0, 1700.0),
    step=(0.005, 0.01),
    smoothed=0.0,
    subtracted=0.0,
    cut=(1.0, 1.5),
)
"""What one laboratory does, that of the RRUFF project: fits to 39 of its scans and, for background,
counts and widths, comparison of what a classifier saw in simulated and measured ones."""


def draw_instruments(
    ranges: LaboratoryRanges,
    batch: int,
    *,
    grid: Grid,
    generator: torch.Generator,
    device: torch.device | str = "cpu",
) -> Instruments:
    """Draw what ``B`` patterns are measured with, and the samples in them.

    Args:
        ranges: What to draw from.
        batch: Number of patterns ``B``; impurities are other crystals of the same batch.
        grid: The grid that the patterns will be on: ranges of angles refer to it.
        generator: Source of all numbers, on ``device``.
        device: Where the numbers go.
    """
    draw = _Draw(generator, device)
    r, b = ranges, batch
    lines, weights, stated = _lines(r, b, draw)
    impurities = round(r.impurity * b) if b > 1 else 0
    n = b + impurities
    host = torch.randperm(b, generator=generator, device=device)[:impurities]
    guest = (host + 1 + draw.below(max(b - 1, 1), impurities)) % b
    every = torch.arange(b, device=device)
    share = torch.cat([torch.ones(b, device=device), draw.log(r.impurity_share, impurities)])
    counts = draw.decades(r.counts, b)
    faded = (counts / 1000).pow(-r.fade)
    level = (draw.log(r.level, b) * faded).clamp(*_LEVELS)
    air = torch.stack([draw.log(r.air, b) * faded, draw.flat(r.decay, b)], 1)
    height = level * draw.log(r.hump_height, b) * (draw.flat((0, 1), b) < r.hump)
    humps = [height, draw.flat(r.hump_centre, b), draw.flat(r.hump_width, b)]
    order = torch.tensor(_ORDER, device=device)
    slope = draw.normal(b, 4) * order * (r.slope[1] - r.slope[0]) / (2 * _TAIL)
    slope[:, 0] += (r.slope[0] + r.slope[1]) / 2
    smoothing = (1 + draw.below(r.smoothings, b)) * (draw.flat((0, 1), b) < r.smoothed)
    step = draw.decades(r.step, b)
    to_own = stated / grid.wavelength  # angles shrink about so with the wavelength
    return Instruments(
        lines=lines,
        line_weights=weights,
        white=_white(r, b, draw, stated),
        stated=stated,
        covered=_covered(r, b, draw, grid, stated),
        zero=r.zero * draw.normal(b),
        displacement=r.displacement * draw.normal(b),
        caglioti=caglioti_through(draw.log(r.fwhm, b), draw.log(r.growth, b), draw.flat(r.bend, b)),
        eta=draw.flat(r.eta, b, 2),
        asymmetry=draw.log(r.asymmetry, b),
        pattern=torch.cat([every, host]),
        crystal=torch.cat([every, guest]),
        share=share,
        isotropic=draw.flat(r.isotropic, n),
        strain=r.strain * draw.normal(n, 6),
        texture=torch.exp(r.texture * draw.normal(n, 2)),
        texture_axis=_axes(draw, n),
        b_factor=draw.flat(r.b_factor, n),
        misfit=draw.log(r.misfit, n),
        spread=draw.log(r.spread, n),
        response=r.response * draw.normal(b, 4) * order,
        spill=draw.flat(r.spill, b),
        level=level,
        slope=slope,
        air=air,
        humps=torch.stack(humps, 1)[:, None],
        counts=counts,
        coarse=step / (grid.step * to_own),
        cut=torch.where(draw.flat((0, 1), b) < r.subtracted, draw.flat(r.cut, b), math.inf),
        smoothing=smoothing,
    )


class _Draw:
    """Random numbers of a generator on a device."""

    def __init__(self, generator: torch.Generator, device: torch.device | str) -> None:
        self.generator, self.device = generator, device

    def flat(self, bounds: Range, *shape: int) -> Tensor:
        low, high = bounds
        draw = torch.rand(*shape, generator=self.generator, device=self.device)
        return low + (high - low) * draw

    def log(self, bounds: Range, *shape: int) -> Tensor:
        low, high = (math.log(bound) for bound in bounds)
        middle = (self.normal(*shape) / (2 * _TAIL)).clamp(-0.7, 0.7)
        return torch.exp((low + high) / 2 + (high - low) * middle)

    def decades(self, bounds: Range, *shape: int) -> Tensor:
        return torch.exp(self.flat((math.log(bounds[0]), math.log(bounds[1])), *shape))

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator, device=self.device)

    def below(self, high: int, *shape: int) -> Tensor:
        return torch.randint(high, shape, generator=self.generator, device=self.device)


def _lines(r: LaboratoryRanges, b: int, draw: _Draw) -> tuple[Tensor, Tensor, Tensor]:
    """Wavelengths and weights of the lines ``[B, 4]``, and the wavelength stated ``[B]``."""
    table = torch.tensor([ANODES[name] for name, _ in r.anodes], device=draw.device)
    odds = torch.tensor([share for _, share in r.anodes], device=draw.device)
    anode = torch.multinomial(odds, b, replacement=True, generator=draw.generator)
    lines = torch.cat([table[anode], torch.full((b, 1), TUNGSTEN, device=draw.device)], 1)
    weights = [torch.ones(b, device=draw.device)]
    strengths = (draw.flat(r.ratio, b), draw.log(r.k_beta_weight, b), draw.log(r.k_beta_weight, b))
    for often, strength in zip((r.doublet, r.k_beta, r.tungsten), strengths, strict=True):
        weights.append(strength * (draw.flat((0, 1), b) < often))
    weights = torch.stack(weights, 1)
    doublet = weights[:, 1] > 0
    mean = torch.where(doublet, (2 * lines[:, 0] + lines[:, 1]) / 3, lines[:, 0])
    # Not rounded apart from the mean that a grid of Cu K-alpha has.
    stated = torch.where((mean - CU_K_ALPHA).abs() < 1e-4, CU_K_ALPHA, mean)
    return lines, weights, stated


def _white(r: LaboratoryRanges, b: int, draw: _Draw, stated: Tensor) -> Tensor:
    """White radiation ``[B, 3]``; none where it is no shorter than the anode's own lines."""
    length, spread = draw.flat(r.white_length, b), draw.flat(r.white_spread, b)
    there = (draw.flat((0, 1), b) < r.white) & (length < 0.6 * stated)
    return torch.stack([length, spread, draw.log(r.white_weight, b) * there], 1)


def _covered(r: LaboratoryRanges, b: int, draw: _Draw, grid: Grid, stated: Tensor) -> Tensor:
    """First and last angle at the pattern's own wavelength, ``[B, 2]``."""
    low, high = grid.two_theta_min, grid.two_theta_max
    first = draw.flat(r.first, b).clamp_min(low)
    last = low + (high - low) * draw.flat(r.last, b)
    whole = draw.flat((0, 1), b) < r.full
    ends = torch.stack([first.masked_fill(whole, low - 1), last.masked_fill(whole, high + 1)], 1)
    sine = torch.sin(torch.deg2rad(ends / 2)) * (stated / grid.wavelength)[:, None]
    return 2 * torch.rad2deg(torch.asin(sine.clamp(0, 0.999)))


def caglioti_through(fwhm: Tensor, growth: Tensor, bend: Tensor) -> Tensor:
    """U, V, W ``[B, 3]`` for widths at 20 degrees, their growth up to 80, and V over W."""
    low, high = (math.tan(math.radians(angle / 2)) for angle in (20.0, 80.0))
    # W (1 + bend t) + U t^2 goes through both widths.
    first, last = fwhm.square(), (fwhm * growth).square()
    below, above = (1 + bend * t for t in (low, high))
    w = (first * high**2 - last * low**2) / (below * high**2 - above * low**2)
    u = (first - w * below) / low**2
    return torch.stack([u, w * bend, w], 1)


def _axes(draw: _Draw, n: int) -> Tensor:
    """Two low-index directions for each crystal, ``[N, 2, 3]``."""
    steps = torch.arange(-1.0, 2.0, device=draw.device)
    axes = torch.cartesian_prod(steps, steps, steps)[14:]
    return axes[draw.below(len(axes), n, 2)]
