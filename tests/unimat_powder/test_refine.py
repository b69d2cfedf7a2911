"""Refinement of predicted cells: exact recovery, refusal, and what must not matter."""

from __future__ import annotations

import math
import time

import pytest
import torch
from lattices import CELLS, GRID, crystals_of, predictions, vectors

from unimat_lib.crystals.table import CRYSTAL_SYSTEMS
from unimat_lib.views.bragg import bragg_reflections, g_max_of
from unimat_lib.views.effects import Effects
from unimat_lib.views.render import render
from unimat_powder.bravais import LATTICE_SYSTEMS, lattice_system
from unimat_powder.clean_peaks import ObservedPeaks, find_peaks
from unimat_powder.posterior import LatticeCounts, estimate_atoms, system_posterior
from unimat_powder.refinement import refine_cells

SOME = [1, 3, 6, 11]  # of the fourteen: cubic, hexagonal, tetragonal, monoclinic


@pytest.fixture(scope="module")
def refined(crystals, patterns):
    return refine_cells(*predictions(crystals, 0.03), find_peaks(patterns, GRID))


def test_patterns_without_peaks():
    found = find_peaks(torch.zeros(2, GRID.num_points), GRID)
    assert not found.mask.any()
    cell = torch.full((2, 3), 5.0), torch.full((2, 3), 90.0)
    result = refine_cells(*cell, found)
    assert not result.accepted.any()
    torch.testing.assert_close(result.lengths, cell[0].double())


# --------------------------------------------------------------------------------------- refinement


def observed(*angles, wavelength=GRID.wavelength):
    """Peaks at these angles, as sure as those of an aligned diffractometer."""
    two_theta = torch.tensor([angles], dtype=torch.float64)
    same = torch.ones_like(two_theta)
    return ObservedPeaks(two_theta, same, 0.02 * same, same.bool(), wavelength)


@pytest.mark.parametrize("length", [0.5, 1.5])
def test_a_predicted_cell_without_lines_in_the_range_is_no_error(length):
    cell = torch.full((1, 3), length), torch.full((1, 3), 90.0)
    result = refine_cells(*cell, observed(11.0, 13.0, 15.0))
    assert not result.accepted and torch.equal(result.lengths, cell[0].double())


def test_peaks_among_countless_lines_of_a_large_cell_are_left_out():
    """Else a wide scan at a short wavelength asks for millions of lines of every trial cell."""
    cell = torch.full((1, 3), 30.0), torch.full((1, 3), 90.0)
    begin = time.process_time()
    assert not refine_cells(*cell, observed(5.5, 60.0, 90.0, 170.0, wavelength=0.3)).accepted
    assert time.process_time() - begin < 10


@pytest.mark.parametrize("row", range(len(CELLS)), ids=["-".join(name) for name in CELLS])
def test_recovers_the_cell_of_every_bravais_lattice(row, crystals, refined):
    assert refined.accepted[row]
    torch.testing.assert_close(refined.lengths[row], crystals.lengths[row], rtol=1e-3, atol=0)
    torch.testing.assert_close(refined.angles[row], crystals.angles[row], rtol=0, atol=0.1)
    assert refined.explained[row] >= 0.95


def test_a_dominant_zone_is_built_upon():
    """A monoclinic cell with a short axis, whose lowest peaks all lie in one plane."""
    table = crystals_of([vectors([13.71, 3.083, 10.94], [90, 98.3, 90])], [10])
    pattern = render(
        bragg_reflections(table, g_max=g_max_of(GRID)), torch.arange(1), GRID, fwhm=0.1
    )
    result = refine_cells(*predictions(table, 0.04, seed=1), find_peaks(pattern, GRID))
    torch.testing.assert_close(result.lengths, table.lengths, rtol=1e-3, atol=0)


def test_a_wrong_volume_is_refused_and_nothing_changes(crystals, patterns):
    lengths, angles = 4 * crystals.lengths, crystals.angles  # 64 times the volume
    keep = torch.tensor([name[0] in ("monoclinic", "triclinic") for name in CELLS])
    found = find_peaks(patterns[keep], GRID)
    result = refine_cells(lengths[keep], angles[keep], found)
    assert not result.accepted.any()
    assert torch.equal(result.lengths, lengths[keep])
    assert torch.equal(result.angles, angles[keep])


def test_peaks_of_no_crystal_are_refused(crystals):
    generator = torch.Generator().manual_seed(0)
    angle = 10 + 60 * torch.rand(4, 30, generator=generator, dtype=torch.float64).sort(1).values
    found = ObservedPeaks(
        two_theta=angle,
        height=torch.ones_like(angle),
        sigma=torch.full_like(angle, 1e-3),
        mask=torch.ones_like(angle, dtype=torch.bool),
        wavelength=GRID.wavelength,
    )
    lengths, angles = crystals.lengths[[0, 7, 11, 13]], crystals.angles[[0, 7, 11, 13]]
    result = refine_cells(lengths, angles, found)
    assert not result.accepted.any()
    assert torch.equal(result.lengths, lengths)


def test_order_of_peaks_does_not_matter(crystals, patterns):
    found = find_peaks(patterns[SOME], GRID)
    shuffle = torch.randperm(found.two_theta.shape[1], generator=torch.Generator().manual_seed(0))
    shuffled = ObservedPeaks(*(each[:, shuffle] for each in found[:4]), found.wavelength)
    lengths, angles = (each[SOME] for each in predictions(crystals, 0.03))
    results = [refine_cells(lengths, angles, peaks) for peaks in (found, shuffled)]
    for name in ("lengths", "angles", "score", "accepted"):
        assert torch.equal(*(getattr(result, name) for result in results)), name


def test_one_by_one_equals_the_batch(crystals, patterns, refined):
    lengths, angles = predictions(crystals, 0.03)
    for row in (2, 8, 13):
        one = slice(row, row + 1)
        alone = refine_cells(lengths[one], angles[one], find_peaks(patterns[one], GRID))
        torch.testing.assert_close(alone.lengths[0], refined.lengths[row], rtol=1e-9, atol=0)
        torch.testing.assert_close(alone.score[0], refined.score[row], rtol=1e-6, atol=1e-6)


def test_noisy_patterns(crystals, reflections):
    rows = torch.arange(11)  # monoclinic and triclinic ones take longest
    zero = torch.zeros(len(rows))
    effects = Effects(
        fwhm=zero + 0.1,
        eta=zero,
        strain=zero.double(),
        zero_shift=zero.double(),
        noise=zero + 0.01,
    )
    generator = torch.Generator().manual_seed(0)
    noisy = render(reflections, rows, GRID, effects=effects, generator=generator)
    lengths, angles = (each[rows] for each in predictions(crystals, 0.03))
    result = refine_cells(lengths, angles, find_peaks(noisy, GRID))
    error = (result.lengths / crystals.lengths[rows]).log().abs().amax(1)
    assert (error[result.accepted] < 2e-3).double().mean() > 0.9
    assert result.accepted.double().mean() > 0.7


def test_a_stated_position_error_allows_a_zero_shift(crystals, patterns):
    cubic = slice(0, 3)
    exact = find_peaks(patterns[cubic], GRID, position_error=0.02)
    assert exact.sigma[exact.mask].min() >= 0.02
    moved = exact._replace(two_theta=torch.where(exact.mask, exact.two_theta + 0.02, 0.0))
    result = refine_cells(crystals.lengths[cubic], crystals.angles[cubic], moved)
    assert result.accepted.all()
    torch.testing.assert_close(result.lengths, crystals.lengths[cubic], rtol=3e-3, atol=0)


def test_the_network_decides_where_the_peaks_cannot(crystals, patterns):
    """A P lattice and the I lattice of the same lines up to the sixth: lengths tell."""
    angle = find_peaks(patterns[:1], GRID)
    six = ObservedPeaks(*(each[:, :6] for each in angle[:4]), angle.wavelength)
    cubic, body = 4.123, 4.123 * math.sqrt(2) * math.sqrt(3) / 2
    for length, right in ((cubic, 90.0), (body, math.degrees(math.acos(-1 / 3)))):
        start = torch.full((1, 3), 1.01 * length), torch.full((1, 3), right)
        result = refine_cells(*start, six)
        assert result.accepted[0]
        torch.testing.assert_close(
            result.lengths, torch.full((1, 3), length, dtype=torch.float64), rtol=1e-3, atol=0
        )


def test_probabilities_of_the_system_enter_the_score(crystals, patterns, refined):
    lengths, angles = predictions(crystals, 0.03)
    found = find_peaks(patterns[:1], GRID)
    even = torch.full((1, 7), 1 / 7)
    result = refine_cells(lengths[:1], angles[:1], found, system_probs=even)
    torch.testing.assert_close(result.score[0], refined.score[0] - math.log(7))


def test_bad_input(crystals, patterns):
    found = find_peaks(patterns[:2], GRID)
    lengths, angles = crystals.lengths[:2], crystals.angles[:2]
    with pytest.raises(ValueError, match="expected patterns of shape"):
        find_peaks(patterns[:, :100], GRID)
    with pytest.raises(ValueError, match="finite intensities"):
        find_peaks(patterns[:1] * math.nan, GRID)
    with pytest.raises(ValueError, match=r"expected lengths of shape \[2, 3\]"):
        refine_cells(crystals.lengths, angles, found)
    with pytest.raises(ValueError, match="system_probs of shape"):
        refine_cells(lengths, angles, found, system_probs=torch.ones(2, 6))
    with pytest.raises(ValueError, match="positive lengths"):
        refine_cells(-lengths, angles, found)
    with pytest.raises(ValueError, match="finite angles"):
        refine_cells(lengths, angles * math.nan, found)


def test_angles_that_close_no_cell(crystals, patterns):
    angles = torch.tensor([[150.0, 20.0, 20.0]], dtype=torch.float64)
    result = refine_cells(crystals.lengths[2:3], angles, find_peaks(patterns[2:3], GRID))
    assert result.accepted[0]
    torch.testing.assert_close(result.lengths[0], crystals.lengths[2], rtol=1e-3, atol=0)


# ------------------------------------------------------- lattice systems, atoms, crystal systems


def counts_of(*crystals) -> LatticeCounts:
    """From tuples of lattice system, crystal system, atoms, atoms in the formula."""
    lattice, system, atoms, formula = zip(*crystals, strict=True)
    return LatticeCounts(
        torch.tensor([list(LATTICE_SYSTEMS).index(name) for name in lattice]),
        torch.tensor([CRYSTAL_SYSTEMS.index(name) for name in system]),
        torch.tensor(atoms),
        torch.tensor(formula),
    )


def test_lattice_systems_of_reduced_cells(crystals):
    names = ["rhombohedral" if centring == "R" else family for family, centring in CELLS]
    found = lattice_system(crystals.lengths, crystals.angles)
    assert [list(LATTICE_SYSTEMS)[k] for k in found] == names


def test_a_small_distortion_is_within_the_tolerance(crystals):
    cubic, angles = crystals.lengths[:1], crystals.angles[:1]
    stretched = torch.tensor([[1.0, 1.0, 1.004]], dtype=torch.float64) * cubic
    tetragonal, cube = (list(LATTICE_SYSTEMS).index(name) for name in ("tetragonal", "cubic"))
    assert lattice_system(stretched, angles).item() == tetragonal
    assert lattice_system(stretched, angles, tolerance=0.02).item() == cube


def test_the_metric_overrules_what_it_excludes_and_nothing_else():
    names = CRYSTAL_SYSTEMS
    lattices = ["rhombohedral" if name == "trigonal" else name for name in names]
    every = [(k, s, 4, 2) for k, s in zip(lattices, names, strict=True)] * 100
    counts = counts_of(*every, *[("hexagonal", "trigonal", 4, 2)] * 100)
    kinds = list(LATTICE_SYSTEMS)
    even = torch.full((3, 7), 1 / 7, dtype=torch.float64)
    even[2, names.index("trigonal")] = 2 / 7  # the network's word counts between the two
    lattice = torch.tensor([kinds.index(k) for k in ("triclinic", "cubic", "hexagonal")])
    after = system_posterior(even, lattice, counts)
    torch.testing.assert_close(after.sum(1), torch.ones(3, dtype=torch.float64))
    assert names[after[0].argmax()] == "triclinic" and after[0, names.index("cubic")] < 0.01
    assert names[after[1].argmax()] == "cubic"
    trigonal, hexagonal = (after[:, names.index(n)] for n in ("trigonal", "hexagonal"))
    assert trigonal[2] + hexagonal[2] > 0.98
    assert trigonal[2] / hexagonal[2] == pytest.approx(0.5 * 2**0.6, rel=0.02)


def test_atoms_are_whole_formulas_where_there_is_one():
    counts = counts_of(*[("cubic", "cubic", n, 3) for n in (3, 6, 6, 12, 12)])
    counts = LatticeCounts(*(each.repeat(50) for each in counts))
    exact = torch.full((1, 3), 6.0, dtype=torch.float64)
    cubic = torch.tensor([list(LATTICE_SYSTEMS).index("cubic")])
    for atoms in (3, 6, 12):
        scaled = exact / (1.08 * atoms) ** (1 / 3)  # the network's volume per atom, 8 % too small
        found = estimate_atoms(exact, exact, scaled, cubic, counts, formula=torch.tensor([3]))
        assert found.item() == atoms
    found = estimate_atoms(
        exact, exact, exact / 11.4 ** (1 / 3), cubic, counts, formula=torch.tensor([4])
    )
    assert found.item() == 12  # a formula of which there is no training crystal
    found = estimate_atoms(exact, exact, exact / 5.9 ** (1 / 3), cubic, counts)
    assert found.item() == 6
