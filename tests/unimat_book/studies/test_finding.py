"""Parts of retrieval: strained queries, comparisons over scales, views and models."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from unimat_book.studies import comparing, retrieval
from unimat_book.studies.comparing import (
    Patterns,
    Stretcher,
    computed_patterns,
    cosine_ranks,
    reranked,
    scales,
    scan_ranks,
    widened,
)
from unimat_book.studies.finding import (
    STRAIN,
    TWINS,
    TwinModel,
    fit_config,
    make_model,
    views_for,
)
from unimat_book.studies.queries import (
    isotropic_strains,
    query_patterns,
    strained,
    symmetric_strains,
)
from unimat_book.studies.trials import Place, Trial
from unimat_lib.model import load_model
from unimat_lib.views.bragg import bragg_reflections
from unimat_lib.views.effects import Measurement
from unimat_lib.views.grid import Grid
from unimat_lib.views.render import render

FINE = Grid(10.0, 80.0, 2048)


@pytest.fixture(scope="module")
def shared(settings, prototype_table, tmp_path_factory):
    folder = tmp_path_factory.mktemp("retrieval")
    return retrieval.Shared(Place(prototype_table, settings, "cpu", folder))


@pytest.fixture(scope="module")
def fine(settings, prototype_table):
    """Settings of narrow peaks, crystals and their patterns."""
    shape = dict(settings.model) | {"grid": [10.0, 80.0, 2048], "fwhm": 0.15}
    some = prototype_table.select(torch.arange(0, 290, 5))
    patterns = computed_patterns(some, FINE, fwhm=comparing.WIDTH, device="cpu")
    return dataclasses.replace(settings, model=shape), some, patterns


def test_strained_reflections_are_those_of_the_strained_crystal(prototype_table):
    some = prototype_table.select(torch.arange(0, 290, 30))
    reflections = bragg_reflections(some, g_max=0.8)
    strains = symmetric_strains(reflections.reciprocal, 0.02)
    lattice = some.lattice @ (torch.eye(3).double() + strains)
    expected = bragg_reflections(dataclasses.replace(some, lattice=lattice), g_max=0.7)
    found = strained(reflections, strains)
    assert found.g_max < 0.8
    for crystal in range(len(some)):
        g, true = (
            x.g[x.offsets[crystal] : x.offsets[crystal + 1]].sort().values
            for x in (found, expected)
        )
        torch.testing.assert_close(g[g < 0.69], true[true < 0.69], rtol=1e-6, atol=1e-9)


def test_strains_are_as_large_as_they_say_and_keep_the_symmetry(prototype_table):
    reciprocal = torch.linalg.inv(prototype_table.lattice).mT
    for make in (isotropic_strains, symmetric_strains):
        strains = make(reciprocal, 0.01)
        size = strains.flatten(1).norm(dim=1) / 3**0.5
        torch.testing.assert_close(size, torch.full_like(size, 0.01), rtol=1e-3, atol=0)
        assert torch.equal(strains, make(reciprocal, 0.01))
    cubic = strains[prototype_table.crystal_system == 6].diagonal(dim1=1, dim2=2)
    torch.testing.assert_close(cubic, cubic[:, :1].expand_as(cubic), rtol=0, atol=1e-4)
    low = strains[prototype_table.crystal_system == 0].diagonal(dim1=1, dim2=2)
    assert (low.std(dim=1) > 1e-4).double().mean() > 0.5  # the others have lattices of higher ones
    signs = isotropic_strains(reciprocal, 0.01)[:, 0, 0].sign()
    assert 0.3 < (signs > 0).double().mean() < 0.7


def test_an_unknown_query_is_refused(settings, prototype_table):
    with pytest.raises(ValueError, match="expected a kind"):
        query_patterns(prototype_table, torch.arange(2), settings, "unheard", device="cpu")


@pytest.mark.parametrize("kind", ["strain_0", "strain_1", "strain_2"])
def test_a_scan_finds_what_a_strain_hides_from_the_plain_cosine(fine, kind):
    narrow, some, patterns = fine
    target = torch.arange(len(some))
    raw = query_patterns(some, target, narrow, kind, device="cpu")
    queries = widened(raw, FINE, fwhm=0.15)
    plain = (cosine_ranks(queries, patterns, target) == 1).double().mean()
    stretcher = Stretcher(FINE, "cpu")
    scanned = scan_ranks(queries, patterns, target, stretcher=stretcher)
    assert (scanned == 1).double().mean() > 0.85
    assert (plain > 0.95) if kind == "strain_0" else (plain < 0.7)
    every = target.expand(len(some), -1)  # all as candidates: the same order
    again = reranked(queries, patterns, every, target, stretcher=stretcher)
    assert (again == scanned).double().mean() > 0.95


def test_a_stretched_pattern_is_that_of_the_unstrained_crystal(fine):
    _, some, _ = fine
    number = 11
    size = float(scales()[number]) - 1
    reflections = bragg_reflections(some, g_max=1.2)
    bent = strained(reflections, size * torch.eye(3).double().expand(len(some), 3, 3))
    every = torch.arange(len(some))
    drawn, true = (render(r, every, FINE, fwhm=0.3).sqrt() for r in (bent, reflections))
    found = Stretcher(FINE, "cpu")(drawn)[:, number]
    cosine, straight = (torch.cosine_similarity(x, true, dim=1) for x in (found, drawn))
    assert cosine.median() > 0.99 and (cosine > 0.95).double().mean() > 0.9
    assert straight.median() < 0.9


def test_ties_and_missing_candidates_count_against_us():
    roots = torch.rand(6, 64, generator=torch.Generator().manual_seed(0)).half()
    roots[3] = roots[2]  # twins
    gallery = Patterns(roots, roots.float().norm(dim=1))
    queries, target = roots.float().square(), torch.arange(6)
    assert cosine_ranks(queries, gallery, target).tolist() == [1, 1, 2, 2, 1, 1]
    stretcher = Stretcher(Grid(10.0, 80.0, 64), "cpu")
    candidates = torch.tensor([[0, 1], [0, 2], [2, 3], [3, 4], [4, 5], [0, 1]])
    ranks = reranked(queries, gallery, candidates, target, stretcher=stretcher)
    assert ranks.tolist() == [1, 3, 2, 1, 1, 3]
    queries[4] = float("nan")
    assert cosine_ranks(queries, gallery, target)[4] == 6


def test_widened_peaks_are_as_wide_as_rendered_ones(fine):
    narrow, some, patterns = fine
    raw = query_patterns(some, torch.arange(len(some)), narrow, "strain_0", device="cpu")
    wide = widened(raw, FINE, fwhm=0.15)
    true = patterns.roots.float().square()
    near, far = (torch.cosine_similarity(x.float(), true, dim=1) for x in (wide, raw))
    # A few have a strong peak at an end of the grid, of which one side is missing.
    assert (near > 0.9999).double().mean() > 0.9 and (far < 0.98).double().mean() > 0.9
    assert widened(raw, FINE, fwhm=0.3) is raw


@pytest.mark.parametrize("variant", ["clean", "strained", "computed", "measured"])
def test_the_pattern_is_strained_and_the_structure_is_not(shared, variant):
    views = views_for(variant, shared.plain)
    index, names = shared.rows[0][:8], ("structure", "xrd")

    def draw(seed, measurement):
        how = {"measurement": measurement, "generator": torch.Generator().manual_seed(seed)}
        return views.batch(index, modalities=names, **how).views

    how = Measurement(fwhm=(1.0, 1.0), strain=0.0 if variant == "clean" else STRAIN)
    one, other = draw(0, how), draw(1, how)
    if variant in TWINS:
        assert torch.equal(one["structure"], other["structure"])
    else:
        graph = shared.plain.graph.select(index)
        assert torch.equal(one["structure"].vector, graph.vector)
    assert torch.allclose(one["xrd"], other["xrd"], atol=1e-5) is (variant == "clean")
    held = draw(0, None)["xrd"]
    assert torch.equal(held, draw(1, None)["xrd"])  # validation asks the same each epoch
    clean = shared.plain.batch(index, modalities=("xrd",)).views["xrd"]
    assert torch.allclose(held, clean, atol=1e-5) is (variant == "clean")
    others = {views_for(v, shared.plain).content_hash for v in ("clean", "strained", "computed")}
    assert len(others) == 3


def test_all_models_take_the_same_steps_and_no_held_out_crystal(shared, settings):
    for variant in ("clean", "strained", "further", "computed", "measured"):
        rows = retrieval.training_rows(variant, shared)
        assert not any(torch.isin(held_out, rows).any() for held_out in shared.rows[1:])
    few, many = (
        fit_config("further", settings, seed=0, crystals=n, like=6000) for n in (6000, 12000)
    )
    assert few.epochs * 6000 == many.epochs * 12000 and few.batch_size == many.batch_size


def test_further_crystals_are_trained_on_where_there_are_some(settings, prototype_table, tmp_path):
    place = Place(prototype_table.select(torch.arange(200)), settings, "cpu", tmp_path)
    mine = retrieval.Shared(place)
    mine.extra = prototype_table.select(torch.arange(200, 290))
    mine.extra.info["split"] = "extra"
    assert len(mine.known) == 290 and 200 < len(mine.pool) <= 290
    own, wide = (retrieval.training_rows(v, mine) for v in ("strained", "further"))
    assert len(wide) == len(own) + len(mine.pool) - 200
    assert set(mine.pool.info["split"][200:]) == {"extra"}


def test_the_first_seed_is_kept_as_a_model_that_loads(shared, tmp_path):
    for variant in ("strained", "computed"):
        retrieval.train(Trial("retrieval", variant, 0), shared, run_dir=tmp_path)
    folder = shared.place.folder / "models"
    known = load_model(folder / "retrieval-strained-seed0.safetensors")
    assert known.config.modalities == ("structure", "xrd")
    single = load_model(folder / "retrieval-computed-seed0.safetensors")
    assert single.config.modalities == ("xrd",)


def test_both_sides_of_a_twin_are_one_encoder(settings):
    torch.manual_seed(0)
    model = make_model("computed", settings).eval()
    assert isinstance(model, TwinModel)
    pattern = torch.rand(4, settings.grid.num_points)
    points = model({"structure": pattern, "xrd": pattern}).projections
    torch.testing.assert_close(points["structure"], points["xrd"])
    assert not torch.equal(points["xrd"][0], points["xrd"][1])
