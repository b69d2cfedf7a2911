"""Tables of what several GPUs bring, from points made up for the purpose."""

import json

import numpy as np
import pandas as pd
import pytest
from scipy.stats import ttest_ind

from unimat_book.several_gpus import (
    agreement,
    loss_table,
    read_points,
    slower_before,
    speed_table,
)
from unimat_book.statistics import welch_interval

SPEED = pd.DataFrame(
    {
        "setting": "xrd",
        "gpus": [1, 1, 2, 2],
        "batch": [256, 512, 256, 512],
        "seconds": [0.02, 0.03, 0.025, 0.032],
        "crystals_per_second": [12_800.0, 17_066.7, 20_480.0, 32_000.0],
        "allreduce_seconds": [0.0, 0.0, 1e-4, 1e-4],
        "operations_per_second": 1e15,
        "operations_per_crystal": 1e9,
        "bytes_per_second": 4e12,
        "bytes_per_crystal": 1e7,
    }
)
ACCURACY = pd.DataFrame(
    {
        "setting": "aligned",
        "gpus": [1, 1, 1, 2, 2, 2],
        "seed": [0, 1, 2] * 2,
        "val_loss": [1.0, 1.1, 1.3, 1.0, 1.2, 1.5],
    }
)


def test_efficiency_is_against_one_gpu_with_the_same_batch() -> None:
    table = speed_table(SPEED).set_index(["gpus", "batch"])
    assert table.loc[2, 256]["percent"] == pytest.approx(80)
    assert table.loc[2, 512]["speedup"] == pytest.approx(32_000 / 17_066.7)
    assert table.loc[2, 512]["longer_us"] == pytest.approx(2000)
    assert table.loc[2, 512]["by_arithmetic"] == pytest.approx(2e6)
    assert table.loc[2, 512]["by_memory"] == pytest.approx(8e5)
    assert table["best"].to_dict() == {
        (1, 256): False, (1, 512): True, (2, 256): False, (2, 512): True
    }  # fmt: skip
    with pytest.raises(ValueError, match=r"not measured on one GPU: \[\('xrd', 512\)\]"):
        speed_table(SPEED.drop(index=1))


def test_losses_are_set_beside_those_of_one_gpu() -> None:
    one, two = loss_table(ACCURACY).to_dict("records")
    assert np.isnan(one["difference"]) and one["std"] == pytest.approx(0.1527525)
    assert two["difference"] == pytest.approx(0.1)
    assert two["low"] < 0 < two["high"]


def test_welch_interval_is_that_of_scipy() -> None:
    a, b = np.array([1.0, 1.2, 1.5]), np.array([0.3, 0.8, 2.0, 1.1])
    expected = ttest_ind(a, b, equal_var=False).confidence_interval()
    difference, low, high = welch_interval(a, b)
    assert difference == pytest.approx(a.mean() - b.mean())
    assert (low, high) == pytest.approx((expected.low, expected.high))
    with pytest.raises(ValueError, match="got 3 and 1: add seeds"):
        welch_interval(a, b[:1])


def test_agreement_is_relative_to_the_first_run_on_one_gpu() -> None:
    losses = [[2.0, 1.001], [2.0, 1.0], [2.002, 1.0]]
    check = pd.DataFrame({"setting": "xrd", "gpus": [2, 1, 1], "losses": losses})
    again, two = agreement(check).to_dict("records")
    assert (again["gpus"], two["gpus"]) == (1, 2)
    assert two["first"] == 0 and two["largest"] == pytest.approx(1e-3) and two["steps"] == 2
    assert again["first"] == again["largest"] == pytest.approx(1e-3)


def test_before_two_were_slower() -> None:
    rates = {"setting": "xrd", "gpus": [1, 2], "crystals_per_second": [30.0, 10.0]}
    assert slower_before(pd.DataFrame(rates))["xrd"] == pytest.approx(3)


def test_points_that_lack_something_are_refused(tmp_path) -> None:
    path = tmp_path / "points.json"
    path.write_text(json.dumps({"speed": [{"setting": "xrd", "gpus": 1}]}))
    with pytest.raises(ValueError, match=r"speed: .*are missing; run"):
        read_points(path)
    path.write_text(json.dumps({"speed": SPEED.assign(setting="magic").to_dict("records")}))
    with pytest.raises(ValueError, match=r"unknown settings \['magic'\]"):
        read_points(path)
