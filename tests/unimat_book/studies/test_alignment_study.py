"""What alignment buys a structure encoder: its ways to train differ as they say and only so."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from unimat_book.studies import alignment
from unimat_book.studies.alignment import (
    COST_OF_JOINT,
    VARIANTS,
    WITHOUT_LATTICE,
    errors_of,
    make_model,
    shuffled,
    stages,
)
from unimat_book.studies.trials import Place, Trial
from unimat_lib.evaluation.predict import predict
from unimat_lib.training.fit import fit

PLAIN = ("scaled_length_mae", "length_mae", "angle_mae", "crystal_system_accuracy")


@pytest.fixture(scope="module")
def shared(settings, prototype_table, tmp_path_factory):
    folder = tmp_path_factory.mktemp("alignment")
    return alignment.Shared(Place(prototype_table, settings, "cpu", folder))


def trained(shared, tmp_path, variant, seed=0):
    (outcome,) = alignment.train(Trial("alignment", variant, seed), shared, run_dir=tmp_path)
    return outcome


def test_every_variant_has_every_seed_and_the_last_are_those_without_lattice(settings):
    trials = alignment.trials(settings)
    assert len({t.name for t in trials}) == len(trials)
    bare = [t.variant.endswith(WITHOUT_LATTICE) for t in trials]
    assert bare == sorted(bare)
    counts = {t.variant: 0 for t in trials}
    for trial in trials:
        counts[trial.variant] += 1
    assert set(counts.values()) == {len(settings.seeds)} and set(VARIANTS) < set(counts)


def test_variants_of_a_seed_start_alike_and_take_the_same_steps(settings):
    one, other = (make_model(settings, seed=3, lattice=True) for _ in range(2))
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    epochs = {
        name: [c.epochs for c in stages(name, settings, seed=3, crystals=64)] for name in VARIANTS
    }
    many = settings.epochs
    for name in ("alone", "joint", "shuffled"):
        assert epochs[name] == [many]
    assert epochs["equal_compute"] == [round(COST_OF_JOINT * many)]
    assert epochs["finetuned"][-1] == many and len(epochs["finetuned"]) == 2
    assert epochs["untrained"] == []
    (joint,), (control,) = (stages(n, settings, seed=3, crystals=64) for n in ("joint", "shuffled"))
    assert joint == control and joint.contrastive_weight > 0
    (probe,) = stages("probe", settings, seed=3, crystals=64)
    assert probe.cell_weight == probe.system_weight == 0
    with pytest.raises(ValueError, match="expected a variant"):
        stages("unheard", settings, seed=3, crystals=64)


def test_without_the_lattice_the_encoder_reads_no_translations(shared):
    graph = shared.views.graph.select(torch.arange(4))
    other = dataclasses.replace(graph, translations=2 * graph.translations)
    for lattice in (True, False):
        model = make_model(shared.place.settings, seed=0, lattice=lattice).eval()
        same = torch.equal(model.encode("structure", graph), model.encode("structure", other))
        assert same is not lattice


def test_shuffled_pairs_are_those_of_other_training_crystals(shared):
    views, (train, val, test) = shared.views, shared.rows
    mixed = shuffled(views, train, seed=1)
    partner = mixed.partner
    assert (partner[train] != train).all()
    assert torch.equal(partner[train].sort().values, train.sort().values)
    for rows in (val, test):
        assert torch.equal(partner[rows], rows)
    names = ("structure", "xrd")
    batch = mixed.batch(train[:6], modalities=names)
    own = views.batch(train[:6], modalities=names)
    assert torch.equal(batch.views["structure"].vector, own.views["structure"].vector)
    assert torch.equal(batch.targets.lengths, own.targets.lengths)
    others = views.batch(partner[train[:6]], modalities=("xrd",)).views["xrd"]
    assert torch.equal(batch.views["xrd"], others)
    assert not torch.allclose(batch.views["xrd"], own.views["xrd"])
    right = mixed.batch(val[:6], modalities=names).views["xrd"]
    assert torch.equal(right, views.batch(val[:6], modalities=("xrd",)).views["xrd"])
    assert torch.equal(shuffled(views, train, seed=1).partner, partner)
    hashes = {v.content_hash for v in (views, mixed, shuffled(views, train, seed=2))}
    assert len(hashes) == 3  # or a training would be taken for another one


def test_errors_of_a_frame(shared, settings):
    model = make_model(settings, seed=0, lattice=True)
    model.fit_scalers(shared.views, shared.rows[0])
    test = shared.rows[2]
    values = errors_of(predict(model, shared.views, shared.table, test))
    expected = alignment.answers(model, shared.views, test, given=("structure",))
    assert set(values) == set(expected) == set(PLAIN)
    for name, x in values.items():
        np.testing.assert_allclose(x, expected[name], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("variant", ["joint", "shuffled", "finetuned", "probe", "untrained"])
def test_outcomes(shared, tmp_path, variant):
    outcome = trained(shared, tmp_path, variant)
    number = len(shared.rows[2])
    assert outcome.domain == "test" and all(len(x) == number for x in outcome.values.values())
    assert set(PLAIN) <= set(outcome.values)
    assert ("recall_at_1" in outcome.values) is (variant in ("joint", "shuffled", "probe"))
    for name, x in outcome.values.items():
        assert outcome.scores[name] == pytest.approx(x.mean(), rel=1e-5)
    frozen = variant in ("probe", "untrained")
    alike = outcome.scores["scaled_length_mae"] == outcome.scores["probe_scaled_length_mae"]
    assert alike is frozen
    # Of supervised training no epoch is compared with another one.
    assert bool(outcome.history) is (variant in ("probe", "finetuned"))
    assert 0 <= outcome.scores["macro_system_accuracy"] <= 100


@pytest.mark.parametrize("variant", ["alone", "equal_compute", "joint", "shuffled", "finetuned"])
def test_cell_and_system_are_trained_to_the_last_epoch(shared, tmp_path, monkeypatch, variant):
    settings, seen = shared.place.settings, []

    def fit_and_look(model, *args, **how):
        found = fit(model, *args, **how)
        seen.append((how["config"], found.history))
        return found

    monkeypatch.setattr(alignment, "fit", fit_and_look)
    outcome = trained(shared, tmp_path, variant)
    last, history = seen[-1]
    expected = stages(variant, settings, seed=0, crystals=len(shared.rows[0]))[-1].epochs
    assert last.cell_weight and outcome.scores["best_epoch"] == last.epochs - 1 == expected - 1
    assert history["val_loss"].nunique() == 1 and history["loss"].nunique() == last.epochs
    for config, before in seen[:-1]:  # contrastive training is judged
        assert not config.cell_weight and before["val_loss"].nunique() == config.epochs


def test_what_is_not_judged_still_learns_and_answers_again(shared, settings):
    model = make_model(settings, seed=0, lattice=True)
    batch = shared.views.batch(shared.rows[0][:4], modalities=("structure", "xrd")).views
    expected = model.eval()(batch)
    model.judged = False
    silent = model(batch)
    assert not silent.cell.any() and not silent.system_log_probs.any()
    assert not any(x.any() for x in silent.projections.values())
    assert model.train()(batch).cell.any()
    with torch.no_grad():
        next(model.cell_head.parameters()).fill_(float("nan"))
    assert model.eval()(batch).cell.isnan().any()  # so that training stops
    again = make_model(settings, seed=0, lattice=True).eval()(batch)
    assert torch.equal(again.cell, expected.cell)


def test_alone_never_sees_a_pattern(shared, tmp_path, monkeypatch):
    first = trained(shared, tmp_path / "a", "alone" + WITHOUT_LATTICE)

    def refuse(*args, **how):
        raise AssertionError("a pattern was drawn")

    monkeypatch.setattr("unimat_lib.views.batch.render", refuse)
    again = trained(shared, tmp_path / "b", "alone" + WITHOUT_LATTICE)
    for name, x in first.values.items():
        np.testing.assert_array_equal(x, again.values[name])
    with pytest.raises(AssertionError, match="drawn"):
        trained(shared, tmp_path / "c", "joint")
