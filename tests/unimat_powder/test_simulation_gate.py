"""What is made of simulated and measured patterns: prepared forms, fits, the gate between both."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from unimat_lib.datasets.preparation import load_dataset
from unimat_lib.views.bragg import bragg_reflections, g_max_of
from unimat_lib.views.grid import Grid
from unimat_powder.simulation.curve import expected_curve
from unimat_powder.simulation.fit import fit_instrument
from unimat_powder.simulation.gate import pattern_features, tell_apart, tell_apart_by_network
from unimat_powder.simulation.prepare import background_of, prepare
from unimat_powder.simulation.ranges import RRUFF, draw_instruments
from unimat_powder.simulation.simulate import simulate

GRID = Grid(5.0, 90.0, 4096)
BLANK = replace(RRUFF, white=0.0, impurity=0.0, eta=(0.3, 0.5), k_beta=0.0)


@pytest.fixture(scope="module")
def reflections():
    table = load_dataset("prototypes").select(torch.arange(0, 240, 4))
    return bragg_reflections(table, g_max=g_max_of(GRID, 0.05))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


# --------------------------------------------------------------------------------------- preparing


def clean(reflections, batch=12):
    instruments = draw_instruments(BLANK, batch, grid=GRID, generator=generator())
    curve = expected_curve(reflections, torch.arange(batch), GRID, instruments)
    return curve / curve.amax(1, keepdim=True), torch.ones(curve.shape, dtype=torch.bool)


def test_an_empty_baseline_does_not_matter(reflections):
    curve, mask = clean(reflections)
    noise = 1e-5 * torch.randn(curve.shape, generator=generator())
    before, after = prepare(curve, mask, GRID), prepare(curve + noise, mask, GRID)
    assert (before - after).abs().max() < 1.2e-3
    assert (before - after).std() < 3e-4


def test_prepared_patterns_forget_unit_and_background(reflections):
    curve, mask = clean(reflections)
    slope = torch.linspace(0.3, 0.1, GRID.num_points)
    plain = prepare(curve, mask, GRID)
    other = prepare(2500 * (curve + slope), mask, GRID)
    assert (plain.amax(1) - 1).abs().max() < 1e-5
    assert (plain - other).square().mean().sqrt() < 0.02


def test_prepared_is_zero_where_nothing_was_measured(reflections):
    curve, mask = clean(reflections)
    mask[:, :1000] = False
    mask[:, 3500:] = False
    prepared = prepare((curve + 0.2) * mask, mask, GRID)
    assert (prepared[~mask] == 0).all()
    whole = prepare(curve + 0.2, torch.ones_like(mask), GRID)
    inside = slice(1200, 3300)
    scale = whole[:, inside].amax(1) / prepared[:, inside].amax(1)
    assert (prepared.isfinite()).all()
    assert scale.median() == pytest.approx(1, abs=0.3)


def test_background_runs_through_noise():
    level = torch.full((3, 4096), 100.0)
    noisy = torch.poisson(level, generator=generator())
    found = background_of(noisy, half_window=96)
    assert (found.mean() - 100).abs() < 12
    assert found.std() < 6


def test_nothing_to_prepare():
    mask = torch.zeros(2, GRID.num_points, dtype=torch.bool)
    assert (prepare(torch.zeros(mask.shape), mask, GRID) == 0).all()
    with pytest.raises(ValueError, match="4096"):
        prepare(torch.zeros(2, 100), torch.ones(2, 100, dtype=torch.bool), GRID)


# -------------------------------------------------------------------------------- fits and the gate


def test_a_fit_finds_what_was_simulated(reflections):
    grid = Grid(10.0, 80.0, 2801)
    alone = reflections.select(torch.tensor([7]))
    ranges = replace(RRUFF, isotropic=(0.002, 0.002), strain=0.0, counts=(5000.0, 5000.0))
    ranges = replace(ranges, impurity=0.0, misfit=(1e-6, 1e-6), spread=(1e-6, 1e-6), spill=(0, 0))
    ranges = replace(ranges, response=0.0, ratio=(0.48, 0.48), step=(0.01, 0.01))
    instruments = draw_instruments(ranges, 1, grid=grid, generator=generator(1))
    instruments = replace(instruments, displacement=torch.tensor([0.06]))
    counts, _ = simulate(alone, torch.tensor([0]), grid, instruments, generator=generator(2))
    fit = fit_instrument(counts[0].numpy(), alone, grid)
    assert fit.chi2 < 1.2
    assert fit.parameters["ratio"] == pytest.approx(0.48, abs=0.03)
    # Zero, displacement and cell are hardly apart; together they put the peaks where they are.
    assert abs(fit.calculated.argmax() - int(counts[0].argmax())) <= 2
    with pytest.raises(ValueError, match="one crystal"):
        fit_instrument(counts[0].numpy(), reflections, grid)


def test_the_gate_tells_what_differs_and_nothing_else(reflections):
    grid = Grid(5.0, 90.0, 2048)
    index = torch.arange(8).repeat(4)

    def features(ranges, seed):
        source = generator(seed)
        instruments = draw_instruments(ranges, len(index), grid=grid, generator=source)
        counts, _ = simulate(reflections, index, grid, instruments, generator=source)
        return [pattern_features(pattern, grid) for pattern in counts.numpy()]

    one, same = features(RRUFF, 1), features(RRUFF, 2)
    other = features(replace(RRUFF, level=(0.5, 0.5)), 3)
    names, crystal = list(one[0]), np.tile(index.numpy(), 2)
    measured = np.arange(64) < 32
    for simulations, tells in ((same, False), (other, True)):
        table = np.array([list(row.values()) for row in one + simulations])
        assert np.isfinite(table).all()
        gate = tell_apart(table, names, measured, crystal, seed=0)
        assert (gate.accuracy > 0.85) == tells
        assert (gate.low > 0.7) == tells


def test_a_network_tells_blunt_differences():
    curves = torch.randn(64, 256, generator=generator())
    crystal = np.tile(np.arange(16), 4)
    measured = np.arange(64) < 32
    alike = tell_apart_by_network(curves, measured, crystal, steps=15, seed=0)
    assert alike.low < 0.6
    louder = curves * torch.from_numpy(np.where(measured, 3.0, 1.0)).float()[:, None]
    assert tell_apart_by_network(louder, measured, crystal, steps=40, seed=0).accuracy > 0.9
