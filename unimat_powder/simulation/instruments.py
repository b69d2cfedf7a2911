"""What is drawn for a batch of patterns: the instruments, the samples in them, the counting."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from unimat_powder.radiation import K_ALPHA, K_BETA

ANODES = {name: (*K_ALPHA[name], K_BETA[name]) for name in ("Cu", "Co", "Mo", "Fe", "Cr", "Ag")}
"""K-alpha 1, K-alpha 2 and K-beta of the usual anodes in angstrom."""

TUNGSTEN = 1.476311
"""W L-alpha 1 in angstrom: filaments soil old anodes with it."""


@dataclass(frozen=True, eq=False)
class Instruments:
    """What ``B`` patterns were measured with, and of what; float32 where nothing else is said.

    A pattern holds ``B`` main crystals and ``K`` impurities, ``N = B + K`` in one list, the main
    ones first. All angles are 2theta in degrees at the pattern's own wavelength.

    Attributes:
        lines: Wavelengths in angstrom of the emission lines, ``[B, L]``; the first is K-alpha 1.
        line_weights: Their intensities relative to the first, ``[B, L]``.
        white: White radiation: wavelength in angstrom, standard deviation of its logarithm, and
            intensity over that of K-alpha 1, ``[B, 3]``; the last is 0 where it is kept out.
        stated: The wavelength that is known of the measurement, angstrom, ``[B]``.
        covered: First and last angle measured, ``[B, 2]``.
        zero: Shift of all angles, ``[B]``.
        displacement: Of the sample: angles move by this times cos theta, ``[B]``.
        caglioti: U, V, W of the full width at half maximum in degrees, ``[B, 3]``:
            FWHM^2 = U tan^2 theta + V tan theta + W.
        eta: Lorentzian share of the profile at the grid's first and last angle, ``[B, 2]``.
        asymmetry: Length of the axial-divergence tail is this times cot 2theta, ``[B]``.
        pattern: Which pattern each crystal is in, int64 ``[N]``.
        crystal: Which of the batch's crystals it is, int64 ``[N]``.
        share: Its scattered intensity over that of the pattern's main crystal, ``[N]``.
        isotropic: Strain s of lengths, times 1 + s, ``[N]``.
        strain: Further strain as six numbers, see :func:`.tensor_of`, ``[N, 6]``; what breaks the
            crystal's symmetry is taken out before use.
        texture: March-Dollase r of two axes, ``[N, 2]``; 1 is none.
        texture_axis: Miller indices of these axes, ``[N, 2, 3]``.
        b_factor: Debye-Waller B in square angstrom, ``[N]``.
        misfit: Random error of the structure factors, relative to their local mean, ``[N]``.
        spread: Random relative error of intensities, standard deviation of the logarithm, ``[N]``.
        response: Chebyshev terms T1.. of the logarithm of intensity over the grid, ``[B, S]``.
        spill: Angle below which the beam is wider than the sample, ``[B]``.
        level: Constant background over the area of the main crystal's peaks, per degree, ``[B]``.
        slope: Further terms of the background relative to ``level``, T1.., ``[B, S]``.
        air: Height of the air scatter at 5 degrees in the same unit, and its decay length in
            degrees of Cu K-alpha, ``[B, 2]``.
        humps: Height in the same unit, centre, width (standard deviation), both in degrees of Cu
            K-alpha, of amorphous humps, ``[B, H, 3]``.
        counts: Area of the main crystal's peaks, counts at one point times degrees, ``[B]``.
        coarse: Distance of the measured points in grid steps, ``[B]``; below or equal to 1 the
            grid's points are measured each for itself.
        cut: Where a program took the background off: how many standard deviations of its noise the
            line that was taken off ran below it, ``[B]``; infinite where none was.
        smoothing: How often the counts were smoothed by (1, 2, 1) / 4, int64 ``[B]``.
    """

    lines: Tensor
    line_weights: Tensor
    white: Tensor
    stated: Tensor
    covered: Tensor
    zero: Tensor
    displacement: Tensor
    caglioti: Tensor
    eta: Tensor
    asymmetry: Tensor
    pattern: Tensor
    crystal: Tensor
    share: Tensor
    isotropic: Tensor
    strain: Tensor
    texture: Tensor
    texture_axis: Tensor
    b_factor: Tensor
    misfit: Tensor
    spread: Tensor
    response: Tensor
    spill: Tensor
    level: Tensor
    slope: Tensor
    air: Tensor
    humps: Tensor
    counts: Tensor
    coarse: Tensor
    cut: Tensor
    smoothing: Tensor

    def __len__(self) -> int:
        """Number of patterns."""
        return len(self.lines)
