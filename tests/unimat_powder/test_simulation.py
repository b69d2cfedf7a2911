"""The simulation of measured patterns: what it computes, draws, counts and prepares."""

from __future__ import annotations

import math
from dataclasses import fields, replace

import pytest
import torch

from unimat_lib.datasets.preparation import load_dataset
from unimat_lib.views.bragg import bragg_reflections, g_max_of
from unimat_lib.views.grid import CU_K_ALPHA, Grid
from unimat_powder.simulation.curve import expected_curve, row_axes
from unimat_powder.simulation.instruments import ANODES
from unimat_powder.simulation.ranges import RRUFF, LaboratoryRanges, draw_instruments
from unimat_powder.simulation.simulate import _poisson, covered, simulate
from unimat_powder.simulation.symmetry import six_of, strain_projectors, tensor_of

GRID = Grid(5.0, 90.0, 4096)
QUIET = LaboratoryRanges(
    anodes=(("Cu", 1.0),),
    doublet=0.0,
    k_beta=0.0,
    tungsten=0.0,
    white=0.0,
    full=1.0,
    zero=0.0,
    displacement=0.0,
    fwhm=(0.1, 0.1),
    growth=(1.0, 1.0),
    bend=(0.0, 0.0),
    eta=(0.5, 0.5),
    asymmetry=(1e-6, 1e-6),
    impurity=0.0,
    isotropic=(0.0, 0.0),
    strain=0.0,
    texture=0.0,
    b_factor=(0.0, 0.0),
    response=0.0,
    spill=(0.0, 0.0),
    level=(0.01, 0.01),
    slope=(0.0, 0.0),
    air=(1e-6, 1e-6),
    hump=0.0,
    counts=(1e5, 1e5),
    step=(0.005, 0.005),
    smoothed=0.0,
    subtracted=0.0,
)


@pytest.fixture(scope="module")
def table():
    return load_dataset("prototypes").select(torch.arange(0, 240, 4))


@pytest.fixture(scope="module")
def reflections(table):
    return bragg_reflections(table, g_max=g_max_of(GRID, 0.05))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def drawn(ranges, batch, grid=GRID, **changes):
    return replace(draw_instruments(ranges, batch, grid=grid, generator=generator()), **changes)


def strongest(curve, grid=GRID):
    """Angle of the highest point, a parabola through it and its neighbours."""
    i = int(curve.argmax())
    left, middle, right = curve[i - 1 : i + 2].double().tolist()
    shift = (left - right) / (2 * (left - 2 * middle + right))
    return grid.two_theta_min + (i + shift) * grid.step


# ------------------------------------------------------------------------------------------- peaks


def pseudo_voigt(x, fwhm, eta):
    gauss = torch.exp(-4 * math.log(2) * (x / fwhm) ** 2) * math.sqrt(4 * math.log(2) / math.pi)
    return (1 - eta) * gauss / fwhm + eta * fwhm / (2 * math.pi) / (x * x + fwhm * fwhm / 4)


@pytest.mark.parametrize("fwhm", [0.06, 0.3])
def test_the_curve_is_the_sum_of_its_peaks(reflections, fwhm):
    crystal = 7
    ranges = replace(QUIET, fwhm=(fwhm, fwhm), growth=(2.0, 2.0), doublet=1.0, ratio=(0.5, 0.5))
    instruments = drawn(ranges, 1)
    curve = expected_curve(reflections, torch.tensor([crystal]), GRID, instruments)[0].double()
    here = slice(*reflections.offsets[crystal : crystal + 2].tolist())
    x, want, area = GRID.two_theta, torch.zeros(GRID.num_points, dtype=torch.float64), 0.0
    u, v, w = instruments.caglioti[0].double()
    for wavelength, share in zip(ANODES["Cu"][:2], (1.0, 0.5), strict=True):
        sine = reflections.g[here] * wavelength / 2
        kept = (sine > math.sin(math.radians(2.4))) & (sine < math.sin(math.radians(45.3)))
        theta = torch.asin(sine[kept])
        weight = share * reflections.intensity[here][kept] * (1 + torch.cos(2 * theta) ** 2)
        weight = weight / (torch.sin(theta) ** 2 * torch.cos(theta))
        width = (u * torch.tan(theta) ** 2 + v * torch.tan(theta) + w).sqrt()
        for at, height, wide in zip(torch.rad2deg(2 * theta), weight, width, strict=True):
            want += height * pseudo_voigt(x - at, wide, 0.5)
        area += float(weight.sum())
    assert (curve - want / area).abs().max() < 0.03 * curve.max()
    assert abs(float(curve.sum()) * GRID.step - 1) < 0.03


def test_widths_grow_as_caglioti_says():
    instruments = drawn(replace(QUIET, fwhm=(0.08, 0.08), growth=(2.5, 2.5)), 2)
    axes = row_axes(GRID, instruments)
    at20, at80 = ((axes.own[0] - angle).abs().argmin() for angle in (20.0, 80.0))
    assert axes.fwhm[0, at20] == pytest.approx(0.08, rel=0.02)
    assert axes.fwhm[0, at80] == pytest.approx(0.2, rel=0.02)


def test_zero_shift_and_displacement_move_peaks(reflections):
    index = torch.tensor([3])
    still = drawn(QUIET, 1)
    here = strongest(expected_curve(reflections, index, GRID, still)[0])
    moved = replace(still, zero=torch.tensor([0.1]), displacement=torch.tensor([0.2]))
    there = strongest(expected_curve(reflections, index, GRID, moved)[0])
    assert there - here == pytest.approx(0.1 + 0.2 * math.cos(math.radians(here / 2)), abs=2e-3)


def test_axial_divergence_makes_tails_towards_low_angles(reflections):
    index = torch.tensor([3])
    still = drawn(QUIET, 1)
    grid = replace(GRID, two_theta_max=60.0)
    peak = expected_curve(reflections, index, grid, still)[0]
    tail = expected_curve(reflections, index, grid, replace(still, asymmetry=torch.tensor([0.3])))
    centre = float(grid.two_theta[peak.argmax()])
    x = grid.two_theta - centre
    near = x.abs() < 1

    def mean(curve):
        return float((curve[near] * x[near]).sum() / curve[near].sum())

    # The mean of phi^2 is 1/6 of the tail's length, 0.3 cot 2theta.
    expected = 0.3 / math.tan(math.radians(centre)) / 6
    assert mean(peak) - mean(tail[0]) == pytest.approx(expected, rel=0.15)


def test_another_anode_measures_the_same_lines(reflections):
    index = torch.tensor([3, 3])
    copper = strongest(expected_curve(reflections, index, GRID, drawn(QUIET, 2))[0])
    for name in ("Mo", "Co"):
        ranges = replace(QUIET, anodes=((name, 1.0),))
        curve = expected_curve(reflections, index, GRID, drawn(ranges, 2))[0]
        # K-alpha 1 alone, at the stated wavelength of K-alpha 1: copper's grid has the mean.
        assert strongest(curve) == pytest.approx(copper, abs=0.06)


def test_k_beta_and_tungsten_lines_stand_left_of_their_peak(reflections):
    index = torch.tensor([3])
    still = drawn(QUIET, 1)
    plain = expected_curve(reflections, index, GRID, still)[0]
    weights = torch.tensor([[1.0, 0.0, 0.05, 0.0]])
    extra = expected_curve(reflections, index, GRID, replace(still, line_weights=weights))[0]
    more = extra * (plain.max() / extra.max()) - plain
    sine = math.sin(math.radians(strongest(plain) / 2)) * ANODES["Cu"][2] / ANODES["Cu"][0]
    assert strongest(more) == pytest.approx(2 * math.degrees(math.asin(sine)), abs=0.05)


def test_white_radiation_makes_a_ghost_at_a_quarter_of_the_sine(reflections):
    index = torch.tensor([3])
    still = drawn(QUIET, 1)
    plain = expected_curve(reflections, index, GRID, still)[0]
    white = replace(still, white=torch.tensor([[0.42, 0.06, 0.02]]))
    ghosts = expected_curve(reflections, index, GRID, white)[0] - plain
    strong = plain > 0.3 * plain.max()
    first = float(GRID.two_theta[strong][0])  # the lowest strong peak casts the lowest ghost
    sine = math.sin(math.radians(first / 2)) * 0.42 / ANODES["Cu"][0]
    expected = 2 * math.degrees(math.asin(sine))
    near = (GRID.two_theta - expected).abs() < 1.0
    assert float(GRID.two_theta[near][ghosts[near].argmax()]) == pytest.approx(expected, abs=0.4)
    assert float(ghosts.max()) < 0.1 * float(plain.max())
    assert float(ghosts[GRID.two_theta > 40].abs().max()) < 1e-3 * float(plain.max())


def test_lines_beyond_the_grid_do_no_harm(reflections):
    """K-beta reaches reflections whose K-alpha lies far outside, in the last row as well."""
    index = torch.arange(len(reflections))
    weights = torch.tensor([[1.0, 0.5, 0.3, 0.3]]).expand(len(index), 4)
    shifts = torch.linspace(-5, 5, len(index))
    wide = replace(drawn(QUIET, len(index)), line_weights=weights, zero=shifts)
    curve = expected_curve(reflections, index, GRID, wide)
    assert curve.isfinite().all()
    assert curve.amin() > -0.05 * curve.amax()


# ----------------------------------------------------------------------------------------- strains


def test_six_numbers_are_a_tensor():
    six = torch.randn(5, 6, generator=generator())
    torch.testing.assert_close(six_of(tensor_of(six)), six)
    torch.testing.assert_close(tensor_of(six).flatten(1).norm(dim=1), six.norm(dim=1))


def test_strains_keep_the_crystal_system(table):
    freedom = {0: 6, 1: 4, 2: 3, 3: 2, 4: 2, 5: 2, 6: 1}
    reciprocal = torch.linalg.inv(table.lattice).mT
    projector = strain_projectors(reciprocal)
    rank = projector.diagonal(dim1=1, dim2=2).sum(1).round().int()
    expected = torch.tensor([freedom[int(system)] for system in table.crystal_system])
    assert (rank == expected).float().mean() > 0.9  # the others are more symmetric by chance
    assert (rank <= expected).all()
    torch.testing.assert_close(projector @ projector, projector, atol=1e-3, rtol=0)


def test_an_isotropic_strain_scales_all_spacings(reflections):
    index = torch.tensor([3])
    still = drawn(QUIET, 1)
    here = strongest(expected_curve(reflections, index, GRID, still)[0])
    larger = replace(still, isotropic=torch.tensor([0.01]))
    there = strongest(expected_curve(reflections, index, GRID, larger)[0])
    sines = [math.sin(math.radians(angle / 2)) for angle in (here, there)]
    assert sines[0] / sines[1] == pytest.approx(1.01, abs=2e-4)


def test_cubic_lines_do_not_split(table, reflections):
    cubic = torch.tensor([int((table.crystal_system == 6).nonzero()[0])])
    still = drawn(QUIET, 1)
    strained = replace(still, strain=0.01 * torch.randn(1, 6, generator=generator()))
    one, two = (
        expected_curve(reflections, cubic, GRID, each)[0].max() for each in (still, strained)
    )
    assert float(two) == pytest.approx(float(one), rel=0.05)


# ---------------------------------------------------------------------------------------- counting


@pytest.mark.parametrize("rate", [1.0, 4.0, 30.0, 1e4])
def test_counts_have_poissons_moments(rate):
    draw = torch.randn(1_000_000, generator=generator())
    counts = _poisson(torch.full_like(draw, rate), draw).double()
    off = counts - counts.mean()
    assert torch.equal(counts, counts.round())
    assert float(counts.mean()) == pytest.approx(rate, rel=0.02)
    assert float(off.square().mean()) == pytest.approx(rate, rel=0.04)
    if rate < 100:  # beyond, rounding of float32 is larger
        skewness = float((off**3).mean() / off.square().mean() ** 1.5)
        assert skewness == pytest.approx(rate**-0.5, rel=0.08)


def test_noise_lies_on_the_background(reflections):
    instruments = drawn(replace(QUIET, level=(0.5, 0.5), fade=0.0, misfit=(1e-6, 1e-6)), 4)
    index = torch.arange(4)
    counts, mask = simulate(reflections, index, GRID, instruments, generator=generator())
    assert mask.all()
    flat = counts.sort(dim=1).values[:, 400:2000]  # between the peaks
    level = 0.5 * 1e5
    assert float(flat.mean()) == pytest.approx(level, rel=0.02)
    jumps = counts.diff(dim=1).abs().median() / 0.6745
    assert float(jumps) == pytest.approx(math.sqrt(2 * level), rel=0.1)


def test_background_that_was_subtracted_leaves_its_noise(reflections):
    ranges = replace(QUIET, level=(0.05, 0.05), fade=0.0, subtracted=1.0)
    counts, _ = simulate(
        reflections, torch.arange(4), GRID, drawn(ranges, 4), generator=generator()
    )
    assert (counts == 0).float().mean() > 0.005
    assert float(counts.median()) < 0.05 * 1e5 / 5


def test_coarse_steps_are_joined_by_lines(reflections):
    ranges = replace(QUIET, step=(0.2, 0.2))
    counts, _ = simulate(
        reflections, torch.arange(2), GRID, drawn(ranges, 2), generator=generator()
    )
    bend = (counts[:, 2:] - 2 * counts[:, 1:-1] + counts[:, :-2]).abs()
    assert (bend < 0.02 * counts[:, 1:-1] ** 0.5).float().mean() > 0.75  # ten points a line


def test_smoothing_correlates_neighbours(reflections):
    def correlation(ranges):
        counts, _ = simulate(
            reflections, torch.arange(2), GRID, drawn(ranges, 2), generator=generator()
        )
        noise = counts.diff(n=2, dim=1)
        quiet = noise.abs() < 4 * noise.abs().median()
        both = quiet[:, 1:] & quiet[:, :-1]
        a, b = noise[:, 1:][both], noise[:, :-1][both]
        return float((a * b).mean() / (a.std() * b.std()))

    assert correlation(QUIET) < -0.55  # white: -2/3
    assert correlation(replace(QUIET, smoothed=1.0, smoothings=1)) > -0.3


def test_what_was_not_measured_is_zero_and_masked(reflections):
    ranges = replace(QUIET, full=0.0, first=(20.0, 20.0), last=(0.6, 0.6))
    instruments = drawn(ranges, 3)
    counts, mask = simulate(reflections, torch.arange(3), GRID, instruments, generator=generator())
    points = GRID.two_theta
    expected = (points >= 20.0 - 1e-3) & (points <= 5 + 0.6 * 85 + 1e-3)
    assert (mask != expected).sum(1).max() <= 1
    assert (counts[~mask] == 0).all()
    assert (counts[mask] > 0).all()
    assert torch.equal(mask, covered(instruments, GRID))


def test_molybdenum_covers_what_it_reaches(reflections):
    ranges = replace(QUIET, anodes=(("Mo", 1.0),), full=0.0, first=(5.0, 5.0), last=(0.5, 0.5))
    instruments = drawn(ranges, 2)
    assert float(instruments.covered[0, 1]) < 25  # degrees at its own wavelength
    assert int(covered(instruments, GRID)[0].sum()) == pytest.approx(0.5 * 4096, abs=3)


# ----------------------------------------------------------------------------------------- drawing


def test_everything_at_once_is_finite_and_repeatable(reflections):
    index = torch.arange(40)
    first, second = (
        simulate(
            reflections,
            index,
            GRID,
            draw_instruments(LaboratoryRanges(), 40, grid=GRID, generator=seeded),
            generator=seeded,
        )
        for seeded in (generator(3), generator(3))
    )
    assert first[0].isfinite().all()
    assert (first[0] >= 0).all()
    assert first[0].amax(1).min() > 0
    assert torch.equal(first[0], second[0])


def test_symmetry_given_is_symmetry_worked_out(reflections):
    index = torch.arange(10)
    instruments = drawn(RRUFF, 10)
    given, worked_out = (
        expected_curve(reflections, index, GRID, instruments, symmetry=symmetry)
        for symmetry in (strain_projectors(reflections.reciprocal), None)
    )
    torch.testing.assert_close(given, worked_out)


def test_draws_fit_their_ranges():
    instruments = drawn(LaboratoryRanges(), 2000)
    assert len(instruments) == 2000
    assert len(instruments.share) == 2700
    assert float(instruments.share[2000:].median()) == pytest.approx(0.039, rel=0.2)
    doublets = (instruments.line_weights[:, 1] > 0).float().mean()
    assert float(doublets) == pytest.approx(0.85, abs=0.03)
    copper = instruments.stated == CU_K_ALPHA
    assert 0.6 < float(copper.float().mean()) < 0.75  # 80 % Cu, 85 % of them with the doublet
    own = instruments.pattern[2000:], instruments.crystal[2000:]
    assert (own[0] != own[1]).all()  # an impurity is another crystal
    for field in fields(instruments):
        value = getattr(instruments, field.name)
        assert field.name == "cut" or value.double().isfinite().all()


def test_nonsense_is_refused(reflections):
    with pytest.raises(ValueError, match="fwhm"):
        LaboratoryRanges(fwhm=(0.3, 0.1))
    with pytest.raises(ValueError, match="unknown anodes"):
        LaboratoryRanges(anodes=(("Unobtainium", 1.0),))
    with pytest.raises(ValueError, match="as many as there are crystals"):
        simulate(reflections, torch.arange(3), GRID, drawn(QUIET, 2), generator=generator())
    with pytest.raises(ValueError, match="g_max"):
        far = replace(GRID, two_theta_max=150.0)
        expected_curve(reflections, torch.arange(2), far, drawn(QUIET, 2, far))
