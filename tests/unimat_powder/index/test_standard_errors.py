"""A cell and lines in, standard errors out: as large as noise spreads it, and as scipy has them."""

from dataclasses import replace

import numpy as np
import pytest
from bravais_cells import LATTICES, lines
from scipy.optimize import least_squares

from unimat_lib.views.grid import CU_K_ALPHA
from unimat_powder.bravais import CENTRINGS
from unimat_powder.index.fit import DISPLACEMENT, ZERO
from unimat_powder.index.observed import Observed
from unimat_powder.index.standard_errors import refined_cell, with_error
from unimat_powder.index.symmetry import cell_matrix, cell_of

FREE = {"c": 1, "h": 2, "t": 2, "o": 3, "m": 4, "a": 6}


def letters(name: str) -> str:
    family, centring = name.split()
    first = {"triclinic": "a", "rhombohedral": "h"}.get(family, family[0])
    return first + centring


def seen(name: str, *, seed: int | None, count: int = 30, sigma: float = 0.01) -> Observed:
    """Lines of a lattice by an instrument of its own, with the noise that they are said to have."""
    conventional = np.array(LATTICES[name], dtype=float)
    rows = np.array(CENTRINGS[name.split()[1]]) @ cell_matrix(conventional)
    angles = lines(cell_of(rows), count, merged=0.15)
    found = Observed.from_lines(angles, sigma=sigma)
    if seed is None:
        return found
    generator = np.random.default_rng(seed)
    zero, displacement = generator.normal(0, [ZERO, DISPLACEMENT])
    angles = angles + zero + displacement * np.cos(np.radians(angles / 2))
    return replace(found, two_theta=angles + generator.normal(0, found.sigma))


@pytest.mark.parametrize("name", LATTICES)
def test_every_lattice_has_its_cell_back(name):
    found = refined_cell(
        letters(name),
        np.array(LATTICES[name]) * 1.001 ** np.array([1, 1, 1, 0, 0, 0]),
        seen(name, seed=None),
    )
    assert found.cell == pytest.approx(LATTICES[name], abs=1e-5) and not found.why
    assert found.explained == len(found.lines)
    assert all(abs(line.two_theta - line.computed) < 1e-4 for line in found.lines)
    lengths, angles = found.errors[:3], found.errors[3:]
    assert all(0 < error < 0.05 for error in lengths)
    fixed = {"a": 0, "m": 2}.get(letters(name)[0], 3)
    assert sum(error is None for error in angles) == fixed
    assert all(error < 0.5 for error in angles if error is not None)
    if letters(name)[1] in "IFC":
        odd = {"I": (1, 1, 1), "C": (1, 1, 0), "F": (1, 1, 0)}[letters(name)[1]]
        assert all(np.dot(line.hkl, odd) % 2 == 0 for line in found.lines)


@pytest.mark.parametrize("name", ["tetragonal P", "monoclinic C"])
def test_errors_are_what_noise_spreads_cells_by(name):
    drawn = [refined_cell(letters(name), LATTICES[name], seen(name, seed=i)) for i in range(30)]
    cells = np.array([one.cell for one in drawn])
    for i, fixed in enumerate(drawn[0].errors):
        if fixed is None:
            assert np.ptp(cells[:, i]) < 1e-9
            continue
        stated = np.sqrt(np.mean([one.errors[i] ** 2 for one in drawn]))
        assert 1 / 1.5 < stated / cells[:, i].std(ddof=1) < 1.5
        # Noise may name a line by its near neighbour: a bias, but a small one.
        assert abs(cells[:, i].mean() - LATTICES[name][i]) < stated


def test_errors_are_those_of_an_independent_least_squares():
    observed = seen("tetragonal P", seed=3)
    rough = replace(observed, two_theta=observed.two_theta + 0.03 * (-1) ** np.arange(30))
    for one in (observed, rough):  # chi squared about 1, and well above
        found = refined_cell("tP", LATTICES["tetragonal P"], one)
        hkl = np.array([line.hkl for line in found.lines])
        held = np.array([ZERO, DISPLACEMENT])

        def left(x, hkl=hkl, one=one, held=held):
            a, c, zero, displacement = x
            d = 1 / np.sqrt((hkl[:, 0] ** 2 + hkl[:, 1] ** 2) / a**2 + hkl[:, 2] ** 2 / c**2)
            angle = 2 * np.degrees(np.arcsin(CU_K_ALPHA / 2 / d))
            angle = angle + zero + displacement * np.cos(np.radians(angle / 2))
            return np.concatenate([(one.two_theta - angle) / one.sigma, x[2:] / held])

        fit = least_squares(left, [5.4, 8.3, 0, 0], x_scale=[1e-3, 1e-3, 0.01, 0.01], xtol=1e-14)
        chi_squared = 2 * fit.cost / (len(hkl) - 2)
        errors = np.sqrt(np.diag(np.linalg.inv(fit.jac.T @ fit.jac)) * max(chi_squared, 1))
        assert found.chi_squared == pytest.approx(chi_squared, rel=1e-3)
        assert (found.cell[0], found.cell[2]) == pytest.approx(fit.x[:2], abs=2e-6)
        assert (found.errors[0], found.errors[2]) == pytest.approx(errors[:2], rel=0.01)
        assert found.errors[0] == found.errors[1]
    assert found.chi_squared > 1.5


def test_a_stranger_among_the_lines_is_marked():
    observed = seen("cubic F", seed=1, count=15)
    place = 6
    angles = observed.two_theta.copy()
    angles[place] = (angles[place - 1] + angles[place]) / 2
    found = refined_cell("cF", LATTICES["cubic F"], replace(observed, two_theta=angles))
    assert [line.hkl is None for line in found.lines] == [i == place for i in range(15)]
    assert found.lines[0].hkl == (1, 1, 1) and found.lines_json()[place]["computed"] is None
    assert "14 of 15 lines" in found.texts()[1]


def test_a_shoulder_of_a_line_is_no_second_line():
    observed = seen("cubic F", seed=1, count=15)
    alone = refined_cell("cF", LATTICES["cubic F"], observed)
    angles = np.sort(np.append(observed.two_theta, observed.two_theta[2] - 0.06))
    both = Observed.from_lines(angles, sigma=0.01)
    found = refined_cell("cF", LATTICES["cubic F"], both)
    assert [line.hkl is None for line in found.lines] == [i == 2 for i in range(16)]
    assert found.cell == pytest.approx(alone.cell, abs=1e-6)
    assert found.errors[0] == pytest.approx(alone.errors[0], rel=1e-3)


@pytest.mark.parametrize("count", [0, 2, 3, 4])
def test_too_few_lines_have_no_errors(count):
    observed = seen("tetragonal P", seed=0)
    few = Observed.from_lines(observed.two_theta[:count], sigma=0.01)
    found = refined_cell("tP", LATTICES["tetragonal P"], few)
    assert found.errors == (None,) * 6 and len(found.lines) == count
    assert ("needs 5 for 2 free numbers" if count else "no lines") in found.why
    assert found.texts() == [f"no standard errors: {found.why}"]
    assert found.to_json()["errors"] is None


def test_lines_of_one_zone_leave_a_length_open():
    observed = seen("tetragonal P", seed=None, count=40)
    whole = refined_cell("tP", LATTICES["tetragonal P"], observed)
    zone = [i for i, line in enumerate(whole.lines) if line.hkl[2] == 0]
    part = Observed.from_lines(observed.two_theta[zone], sigma=0.01)
    found = refined_cell("tP", LATTICES["tetragonal P"], part)
    assert "open" in found.why and found.explained == len(zone) > 5


def test_a_cell_of_very_many_lines_has_no_errors():
    found = refined_cell("aP", (40.0, 41.0, 42.0, 91.0, 92.0, 93.0), seen("cubic P", seed=0))
    assert "so many lines" in found.why and found.lines == () and found.errors == (None,) * 6


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (4.59371, 0.0004, "4.5937(4)"),
        (4.59371, 0.00013, "4.59371(13)"),
        (4.59371, 0.00196, "4.594(2)"),
        (101.2, 0.0951, "101.20(10)"),
        (15.2, 12.3, "15(12)"),
        (90.0000000001, None, "90"),
    ],
)
def test_errors_stand_in_brackets(value, error, text):
    assert with_error(value, error) == text
