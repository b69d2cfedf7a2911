"""Metrics against hand counts, intervals, calibration."""

import numpy as np
import pandas as pd
import pytest

from unimat_book.calibration import (
    confusion_counts,
    expected_calibration_error,
    per_system_table,
    reliability,
)
from unimat_book.statistics import bootstrap_interval, summarize
from unimat_lib.crystals.table import CRYSTAL_SYSTEMS
from unimat_lib.evaluation.metrics import (
    CELL_COLUMNS,
    PROBABILITY_COLUMNS,
    SCALED_COLUMNS,
    cell_metrics,
    cell_volume,
)


def make_frame(n=400, seed=0, error=0.1, accuracy=0.8):
    """An errors frame with known errors: every length is off by ``error``, angles by 10 times."""
    rng = np.random.default_rng(seed)
    system = rng.integers(0, 7, n)
    right = rng.random(n) < accuracy
    predicted = np.where(right, system, (system + 1) % 7)
    probabilities = np.full((n, 7), 0.02)
    probabilities[np.arange(n), predicted] = 1 - 6 * 0.02
    frame = pd.DataFrame(
        {
            "material_id": [f"m-{i}" for i in range(n)],
            "num_atoms": rng.integers(1, 20, n),
            "crystal_system": system,
            "predicted_system": predicted,
        }
    )
    for name, p in zip(PROBABILITY_COLUMNS, probabilities.T, strict=True):
        frame[name] = p
    signs = rng.choice([-1.0, 1.0], (n, 9))
    names = CELL_COLUMNS + SCALED_COLUMNS
    for name, sign in zip(names, signs.T, strict=True):
        scale = 10 * error if name in ("alpha", "beta", "gamma") else error
        frame[f"error_{name}"] = sign * scale / (2 if name.startswith("scaled") else 1)
    for name in "abc":
        frame[f"relative_error_{name}"] = frame[f"error_{name}"] / 5
    frame["relative_error_volume"] = 0.03
    return frame, right


def test_metrics_equal_hand_counts():
    frame, right = make_frame()
    metrics = cell_metrics(frame)
    assert metrics["length_mae"] == pytest.approx(0.1)
    assert metrics["length_median_ae"] == pytest.approx(0.1)
    assert metrics["scaled_length_mae"] == pytest.approx(0.05)
    assert metrics["angle_mae"] == pytest.approx(1.0)
    assert metrics["length_mape"] == pytest.approx(2.0)
    assert metrics["volume_mape"] == pytest.approx(3.0)
    assert metrics["within_1_percent"] == 0.0
    assert metrics["crystal_system_accuracy"] == pytest.approx(100 * right.mean())


def test_a_crystal_counts_as_within_one_percent_only_with_all_lengths():
    frame, _ = make_frame(4, error=0.0)
    frame.loc[0, "relative_error_c"] = 0.02
    frame.loc[1, "relative_error_b"] = -0.009
    assert cell_metrics(frame)["within_1_percent"] == pytest.approx(75.0)


def test_per_system_accuracies_average_to_the_overall_one():
    frame, _ = make_frame()
    table = per_system_table(frame)
    overall = (table["n"] * table["crystal_system_accuracy"]).sum() / table["n"].sum()
    assert overall == pytest.approx(cell_metrics(frame)["crystal_system_accuracy"])


def test_an_empty_crystal_system_is_shown_and_not_dropped():
    frame, _ = make_frame()
    frame = frame[frame["crystal_system"] != CRYSTAL_SYSTEMS.index("triclinic")]
    table = per_system_table(frame)
    assert list(table.index) == list(CRYSTAL_SYSTEMS)
    assert table.loc["triclinic", "n"] == 0
    assert np.isnan(table.loc["triclinic", "length_mae"])
    assert "crystal_system_accuracy_triclinic" not in cell_metrics(frame)


def test_confusion_counts_every_crystal_once():
    frame, right = make_frame()
    matrix = confusion_counts(frame)
    assert matrix.sum() == len(frame)
    assert np.trace(matrix) == right.sum()
    assert matrix[0, 1] == ((frame["crystal_system"] == 0) & ~right).sum()


def test_bootstrap_interval_covers_the_mean_and_shrinks_with_the_test_set():
    small, _ = make_frame(100)
    large, _ = make_frame(6400)
    name = "crystal_system_accuracy"
    widths = []
    for frame in (small, large):
        low, high = bootstrap_interval([frame], name)
        assert low < cell_metrics(frame)[name] < high
        widths.append(high - low)
    # Eight times narrower for 64 times the crystals, up to the noise of the resampling.
    assert 5 < widths[0] / widths[1] < 12


def test_bootstrap_interval_agrees_with_the_binomial_one():
    frame, right = make_frame(900)
    low, high = bootstrap_interval([frame], "crystal_system_accuracy")
    half = 1.96 * 100 * np.sqrt(right.mean() * (1 - right.mean()) / len(frame))
    assert (high - low) / 2 == pytest.approx(half, rel=0.15)


def test_summary_reports_seeds_and_spread():
    frames = [make_frame(error=e)[0] for e in (0.1, 0.2, 0.3)]
    row = summarize(frames, ["length_mae", "length_median_ae"]).set_index("metric")
    assert row.loc["length_mae", "mean"] == pytest.approx(0.2)
    assert row.loc["length_mae", "std"] == pytest.approx(0.1)
    assert row.loc["length_mae", "seeds"] == 3
    assert row.loc["length_median_ae", "ci_low"] == pytest.approx(0.2)


def test_bad_input_is_refused():
    frame, _ = make_frame(20)
    with pytest.raises(ValueError, match="unknown metric 'rmse'"):
        bootstrap_interval([frame], "rmse")
    with pytest.raises(ValueError, match="lengths"):
        bootstrap_interval([frame, frame[:5]], "length_mae")
    with pytest.raises(ValueError, match="empty frame"):
        cell_metrics(frame[:0])


def test_calibration_error_is_the_gap_between_confidence_and_accuracy():
    frame, right = make_frame(4000, accuracy=0.6)
    gap = abs(0.88 - right.mean())
    assert expected_calibration_error(frame) == pytest.approx(gap, abs=1e-6)
    assert reliability(frame)["share"].sum() == pytest.approx(1)


@pytest.mark.parametrize(
    ("lengths", "angles", "volume"),
    [
        ((2, 3, 4), (90, 90, 90), 24),
        ((3, 3, 5), (90, 90, 120), 45 * np.sqrt(3) / 2),
        ((1, 1, 1), (60, 60, 60), np.sqrt(0.5)),
        ((1, 1, 1), (170, 90, 20), 0),  # closes no cell
    ],
)
def test_cell_volume(lengths, angles, volume):
    value = cell_volume(np.array([lengths], float), np.array([angles], float))
    assert value[0] == pytest.approx(volume, abs=1e-9)
