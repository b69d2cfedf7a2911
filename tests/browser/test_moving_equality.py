"""The page of things to move against the packages: diffraction, softmax, neighbours, filters."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from node_process import needs_node, node
from pymatgen.core import Lattice, Structure

from unimat_lib.alignment import clip_loss
from unimat_lib.crystals.structures import from_structures
from unimat_lib.views.bragg import bragg_reflections, g_max_of
from unimat_lib.views.grid import CU_K_ALPHA, WAVELENGTHS, Grid
from unimat_lib.views.render import render

ROOT = Path(__file__).resolve().parents[2]
GRID = Grid(num_points=4251)
pytestmark = needs_node


def ask(*questions: dict) -> list:
    return node(ROOT / "browser/node/crystal.mjs", given=list(questions))


@pytest.fixture(scope="module")
def moving(exported: Path) -> dict:
    return json.loads((exported / "moving.json").read_text("utf-8"))


def table_of(crystals: list[dict]):
    structures = []
    for crystal in crystals:
        numbers, *frac = zip(*crystal["atoms"], strict=True)
        lattice = Lattice.from_parameters(*crystal["cell"])
        structures.append(Structure(lattice, numbers, np.transpose(frac)))
    return from_structures(structures, reduce=False)


def strained(crystal: dict) -> dict:
    """A triclinic cell with the same atoms in it."""
    a, b, c, alpha, beta, gamma = crystal["cell"]
    cell = [a, 1.04 * b, 0.97 * c, alpha - 3, beta + 4, gamma - 5]
    return crystal | {"cell": cell}


def test_reflections_are_those_of_the_engine(moving: dict) -> None:
    crystals = [*moving["crystals"], *map(strained, moving["crystals"])]
    g_max = g_max_of(GRID)
    true = bragg_reflections(table_of(crystals), g_max=g_max)
    given = {"ask": "reflections", "gMax": g_max, "elements": moving["elements"]}
    said = ask(*(crystal | given for crystal in crystals))
    for i, mine in enumerate(said):
        part = slice(*true.offsets[i : i + 2].tolist())
        key = [tuple(x) for x in true.hkl[part].tolist()]
        found = {tuple(one["hkl"]): one for one in mine}
        top = float(true.intensity[part].max())
        assert sum(x > 1e-9 * top for x in true.intensity[part].tolist()) <= len(mine)
        for hkl, g, intensity in zip(key, true.g[part], true.intensity[part], strict=True):
            one = found.get(hkl) or found.get(tuple(-x for x in hkl))
            if one is None:
                assert intensity < 1e-9 * top
                continue
            assert one["g"] == pytest.approx(float(g), rel=1e-6)
            assert one["intensity"] == pytest.approx(float(intensity), rel=1e-6, abs=1e-9 * top)


@pytest.mark.parametrize(("fwhm", "eta"), [(0.1, 0.0), (0.35, 0.0), (0.15, 0.5)])
def test_patterns_are_those_of_the_engine(moving: dict, fwhm: float, eta: float) -> None:
    crystals = [*moving["crystals"][:3], strained(moving["crystals"][0])]
    g_max = g_max_of(GRID)
    reflections = bragg_reflections(table_of(crystals), g_max=g_max)
    true = render(reflections, torch.arange(len(crystals)), GRID, fwhm=fwhm, eta=eta)
    grid = {"from": 5, "step": GRID.step, "points": GRID.num_points}
    instrument = {"fwhm": fwhm, "eta": eta, "waves": [[CU_K_ALPHA, 1]]}
    given = {"ask": "pattern", "gMax": g_max, "grid": grid, "instrument": instrument}
    given["elements"] = moving["elements"]
    for mine, wanted in zip(ask(*(one | given for one in crystals)), true, strict=True):
        assert np.abs(np.array(mine) - wanted.numpy()).max() < 3e-3


def test_zero_shift_and_doublet_move_and_split_lines(moving: dict) -> None:
    instrument = {"fwhm": 0.06, "waves": [[CU_K_ALPHA, 1]]}
    doublet = [[WAVELENGTHS["CuKa1"], 2 / 3], [WAVELENGTHS["CuKa2"], 1 / 3]]
    given = {"ask": "pattern", "gMax": g_max_of(GRID), "elements": moving["elements"]}
    given["grid"] = {"from": 5, "step": 0.02, "points": 4251}
    given |= moving["crystals"][1]  # halite
    kinds = (instrument, instrument | {"shift": 0.2}, instrument | {"waves": doublet})
    plain, moved, split = (np.array(x) for x in ask(*(given | {"instrument": k} for k in kinds)))
    assert np.abs(plain[:-10] - moved[10:]).max() < 1e-6
    x = GRID.two_theta.numpy()
    near = (x > 83.5) & (x < 84.5)  # halite's 422: a doublet of 0.25 degrees
    for curve, number in ((plain, 1), (split, 2)):
        y = curve[near]
        tops = (y[1:-1] > y[:-2]) & (y[1:-1] > y[2:]) & (y[1:-1] > 0.02 * y.max())
        assert tops.sum() == number


CUBIC = [4, 4, 4, 90, 90, 90]


@pytest.mark.parametrize(
    ("cell", "lines"),
    [
        (CUBIC, {"100": [3], "110": [6], "111": [4]}),
        ([4, 4, 4.2, 90, 90, 90], {"100": [1, 2], "110": [4, 2], "111": [4]}),
        ([4, 4.1, 4.2, 90, 90, 90], {"100": [1, 1, 1], "110": [2, 2, 2], "111": [4]}),
        ([4, 4, 4, 88, 88, 88], {"100": [3], "110": [3, 3], "111": [1, 3]}),
        ([4, 4, 4, 90, 95, 90], {"100": [1, 2], "110": [1, 4, 1], "111": [2, 2]}),
    ],
    ids=["cubic", "tetragonal", "orthorhombic", "rhombohedral", "monoclinic"],
)
def test_lines_split_as_the_metric_says(cell: list[float], lines: dict) -> None:
    given = {"ask": "splitting", "cell": cell, "wavelength": CU_K_ALPHA}
    said = ask(*(given | {"indices": [int(x) for x in name]} for name in lines))
    lattice = Lattice.from_parameters(*cell)
    for groups, numbers in zip(said, lines.values(), strict=True):
        assert [len(one["planes"]) for one in groups] == numbers
        assert [one["twoTheta"] for one in groups] == sorted(one["twoTheta"] for one in groups)
        for one in groups:
            for plane in one["planes"]:
                assert one["d"] == pytest.approx(lattice.d_hkl(plane), rel=1e-9)
            angle = 2 * math.degrees(math.asin(CU_K_ALPHA / 2 / one["d"]))
            assert one["twoTheta"] == pytest.approx(angle)


@pytest.mark.parametrize(
    ("cell", "shape"),
    [
        (CUBIC, "cubic"),
        ([4, 4, 5, 90, 90, 90], "tetragonal"),
        ([5, 4, 4, 90, 90, 90], "tetragonal"),
        ([4, 5, 6, 90, 90, 90], "orthorhombic"),
        ([4, 4, 6, 90, 90, 120], "hexagonal"),
        ([4, 4, 4, 80, 80, 80], "trigonal"),
        ([4, 5, 6, 90, 100, 90], "monoclinic"),
        ([4, 5, 6, 90, 90, 120], "monoclinic"),
        ([4, 4, 4, 80, 85, 80], "triclinic"),
    ],
)
def test_the_shape_of_a_cell_is_named(cell: list[float], shape: str) -> None:
    assert ask({"ask": "shape", "cell": cell}) == [shape]


def test_angles_that_no_cell_has_are_refused() -> None:
    assert ask({"ask": "lattice", "cell": [4, 4, 4, 60, 60, 125]}) == [None]


@pytest.mark.parametrize("rate", [0.5, 20, 400])
def test_counts_have_the_mean_and_variance_of_poisson(rate: float) -> None:
    (counts,) = ask({"ask": "counts", "rate": rate, "number": 20_000})
    assert np.mean(counts) == pytest.approx(rate, rel=0.02)
    assert np.var(counts) == pytest.approx(rate, rel=0.05)


@pytest.mark.parametrize("scale", [1.0, 14.3, 100.0])
def test_softmax_and_loss_are_those_of_the_alignment(scale: float) -> None:
    draw = torch.Generator().manual_seed(3)
    a, b = (torch.randn(8, 16, generator=draw, dtype=torch.float64) for _ in range(2))
    unit = [x / x.norm(dim=1, keepdim=True) for x in (a, a + b / 2)]
    cosines = unit[0] @ unit[1].T
    (said,) = ask({"ask": "softmax", "cosines": cosines.tolist(), "scale": scale})
    true = clip_loss(*unit, log_scale=torch.tensor(scale).log())
    assert said["loss"] == pytest.approx(float(true), rel=1e-4, abs=1e-6)
    assert np.allclose(said["rows"], torch.softmax(cosines * scale, dim=1))


def test_the_nearest_points_come_first() -> None:
    points = torch.nn.functional.normalize(torch.randn(40, 8), dim=1)
    given = {"points": points.flatten().tolist(), "width": 8, "most": 5}
    (said,) = ask({"ask": "nearest", "query": points[7].tolist(), **given})
    best = (points @ points[7]).topk(5)
    assert [one["row"] for one in said] == best.indices.tolist()
    assert [one["cosine"] for one in said] == pytest.approx(best.values.tolist(), abs=1e-6)


FORMULAS = ("TiO2", "Ti2O3", "CaTiO3", "CaFe(SiO3)2", "NaCl", "Si2Mo", "CoO")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", FORMULAS),
        ("TiO2", ["TiO2"]),
        ("Ti4O8", ["TiO2"]),
        ("CaFeSi2O6", ["CaFe(SiO3)2"]),
        ("Ti, O", ["TiO2", "Ti2O3", "CaTiO3"]),
        ("Ti-O", ["TiO2", "Ti2O3"]),
        ("C", []),
        ("Co", ["CoO"]),
    ],
)
def test_formulas_are_filtered(text: str, found: list[str]) -> None:
    rows = [{"formula": one, "system": 3, "atoms": 4 + i} for i, one in enumerate(FORMULAS)]
    (places,) = ask({"ask": "filtered", "rows": rows, "text": text})
    assert [FORMULAS[i] for i in places] == list(found)


def test_systems_and_sizes_are_filtered() -> None:
    rows = [{"formula": "C", "system": i % 2, "atoms": i} for i in range(10)]
    given = {"ask": "filtered", "rows": rows, "text": "", "system": 1, "least": 3, "most": 7}
    assert ask(given) == [[3, 5, 7]]
