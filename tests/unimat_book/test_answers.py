"""The arithmetic in the questions and exercises of the chapters, computed again."""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
DEGREE = math.pi / 180


def published(chapter: str) -> dict:
    return json.loads((ROOT / f"data/results/{chapter}.json").read_text("utf-8"))


def q_of(two_theta: float, wavelength: float) -> float:
    return 4 * math.sin(two_theta * DEGREE / 2) ** 2 / wavelength**2


def two_theta_of(q: float, wavelength: float) -> float:
    return 2 * math.asin(wavelength * math.sqrt(q) / 2) / DEGREE


def test_edges_that_can_be_walked_backwards() -> None:
    """Chapter 03: each edge collects the twelve that come in, less its own reverse."""
    found = published("03_encoders")
    assert found["rutile_edges"] == 72 == 6 * 12
    assert 72 * 12 - found["rutile_triplets"] == 64


def test_receptive_field_and_envelope() -> None:
    assert 1 + (8 - 1) + 2 * (7 - 1) * 4 == 56
    assert pytest.approx(1.2, abs=0.05) == 56 * 85 / 4095
    u = np.polynomial.Polynomial([0, 0, 0, 0, 0, -28, 48, -21])
    assert 1 + u(1) == 0 and -1 + u.deriv()(1) == 0 and 2 + u.deriv(2)(1) == 0


def test_nats_of_a_batch_and_of_a_temperature() -> None:
    """Chapter 04."""
    assert [round(math.log(n) - 1, 2) for n in (64, 256)] == [3.16, 4.55]
    at = [1 / (1 + math.exp(-0.1 / tau)) for tau in (1.0, 0.07, 0.01)]
    assert at[0] < 0.53 < at[1] < 0.9 < 0.9999 < at[2]
    found = published("04_alignment")
    shown = found["log_batch"] - found["validation_loss"]
    assert shown == pytest.approx(found["information_nats"])


def test_dropout_and_averages() -> None:
    """Chapter 05."""
    hidden, none = 0.2 - 0.2**2 / 2, 0.8**2
    assert (round(hidden, 2), round(none, 2), 2 * hidden + none) == (0.18, 0.64, pytest.approx(1))
    assert pytest.approx(0.255) == 0.3 - 0.3**2 / 2 and pytest.approx(0.291) == 0.3 - 0.3**3 / 3
    best, plain = math.sqrt(0.01 * 0.04 / 0.05), math.sqrt((0.01 + 0.04) / 4)
    assert (round(best, 3), round(plain, 3)) == (0.089, 0.112)


def test_zero_shift_in_q_and_zinc() -> None:
    """Chapter 06."""
    for angle, percent in ((27.4, 0.36), (90.0, 0.09)):
        change = 0.05 * DEGREE / math.tan(angle * DEGREE / 2)
        assert 100 * change == pytest.approx(percent, abs=0.005)
    q_002, q_100 = q_of(36.29, 1.5406), q_of(38.99, 1.5406)
    assert (round(q_002, 4), round(q_100, 4)) == (0.1634, 0.1877)
    assert math.sqrt(4 / q_002) == pytest.approx(4.947, abs=5e-4)
    assert math.sqrt(4 / (3 * q_100)) == pytest.approx(2.665, abs=5e-4)
    q_101 = q_100 + q_002 / 4
    assert round(q_101, 4) == 0.2286
    assert two_theta_of(q_101, 1.5406) == pytest.approx(43.22, abs=0.01)


def test_first_difference_of_primitive_and_centred_cubes() -> None:
    sums = {h * h + k * k + m * m for h, k, m in itertools.product(range(6), repeat=3)}
    primitive = sorted(sums - {0})
    centred = sorted(n // 2 for n in sums - {0} if n % 2 == 0)  # even sums only
    differ = next(
        i for i, pair in enumerate(zip(primitive, centred, strict=False)) if len({*pair}) > 1
    )
    assert differ == 6 and centred[6] == 7 and 7 not in sums


def test_how_many_crystals_an_interval_needs() -> None:
    """Chapter 07."""
    for coverage, least in ((0.9, 9), (0.95, 19)):
        enough = [n for n in range(1, 40) if math.ceil(round((n + 1) * coverage, 9)) <= n]
        assert enough[0] == least


@pytest.mark.parametrize(
    ("edges", "faces", "corners"),
    [((4, 4, 4), [6], [8]), ((4, 4, 5), [2, 4], [8]), ((4, 4.5, 5), [2, 2, 2], [8])],
)
def test_faces_of_a_cube_that_is_stretched(edges, faces, corners) -> None:
    def lines(planes) -> list[int]:
        places = (
            round(sum((h / x) ** 2 for h, x in zip(p, edges, strict=True)), 9) for p in planes
        )
        return sorted(Counter(places).values())

    each = list(itertools.product((-1, 0, 1), repeat=3))
    assert lines([p for p in each if sum(map(abs, p)) == 1]) == faces
    assert lines([p for p in each if 0 not in p]) == corners


def test_doublet_and_shares() -> None:
    """Chapter 08."""
    ratio = (1.54439 - 1.54056) / 1.54056
    apart = [2 * math.tan(angle * DEGREE / 2) * ratio / DEGREE for angle in (30, 90, 140)]
    assert apart == [
        pytest.approx(0.076, abs=5e-4),
        pytest.approx(0.285, abs=5e-4),
        pytest.approx(0.78, abs=5e-3),
    ]
    assert pytest.approx(0.09) == (1 - 0.1) / 10


def test_degrees_of_freedom_and_false_alarms() -> None:
    """Chapter 09."""
    assert pytest.approx(3.12, abs=0.01) == (1 + 4) ** 2 / (1 / 8959 + 4**2 / 2)
    assert published("09_ledger")["num_verdicts"] / 20 > 1


def test_strain_moves_lines_and_smoothing_costs() -> None:
    """Chapter 10."""
    moved = [2 * 0.01 * math.tan(angle * DEGREE / 2) / DEGREE for angle in (90, 30)]
    assert [round(x, 2) for x in moved] == [1.15, 0.31]
    assert -0.9 * math.log(0.9) - 0.1 * math.log(0.1) == pytest.approx(0.325, abs=5e-4)
