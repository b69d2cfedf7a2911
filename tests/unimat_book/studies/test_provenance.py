"""Training on rows of one origin: which rows, how long, and who is asked."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from unimat_book.studies import provenance
from unimat_book.studies.models import fit_config
from unimat_book.studies.trials import Place, Trial


@pytest.fixture(scope="module")
def shared(settings, prototype_table, tmp_path_factory):
    """A table whose rows come from two places, one of them rare in training."""
    info = prototype_table.info.copy()
    test = (info["split"] == "test").to_numpy()
    number = np.arange(len(info))
    info["source"] = np.where(test, number % 4 > 0, number % 3 == 0)
    info["source"] = np.where(info["source"], "public", "rebuilt")
    table = dataclasses.replace(prototype_table, info=info)
    return provenance.Shared(Place(table, settings, "cpu", tmp_path_factory.mktemp("provenance")))


def test_one_part_and_as_many_of_all(shared):
    train = shared.rows[0]
    assert shared.part == "public"
    part, many = shared.chosen("one_part"), shared.chosen("as_many")
    assert 0 < len(part) == len(many) < len(train)
    assert set(shared.source[part.numpy()]) == {"public"}
    assert set(shared.source[many.numpy()]) == {"public", "rebuilt"}
    assert torch.equal(shared.chosen("all"), train)
    assert set(part.tolist()) | set(many.tolist()) <= set(train.tolist())


def test_fewer_rows_are_seen_more_often(shared, settings):
    few, all_of_them = len(shared.chosen("one_part")), len(shared.rows[0])
    epochs = fit_config(settings, seed=0, crystals=few, like=all_of_them).epochs
    assert epochs == round(settings.epochs * all_of_them / few) > settings.epochs


def test_every_part_is_asked_about(shared, tmp_path):
    trial = Trial("provenance", "one_part", 0)
    found = {o.domain: o for o in provenance.train(trial, shared, run_dir=tmp_path)}
    assert set(found) == {"test", "test, public", "test, rebuilt"}
    sizes = {name: len(o.values["angle_mae"]) for name, o in found.items()}
    assert sizes["test"] == sizes["test, public"] + sizes["test, rebuilt"]
    assert found["test, public"].asked != found["test, rebuilt"].asked
    total = sum(o.values["angle_mae"].sum() for d, o in found.items() if d != "test")
    assert total == pytest.approx(found["test"].values["angle_mae"].sum(), rel=1e-5)
