"""Scans of a few degrees with hardly anything in them: an answer or one line, never a fault."""

import json

import numpy as np
import pytest
import torch
from test_search import LIBRARY, PROTOTYPES, curve_of, strained

from unimat_powder.answer import Answer
from unimat_powder.command import identify
from unimat_powder.pattern import Pattern, PatternError
from unimat_powder.report import write_page
from unimat_powder.search.amplitude import Amplitude, amplitude_of
from unimat_powder.search.curve import MeasuredCurve, measured_curve
from unimat_powder.search.search import search

CURVES = [curve_of(strained(name)).numpy() for name in PROTOTYPES]


def short_scan(seed: int) -> Pattern:
    """One to twelve degrees of a pattern, with few counts or many, of any wavelength."""
    generator = np.random.default_rng(seed)
    curve = CURVES[generator.integers(len(CURVES))]
    two_theta = np.linspace(5, 90, len(curve))
    width = generator.uniform(1.2, 12)
    low = generator.uniform(5, 90 - width)
    inside = (two_theta >= low) & (two_theta <= low + width)
    level = curve[inside] * 10 ** generator.uniform(0, 4) + 10 ** generator.uniform(-1, 2)
    step = int(generator.choice([1, 2, 3]))
    counts = generator.poisson(level)[::step].astype(float)
    counts[0] = max(counts[0], 1)
    wavelength = float(generator.choice([1.5418, 1.5418, 0.7107, 8.0]))
    columns = (torch.from_numpy(x.copy()) for x in (two_theta[inside][::step], counts))
    return Pattern(*columns, wavelength=wavelength)


def checked(answer: Answer, folder) -> None:
    """It is an answer or a line about the measurement, and its words and numbers are whole."""
    assert answer.error is None or "fault of the program" not in answer.error
    said = json.loads(json.dumps(answer.to_json(), allow_nan=False))
    assert str(answer)
    if answer.error is None:
        assert said["probability"] is not None and said["verdict_text"]
        assert all(np.isfinite(phase["probability"]) for phase in said["phases"])
        assert all(cell["conventional"]["a"] > 0 for cell in said["cells"])
        write_page(answer, folder / "page.html")


@pytest.mark.parametrize("seed", [16, 25, 26])
def test_scans_that_once_ended_a_search(seed, tmp_path):
    # 16 and 25: the first crystal has no line in the range; 26: a cell ran away to no number.
    (answer,) = identify(short_scan(seed), library=LIBRARY)
    checked(answer, tmp_path)


@pytest.mark.parametrize("seed", range(100, 112))
def test_a_short_scan_has_an_answer_or_a_line(seed):
    try:
        found = search(short_scan(seed), LIBRARY, elements={"Ti", "O"} if seed % 2 else None)
    except PatternError:
        return
    chances = [one.probability for one in (*found.matches, *found.lattices)]
    assert np.isfinite([found.none_probability, *chances]).all()
    assert sum(match.probability for match in found.matches) <= 1 + 1e-6


@pytest.mark.longer
def test_many_short_scans_have_an_answer_or_a_line(tmp_path):
    for seed in range(1000, 1400):
        (answer,) = identify(short_scan(seed), library=LIBRARY)
        checked(answer, tmp_path)


def test_what_the_steps_miss_is_zero_and_no_fault():
    two_theta = np.linspace(178, 179, 60)
    signal = np.zeros(60)
    signal[-1] = 1.0
    curve = measured_curve(short_scan(3))
    odd = MeasuredCurve(two_theta, signal, signal, signal, signal, ((40.0, 1.0),))
    amplitude = amplitude_of(odd)
    assert len(amplitude.root) >= 2 and np.isfinite(amplitude.root).all()
    assert np.square(amplitude_of(curve).root).sum() * 3e-4 == pytest.approx(1)


@pytest.mark.parametrize("length", [40, 400])
def test_a_line_overlaps_most_where_it_stands_however_short_the_scan(length):
    root = np.zeros(length)
    root[length // 4] = 1.0
    amplitude = Amplitude(start=0.3, end=0.3 + length * 3e-4, root=root, wavelength=1.5406)
    value, slope = amplitude.smoothed(width=3e-3)
    assert int(value.argmax()) == length // 4
    assert abs(float(slope[length // 4])) < 1e-6 * float(slope.abs().max())
