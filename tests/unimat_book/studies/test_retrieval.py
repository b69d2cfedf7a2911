"""Retrieval: strained queries, three ways to answer them, and what each may claim."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from unimat_book.studies import retrieval
from unimat_book.studies.queries import query_patterns
from unimat_book.studies.trials import Place, Trial


@pytest.fixture(scope="module")
def shared(settings, prototype_table, tmp_path_factory):
    place = Place(prototype_table, settings, "cpu", tmp_path_factory.mktemp("retrieval"))
    return retrieval.Shared(place)


@pytest.fixture(scope="module")
def physics(shared, tmp_path_factory):
    path = tmp_path_factory.mktemp("run")
    found = retrieval.train(Trial("retrieval", "physics", 0), shared, run_dir=path)
    return {o.domain: o for o in found}


def test_an_unstrained_pattern_finds_its_crystal(physics):
    scores = physics["test"].scores
    assert scores["cosine_recall_at_10_strain_0"] == 100
    assert scores["cosine_recall_at_1_strain_0"] > 80  # some test crystals have equal patterns


def test_strain_costs_the_cosine_its_answers_and_a_scan_brings_them_back(physics):
    scores = physics["test"].scores
    at = [scores[f"cosine_recall_at_1_strain_{s}"] for s in ("0", "0.3", "1", "2")]
    assert all(a >= b for a, b in itertools.pairwise(at)) and at[3] < at[0] - 20
    assert scores["scan_recall_at_1_strain_2"] > at[3] + 20


def test_a_larger_gallery_is_harder(physics):
    small, large = physics["test"], physics["known"]
    assert large.scores["gallery"] > small.scores["gallery"]
    assert small.asked == large.asked
    metric = "cosine_recall_at_1_strain_1"
    assert large.scores[metric] <= small.scores[metric]
    assert (large.values[metric] <= small.values[metric]).all()  # crystal by crystal


def test_a_model_is_asked_and_its_candidates_are_put_into_order(shared, tmp_path):
    trial = Trial("retrieval", "strained", 0)
    found = {o.domain: o for o in retrieval.train(trial, shared, run_dir=tmp_path)}
    for outcome in found.values():
        assert np.isfinite(list(outcome.scores.values())).all()
        for metric, values in outcome.values.items():
            assert set(np.unique(values)) <= {0.0, 100.0}, metric
            assert values.mean() == pytest.approx(outcome.scores[metric])
    test = found["test"].scores  # thirty crystals: all are candidates, the order is physics'
    assert test["reranked_recall_at_1_strain_0"] > test["recall_at_1_strain_0"]


def test_queries_are_strained_as_they_say(shared, settings, prototype_table):
    rows = shared.rows[2][:8]
    plain, small, large = (
        query_patterns(prototype_table, rows, settings, kind, device="cpu")
        for kind in ("strain_0", "strain_0.3", "strain_2")
    )
    assert plain.shape == small.shape == (8, settings.grid.num_points)
    away = [(x.float() - plain.float()).abs().mean() for x in (small, large)]
    assert 0 < away[0] < away[1]
