"""Patterns that may be measured but hardly ever are: lines and a reading, or one line of text."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unimat_powder.index.observed import Observed
from unimat_powder.network.predict import read_pattern
from unimat_powder.network.reader import Reader
from unimat_powder.pattern import Pattern, PatternError

SLOWEST = 57
"""Times the fixed work, which takes 0.175 s on an idle core: no pattern takes more than 10 s."""


@pytest.fixture(scope="module")
def reader() -> Reader:
    torch.manual_seed(0)
    return Reader(width=64, depth=1).eval()


@st.composite
def legal_patterns(draw):
    """Angles, intensities and wavelength of patterns of any range, step and length."""
    count = draw(st.sampled_from([2, 3, 4, 5, 9, 40]) | st.integers(2, 20_000))
    low, high = sorted(draw(st.tuples(*[st.floats(0, 180)] * 2)))
    low, high = draw(st.sampled_from([(low, high), (0.0, 180.0), (0.0, high), (low, 180.0)]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 9999)))
    if draw(st.booleans()):
        two_theta = torch.linspace(low, high, count, dtype=torch.float64)
    else:  # unequal steps
        two_theta = low + (high - low) * torch.rand(count, generator=generator).double()
    two_theta = two_theta.clamp(0, 180).unique()
    count = len(two_theta)
    noise = torch.rand(count, generator=generator).double()
    spikes = torch.where(noise > draw(st.floats(0, 1)), 10.0 ** draw(st.integers(-30, 29)), 0.0)
    centres = low + (high - low) * torch.rand(draw(st.integers(0, 30)), 1, generator=generator)
    width = draw(st.floats(1e-4, 10))
    peaks = torch.exp(-(((two_theta - centres) / width) ** 2).clamp_max(700)).sum(0)
    kinds = {
        "constant": torch.ones(count),
        "zero but one": torch.arange(count) == draw(st.integers(0, max(count - 1, 0))),
        "negative": noise - 0.999,
        "noise": noise,
        "spikes": spikes,
        "peaks": peaks,
        "noisy peaks": peaks + 0.01 * noise,
        "peaks on a slope": peaks + torch.linspace(5, 0, count),
        "peaks below zero": peaks - 0.5,
    }
    intensity = kinds[draw(st.sampled_from(list(kinds)))].double()
    return two_theta, intensity, draw(st.floats(0.3, 3))


@settings(max_examples=25)
@given(made=legal_patterns())
def test_any_legal_pattern_is_answered_or_refused_in_one_line(made, reader):
    check(made, reader)


@pytest.mark.longer
@pytest.mark.timeout(7200)
@settings(max_examples=1000, derandomize=False)
@given(made=legal_patterns())
def test_many_legal_patterns_are_answered_or_refused_in_one_line(made, reader):
    check(made, reader)


def check(made, reader):
    begin = time.process_time()
    try:
        pattern = Pattern(*made)
        observed = Observed.of(pattern)
        assert np.isfinite(observed.two_theta).all() and np.isfinite(observed.sigma).all()
        reading = read_pattern(reader, pattern)
        assert np.isfinite(reading.system).all() and np.isfinite(reading.volume)
    except PatternError as error:
        assert 10 < len(str(error)) < 400 and str(error).isprintable()
    used = time.process_time() - begin
    assert used < 2 or used < SLOWEST * fixed_work()


def fixed_work() -> float:
    """Seconds that a fixed piece of work takes now: a slow or busy computer is no failure."""
    begin = time.process_time()
    for _ in range(40):
        np.exp(-(np.linspace(-3, 3, 500_000) ** 2)).sum()
    return time.process_time() - begin
