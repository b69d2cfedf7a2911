"""Indexing: peaks of patterns, and the cells that explain them."""

from __future__ import annotations

import math

import torch
from lattices import CELLS, GRID

from unimat_powder import clean_peaks
from unimat_powder.bravais import BRAVAIS_LATTICES, lines_of, matrix_metric, niggli_cells
from unimat_powder.clean_peaks import find_peaks, in_q
from unimat_powder.indexing import search_cells
from unimat_powder.lines import merged_peaks

# -------------------------------------------------------------------------------------------- peaks


def test_positions_of_peaks_that_stand_alone(reflections, patterns):
    found = find_peaks(patterns, GRID)
    true = merged_peaks(reflections, two_theta_range=(5.0, 90.0))
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


def test_noise_makes_no_peaks(patterns, monkeypatch):
    monkeypatch.setattr(clean_peaks, "_NUM_PEAKS", 400)
    generator = torch.Generator().manual_seed(0)
    noisy = (patterns + 0.003 * torch.randn(patterns.shape, generator=generator)).clamp_min(0)
    clean, found = (find_peaks(x, GRID) for x in (patterns, noisy))
    for i in range(len(patterns)):
        true = clean.two_theta[i][clean.mask[i]]
        alone = (clean.height[i] > 0.05) & (clean.sigma[i] < 0.002) & clean.mask[i]
        high = clean.two_theta[i][alone]
        came = found.two_theta[i][found.mask[i]]
        false = ((came[:, None] - true).abs().amin(1) > 0.1).sum()
        assert false <= 2  # the patterns have 4096 points
        assert ((came[:, None] - high).abs().amin(0) < 0.02).all()


def test_niggli_cells_are_those_of_the_data(crystals):
    skewed = torch.tensor([[1.0, 0, 0], [1, 1, 0], [0, -1, 1]], dtype=torch.float64)
    lattice = skewed @ crystals.lattice
    metric = matrix_metric(torch.linalg.inv(lattice @ lattice.mT))
    cells = niggli_cells(metric)
    torch.testing.assert_close(cells[:, :3], crystals.lengths, rtol=1e-8, atol=0)
    torch.testing.assert_close(cells[:, 3:], crystals.angles, rtol=0, atol=1e-4)


def test_the_search_knows_a_cell_by_its_volume_alone(crystals, patterns):
    rows = [0, 4, 6, 8]
    found = search_cells(in_q(find_peaks(patterns[rows], GRID)), 1.2 * crystals.volume[rows])
    for place, row in enumerate(rows):
        here = (found.pattern == place).nonzero()[:, 0]
        best = here[found.score[here].argmax()]
        assert BRAVAIS_LATTICES[found.lattice[best]] == list(CELLS)[row]
        cell = niggli_cells(found.metric[best][None])
        torch.testing.assert_close(cell[0, :3], crystals.lengths[row], rtol=1e-3, atol=0)


def test_lines_of_a_cube():
    edge = torch.full((3,), 4.0)
    lines = lines_of(edge, torch.full((3,), 90.0), 8.5 / 16)
    torch.testing.assert_close(16 * lines, torch.tensor([1.0, 2, 3, 4, 5, 6, 8]).double())
