"""What the network looks at: the axis over ln g, the list of peaks, measured patterns."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from unimat_lib.views.grid import WAVELENGTHS
from unimat_powder.network.predict import on_grid
from unimat_powder.network.views import (
    GRID,
    PEAKS,
    POINTS,
    find_peaks,
    ln_g_axis,
    noise_of,
    over_ln_g,
    views_of,
)
from unimat_powder.pattern import Pattern, PatternError

D_SPACINGS = (7.1, 4.02, 3.3, 2.61, 2.05, 1.77, 1.43, 1.25)


def curve_of(
    two_theta: torch.Tensor, d_spacings: tuple[float, ...], *, wavelength: float, fwhm: float = 0.12
) -> torch.Tensor:
    """Gaussian peaks, the first the highest, on an empty baseline."""
    y = torch.zeros_like(two_theta)
    for number, d in enumerate(d_spacings):
        if wavelength < 2 * d:
            centre = 2 * math.degrees(math.asin(wavelength / (2 * d)))
            y += math.exp(-0.25 * number) * torch.exp(
                -4 * math.log(2) * ((two_theta - centre) / fwhm) ** 2
            )
    return y


def simulated(noise: float = 0.0, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    y = curve_of(GRID.two_theta, D_SPACINGS, wavelength=GRID.wavelength)
    draw = torch.randn(len(y), generator=torch.Generator().manual_seed(seed), dtype=y.dtype)
    y = 1000 * (y + noise * draw)
    return y[None].float(), torch.ones(1, len(y), dtype=torch.bool)


def test_views_do_not_depend_on_the_unit_and_hardly_on_faint_noise() -> None:
    counts, mask = simulated()
    plain = views_of(counts, mask)
    scaled = views_of(counts * 317.0, mask)
    noisy = views_of(simulated(noise=1e-5)[0], mask)
    for one, other, allowed in ((plain, scaled, 1e-4), (plain, noisy, 2e-3)):
        assert (one.curve[:, :2] - other.curve[:, :2]).abs().max() < allowed
        assert one.present.sum() == other.present.sum()
        found = one.present[0]
        assert (one.ln_g - other.ln_g)[0, found].abs().max() < 1e-4


def test_an_isotropic_strain_is_a_shift_of_the_axis() -> None:
    steps = 12
    axis = ln_g_axis()
    strain = math.exp(steps * (axis[1] - axis[0]).item()) - 1
    # Peaks as wide in ln g as the shift leaves them: drawn on the axis, read on the grid.
    at = (2 * torch.sin(torch.deg2rad(GRID.two_theta / 2)) / GRID.wavelength).log()

    def drawn(shift: float) -> torch.Tensor:
        places = torch.tensor([-math.log(d) + shift for d in D_SPACINGS])
        return torch.exp(-((at[:, None] - places) / 0.006).square() / 2).sum(1)[None]

    still, moved = over_ln_g(drawn(0.0)), over_ln_g(drawn(math.log1p(strain)))
    assert (still[0, 50 : -50 - steps] - moved[0, 50 + steps : -50]).abs().max() < 2e-3


def test_the_axis_averages_the_grid_where_it_is_coarser() -> None:
    line = torch.linspace(3.0, 5.0, GRID.num_points)[None]
    means = over_ln_g(line)
    assert means.shape == (1, POINTS)
    assert bool((means.diff() > 0).all())
    assert means[0, 0].item() == pytest.approx(3.0, abs=1e-3)
    noise = torch.randn(1, GRID.num_points, generator=torch.Generator().manual_seed(0))
    assert over_ln_g(noise)[0, -400:].std() < 0.75 * over_ln_g(noise)[0, :400].std()


def test_the_finder_finds_known_peaks_and_nothing_else() -> None:
    counts, mask = simulated(noise=0.002)
    views = views_of(counts, mask)
    found = views.ln_g[0, views.present[0]].sort().values
    expected = torch.tensor([-math.log(d) for d in D_SPACINGS])
    assert len(found) == len(expected)
    assert (found - expected).abs().max() < 3e-4
    height = views.peaks[0, views.present[0], 0]
    assert bool((height.diff() <= 0).all())  # the strongest come first
    width = views.peaks[0, views.present[0], 1].exp()
    assert bool(((width > 0.1) & (width < 0.25)).all())  # root intensities are wider


def test_pure_noise_has_hardly_any_peaks() -> None:
    noise = torch.randn(8, GRID.num_points, generator=torch.Generator().manual_seed(0)) * 0.05
    mask = torch.ones_like(noise, dtype=torch.bool)
    _, _, present = find_peaks(noise, noise_of(noise, mask))
    assert present.sum() < 8


def test_noise_is_estimated_between_peaks() -> None:
    noise = torch.randn(4, GRID.num_points, generator=torch.Generator().manual_seed(0)) * 0.03
    noise[:, 1000:1010] += 1.0
    estimate = noise_of(noise, torch.ones_like(noise, dtype=torch.bool))
    inner = estimate[:, 200:-200]
    assert inner.mean().item() == pytest.approx(0.03, rel=0.1)


def test_lists_are_cut_to_the_highest_peaks() -> None:
    y = torch.zeros(1, GRID.num_points)
    y[:, 40::35] = 1.0
    y = torch.nn.functional.avg_pool1d(y[:, None], 7, 1, 3)[:, 0]
    ln_g, features, present = find_peaks(y, torch.full_like(y, 1e-3))
    assert present.all()
    assert ln_g.shape == (1, PEAKS)
    assert features.isfinite().all()


@pytest.mark.parametrize("tube", ["CuKa1", "MoKa", "CoKa", "CrKa"])
def test_other_wavelengths_ranges_and_steps_give_the_same_peaks(tube: str) -> None:
    wavelength = WAVELENGTHS[tube]
    last = 2 * math.degrees(math.asin(min(0.99, wavelength / (2 * 1.2))))
    two_theta = torch.arange(8.0 * wavelength / 1.54, last, 0.013, dtype=torch.float64)
    y = curve_of(two_theta, D_SPACINGS, wavelength=wavelength, fwhm=0.08)
    counts, mask = on_grid(Pattern(two_theta, 500 * y + 40, wavelength=wavelength))
    views = views_of(counts, mask)
    assert 0.3 < mask.float().mean() <= 1
    found = views.ln_g[0, views.present[0]].sort().values
    expected = torch.tensor([-math.log(d) for d in D_SPACINGS])
    expected = expected[(expected > views_start(mask)) & (expected < views_end(mask))]
    assert len(found) == len(expected)
    assert (found - expected).abs().max() < 1e-3


def views_start(mask: torch.Tensor) -> float:
    return ln_g_at(GRID.two_theta[mask[0]][0].item() + 0.5)


def views_end(mask: torch.Tensor) -> float:
    return ln_g_at(GRID.two_theta[mask[0]][-1].item() - 0.5)


def ln_g_at(two_theta: float) -> float:
    return math.log(2 * math.sin(math.radians(two_theta / 2)) / GRID.wavelength)


def test_a_pattern_beside_the_grid_is_refused_in_words() -> None:
    two_theta = torch.from_numpy(np.linspace(0.5, 3.0, 200))
    with pytest.raises(PatternError, match="outside the grid"):
        on_grid(Pattern(two_theta, torch.ones(200, dtype=torch.float64)))


def test_curves_of_another_grid_are_refused() -> None:
    with pytest.raises(ValueError, match="expected curves and mask"):
        views_of(torch.ones(2, 100), torch.ones(2, 100, dtype=torch.bool))
