"""A wavelength that nobody named: when another tube's explains the pattern better, it is said."""

import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from unimat_lib.views.grid import WAVELENGTHS, Grid
from unimat_powder.command import identify, main
from unimat_powder.library.file import Library, embedded_library
from unimat_powder.pattern import Pattern, PatternError
from unimat_powder.search.candidates import most_alike, with_elements
from unimat_powder.search.search import search
from unimat_powder.simulation.ranges import RRUFF
from unimat_powder.simulation.scans import scans_of
from unimat_powder.tubes import with_other_tubes, within_reach

LIBRARY = Library.open(embedded_library())
ROWS = {LIBRARY.material_id(i): i for i in range(len(LIBRARY))}
CALCITE, ZIRCON = "ABC3_hR10_167_a_b_e:CaCO3", "A4BC_tI24_141_h_b_a:ZrSiO4"
DOUBT = "nobody said the wavelength"
identified = partial(identify, library=embedded_library())


def measured(name: str, *, anode: str = "Cu") -> Pattern:
    """A laboratory's scan of a crystal of the library, whose file says nothing of X-rays."""
    grid = Grid(15.0, 90.0, 7501, WAVELENGTHS[f"{anode}Ka"])
    laboratory = replace(RRUFF, anodes=((anode, 1.0),), impurity=0.0, counts=(20_000, 40_000))
    counts = scans_of(LIBRARY.crystals([ROWS[name]]), laboratory, grid, seed=1).counts[0]
    return Pattern(grid.two_theta, counts.double(), wavelength_from="default")


@pytest.mark.parametrize(("name", "anode"), [(ZIRCON, "Fe"), (CALCITE, "Cr")])
def test_the_scan_of_another_tube_is_doubted_and_the_tube_named(name, anode):
    [answer] = identified(measured(name, anode=anode))
    formula = LIBRARY.formula(ROWS[name])
    assert answer.verdict != "confident"
    assert any(DOUBT in one and anode in one and formula in one for one in answer.doubts)
    assert any("give --wavelength" in one and "better" in one for one in answer.warnings)


@pytest.mark.parametrize("name", [CALCITE, ZIRCON])
def test_the_scan_of_a_copper_tube_is_not_doubted(name):
    [answer] = identified(measured(name))
    assert answer.verdict == "confident" and answer.doubts == ()
    assert answer.phases[0].material_id == name


def test_who_named_the_wavelength_is_not_asked_again():
    [answer] = identified(replace(measured(CALCITE, anode="Co"), wavelength_from="file"))
    assert not any(DOUBT in one for one in answer.doubts)


def test_the_elements_keep_to_their_crystals():
    scan = within_reach(measured(CALCITE, anode="Co"))
    before = search(scan, LIBRARY)
    told = with_other_tubes(before, scan, LIBRARY, elements={"Ca", "C", "O"})
    assert "CaCO3" in told.doubts[0] and "Co tube" in told.doubts[0]
    assert with_other_tubes(before, scan, LIBRARY, elements={"Xe", "Fr"}) == before


def test_the_command_says_it(tmp_path, capsys):
    scan, path = measured(ZIRCON, anode="Co"), tmp_path / "scan.xy"
    columns = np.stack([scan.two_theta.numpy(), scan.intensity.numpy()], axis=1)
    np.savetxt(path, columns, fmt="%.3f %d")
    assert main(["identify", str(path), "--json", "--library", str(embedded_library())]) == 0
    [answer] = json.loads(capsys.readouterr().out)
    assert answer["wavelength_from"] == "default" and answer["verdict"] != "confident"
    assert any("Co tube" in one for one in answer["doubts"])


def test_what_looks_most_alike_is_what_the_search_finds():
    scan = measured(CALCITE)
    score, formula = most_alike(scan, LIBRARY)
    assert formula == "CaCO3"
    assert score == pytest.approx(search(scan, LIBRARY).matches[0].score, abs=1e-9)
    among = with_elements(LIBRARY, {"Si", "O"})
    assert most_alike(scan, LIBRARY, among)[0] < score


def test_a_pattern_out_of_reach_is_refused_and_one_that_goes_beyond_cut():
    two_theta = torch.linspace(10, 150, 1401, dtype=torch.float64)
    silver = Pattern(two_theta, torch.ones_like(two_theta), wavelength=0.5608)
    kept = within_reach(silver)
    smallest = 0.5608 / 2 / np.sin(np.radians(kept.two_theta.max().item() / 2))
    assert 0.5 <= smallest < 0.501 and "left out" in kept.notes[-1]
    short = Pattern(two_theta[:40], torch.ones(40, dtype=torch.float64), wavelength=50.0)
    with pytest.raises(PatternError, match="check the wavelength"):
        within_reach(short)
