"""Conformal intervals: the promise is kept on exchangeable data, and only there."""

import math

import numpy as np
import pandas as pd
import pytest

from unimat_book.conformal import (
    INTERVALS,
    conformal_quantile,
    coverage_by_system,
    covered,
    half_widths,
    interval_table,
)
from unimat_lib.crystals.table import CRYSTAL_SYSTEMS
from unimat_lib.evaluation.metrics import PROBABILITY_COLUMNS


def draw(n, seed, *, systems=2):
    """Errors that grow with the length and with the system, and probabilities that know it."""
    rng = np.random.default_rng(seed)
    system = rng.integers(0, systems, n)
    frame = pd.DataFrame({"crystal_system": system, "predicted_system": system})
    lengths = rng.uniform(3, 20, (n, 3))
    errors = lengths * 0.02 * (1 + 4 * system[:, None]) * rng.standard_t(3, (n, 3))
    for k, name in enumerate("abc"):
        frame[name], frame[f"error_{name}"] = lengths[:, k], errors[:, k]
    said = 0.95 - 0.4 * system - 0.2 * rng.random(n)
    probabilities = np.tile((1 - said[:, None]) / 6, 7)
    probabilities[np.arange(n), system] = said
    frame[list(PROBABILITY_COLUMNS)] = probabilities
    return frame


def test_quantile_is_the_finite_sample_one():
    scores = np.arange(1, 10)  # nine scores
    assert conformal_quantile(scores, 0.5) == 5
    assert conformal_quantile(scores[::-1], 0.9) == 9
    assert conformal_quantile(scores, 0.91) == math.inf
    assert conformal_quantile([], 0.5) == math.inf
    # Ten times 0.9 is a whole number, whatever binary fractions say; so is 100 times 0.07.
    assert conformal_quantile(np.arange(99), 0.07) == 6


def test_quantile_keeps_its_promise_whatever_the_distribution():
    rng = np.random.default_rng(0)
    for sample in (rng.exponential, rng.standard_cauchy):
        inside = [x[-1] <= conformal_quantile(x[:-1], 0.8) for x in sample(size=(4000, 15))]
        # ceil(15 * 0.8) / 15 = 12 / 15
        assert np.mean(inside) == pytest.approx(0.8, abs=0.025)


@pytest.mark.parametrize("kind", INTERVALS)
@pytest.mark.parametrize("coverage", [0.8, 0.95])
def test_marginal_coverage(kind, coverage):
    known, new = draw(4000, 0), draw(6000, 1)
    widths = half_widths(known, new, coverage=coverage, kind=kind)
    assert widths.shape == (6000, 3) and (widths > 0).all()
    assert covered(new, widths).mean() == pytest.approx(coverage, abs=0.02)


def test_groups_are_covered_where_groups_are_told_apart():
    known, new = draw(6000, 0), draw(6000, 1)
    hard = (new["crystal_system"] == 1).to_numpy()
    shares = {
        kind: covered(new, half_widths(known, new, coverage=0.9, kind=kind))[hard].mean()
        for kind in INTERVALS
    }
    assert shares["absolute"] < 0.85 and shares["relative"] < 0.85
    assert shares["relative, by predicted system"] == pytest.approx(0.9, abs=0.02)
    assert shares["relative, by doubt"] == pytest.approx(0.9, abs=0.03)


def test_widths_do_not_read_the_errors_they_judge():
    known, new = draw(500, 0), draw(500, 1)
    blind = new.assign(**{f"error_{x}": np.nan for x in "abc"})
    for kind in INTERVALS:
        args = dict(coverage=0.9, kind=kind)
        np.testing.assert_array_equal(
            half_widths(known, new, **args), half_widths(known, blind, **args)
        )


def test_too_few_crystals_promise_nothing():
    known, new = draw(200, 0, systems=1), draw(200, 1, systems=2)
    kind = "relative, by predicted system"  # the second system never came up
    widths = half_widths(known, new, coverage=0.9, kind=kind)
    unseen = (new["predicted_system"] == 1).to_numpy()
    assert np.isinf(widths[unseen]).all() and np.isfinite(widths[~unseen]).all()
    assert covered(new, widths)[unseen].all()


def test_a_length_of_zero_or_less_is_no_division_by_zero():
    known, new = draw(200, 0), draw(5, 1)
    new["a"] = [0.0, -3.0, 1.0, 2.0, 3.0]
    widths = half_widths(known, new, coverage=0.9, kind="relative")
    assert (widths > 0).all() and np.isfinite(widths).all()


def test_tables():
    known, new = draw(2000, 0), draw(2000, 1)
    table = interval_table(known, new, coverages=(0.8, 0.9))
    assert len(table) == 8 and table["promised (%)"].tolist()[:2] == [80, 90]
    assert (table["worst system (%)"] <= table["covered (%)"]).all()
    wide = table.pivot(index="interval", columns="promised (%)", values="median half width (Å)")
    assert (wide[90] > wide[80]).all()
    few = interval_table(known.head(3), new, coverages=(0.9,))
    assert few["median half width (Å)"].isna().all() and (few["covered (%)"] == 100).all()
    shares = coverage_by_system(known, new, coverage=0.9, kinds=["absolute", "relative"])
    assert len(shares) == 4 and shares["crystal system"][0].startswith(CRYSTAL_SYSTEMS[0])
    assert (shares["low"] < shares["value"]).all() and (shares["value"] < shares["high"]).all()


def test_messages_say_what_is_wrong():
    frame = draw(10, 0)
    with pytest.raises(ValueError, match="unknown kind 'narrow'"):
        half_widths(frame, frame, coverage=0.9, kind="narrow")
    with pytest.raises(ValueError, match=r"coverage in \(0, 1\)"):
        half_widths(frame, frame, coverage=90, kind="absolute")
    with pytest.raises(ValueError, match="1 NaN"):
        conformal_quantile([1.0, np.nan], 0.9)
