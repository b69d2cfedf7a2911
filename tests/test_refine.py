"""Refinement of predicted cells: exact recovery, refusal, and what must not matter."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch

from unimat_lib import refine
from unimat_lib.crystals import CRYSTAL_SYSTEMS, CrystalTable, reduce_crystal, table_from_arrays
from unimat_lib.diffraction import (
    Effects,
    Grid,
    bragg_reflections,
    g_max_of,
    peaks,
    render,
)
from unimat_lib.refine import BRAVAIS_LATTICES, ObservedPeaks, find_peaks, refine_cells

GRID = Grid(5.0, 90.0, 4096)

# Conventional cells (lengths, angles) and the centring of one crystal per Bravais lattice.
CELLS = {
    ("cubic", "P"): ([4.123, 4.123, 4.123], [90, 90, 90]),
    ("cubic", "I"): ([5.431, 5.431, 5.431], [90, 90, 90]),
    ("cubic", "F"): ([5.913, 5.913, 5.913], [90, 90, 90]),
    ("hexagonal", "P"): ([4.377, 4.377, 7.215], [90, 90, 120]),
    ("hexagonal", "R"): ([4.913, 4.913, 14.21], [90, 90, 120]),
    ("tetragonal", "P"): ([4.594, 4.594, 5.859], [90, 90, 90]),
    ("tetragonal", "I"): ([4.785, 4.785, 9.214], [90, 90, 90]),
    ("orthorhombic", "P"): ([4.487, 5.431, 6.872], [90, 90, 90]),
    ("orthorhombic", "C"): ([4.487, 7.431, 6.072], [90, 90, 90]),
    ("orthorhombic", "I"): ([4.487, 6.431, 7.872], [90, 90, 90]),
    ("orthorhombic", "F"): ([6.487, 7.431, 8.872], [90, 90, 90]),
    ("monoclinic", "P"): ([5.112, 6.043, 7.381], [90, 101.7, 90]),
    ("monoclinic", "C"): ([9.112, 5.043, 6.381], [90, 107.3, 90]),
    ("triclinic", "P"): ([5.213, 6.142, 7.351], [82.1, 76.4, 70.3]),
}


def vectors(lengths, angles) -> np.ndarray:
    """Rows a, b, c of a cell."""
    (a, b, c), cosine = lengths, np.cos(np.radians(angles))
    x, y = b * cosine[2], b * math.sqrt(1 - cosine[2] ** 2)
    u, v = c * cosine[1], c * (cosine[0] - cosine[1] * cosine[2]) / math.sqrt(1 - cosine[2] ** 2)
    return np.array([[a, 0, 0], [x, y, 0], [u, v, math.sqrt(c**2 - u**2 - v**2)]])


@pytest.fixture(scope="module")
def crystals() -> CrystalTable:
    """One crystal per Bravais lattice: an iron atom, and in large cells a lighter one."""
    rows = []
    for (_, centring), cell in CELLS.items():
        lattice = np.array(refine._CENTRINGS[centring]) @ vectors(*cell)
        coords = np.array([[0.0, 0, 0], [0.13, 0.23, 0.37]])
        reduced = reduce_crystal(lattice, coords[:1], np.array([26]))
        coords = coords if np.linalg.det(lattice) > 120 else coords[:1]
        rows.append((reduced.lattice, coords, np.array([26, 8])[: len(coords)]))
    info = pd.DataFrame({"material_id": [str(i) for i in range(len(rows))], "formula": "Fe"})
    info = info.assign(space_group=1, split="val", source="test")
    return table_from_arrays(*[list(column) for column in zip(*rows, strict=True)], info)


@pytest.fixture(scope="module")
def reflections(crystals):
    return bragg_reflections(crystals, g_max=g_max_of(GRID))


@pytest.fixture(scope="module")
def patterns(reflections) -> torch.Tensor:
    return render(reflections, torch.arange(len(reflections)), GRID, fwhm=0.1)


def predictions(crystals: CrystalTable, size: float, seed: int = 0):
    """Cells with errors of the given relative size in lengths, and 40 times that in degrees."""
    generator = torch.Generator().manual_seed(seed)
    draw = torch.randn(len(crystals), 6, generator=generator, dtype=torch.float64)
    return crystals.lengths * torch.exp(size * draw[:, :3]), crystals.angles + 40 * size * draw[
        :, 3:
    ]


@pytest.fixture(scope="module")
def refined(crystals, patterns):
    return refine_cells(*predictions(crystals, 0.03), find_peaks(patterns, GRID))


# -------------------------------------------------------------------------------------------- peaks


def test_positions_of_peaks_that_stand_alone(reflections, patterns):
    found = find_peaks(patterns, GRID)
    true = peaks(reflections, two_theta_range=(5.0, 90.0))
    checked = 0
    for i in range(len(reflections)):
        angles = true.two_theta[true.offsets[i] : true.offsets[i + 1]].sort().values
        for angle in found.two_theta[i][found.mask[i]]:
            distance = (angles - angle).abs().sort().values
            if len(distance) == 1 or distance[1] > 0.4:  # nothing else under this peak
                assert distance[0] < 0.005
                checked += 1
    assert checked > 100


def test_merged_reflections_are_less_certain():
    x = GRID.two_theta

    def peak(at):
        return torch.exp(-(((x - at) / 0.1) ** 2) * 4 * math.log(2))

    single = sum(peak(at) for at in (20.0, 31.0, 42.0, 53.0, 64.0))
    found = find_peaks(torch.stack([single, single + peak(42.05)]), GRID)
    assert found.mask.sum(1).tolist() == [5, 5]
    torch.testing.assert_close(
        found.two_theta[0, :5],
        torch.tensor([20.0, 31, 42, 53, 64], dtype=torch.float64),
        rtol=0,
        atol=1e-4,
    )
    assert found.sigma[0, :5].max() < 0.002
    assert found.sigma[1, 2] > 0.01  # holds two


def test_noise_makes_no_peaks(patterns):
    generator = torch.Generator().manual_seed(0)
    noisy = (patterns + 0.003 * torch.randn(patterns.shape, generator=generator)).clamp_min(0)
    clean, found = (find_peaks(x, GRID, num_peaks=400) for x in (patterns, noisy))
    for i in range(len(patterns)):
        true = clean.two_theta[i][clean.mask[i]]
        alone = (clean.height[i] > 0.05) & (clean.sigma[i] < 0.002) & clean.mask[i]
        high = clean.two_theta[i][alone]
        came = found.two_theta[i][found.mask[i]]
        false = ((came[:, None] - true).abs().amin(1) > 0.1).sum()
        assert false <= 2  # the patterns have 4096 points
        assert ((came[:, None] - high).abs().amin(0) < 0.02).all()


def test_patterns_without_peaks():
    found = find_peaks(torch.zeros(2, GRID.num_points), GRID)
    assert not found.mask.any()
    cell = torch.full((2, 3), 5.0), torch.full((2, 3), 90.0)
    result = refine_cells(*cell, found)
    assert not result.accepted.any()
    torch.testing.assert_close(result.lengths, cell[0].double())


# --------------------------------------------------------------------------------------- refinement


@pytest.mark.parametrize("row", range(len(CELLS)), ids=["-".join(name) for name in CELLS])
def test_recovers_the_cell_of_every_bravais_lattice(row, crystals, refined):
    assert refined.accepted[row]
    torch.testing.assert_close(refined.lengths[row], crystals.lengths[row], rtol=1e-3, atol=0)
    torch.testing.assert_close(refined.angles[row], crystals.angles[row], rtol=0, atol=0.1)
    assert refined.explained[row] >= 0.95
    family = BRAVAIS_LATTICES[row]
    system = {"hexagonal": "trigonal"}.get(family[0]) if family[1] == "R" else family[0]
    assert CRYSTAL_SYSTEMS[refined.system[row]] == system


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


def test_order_of_peaks_does_not_matter(crystals, patterns, refined):
    found = find_peaks(patterns, GRID)
    shuffle = torch.randperm(found.two_theta.shape[1], generator=torch.Generator().manual_seed(0))
    found = ObservedPeaks(*(each[:, shuffle] for each in found[:4]), found.wavelength)
    again = refine_cells(*predictions(crystals, 0.03), found)
    for name in ("lengths", "angles", "score", "accepted"):
        assert torch.equal(getattr(again, name), getattr(refined, name)), name


def test_one_by_one_equals_the_batch(crystals, patterns, refined):
    lengths, angles = predictions(crystals, 0.03)
    for row in (2, 4, 8, 11, 13):
        one = slice(row, row + 1)
        alone = refine_cells(lengths[one], angles[one], find_peaks(patterns[one], GRID))
        torch.testing.assert_close(alone.lengths[0], refined.lengths[row], rtol=1e-9, atol=0)
        torch.testing.assert_close(alone.score[0], refined.score[row], rtol=1e-6, atol=1e-6)


def test_noisy_patterns(crystals, reflections):
    effects = Effects(
        fwhm=torch.full((len(crystals),), 0.1),
        eta=torch.zeros(len(crystals)),
        strain=torch.zeros(len(crystals), dtype=torch.float64),
        zero_shift=torch.zeros(len(crystals), dtype=torch.float64),
        noise=torch.full((len(crystals),), 0.01),
    )
    noisy = render(
        reflections,
        torch.arange(len(crystals)),
        GRID,
        effects=effects,
        generator=torch.Generator().manual_seed(0),
    )
    result = refine_cells(*predictions(crystals, 0.03), find_peaks(noisy, GRID))
    error = (result.lengths / crystals.lengths).log().abs().amax(1)
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


def test_niggli_cells_are_those_of_the_data(crystals):
    skewed = torch.tensor([[1.0, 0, 0], [1, 1, 0], [0, -1, 1]], dtype=torch.float64)
    lattice = skewed @ crystals.lattice
    metric = refine._six(torch.linalg.inv(lattice @ lattice.mT))
    cells = refine.niggli_cells(metric)
    torch.testing.assert_close(cells[:, :3], crystals.lengths, rtol=1e-8, atol=0)
    torch.testing.assert_close(cells[:, 3:], crystals.angles, rtol=0, atol=1e-4)


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


def test_equal_calls_agree(crystals, patterns, refined):
    again = refine_cells(*predictions(crystals, 0.03), find_peaks(patterns, GRID))
    for one, other in zip(again, refined, strict=True):
        assert torch.equal(one, other)
