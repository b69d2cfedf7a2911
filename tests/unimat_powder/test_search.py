"""From a pattern to the library's crystals: who is found, with which cell, and when nobody is."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from unimat_lib.crystals.reduction import niggli_cell
from unimat_lib.crystals.table import CrystalTable
from unimat_lib.views.bragg import bragg_reflections, g_max_of
from unimat_lib.views.grid import Grid
from unimat_lib.views.render import render
from unimat_powder.library.file import Library, embedded_library
from unimat_powder.pattern import Pattern, PatternError
from unimat_powder.radiation import K_ALPHA
from unimat_powder.search.search import search

LIBRARY = Library.open(embedded_library())
ROWS = {LIBRARY.material_id(i): i for i in range(len(LIBRARY))}
RUTILE, ZIRCONIA = "A2B_tP6_136_f_a:TiO2", "A2B_mP12_14_2e_e:ZrO2"
PROTOTYPES = {  # and two rows of the lattice that the unique axis is perpendicular to
    RUTILE: (1, 2),
    "ABC3_hR10_167_a_b_e:CaCO3": (0, 1),
    ZIRCONIA: (2, 0),
    "A2B_cP6_224_b_a:Cu2O": None,
    "AB3C_oP20_62_c_cd_a:CaTiO3": (0, 1),
    "A2B_hP9_152_c_a:SiO2": (0, 1),
}
ZERO = 0.05  # degrees


def strained(name: str, *, isotropic: float = -0.012, along: float = 0.005) -> CrystalTable:
    """A crystal with a cell that is smaller than the library says, and longer along its axis."""
    table = LIBRARY.crystals([ROWS[name]])
    change = torch.eye(3, dtype=torch.float64) * (1 + isotropic)
    if (rows := PROTOTYPES.get(name)) is not None:
        axis = torch.linalg.cross(*table.lattice[0, list(rows)])
        change += along * torch.outer(axis, axis) / axis.square().sum()
    return replace(table, lattice=table.lattice @ change)


def curve_of(table: CrystalTable, *, anode: str = "Cu", end: float = 90.0) -> torch.Tensor:
    """A noise-free curve from 5 degrees on, its zero off by ``ZERO``; the highest point is 1."""
    total = torch.zeros(round((end - 5) / 0.02) + 1, dtype=torch.float64)
    for wavelength, share in zip(K_ALPHA[anode], (2 / 3, 1 / 3), strict=True):
        grid = Grid(5 - ZERO, end - ZERO, len(total), wavelength)
        lines = bragg_reflections(table, g_max=g_max_of(grid), wavelength=wavelength)
        total += share * render(lines, torch.tensor([0]), grid, fwhm=0.1, eta=0.4)[0]
    return total / total.max()


def counted(
    curve: torch.Tensor, *, anode: str = "Cu", end: float = 90.0, counts: float = 2000.0
) -> Pattern:
    """What a detector says: ``counts`` at the highest point, 60 of background, Poisson's noise."""
    generator = torch.Generator().manual_seed(len(curve))
    intensity = torch.poisson(counts * curve + 60, generator=generator)
    return pattern_of(intensity, anode=anode, end=end)


def pattern_of(intensity: torch.Tensor, *, anode: str = "Cu", end: float = 90.0) -> Pattern:
    first, second = K_ALPHA[anode]
    two_theta = torch.linspace(5, end, len(intensity), dtype=torch.float64)
    return Pattern(two_theta, intensity, wavelength=(2 * first + second) / 3)


def assert_found(result, name: str, crystal: CrystalTable) -> None:
    best, *others = result.matches
    # Few counts in a library of few crystals: "none of them" may be the likelier answer, but no
    # other crystal is nearly as likely.
    assert best.material_id == name and best.probability > 0.25
    assert best.probability > 3 * max(match.probability for match in others)
    assert best.space_group == int(crystal.space_group[0])
    assert best.formula == crystal.info["formula"][0]
    lattice = niggli_cell(crystal.lattice[0].numpy())
    lengths = np.linalg.norm(lattice, axis=1)
    assert best.lengths == pytest.approx(lengths.tolist(), rel=3e-3)
    gram = (lattice @ lattice.T) / np.outer(lengths, lengths)
    angles = np.degrees(np.arccos(gram[[1, 0, 0], [2, 2, 1]]))
    assert best.angles == pytest.approx(angles.tolist(), abs=0.3)
    assert best.volume == pytest.approx(abs(np.linalg.det(lattice)), rel=9e-3)


def said(result) -> list:
    return [(m.material_id, m.lengths, m.score, m.probability) for m in result.matches]


@pytest.fixture(scope="module")
def rutile() -> Pattern:
    return counted(curve_of(strained(RUTILE)))


@pytest.fixture(scope="module")
def answer(rutile):
    return search(rutile, LIBRARY)


@pytest.mark.parametrize("name", PROTOTYPES)
def test_a_strained_crystal_is_found_and_its_cell_relaxed(name):
    crystal = strained(name)
    curve = curve_of(crystal)
    for pattern in (pattern_of(curve), counted(curve)):
        result = search(pattern, LIBRARY)
        assert_found(result, name, crystal)
        probabilities = [match.probability for match in result.matches]
        assert probabilities == sorted(probabilities, reverse=True)
        assert 0.99 < sum(probabilities) + result.none_probability <= 1 + 1e-9
        assert result.second_phase is None and not result.warnings


@pytest.mark.parametrize(("anode", "end"), [("Co", 90.0), ("Mo", 50.0)])
def test_any_tube_will_do_as_long_as_it_is_named(anode, end):
    crystal = strained(ZIRCONIA)
    pattern = counted(curve_of(crystal, anode=anode, end=end), anode=anode, end=end)
    assert_found(search(pattern, LIBRARY), ZIRCONIA, crystal)
    copper = Pattern(pattern.two_theta, pattern.intensity)
    assert search(copper, LIBRARY).none_probability > 0.5


def test_the_curves_show_the_agreement(rutile, answer):
    curves = answer.curves
    assert len(curves.two_theta) == len(curves.measured) == len(curves.computed)
    high = curves.computed > 200
    off = np.abs(curves.measured - curves.computed)[high].sum()
    assert off < 0.1 * (curves.measured - curves.background)[high].sum()
    assert (curves.ticks > 5).all() and (curves.ticks < 90).all()
    highest = curves.two_theta[curves.measured.argmax()]
    assert np.abs(curves.ticks - highest).min() < 0.1
    assert curves.background.max() < 200 < curves.computed.max()


@pytest.mark.parametrize("factor", [7.0, 1e-6])
def test_the_unit_of_the_counts_does_not_matter(rutile, answer, factor):
    scaled = search(replace(rutile, intensity=factor * rutile.intensity), LIBRARY)
    assert [m.material_id for m in scaled.matches] == [m.material_id for m in answer.matches]
    for one, other in zip(scaled.matches, answer.matches, strict=True):
        assert one.probability == pytest.approx(other.probability, abs=1e-6)
    assert scaled.none_probability == pytest.approx(answer.none_probability, abs=1e-6)


def with_white_noise(pattern: Pattern, share: float) -> Pattern:
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(len(pattern.intensity), generator=generator, dtype=torch.float64)
    height = float(pattern.intensity.max())
    return replace(pattern, intensity=pattern.intensity + share * height * noise)


def test_a_trace_of_white_noise_changes_no_order(rutile, answer):
    noisy = search(with_white_noise(rutile, 1e-5), LIBRARY)
    assert [m.material_id for m in noisy.matches] == [m.material_id for m in answer.matches]
    assert noisy.none_probability == pytest.approx(answer.none_probability, abs=1e-4)


def test_a_trace_of_white_noise_on_an_empty_baseline_changes_no_answer():
    crystal = strained(RUTILE)
    clean = pattern_of(curve_of(crystal))
    noisy = search(with_white_noise(clean, 1e-5), LIBRARY)
    assert_found(noisy, RUTILE, crystal)
    before = search(clean, LIBRARY)
    assert noisy.none_probability == pytest.approx(before.none_probability, abs=0.01)
    assert noisy.matches[0].lengths == pytest.approx(before.matches[0].lengths, rel=1e-3)


@pytest.mark.parametrize(("shape", "counts"), [("level", 1000.0), ("hump", 1e5), ("slope", 30.0)])
def test_what_has_no_lines_is_nobodys(shape, counts):
    two_theta = torch.linspace(5, 90, 4251, dtype=torch.float64)
    level = {
        "level": torch.ones_like(two_theta),
        "hump": 1 + 3 * torch.exp(-(((two_theta - 24) / 6) ** 2)),
        "slope": 1 + 20 / two_theta,
    }[shape]
    intensity = torch.poisson(counts * level, generator=torch.Generator().manual_seed(3))
    assert_nobody(Pattern(two_theta, intensity))


def test_an_empty_or_short_pattern_is_refused():
    two_theta = torch.linspace(5, 90, 4251, dtype=torch.float64)
    with pytest.raises(PatternError, match="nothing rises above the background"):
        search(Pattern(two_theta, torch.ones_like(two_theta)), LIBRARY)
    with pytest.raises(PatternError, match="at least 50 points"):
        search(Pattern(two_theta[:40], two_theta[:40]), LIBRARY)


def assert_nobody(pattern: Pattern) -> None:
    try:
        result = search(pattern, LIBRARY)
    except PatternError:
        return
    assert result.none_probability > 0.5


def test_two_searches_give_the_same_bits(rutile, answer):
    again = search(rutile, Library.open(embedded_library()))
    assert said(again) == said(answer) and again.none_probability == answer.none_probability
    assert np.array_equal(again.curves.computed, answer.curves.computed)


def test_a_crystal_that_the_library_lacks_is_not_replaced(rutile):
    lacking = search(rutile, LIBRARY, without=[ROWS[RUTILE]])
    assert RUTILE not in [match.material_id for match in lacking.matches]
    assert lacking.none_probability > 0.5


def test_elements_and_formula_restrict_the_search(rutile, answer):
    known = search(rutile, LIBRARY, elements={"Ti", "O"})
    assert {match.formula for match in known.matches} == {"TiO2"}
    assert known.matches[0].lengths == pytest.approx(answer.matches[0].lengths, rel=1e-4)
    assert known.matches[0].material_id == RUTILE and known.matches[0].probability > 0.9
    hydrogen = search(rutile, LIBRARY, elements={"Ti", "O", "H"})
    assert said(hydrogen) == said(known)  # which X-rays do not see
    quartz = search(rutile, LIBRARY, elements={"Si", "O"})
    assert {match.formula for match in quartz.matches} == {"SiO2"}
    assert quartz.none_probability > 0.5
    iron = search(rutile, LIBRARY, elements={"Fe", "C"}, formula="Fe3C")
    assert {match.formula for match in iron.matches} == {"Fe3C"}


def test_elements_of_no_crystal_are_said_so(rutile):
    result = search(rutile, LIBRARY, elements={"Xe", "Ru"})
    assert not result.matches and result.none_probability == 1
    assert "no crystal of Ru, Xe" in result.warnings[0]
    best = result.lattices[0]  # the cell can still be told, by a relative of other elements
    assert best.system == "tetragonal" and max(best.groups, key=best.groups.get) == 136


def test_wrong_elements_leave_cell_and_system_to_relatives(rutile, answer):
    found = search(rutile, LIBRARY, elements={"Si", "O"})
    assert found.none_probability > 0.9
    best = found.lattices[0]
    assert best.lengths == pytest.approx(answer.matches[0].lengths, rel=1e-3)
    assert best.system == "tetragonal" and best.probability > 0.5
    assert sum(lattice.probability for lattice in found.lattices) == pytest.approx(1)


def test_the_second_of_two_phases_is_found():
    zinc = "AB_cF8_216_c_a:ZnS"
    curve = 0.6 * curve_of(strained(ZIRCONIA)) + 0.4 * curve_of(strained(zinc))
    result = search(counted(curve), LIBRARY)
    assert result.second_phase, "no second phase"
    found = {result.matches[0].material_id, result.second_phase[0].material_id}
    assert found == {ZIRCONIA, zinc}
