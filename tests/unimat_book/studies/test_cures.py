"""Cures for low symmetry: what each changes, and that a study loses nothing."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from unimat_book.studies import cures
from unimat_book.studies import work as work_module
from unimat_book.studies.analysis import effects, intervals, with_systems
from unimat_book.studies.crystals import strained_copies
from unimat_book.studies.cures import (
    _SYSTEM_OF,
    FAMILIES,
    CureModel,
    LatticeHead,
    MetricScaler,
    _of_leaves,
    families_of,
    tolerance_matrix,
)
from unimat_book.studies.models import fit_config
from unimat_book.studies.results import load_means, pack, read_outcomes
from unimat_book.studies.trials import Place, Trial
from unimat_book.studies.work import StudyFolder, work_through
from unimat_lib.crystals.table import CRYSTAL_SYSTEMS

FEW = ("base", "balanced", "lattice_first")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, settings, prototype_table):
    """Three variants with two seeds each, trained."""
    path = tmp_path_factory.mktemp("studies")
    with pytest.MonkeyPatch.context() as patch:
        few = {name: cures.VARIANTS[name] for name in FEW}
        patch.setattr(cures, "VARIANTS", few)
        done = StudyFolder.of(path, cures, settings, prototype_table.content_hash())
        work_through(done, prototype_table, device="cpu")
        yield done


def shared_of(settings, table, path):
    return cures.Shared(Place(table, settings, "cpu", path))


def test_everything_is_trained_packed_and_read_back(folder, settings, prototype_table, tmp_path):
    assert all(map(folder.done, folder.trials)) and len(folder.trials) == 6
    folder.hand_over(tmp_path, parts=True)
    known = settings, prototype_table.content_hash()
    module = "unimat_book.studies.cures"
    means = load_means(tmp_path / "cures.parquet", *known, module=module, made_by="again")
    assert {m.variant for m in means} == set(FEW) and all(m.seeds == [0, 1] for m in means)
    single = read_outcomes(folder.result(Trial("cure", "base", 0)))[0][0]
    (base,) = (m for m in means if m.variant == "base")
    assert base.scores["angle_mae"][0] == pytest.approx(single.scores["angle_mae"])
    for metric, values in base.values.items():
        assert values.mean() == pytest.approx(base.scores[metric].mean(), rel=1e-4), metric
    other = dataclasses.replace(settings, batch_size=8)
    with pytest.raises(ValueError, match="of other settings"):
        load_means(tmp_path / "cures.parquet", other, known[1], module=module, made_by="again")
    with pytest.raises(FileNotFoundError, match="again"):
        load_means(tmp_path / "none.parquet", *known, module=module, made_by="again")
    there = StudyFolder.of(tmp_path / "elsewhere", cures, *known)
    there.take_over(tmp_path)
    assert all(map(there.done, there.trials))


def test_a_variant_against_itself_changes_nothing(folder, settings, prototype_table, tmp_path):
    pack(sorted((folder.path / "results").glob("*.parquet")), tmp_path / "cures.parquet")
    known = settings, prototype_table.content_hash()
    module = "unimat_book.studies.cures"
    means = load_means(tmp_path / "cures.parquet", *known, module=module, made_by="")
    (base,) = (m for m in means if m.variant == "base")
    types = [f"type {n % 5}" for n in range(len(base.values["angle_mae"]))]
    found = effects([base], base, types, "angle_mae")
    assert found["change"].item() == 0 and found["p"].item() == 1
    table = intervals(means, {"test": types})
    assert (table["ci_low"] <= table["mean"]).all() and (table["mean"] <= table["ci_high"]).all()
    shared = shared_of(settings, prototype_table, tmp_path)
    systems = prototype_table.crystal_system.numpy()[shared.rows[2].numpy()]
    macro = with_systems(base, systems).values["macro_system_accuracy"].mean()
    assert macro == pytest.approx(base.scores["macro_system_accuracy"].mean(), abs=1e-3)
    with pytest.raises(ValueError, match="different crystals"):
        effects([dataclasses.replace(base, asked="others")], base, types, "angle_mae")


def test_all_variants_take_the_same_number_of_steps(settings):
    for crystals in (32, 48, 64):
        steps = fit_config(settings, seed=0, crystals=crystals, like=32).epochs * crystals
        assert abs(steps - settings.epochs * 32) <= crystals / 2


def test_lattices_are_those_of_the_space_groups(prototype_table):
    families = families_of(prototype_table)
    systems = torch.tensor(_SYSTEM_OF)[families]
    assert torch.equal(systems, prototype_table.crystal_system)
    rocksalt = int((prototype_table.space_group == 225).nonzero()[0])
    assert FAMILIES[families[rocksalt]] == "cF"


def test_lattice_first_gives_probabilities_of_systems(settings):
    head = LatticeHead(dim=16)
    log_probs = head(torch.randn(5, 16))
    assert log_probs.shape == (5, 15)
    torch.testing.assert_close(log_probs.exp().sum(1), torch.ones(5))
    model = CureModel.of(settings, "lattice_first")
    probs = model.systems(log_probs)
    torch.testing.assert_close(probs.sum(1), torch.ones(5))
    trigonal = log_probs.exp()[:, [FAMILIES.index("hP3"), FAMILIES.index("hR")]].sum(1)
    torch.testing.assert_close(probs[:, CRYSTAL_SYSTEMS.index("trigonal")], trigonal)


def test_the_metric_tensor_gives_the_cell_back(settings, prototype_table, tmp_path):
    views, *_ = shared_of(settings, prototype_table, tmp_path).data(())
    scaler = MetricScaler()
    scaler.fit(views.targets)
    decoded = scaler.decode(scaler.encode(views.targets))
    torch.testing.assert_close(decoded["lengths"], views.targets.lengths.float(), rtol=1e-3, atol=0)
    torch.testing.assert_close(decoded["angles"], views.targets.angles.float(), rtol=0, atol=0.05)


def test_weighed_losses_count_rare_systems_more(settings, prototype_table, tmp_path):
    shared = shared_of(settings, prototype_table, tmp_path)
    systems = prototype_table.crystal_system[shared.rows[0]]
    matrix = cures.loss_matrix("balanced", systems, shared)
    weight, count = matrix.diagonal(), torch.bincount(systems, minlength=7).float()
    assert float((weight * count).sum() / len(systems)) == pytest.approx(1)
    present = count > 0
    order = count[present].argsort()
    assert (weight[present][order].diff() <= 0).all()
    smooth = tolerance_matrix(prototype_table)
    torch.testing.assert_close(smooth.sum(1), torch.ones(7))
    leaves = _of_leaves(smooth)
    torch.testing.assert_close(leaves.sum(1), torch.ones(15))


def test_weights_count_in_training_only(settings):
    model = CureModel.of(settings, "balanced")
    model.weigh = 2 * torch.eye(7)
    views = {"xrd": torch.rand(4, 256), "composition": torch.randn(4, 132)}
    quiet = model.eval()(views).system_log_probs
    model.training = True  # of the model alone: its layers draw nothing and average nothing
    torch.testing.assert_close(model(views).system_log_probs, 2 * quiet)


def test_strained_copies_keep_their_symmetry(prototype_table, tmp_path):
    train = prototype_table.split("train").select(torch.arange(40))
    copies = strained_copies(train, folder=tmp_path)
    assert 30 < len(copies) <= 40
    names = copies.info["material_id"].str.removesuffix("-strained")
    rows = [train.info["material_id"].tolist().index(name) for name in names]
    same = train.select(rows)
    assert torch.equal(copies.crystal_system, same.crystal_system)
    change = copies.lengths / same.lengths - 1
    assert 0.001 < change.abs().mean() < 0.05
    cubic = copies.crystal_system == CRYSTAL_SYSTEMS.index("cubic")
    torch.testing.assert_close(copies.angles[cubic], same.angles[cubic], rtol=0, atol=1e-3)
    spread = change[cubic].max(1).values - change[cubic].min(1).values
    assert spread.max() < 1e-6  # a cubic lattice has one strain only
    again = strained_copies(train, folder=tmp_path)
    assert again.content_hash() == copies.content_hash()


def test_further_crystals_are_trained_on_and_never_asked_about(settings, prototype_table, tmp_path):
    shared = shared_of(settings, prototype_table, tmp_path)
    _, table, rows = shared.data(("low_symmetry", "strained"))
    assert len(table) > len(prototype_table)
    extra = set(range(len(prototype_table), len(table)))
    assert extra < set(rows.tolist())
    assert not extra & set(shared.rows[2].tolist())
    low = table.select(torch.tensor(sorted(extra))).info
    made_up = low["source"] == "made up"
    assert made_up.any() and (low["space_group"][made_up] <= 15).all()


def test_a_failing_trial_is_tried_twice_and_named(settings, prototype_table, tmp_path, monkeypatch):
    monkeypatch.setattr(cures, "trials", lambda settings: [Trial("cure", "base", 0)])
    tried = []

    def fail(trial, shared, *, run_dir):
        tried.append(trial)
        raise ValueError("no such luck")

    monkeypatch.setattr(cures, "train", fail)
    monkeypatch.setattr(work_module, "study_code", lambda module: "code")
    monkeypatch.setattr(work_module, "stamp_of", lambda *known: {})
    folder = StudyFolder.of(tmp_path, cures, settings, "crystals")
    work_through(folder, prototype_table, device="cpu")
    assert len(tried) == work_module.ATTEMPTS and folder.failed(folder.trials[0])
    assert "no such luck" in (tmp_path.rglob("*.txt").__next__()).read_text()
    folder.forget_failures()
    assert not folder.failed(folder.trials[0])


def test_shares_are_kept_exactly_and_errors_nearly(tmp_path):
    rng = np.random.default_rng(0)
    trial = Trial("cure", "base", 0)
    stamp = dict.fromkeys(("settings", "crystals", "code", "device", "versions"), "x")
    from unimat_book.studies.results import Outcome, write_outcomes

    right = 100.0 * rng.integers(0, 2, (3, 50))
    errors = rng.exponential(0.1, (3, 50))
    for seed in range(3):
        values = {"crystal_system_accuracy": right[seed], "length_mae": errors[seed]}
        scores = {k: float(v.mean()) for k, v in values.items()}
        one = Outcome(dataclasses.replace(trial, seed=seed), "test", "asked", scores, values)
        write_outcomes([one], tmp_path / f"{seed}.parquet", stamp=stamp)
    pack(sorted(tmp_path.glob("?.parquet")), tmp_path / "all.parquet")
    import pyarrow.parquet as pq

    (row,) = pq.read_table(tmp_path / "all.parquet").to_pylist()
    counts = np.frombuffer(dict(row["values"])["crystal_system_accuracy"], np.uint8)
    np.testing.assert_array_equal(counts, (right / 100).sum(0))
