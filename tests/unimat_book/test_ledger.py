"""The ledger: its own arithmetic, and every published number against the prediction files."""

import functools
import json

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch

from unimat_book.grid.analysis import METRICS
from unimat_book.grid.cells import KINDS
from unimat_book.grid.results import read_results
from unimat_book.ledger.everything import all_rows, load_all
from unimat_book.ledger.measured import MEASURED_SETTINGS, load_outcomes, measured_rows
from unimat_book.ledger.predictions import load_predictions, save_predictions
from unimat_book.ledger.ranks import load_ranks, rank_frame, recall_rows, save_ranks
from unimat_book.ledger.rows import find_row, ledger_rows, load_published, rows_of_claims
from unimat_book.ledger.settings import (
    DIRECTIONS,
    PREDICTIONS,
    RANKS,
    RESOLUTION,
    SETTINGS,
    VARIANTS,
)
from unimat_book.ledger.verdicts import (
    change_verdict,
    judge_claim,
    judge_claims,
    paired_difference,
    paper_verdict,
)
from unimat_book.record import project_root
from unimat_book.run.sources import Book
from unimat_book.statistics import wilson_interval
from unimat_lib.crystals.table import CRYSTAL_SYSTEMS
from unimat_lib.evaluation.metrics import (
    CELL_COLUMNS,
    PROBABILITY_COLUMNS,
    SCALED_COLUMNS,
    cell_metrics,
    with_relative_errors,
)

RESULTS = project_root() / "data" / "results"
needs_results = pytest.mark.skipif(
    not ((RESULTS / "ledger.json").is_file() and (RESULTS / "ranks").is_dir()),
    reason="data/results/ledger.json or ranks/ is absent: the full profile has not been run",
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
    assert len(save_predictions(frames, tmp_path, **key)) == 3
    save_predictions({0: frames[0]}, tmp_path, setting="xrd", variant="reproduction")
    loaded = load_predictions(tmp_path, **key, made_by="x")
    assert list(loaded) == [0, 1, 10]
    pd.testing.assert_frame_equal(loaded[10][list(frames[10])], frames[10], atol=0.006, rtol=0)
    for name, step in RESOLUTION.items():
        assert (loaded[10][name] - frames[10][name]).abs().max() <= 0.51 * step + 1e-6
    # What has once been on file comes back to the bit.
    save_predictions(loaded, tmp_path, **key)
    again = load_predictions(tmp_path, **key, made_by="x")
    pd.testing.assert_frame_equal(again[10], loaded[10], check_exact=True)
    save_predictions({1: frames[1]}, tmp_path, **key)
    assert list(load_predictions(tmp_path, **key, made_by="x")) == [1]
    # A setting whose name begins like another one is not mixed up with it.
    save_predictions({0: frames[0]}, tmp_path, setting="xrd_only", variant="ours")
    assert list(load_predictions(tmp_path, **key, made_by="x")) == [1]


def test_missing_predictions_name_the_command(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"unimat-book run 03"):
        load_predictions(tmp_path, setting="xrd", variant="ours", made_by="unimat-book run 03")


def test_different_crystals_are_not_compared():
    other = make_frame(1).assign(material_id=lambda f: f["material_id"] + "x")
    with pytest.raises(ValueError, match="same crystals"):
        paired_difference([make_frame(0)], [other], "length_mae")


def test_rows_hold_the_metrics_of_the_frames():
    frames = [make_frame(seed, systems=3) for seed in range(3)]
    rows = ledger_rows(frames, setting="xrd", variant="ours", num_resamples=50)
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
        for row in ledger_rows(frames[:1], setting="xrd", variant="ours", num_resamples=20)
        if row["metric"] == "length_mae"
    )
    assert single["std"] is None and single["seeds"] == 1


@pytest.mark.parametrize(
    ("mean", "expected"), [(0.10, "better"), (0.129, "agrees"), (0.136, "agrees"), (0.2, "worse")]
)
def test_verdict(mean, expected):
    interval = [mean - 0.002, mean + 0.002]
    row = {"mean": mean, "std": 0.001, "seeds": 3, "ci95": interval, "n_test": 500}
    assert paper_verdict(row, 0.13, rounding=0.005, lower_is_better=True) == expected
    opposite = {"better": "worse", "worse": "better"}.get(expected, expected)
    assert paper_verdict(row, 0.13, rounding=0.005, lower_is_better=False) == opposite
    assert paper_verdict(None, 0.13, rounding=0.005, lower_is_better=True) == "not measured"


def test_more_claims_make_a_verdict_harder():
    row = {"mean": 0.12, "std": None, "seeds": 1, "ci95": [0.115, 0.125], "n_test": 500}
    kind = {"rounding": 0.0025, "lower_is_better": True}
    assert paper_verdict(row, 0.13, **kind) == "better"
    assert paper_verdict(row, 0.13, **kind, num_claims=100) == "agrees"


def test_paired_difference_sees_what_separate_intervals_hide():
    hard = np.abs(np.random.default_rng(0).normal(0, 1, 300))
    first, second = make_frame(0, n=300), make_frame(0, n=300)
    for name in "abc":
        first[f"error_{name}"] = hard
        second[f"error_{name}"] = hard - 0.01  # every crystal a little better
    change, low, high = paired_difference([first] * 2, [second] * 2, "length_mae")
    assert low <= change <= high < 0
    assert change_verdict(low, high, lower_is_better=True) == "improves"
    assert change_verdict(low, high, lower_is_better=False) == "worsens"
    assert change_verdict(-1, 1, lower_is_better=True) == "no clear change"


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
        change_verdict(*paired_difference(seeds(), seeds(), "length_mae")[1:], lower_is_better=True)
        for _ in range(200)
    ]
    assert words.count("no clear change") >= 180


def test_one_seed_is_not_judged():
    first, second = make_frame(0), make_frame(1)
    change, low, high = paired_difference([first], [second, second], "length_mae")
    assert np.isfinite(change)
    assert change_verdict(low, high, lower_is_better=True) == "one seed: not judged"


# ---------------------------------------------------------------- retrieval


def make_ranks(seed, n=50, views=("xrd", "structure", "composition")):
    generator = torch.Generator().manual_seed(seed)
    points = {name: torch.randn(n, 8, generator=generator) for name in views}
    return rank_frame(points, [f"m{i}" for i in range(n)])


def test_rank_frame_counts_from_one_in_every_direction():
    points = {"xrd": torch.eye(4), "structure": torch.eye(4).roll(1, 0)}
    frame = rank_frame(points | {"structure": torch.eye(4)}, list("abcd"))
    assert list(frame) == ["material_id", "xrd_to_structure", "structure_to_xrd"]
    assert (frame["xrd_to_structure"] == 1).all() and frame["xrd_to_structure"].dtype == np.int32
    assert (rank_frame(points, list("abcd"))["structure_to_xrd"] == 4).all()  # ties lose
    assert list(make_ranks(0))[1:] == list(DIRECTIONS)


def test_ranks_survive_the_disk_and_old_seeds_go(tmp_path):
    key = {"setting": "all_three", "variant": "ours"}
    frames = {seed: make_ranks(seed) for seed in (10, 2)}
    paths = save_ranks(frames, tmp_path, **key)
    assert [p.name for p in paths] == [f"all_three-ours-seed{seed}.parquet" for seed in (10, 2)]
    loaded = load_ranks(tmp_path, **key, made_by="-")
    assert list(loaded) == [2, 10]
    pd.testing.assert_frame_equal(loaded[10], frames[10], check_exact=True)
    save_ranks({2: frames[2]}, tmp_path, **key)
    assert list(load_ranks(tmp_path, **key, made_by="-")) == [2]
    with pytest.raises(FileNotFoundError, match=r"unimat-book run 04"):
        load_ranks(tmp_path, setting="x", variant="ours", made_by="unimat-book run 04")


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (make_ranks(0).rename(columns={"xrd_to_structure": "xrd"}), "expected material_id and"),
        (make_ranks(0)[["material_id"]], "expected material_id and"),
        (make_ranks(0).assign(xrd_to_structure=0), "from 1 to the 50"),
        (make_ranks(0).assign(xrd_to_structure=51), "from 1 to the 50"),
    ],
)
def test_wrong_ranks_are_refused(tmp_path, frame, message):
    with pytest.raises(ValueError, match=message):
        save_ranks({0: frame}, tmp_path, setting="all_three", variant="ours")
    assert not list(tmp_path.iterdir())


def test_recall_rows():
    frames = [make_ranks(seed) for seed in range(3)]
    rows = recall_rows(frames, setting="all_three", variant="ours", num_resamples=50)
    assert [row["metric"] for row in rows][:4] == [
        "recall_at_1",
        "recall_at_10",
        "recall_at_1_structure_to_xrd",
        "recall_at_10_structure_to_xrd",
    ]
    assert len(rows) == 8
    row = find_row(rows, setting="all_three", variant="ours", metric="recall_at_10")
    values = [100 * (frame["xrd_to_structure"] <= 10).mean() for frame in frames]
    assert row["mean"] == pytest.approx(np.mean(values))
    assert row["std"] == pytest.approx(np.std(values, ddof=1))
    assert row["ci95"][0] <= row["mean"] <= row["ci95"][1]
    assert (row["seeds"], row["n_test"]) == (3, 50)
    (one, _) = recall_rows(
        [make_ranks(0, views=("xrd", "structure"))[["material_id", "xrd_to_structure"]]],
        setting="structure_aligned_xrd",
        variant="reproduction",
    )
    assert (
        one["ci95"] == list(wilson_interval(one["mean"], 50))
        and one["std"] is None
        and one["seeds"] == 1
    )
    json.dumps(rows, allow_nan=False)


# ---------------------------------------------------------------- claims


def test_the_published_numbers_can_be_read():
    content = load_published(project_root() / "data" / "published.yml")
    assert all(entry["source"] for entry in content.values())
    rows = rows_of_claims(content["unimat"]["claims"])
    row = find_row(rows, setting="xrd", variant="paper", metric="scaled_length_mae")
    assert row["mean"] == 0.17 and row["ci95"] is None


def test_a_claim_without_a_value_is_refused(tmp_path):
    path = tmp_path / "published.yml"
    path.write_text("x: {source: s, claims: [{id: a, kind: value, statement: s, reason: r}]}")
    with pytest.raises(ValueError, match=r"lacks .*'value'"):
        load_published(path)


def test_judging_values_changes_and_orders():
    frames = {
        ("xrd", "reproduction"): [make_frame(seed, scale=0.2) for seed in (0, 5, 6)],
        ("xrd", "ours"): [make_frame(seed, scale=0.1) for seed in (1, 7, 8)],
        ("composition", "reproduction"): [make_frame(seed, scale=0.4) for seed in (2, 9, 10)],
    }
    rows = [
        row
        for (setting, variant), f in frames.items()
        for row in ledger_rows(f, setting=setting, variant=variant, num_resamples=100)
    ]

    def judge(variant="reproduction", **claim):
        claim = {"metric": "scaled_length_mae", "rounding": 0.005} | claim
        return judge_claim(claim, rows, frames, variant=variant, num_claims=3)

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
    assert wilson_interval(0.0, 100) == pytest.approx([0, 3.6993], abs=1e-4)
    # Wilson's formula by hand, for 7 of 9.
    z2, p, n = 1.959963984540054**2, 7 / 9, 9
    half = np.sqrt(z2 * (p * (1 - p) / n + z2 / (4 * n**2)))
    expected = [100 * (p + z2 / (2 * n) + sign * half) / (1 + z2 / n) for sign in (-1, 1)]
    assert wilson_interval(100 * p, n) == pytest.approx(expected, abs=1e-9)


def test_all_claims_are_judged_together():
    frames = {
        ("xrd", "reproduction"): [make_frame(seed, scale=0.2) for seed in (0, 5, 6)],
        ("xrd", "ours_refined"): [make_frame(seed, scale=0.1) for seed in (1, 7, 8)],
    }
    ranks = {("structure_aligned_xrd", "reproduction"): [make_ranks(0)]}
    rows = all_rows(frames, ranks, num_resamples=50)
    metric = {"metric": "scaled_length_mae", "rounding": 0.005}
    claims = [
        {"id": "a", "kind": "value", "setting": "xrd", "value": 0.13} | metric,
        {"id": "b", "kind": "order", "settings": ["xrd"]} | metric,
        {"id": "c", "kind": "value", "setting": "structure_aligned_xrd", "value": 50.0}
        | {"metric": "recall_at_1", "rounding": 0.005},
    ]
    judged, count = judge_claims(claims, rows, frames)
    assert count == 3  # a in two variants, c in one; an order has no interval
    assert len(judged) == 9
    one = judged[(judged["id"] == "a") & (judged["variant"] == "ours_refined")].iloc[0]
    number, word = judge_claim(claims[0], rows, frames, variant="ours_refined", num_claims=3)
    assert (one["number"], one["verdict"]) == (number, word) and word == "better"
    assert list(judged[judged["id"] == "c"]["verdict"]) == ["worse"] + ["not measured"] * 2


def test_the_ledger_sends_to_chapters_that_write_its_settings():
    chapters = {c.number: c.path.read_text("utf-8") for c in Book(project_root()).chapters.values()}
    for keys, function in ((PREDICTIONS, "predictions"), (RANKS, "save_ranks(")):
        for (_, variant), number in keys.items():
            assert function in chapters[number] and f'"{variant}"' in chapters[number], number


def test_everything_is_read_or_the_missing_file_named(tmp_path):
    for setting, variant in PREDICTIONS:
        folder = tmp_path / "predictions"
        save_predictions({0: make_frame(0, n=50)}, folder, setting=setting, variant=variant)
    with pytest.raises(FileNotFoundError, match=r"run 04 --profile quick"):
        load_all(tmp_path, profile="quick")
    for setting, variant in RANKS:
        save_ranks({0: make_ranks(0)}, tmp_path / "ranks", setting=setting, variant=variant)
    frames, ranks = load_all(tmp_path, profile="quick")
    assert set(frames) == set(PREDICTIONS) and set(ranks) == set(RANKS)
    keys = [
        (r["setting"], r["variant"], r["metric"]) for r in all_rows(frames, ranks, num_resamples=20)
    ]
    assert len(set(keys)) == len(keys)
    (tmp_path / "predictions/xrd-ours_refined-seed0.parquet").unlink()
    with pytest.raises(FileNotFoundError, match=r"run 06 --profile full"):
        load_all(tmp_path, profile="full")
    strange = make_ranks(0).assign(material_id=lambda f: f["material_id"] + "x")
    save_predictions(
        {0: make_frame(0, n=50)}, tmp_path / "predictions", setting="xrd", variant="ours_refined"
    )
    save_ranks({0: strange}, tmp_path / "ranks", setting="all_three", variant="ours")
    with pytest.raises(ValueError, match="same crystals"):
        load_all(tmp_path, profile="full")


# ---------------------------------------------------------------- the published ledger


def published_rows():
    if not (RESULTS / "ledger.json").is_file():
        return []
    return json.loads((RESULTS / "ledger.json").read_text(encoding="utf-8"))


def key_of(row):
    return row["setting"], row["variant"], row["metric"]


@needs_results
def test_every_published_number_follows_from_its_files():
    """Nothing is missing, nothing is surplus, and each number is computed again."""
    rows = {key_of(row): row for row in published_rows()}
    assert len(rows) == len(published_rows()), "two rows have one setting, variant and metric"
    frames, ranks = load_all(RESULTS, profile="full")
    content = load_published(project_root() / "data/published.yml")
    expected = rows_of_claims(content["unimat"]["claims"])
    resamples = Book(project_root()).parameters("full")["09_ledger"]["num_resamples"]
    expected += all_rows(frames, ranks, num_resamples=resamples)
    measured = RESULTS / "measured"
    if measured.is_dir() or any(row["setting"] in MEASURED_SETTINGS for row in published_rows()):
        outcomes = load_outcomes(
            measured, made_by="unimat-book run 08 --profile full", taken_out=True
        )
        expected += measured_rows(outcomes, num_resamples=resamples)
    for name in ("fusion_rows.json", "open_rows.json"):
        expected += json.loads((RESULTS / name).read_text("utf-8"))
    assert {key_of(row) for row in expected} == set(rows)
    for row in expected:
        found = rows[key_of(row)]
        assert list(found) == list(row)
        for name, value in row.items():
            if value is None or isinstance(value, str):
                assert found[name] == value, found
            else:
                assert found[name] == pytest.approx(value, rel=1e-6, abs=1e-9), found


@needs_results
def test_rows_of_the_grid_are_means_of_its_trainings():
    scores = {}
    for kind in KINDS:
        for r in read_results(RESULTS / "grid" / f"{kind}.parquet"):
            if r.job.purpose == "final":
                setting = f"fusion_{r.job.fusion}_{r.job.order}"
                for metric, (name, _) in METRICS.items():
                    scores.setdefault((setting, kind, metric), []).append(r.scores.get(name))
    found = [row for row in published_rows() if row["setting"].startswith("fusion_")]
    assert len({row["setting"] for row in found}) == 20
    for row in found:
        values = scores[key_of(row)]
        assert len(values) == row["seeds"] == 5
        assert row["mean"] == pytest.approx(np.mean(values))
        assert row["std"] == pytest.approx(np.std(values, ddof=1))
        for low, high in (row["ci95"], row["ci95_types"]):
            assert low < row["mean"] < high


STUDIES = ("alignment_", "cure_", "transfer_", "retrieval_", "provenance_")


@needs_results
def test_rows_of_the_studies_are_means_of_their_trainings():
    """Scores of the seeds, read past the code that made the rows."""
    scores = {}
    for path in sorted((RESULTS / "studies").glob("*.parquet")):
        for r in pq.read_table(path).to_pylist():
            by_domain = path.stem in ("transfer", "retrieval")
            kind, other = (path.stem.removesuffix("s"), r["variant"]), r["domain"]
            if by_domain:
                kind, other = (path.stem, r["domain"]), r["variant"]
            for metric, values in json.loads(r["scores"]).items():
                scores["_".join(kind), other, metric] = values
    found = [row for row in published_rows() if row["setting"].startswith(STUDIES)]
    assert {row["setting"].split("_")[0] + "_" for row in found} == set(STUDIES)
    checked = 0
    for row in found:
        assert row["ci95"][0] <= row["mean"] <= row["ci95"][1], row
        assert row["ci95_types"][0] <= row["mean"] <= row["ci95_types"][1], row
        if values := scores.get(key_of(row)):
            checked += 1
            assert len(values) == row["seeds"]
            assert row["mean"] == pytest.approx(np.mean(values))
            if len(values) > 1:
                assert row["std"] == pytest.approx(np.std(values, ddof=1))
    # The others are the accuracies of crystal systems and the shipped model's recalls.
    assert checked > 0.8 * len(found)
    recalls = {row["metric"] for row in found if row["setting"] == "retrieval_test"}
    for method in ("", "cosine_"):
        assert recalls >= {f"{method}recall_at_1_strain_{s}" for s in ("0", "0.3", "1", "2")}


@needs_results
def test_means_and_spreads_are_those_of_the_plain_metrics():
    """The same once more for the means, past the ledger's own code."""
    for row in published_rows():
        if row["variant"] == "paper" or row["setting"] in MEASURED_SETTINGS:
            continue  # of the latter, test_measured.py counts the metrics anew
        if row["setting"].startswith(("fusion_", *STUDIES)):
            continue  # the tests before
        recall = row["metric"].startswith("recall_at_")
        load = load_ranks if recall else load_predictions
        folder = RESULTS / ("ranks" if recall else "predictions")
        key = {"setting": row["setting"], "variant": row["variant"]}
        frames = cached(load, folder, **key)
        values = [recall_of(f, row["metric"]) if recall else metrics_of(f, row) for f in frames]
        assert row["seeds"] == len(values), row
        assert row["mean"] == pytest.approx(np.mean(values), rel=1e-9), row
        if row["seeds"] > 1:
            assert row["std"] == pytest.approx(np.std(values, ddof=1), rel=1e-6, abs=1e-9), row
        else:
            assert row["std"] is None
        low, high = row["ci95"]
        assert low <= row["mean"] <= high, row
        assert row["n_test"] == expected_count(frames[0], row["metric"]), row


@functools.cache
def cached(load, folder, *, setting, variant):
    return tuple(load(folder, setting=setting, variant=variant, made_by="-").values())


def metrics_of(frame, row):
    key = "cell_metrics"
    if key not in frame.attrs:
        frame.attrs[key] = cell_metrics(frame)
    return frame.attrs[key][row["metric"]]


def recall_of(frame, metric):
    k, _, direction = metric.removeprefix("recall_at_").partition("_")
    return 100 * (frame[direction or "xrd_to_structure"] <= int(k)).mean()


def expected_count(frame, metric):
    system = metric.removeprefix("crystal_system_accuracy_")
    if system in CRYSTAL_SYSTEMS:
        return int((frame["crystal_system"] == CRYSTAL_SYSTEMS.index(system)).sum())
    return len(frame)


@needs_results
def test_every_file_of_a_known_setting_is_in_the_ledger():
    rows = published_rows()
    for folder, keys in (("predictions", PREDICTIONS), ("ranks", RANKS)):
        names = {path.stem.rsplit("-seed", 1)[0] for path in (RESULTS / folder).iterdir()}
        known = {f"{s}-{v}" for s in SETTINGS for v in VARIANTS}
        assert names & known == {f"{s}-{v}" for s, v in keys}
        assert set(keys) <= {(r["setting"], r["variant"]) for r in rows}


@needs_results
def test_ledger_rows_have_one_form():
    names = ["setting", "variant", "metric", "mean", "std", "seeds", "ci95", "n_test"]
    for row in published_rows():
        of_types = row["setting"].startswith(("fusion_", *STUDIES))
        over_types = ["ci95_types"] if of_types else []
        assert list(row) == names + over_types
        if row["variant"] == "paper":
            assert row["ci95"] is None and row["n_test"] is None
