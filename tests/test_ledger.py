"""The ledger: its own arithmetic, and every published number against the prediction files."""

import json

import numpy as np
import pandas as pd
import pytest

from unimat_lib import ledger
from unimat_lib.crystals import CRYSTAL_SYSTEMS
from unimat_lib.evaluate import (
    CELL_COLUMNS,
    PROBABILITY_COLUMNS,
    SCALED_COLUMNS,
    cell_metrics,
    with_relative_errors,
)
from unimat_lib.record import project_root

RESULTS = project_root() / "data" / "results"
needs_results = pytest.mark.skipif(
    not (RESULTS / "ledger.json").is_file(),
    reason="data/results/ledger.json is absent: the full profile has not been run",
)


def make_frame(seed, n=200, scale=0.1, systems=7):
    rng = np.random.default_rng(seed)
    truth = np.arange(n) % systems
    frame = pd.DataFrame(
        {
            "material_id": [f"m{i}" for i in range(n)],
            "num_atoms": 4,
            "crystal_system": truth,
            "predicted_system": np.where(rng.random(n) < 0.8, truth, (truth + 1) % 7),
        }
    )
    for name in CELL_COLUMNS + SCALED_COLUMNS:
        frame[name] = 90.0 if name in ("alpha", "beta", "gamma") else 5 + rng.random(n)
        frame[f"error_{name}"] = rng.normal(0, scale, n)
    probabilities = rng.dirichlet(np.ones(7), n)
    frame = frame.assign(**dict(zip(PROBABILITY_COLUMNS, probabilities.T, strict=True)))
    return with_relative_errors(frame)


def test_predictions_survive_the_disk_and_old_seeds_go(tmp_path):
    frames = {seed: make_frame(seed) for seed in (0, 1, 10)}
    key = {"setting": "xrd", "variant": "ours"}
    assert len(ledger.save_predictions(frames, tmp_path, **key)) == 3
    ledger.save_predictions({0: frames[0]}, tmp_path, setting="xrd", variant="reproduction")
    loaded = ledger.load_predictions(tmp_path, **key, made_by="x")
    assert list(loaded) == [0, 1, 10]
    pd.testing.assert_frame_equal(loaded[10][list(frames[10])], frames[10], atol=0.006, rtol=0)
    for name, step in ledger.RESOLUTION.items():
        assert (loaded[10][name] - frames[10][name]).abs().max() <= 0.51 * step + 1e-6
    # What has once been on file comes back to the bit.
    ledger.save_predictions(loaded, tmp_path, **key)
    again = ledger.load_predictions(tmp_path, **key, made_by="x")
    pd.testing.assert_frame_equal(again[10], loaded[10], check_exact=True)
    assert ledger.available(tmp_path) == [("xrd", "reproduction"), ("xrd", "ours")]
    ledger.save_predictions({1: frames[1]}, tmp_path, **key)
    assert list(ledger.load_predictions(tmp_path, **key, made_by="x")) == [1]
    # A setting whose name begins like another one is not mixed up with it.
    ledger.save_predictions({0: frames[0]}, tmp_path, setting="xrd_only", variant="ours")
    assert list(ledger.load_predictions(tmp_path, **key, made_by="x")) == [1]


def test_missing_predictions_name_the_command(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"tools/book\.py run 03"):
        ledger.load_predictions(
            tmp_path, setting="xrd", variant="ours", made_by="python tools/book.py run 03"
        )


def test_different_crystals_are_not_compared():
    other = make_frame(1).assign(material_id=lambda f: f["material_id"] + "x")
    with pytest.raises(ValueError, match="same crystals"):
        ledger.paired_difference([make_frame(0)], [other], "length_mae")


def test_rows_hold_the_metrics_of_the_frames():
    frames = [make_frame(seed, systems=3) for seed in range(3)]
    rows = ledger.ledger_rows(frames, setting="xrd", variant="ours", num_resamples=50)
    by_metric = {row["metric"]: row for row in rows}
    assert "crystal_system_accuracy_cubic" not in by_metric  # none in these frames
    for name, row in by_metric.items():
        values = [cell_metrics(frame)[name] for frame in frames]
        assert row["mean"] == pytest.approx(np.mean(values))
        assert row["std"] == pytest.approx(np.std(values, ddof=1))
        assert row["ci95"][0] <= row["mean"] <= row["ci95"][1]
    assert by_metric["length_mae"]["n_test"] == 200
    assert by_metric["crystal_system_accuracy_triclinic"]["n_test"] == 67
    json.dumps(rows, allow_nan=False)
    (single,) = (
        row
        for row in ledger.ledger_rows(frames[:1], setting="xrd", variant="ours", num_resamples=20)
        if row["metric"] == "length_mae"
    )
    assert single["std"] is None and single["seeds"] == 1


@pytest.mark.parametrize(
    ("mean", "expected"), [(0.10, "better"), (0.129, "agrees"), (0.136, "agrees"), (0.2, "worse")]
)
def test_verdict(mean, expected):
    interval = [mean - 0.002, mean + 0.002]
    row = {"mean": mean, "std": 0.001, "seeds": 3, "ci95": interval, "n_test": 500}
    assert ledger.verdict(row, 0.13, rounding=0.005, lower_is_better=True) == expected
    opposite = {"better": "worse", "worse": "better"}.get(expected, expected)
    assert ledger.verdict(row, 0.13, rounding=0.005, lower_is_better=False) == opposite
    assert ledger.verdict(None, 0.13, rounding=0.005, lower_is_better=True) == "not measured"


def test_more_claims_make_a_verdict_harder():
    row = {"mean": 0.12, "std": None, "seeds": 1, "ci95": [0.115, 0.125], "n_test": 500}
    kind = {"rounding": 0.0025, "lower_is_better": True}
    assert ledger.verdict(row, 0.13, **kind) == "better"
    assert ledger.verdict(row, 0.13, **kind, num_claims=100) == "agrees"


def test_paired_difference_sees_what_separate_intervals_hide():
    hard = np.abs(np.random.default_rng(0).normal(0, 1, 300))
    first, second = make_frame(0, n=300), make_frame(0, n=300)
    for name in "abc":
        first[f"error_{name}"] = hard
        second[f"error_{name}"] = hard - 0.01  # every crystal a little better
    change, low, high = ledger.paired_difference([first] * 2, [second] * 2, "length_mae")
    assert low <= change <= high < 0
    assert ledger.change_verdict(low, high, lower_is_better=True) == "improves"
    assert ledger.change_verdict(low, high, lower_is_better=False) == "worsens"
    assert ledger.change_verdict(-1, 1, lower_is_better=True) == "no clear change"


def test_seeds_alone_do_not_make_a_change():
    """Two groups of three seeds of one method: a change is found about as rarely as promised."""
    rng = np.random.default_rng(1)
    base = make_frame(0, n=300)

    def seeds():
        frames = []
        for _ in range(3):
            frame = base.copy()
            frame[["error_a", "error_b", "error_c"]] *= 1 + 0.04 * rng.normal()
            frames.append(frame)
        return frames

    words = [
        ledger.change_verdict(
            *ledger.paired_difference(seeds(), seeds(), "length_mae")[1:], lower_is_better=True
        )
        for _ in range(200)
    ]
    assert words.count("no clear change") >= 180


def test_one_seed_is_not_judged():
    first, second = make_frame(0), make_frame(1)
    change, low, high = ledger.paired_difference([first], [second, second], "length_mae")
    assert np.isfinite(change)
    assert ledger.change_verdict(low, high, lower_is_better=True) == "one seed: not judged"


# ---------------------------------------------------------------- claims


def test_the_published_numbers_can_be_read():
    content = ledger.load_published(project_root() / "data" / "published.yml")
    assert all(entry["source"] for entry in content.values())
    rows = ledger.published_rows(content["unimat"]["claims"])
    row = ledger.find_row(rows, setting="xrd", variant="paper", metric="scaled_length_mae")
    assert row["mean"] == 0.17 and row["ci95"] is None


def test_a_claim_without_a_value_is_refused(tmp_path):
    path = tmp_path / "published.yml"
    path.write_text("x: {source: s, claims: [{id: a, kind: value, statement: s, reason: r}]}")
    with pytest.raises(ValueError, match=r"lacks .*'value'"):
        ledger.load_published(path)


def test_judging_values_changes_and_orders():
    frames = {
        ("xrd", "reproduction"): [make_frame(seed, scale=0.2) for seed in (0, 5, 6)],
        ("xrd", "ours"): [make_frame(seed, scale=0.1) for seed in (1, 7, 8)],
        ("composition", "reproduction"): [make_frame(seed, scale=0.4) for seed in (2, 9, 10)],
    }
    rows = [
        row
        for (setting, variant), f in frames.items()
        for row in ledger.ledger_rows(f, setting=setting, variant=variant, num_resamples=100)
    ]

    def judge(variant="reproduction", **claim):
        claim = {"metric": "scaled_length_mae", "rounding": 0.005} | claim
        return ledger.judge(claim, rows, frames, variant=variant, num_claims=3)

    value = {"kind": "value", "setting": "xrd"}
    assert judge(**value, value=0.5)[1] == "better"
    assert judge(**value, value=0.01)[1] == "worse"
    assert judge(kind="value", setting="all_three", value=1)[1] == "not measured"
    change = {"kind": "change", "before": "composition", "after": "xrd"}
    assert judge(**change, value=-20)[1] == "confirmed"
    assert judge(**change, value=20)[1] == "contradicted"
    text, word = judge("ours", **change, value=-20)
    assert word == "confirmed" and "reproduction of composition" in text
    assert (
        judge("ours", kind="change", before="composition", after="all_three", value=-1)[1]
        == "not measured"
    )
    assert judge(kind="order", settings=["xrd", "composition"])[1] == "confirmed"
    assert judge(kind="order", settings=["composition", "xrd"])[1] == "contradicted"


def test_wilson_interval_of_a_share():
    row = ledger.share_row(0.0, 100, setting="s", variant="ours", metric="recall_at_1")
    assert row["ci95"][0] == pytest.approx(0, abs=1e-9) and row["ci95"][1] == pytest.approx(
        3.70, abs=0.01
    )


# ---------------------------------------------------------------- the published ledger


def published_rows():
    if not (RESULTS / "ledger.json").is_file():
        return []
    return json.loads((RESULTS / "ledger.json").read_text(encoding="utf-8"))


@needs_results
def test_every_published_number_follows_from_its_predictions():
    rows = [row for row in published_rows() if row["variant"] != "paper"]
    assert rows
    frames = {
        key: list(
            ledger.load_predictions(
                RESULTS / "predictions", setting=key[0], variant=key[1], made_by="-"
            ).values()
        )
        for key in {(r["setting"], r["variant"]) for r in rows if not is_recall(r)}
    }
    metrics = {key: [cell_metrics(frame) for frame in value] for key, value in frames.items()}
    for row in filter(lambda r: not is_recall(r), rows):
        values = [m[row["metric"]] for m in metrics[row["setting"], row["variant"]]]
        assert row["seeds"] == len(values), row
        assert row["mean"] == pytest.approx(np.mean(values), rel=1e-9), row
        if row["std"] is not None:
            assert row["std"] == pytest.approx(np.std(values, ddof=1), rel=1e-6, abs=1e-12), row
        low, high = row["ci95"]
        assert low <= row["mean"] <= high, row
        assert row["n_test"] == expected_count(frames, row), row


def is_recall(row):
    return row["metric"].startswith("recall_at_")


def expected_count(frames, row):
    frame = frames[row["setting"], row["variant"]][0]
    system = row["metric"].removeprefix("crystal_system_accuracy_")
    if system in CRYSTAL_SYSTEMS:
        return int((frame["crystal_system"] == CRYSTAL_SYSTEMS.index(system)).sum())
    return len(frame)


@needs_results
def test_every_prediction_file_of_a_known_setting_is_in_the_ledger():
    inside = {(r["setting"], r["variant"]) for r in published_rows() if not is_recall(r)}
    assert set(ledger.available(RESULTS / "predictions")) <= inside


@needs_results
def test_ledger_rows_have_one_form():
    names = ["setting", "variant", "metric", "mean", "std", "seeds", "ci95", "n_test"]
    keys = []
    for row in published_rows():
        assert list(row) == names
        keys.append((row["setting"], row["variant"], row["metric"]))
        if row["variant"] == "paper":
            assert row["ci95"] is None and row["n_test"] is None
    assert len(keys) == len(set(keys))
