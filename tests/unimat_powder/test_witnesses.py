"""Library, lines and network look at one simulated measurement together."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from unimat_book.measured import cell_is_right, right_rows, simulated_measurements
from unimat_powder.answer import LEFT_OVER, Lattice, make_answer, space_group_prior
from unimat_powder.index.index import FEWEST_LINES
from unimat_powder.library.file import Library, embedded_library
from unimat_powder.pattern import Pattern
from unimat_powder.peak_warnings import FEWEST_TO_PROVE
from unimat_powder.search.search import search
from unimat_powder.witnesses import (
    Lines,
    doubts_about,
    of_cells,
    shipped_reader,
    with_witnesses,
)

LIBRARY = Library.open(embedded_library())


@pytest.fixture(scope="module")
def one():
    return simulated_measurements(LIBRARY, 3, seed=0)[0]


@pytest.fixture(scope="module")
def lines(one):
    return Lines(one.pattern)


def answered(one, lines, **told):
    result = search(one.pattern, LIBRARY, **told)
    elements = told.get("elements")
    return with_witnesses(result, one.pattern, lines, shipped_reader(), elements=elements)


def test_all_agree_on_a_crystal_that_the_library_has(one, lines):
    best = answered(one, lines).lattices[0]
    assert cell_is_right(best, one) and best.probability > 0.8
    assert one.space_group in best.groups


def test_a_crystal_that_no_library_has_still_has_its_cell(one, lines):
    rows = right_rows(one, LIBRARY)
    lacking = answered(one, lines, without=rows)
    assert cell_is_right(lacking.lattices[0], one)
    own = {LIBRARY.material_id(row) for row in rows}
    assert own and not own & {match.material_id for match in lacking.matches}


def test_matches_stay_what_the_search_found(one, lines):
    found = search(one.pattern, LIBRARY)
    seen = with_witnesses(found, one.pattern, lines, shipped_reader())
    assert seen.matches == found.matches and seen.none_probability == found.none_probability


def test_a_pattern_of_too_few_lines_is_answered_by_the_others(one):
    two_theta = torch.linspace(5, 90, 4251, dtype=torch.float64)
    peak = 20 + 5000 * torch.exp(-(((two_theta - 40) / 0.08) ** 2) / 2)
    counts = torch.poisson(peak, generator=torch.Generator().manual_seed(0))
    pattern = Pattern(two_theta, counts)
    seen = Lines(pattern)
    assert len(seen.observed) < FEWEST_LINES
    assert list(seen.trials) == [] and of_cells([[3.0, 4, 5, 90, 90, 90]], seen.observed) == []
    found = answered(dataclasses.replace(one, pattern=pattern), seen)
    assert all(lattice.probability < 0.9 for lattice in found.lattices)
    assert found.doubts == ("so few lines prove no cell",)
    assert all(math.isnan(lattice.stray) for lattice in found.lattices)  # nobody measured a share


def test_lines_that_the_first_cell_leaves_are_named(one, lines):
    assert not any("unexplained" in text for text in answered(one, lines).warnings)
    stranger = torch.exp(-(((one.pattern.two_theta - 33.3) / 0.06) ** 2) / 2)
    stranger += torch.exp(-(((one.pattern.two_theta - 47.7) / 0.06) ** 2) / 2)
    stranger += torch.exp(-(((one.pattern.two_theta - 61.1) / 0.06) ** 2) / 2)
    counts = one.pattern.intensity + 1.5 * one.pattern.intensity.max() * stranger
    pattern = dataclasses.replace(one.pattern, intensity=counts.round())
    first = answered(dataclasses.replace(one, pattern=pattern), Lines(pattern))
    assert any("unexplained" in text for text in first.warnings)
    assert first.doubts and first.lattices[0].stray > LEFT_OVER
    sure = dataclasses.replace(first.lattices[0], probability=0.97)
    for doubts, verdict in ((first.doubts, "tentative"), ((), "confident")):
        said = dataclasses.replace(first, lattices=(sure,), doubts=doubts)
        prior = space_group_prior(LIBRARY.space_group.numpy())
        assert make_answer(said, pattern, file="x", prior=prior).verdict == verdict


def sure_lattice(stray: float) -> Lattice:
    return Lattice((4.0,) * 3, (90.0,) * 3, 64.0, "cubic", {221: 1.0}, 0.99, 1.0, stray=stray)


def test_doubt_comes_from_few_lines_and_from_many_that_are_left():
    fewest = FEWEST_TO_PROVE
    assert doubts_about([sure_lattice(0.0)], fewest) == ()
    assert doubts_about([sure_lattice(LEFT_OVER)], fewest) == ()
    assert "few lines" in doubts_about([sure_lattice(0.0)], fewest - 1)[0]
    assert "20 % of the lines, by amplitude" in doubts_about([sure_lattice(0.2)], 30)[0]
    assert "do not give this cell" in doubts_about([sure_lattice(math.nan)], 30)[0]
    assert doubts_about([], 30) == ()
