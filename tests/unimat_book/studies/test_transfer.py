"""Transfer: what is left out is new, what is compared is paired, foreign crystals are foreign."""

from __future__ import annotations

import dataclasses
import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from salts import salts

from unimat_book.studies import transfer
from unimat_book.studies.analysis import effects
from unimat_book.studies.results import load_means
from unimat_book.studies.transfer_data import (
    INSIDE,
    SHARE,
    by_distance,
    composition_distance,
    distances,
    foreign_parts,
    groups_of,
    held_out,
    paced,
    transfer_table,
    twin_groups,
    what_is_shared,
    without_as_many,
)
from unimat_book.studies.trials import Place, Trial
from unimat_book.studies.work import StudyFolder, work_through
from unimat_lib.crystals.table import concatenate

FEW = ("base", "structure_types_without", "structure_types_control", "tuned_stand_in_10")


@pytest.fixture(scope="module")
def wide(settings):
    """Enough crystals that the domains inside have test crystals."""
    return dataclasses.replace(settings, limit=96)


@pytest.fixture(scope="module")
def shared(wide, prototype_table, tmp_path_factory):
    place = Place(prototype_table, wide, "cpu", tmp_path_factory.mktemp("transfer"))
    return transfer.Shared(place)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, wide, prototype_table):
    """Four variants with two seeds each, trained."""
    path = tmp_path_factory.mktemp("studies")
    with pytest.MonkeyPatch.context() as patch:
        few = {name: words for name, words in transfer.variants(wide).items() if name in FEW}
        patch.setattr(transfer, "variants", lambda settings: few)
        done = StudyFolder.of(path, transfer, wide, prototype_table.content_hash())
        work_through(done, prototype_table, device="cpu")
        yield done


# ---- what is to be done ---------------------------------------------------------------------


def test_every_variant_has_every_seed_and_its_control(settings):
    real = dataclasses.replace(settings, dataset="mp_20", seeds=(0, 1, 2, 3, 4))
    trials = transfer.trials(real)
    assert len({t.name for t in trials}) == len(trials) == 18 * 5
    names = set(transfer.variants(real))
    assert {n.removesuffix("_without") for n in names if n.endswith("_without")} == set(INSIDE)
    assert {n.replace("_without", "_control") for n in names if n.endswith("_without")} <= names
    for domain in ("perov_5", "carbon_24", "mpts_52"):
        assert {f"tuned_{domain}_{n}" for n in (10, 100, 1000)} <= names
    small = transfer.variants(settings)
    assert "extra" not in small and "tuned_stand_in_10" in small


def test_an_unknown_variant_is_refused(shared, tmp_path):
    with pytest.raises(ValueError, match=r"elements_without.*'nothing'"):
        transfer.train(Trial("transfer", "nothing", 0), shared, run_dir=tmp_path)


# ---- left out -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", INSIDE)
def test_what_is_left_out_is_new(shared, kind):
    table, (train, _, _) = shared.place.table, shared.splits
    without = transfer.left_out(shared, f"{kind}_without", seed=0)
    asked = shared.asked[f"{kind}_inside"]
    groups = groups_of(table, kind)
    known = frozenset().union(*(groups[row] for row in without.tolist()))
    assert len(asked) > 0
    if kind == "elements":
        assert all(not groups[row] <= known for row in asked.tolist())
    else:
        assert all(known.isdisjoint(groups[row]) for row in asked.tolist())
    assert 0 < len(train) - len(without) <= SHARE * len(train)
    outside = shared.asked[f"{kind}_outside"]
    both = torch.cat([asked, outside]).sort().values
    assert torch.equal(both, shared.splits[2].sort().values)


@pytest.mark.parametrize("kind", INSIDE)
def test_controls_keep_the_domain_and_lose_as_many(shared, kind):
    train, inside = shared.splits[0], shared.inside[kind]
    without = transfer.left_out(shared, f"{kind}_without", seed=0)
    controls = [transfer.left_out(shared, f"{kind}_control", seed=seed) for seed in (0, 0, 1)]
    assert all(len(rows) == len(without) for rows in controls)
    assert all(inside[rows].sum() == inside[train].sum() > 0 for rows in controls)
    assert torch.equal(controls[0], controls[1]) and not torch.equal(controls[0], controls[2])
    assert set(controls[0].tolist()) <= set(train.tolist())


def test_groups_are_picked_at_random_and_fit():
    train = [frozenset({str(n % 40)}) for n in range(400)]
    test = [frozenset({str(n)}) for n in range(20)]
    taken = held_out(train, test, share=0.15, seed=0)
    assert len(taken) == 6 and taken <= frozenset().union(*test)
    assert taken == held_out(train, test, share=0.15, seed=0)
    assert taken != held_out(train, test, share=0.15, seed=1)
    with pytest.raises(ValueError, match=r"none of 20 groups.* at most 1%"):
        held_out(train, test, share=0.01, seed=0)
    with pytest.raises(ValueError, match="got 'colours'"):
        groups_of(salts(5.6), "colours")
    with pytest.raises(ValueError, match="more than the half"):
        without_as_many(torch.arange(3), torch.tensor([True, True, False]), seed=0)


# ---- equal compute --------------------------------------------------------------------------


@given(st.integers(1, 300), st.integers(2, 64), st.integers(1, 5000), st.integers(1, 40))
@hypothesis_settings(max_examples=60)
def test_steps_are_exact(steps, batch_size, crystals, most):
    how = {"steps": steps, "batch_size": batch_size, "most_epochs": most}
    rows, epochs = paced(torch.arange(crystals) + 7, **how, seed=0)
    assert epochs * (len(rows) // batch_size) == steps and epochs <= most
    counts = torch.bincount(rows - 7, minlength=crystals)
    assert counts.max() - counts.min() <= 1  # all are seen alike


class Recorded(Exception):
    """Raised in place of a training."""


def recorded(shared, variant, monkeypatch, tmp_path):
    """What a variant would be trained with."""
    seen = {}

    def fit(model, views, **how):
        seen.update(how | {"views": views, "model": model})
        raise Recorded

    with monkeypatch.context() as patch, pytest.raises(Recorded):
        if variant.startswith("tuned"):
            base = SimpleNamespace()
            patch.setattr(transfer, "_base", lambda shared, seed: (base, None))
        patch.setattr(transfer, "fit", fit)
        transfer.train(Trial("transfer", variant, 0), shared, run_dir=tmp_path)
    return SimpleNamespace(**seen)


def test_all_trainings_take_the_same_steps(shared, wide, monkeypatch, tmp_path):
    base = recorded(shared, "base", monkeypatch, tmp_path)
    steps = base.config.epochs * (len(base.train) // base.config.batch_size)
    assert steps == wide.epochs * (96 // wide.batch_size)
    for variant in transfer.variants(wide):
        one = recorded(shared, variant, monkeypatch, tmp_path)
        mine = one.config.epochs * (len(one.train) // one.config.batch_size)
        tuned = variant.startswith("tuned")
        assert mine == (round(transfer.TUNING_SHARE * steps) if tuned else steps), variant
        assert one.config.lr == (transfer.TUNING_RATE if tuned else base.config.lr)
        same = dataclasses.replace(
            one.config, epochs=base.config.epochs, lr=base.config.lr, batch_size=wide.batch_size
        )
        assert same == base.config
        if tuned:  # chosen without another crystal of the domain
            assert torch.equal(one.val, one.train)
            assert set(one.train.tolist()) == set(shared.parts["stand_in"].pool[:10].tolist())


def test_the_domain_takes_no_part_in_training_at_all(shared, monkeypatch, tmp_path):
    models = {}
    for how in ("without", "control"):
        one = recorded(shared, f"structure_types_{how}", monkeypatch, tmp_path)
        inside = shared.inside["structure_types"]
        assert bool(inside[one.train].any()) == (how == "control")
        assert not inside[one.val].any() and len(one.val) > 0
        models[how] = one.model
    # Paired: the same start but for the units, which are those of its own crystals.
    states = [model.state_dict() for model in models.values()]
    moved = {n for n in states[0] if not torch.equal(states[0][n], states[1][n])}
    assert moved and all(n.startswith(("magpie_", "cell_scaler")) for n in moved)


def test_made_up_crystals_are_added(shared, monkeypatch, tmp_path):
    one = recorded(shared, "made_up", monkeypatch, tmp_path)
    first = len(shared.table)
    made = one.train[one.train >= first].unique()
    assert 0.8 * 96 < len(made) <= 96
    assert set(shared.splits[0].tolist()) <= set(one.train.tolist())
    assert len(one.views) == first + len(shared.made_up)
    # Rows keep their numbers, so that all are asked about the same crystals.
    asked = shared.asked["stand_in"]
    assert torch.equal(one.views.targets.lengths[asked], shared.views.targets.lengths[asked])


def test_further_crystals_share_nothing_with_what_is_asked(shared, wide, monkeypatch):
    foreign = shared.foreign["stand_in"]
    far = salts(5.0, 5.6, elements=("Pu", "Xe"))
    offered = [foreign.select([0, 1]), shared.place.table.select(shared.splits[2][:2]), far]
    offered = concatenate(offered)
    names = [f"further-{n}" for n in range(len(offered))]
    offered = dataclasses.replace(offered, info=offered.info.assign(material_id=names))
    monkeypatch.setattr(transfer, "load_dataset", lambda name: {"mp_extra": offered}[name])
    real = transfer.Shared(dataclasses.replace(shared.place, settings=shared.place.settings))
    real.settings = dataclasses.replace(wide, dataset="mp_20")
    real.__dict__["foreign"] = shared.foreign
    assert real.extra.info["material_id"].tolist() == ["further-4", "further-5"]


# ---- foreign domains ------------------------------------------------------------------------


def grown(crystal, *factors):
    """A table of one crystal, with longer cells."""
    table, factors = crystal.select([0] * len(factors)), torch.tensor(factors).double()
    return dataclasses.replace(table, lattice=table.lattice * factors[:, None, None])


def test_twins_stay_together():
    # Steps of 1.5 %: the ends of a chain are no near twins, but hang together.
    table = grown(salts(5.0), 1, 1.015, 1.03, 1.2, 1.21, 1.4)
    assert len(set(twin_groups(table).tolist())) == 3
    many = grown(salts(5.0), *(1.1 ** (n // 5) for n in range(40)))
    other = salts(5.0, elements=("K", "Cl"))
    parts = foreign_parts(many, other, pool=12)
    assert len(parts.pool) == 12 and len(parts.shared) == 0 and len(parts.asked) == 25
    pool, asked = (
        set(np.round(many.lengths[rows, 0].numpy(), 6)) for rows in (parts.pool, parts.asked)
    )
    assert pool.isdisjoint(asked) and len(pool) == 3
    with pytest.raises(ValueError, match="leaves nothing of 40"):
        foreign_parts(many, other, pool=40)


def test_what_training_shares_is_asked_about_apart(shared):
    known = salts(5.6)
    new = grown(salts(4.0, elements=("K", "Cl")), 1, 1.2, 1.5)
    parts = foreign_parts(concatenate([new, grown(known, 0.9, 1.3)]), known, pool=1)
    assert sorted(parts.shared.tolist()) == [3, 4]
    assert sorted(parts.pool.tolist() + parts.asked.tolist()) == [0, 1, 2]
    for part in shared.parts["stand_in"].pool, shared.asked["stand_in"]:
        assert int(part.min()) >= len(shared.place.table)


# ---- distance -------------------------------------------------------------------------------


def test_distances_and_counts():
    known = salts(5.6)
    others = salts(5.6, elements=("K", "Cl")), salts(4, elements=("Mg", "O"))
    crystals = concatenate([grown(known, 1.01, 1.4), *others])
    frame = distances(crystals, known)
    assert frame["composition"].tolist() == [0, 0, 0.5, 1]
    assert frame["elements_seen"].tolist() == [1, 1, 0.5, 0]
    assert frame["formula_and_group"].tolist() == [True, True, False, False]
    assert frame["chemical_system"].tolist() == [True, True, False, False]
    assert frame["structure_type"].tolist() == [True] * 4
    assert frame["category"].tolist() == [
        *("near twin", "same formula"),
        *["known structure type"] * 2,
    ]
    counts = what_is_shared({"salts": frame}).loc["salts"]
    assert counts[["crystals", "formula_and_group", "near_twins", "elements_seen"]].tolist() == [
        *(4, 2, 1, 2)
    ]


def test_composition_counts_atoms_that_must_change(shared):
    known, every = shared.known, shared.place.table
    found = composition_distance(every, known)
    assert (found[every.info["formula"].isin(known.info["formula"])] == 0).all()
    assert (found[~every.info["formula"].isin(known.info["formula"])] > 0).all()
    assert found.max() <= 1


def test_errors_by_distance():
    values = np.arange(6.0)
    frame = by_distance(values, pd.Series([0, 0, 0.05, 0.1, 0.3, 1.0]))
    assert frame["distance"].tolist() == ["0", "0 to 0.1", "0.2 to 0.35", "0.5 to 1"]
    assert frame["crystals"].tolist() == [2, 2, 1, 1]
    assert frame["mean"].tolist() == [0.5, 2.5, 4, 5]
    assert (frame["low"] <= frame["mean"]).all() and (frame["mean"] <= frame["high"]).all()
    named = by_distance(values, ["near twin", "same formula"] * 3)
    assert named["distance"].tolist() == ["near twin", "same formula"]
    flags = by_distance(values, np.array([False, True] * 3))
    assert dict(zip(flags["distance"], flags["mean"], strict=True)) == {"known": 3, "new": 2}
    sizes = by_distance(values, pd.Series([21, 25, 30, 31, 50, 52]), edges=(20, 30, 52))
    assert sizes["distance"].tolist() == ["20 to 30", "30 to 52"]
    with pytest.raises(ValueError, match="6 values came with 2"):
        by_distance(values, [True, False])
    with pytest.raises(ValueError, match="between 0 and 1 expected"):
        by_distance(values, pd.Series([0, 0, 0, 0, 0, 1.5]))


# ---- for real -------------------------------------------------------------------------------


def test_trained_packed_and_read_back(folder, wide, prototype_table, tmp_path, shared):
    assert all(map(folder.done, folder.trials)) and len(folder.trials) == 8
    bases = list((folder.path / "shared" / "base").glob("*/best.safetensors"))
    assert len(bases) == 2  # one for each seed, however often they are tuned
    folder.hand_over(tmp_path, parts=False)
    known = wide, prototype_table.content_hash()
    module = "unimat_book.studies.transfer"
    means = load_means(tmp_path / "transfer.parquet", *known, module=module, made_by="again")
    found = {(m.variant, m.domain): m for m in means}
    frames = transfer.distance_frames(shared)
    for (_, domain), mean in found.items():
        assert len(frames[domain]) == len(mean.values["scaled_length_mae"])
        assert all(math.isfinite(x) for scores in mean.scores.values() for x in scores)
    for domain in ("stand_in", "test"):
        pair = found["base", domain], found["tuned_stand_in_10", domain]
        assert pair[0].asked == pair[1].asked
        assert not np.array_equal(*(m.scores["scaled_length_mae"] for m in pair))
    assert set(found["tuned_stand_in_10", "test"].values) == set(transfer._KEPT_OF_TUNED)
    pair = (
        found[f"structure_types_{how}", "structure_types_inside"] for how in ("without", "control")
    )
    without, control = pair
    types = [f"type {n}" for n in range(len(frames["structure_types_inside"]))]
    assert len(effects([without], control, types, "scaled_length_mae")) == 1
    table = transfer_table(means).set_index(["domain", "variant"])
    assert table.index.is_unique and len(table) == len(means) == 8
    expected = found["base", "test"].scores["length_mae"]
    assert table.loc[("test", "base"), "length_mae"] == pytest.approx(expected.mean())
    assert table.loc[("test", "base"), "length_mae_std"] == pytest.approx(expected.std(ddof=1))
