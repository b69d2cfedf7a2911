"""The page's own code against the packages: the network, and the reading of files."""

from __future__ import annotations

import json
from pathlib import Path

import gemmi
import numpy as np
import pytest
from case_patterns import case_patterns
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from node_process import needs_node, node

from unimat_lib.crystals.table import CrystalTable
from unimat_powder.network.predict import read_pattern as read_network
from unimat_powder.network.views import GRID
from unimat_powder.pattern import Pattern, PatternError
from unimat_powder.reading import read_pattern
from unimat_powder.simulation.ranges import LaboratoryRanges
from unimat_powder.simulation.scans import scans_of
from unimat_powder.witnesses import shipped_reader

ROOT = Path(__file__).resolve().parents[2]
pytestmark = needs_node
PATTERNS = 10
MO = 0.71073


def test_network_is_that_of_pytorch(prototype_table: CrystalTable, exported: Path) -> None:
    table = prototype_table.select(range(PATTERNS))
    scans = scans_of(table, LaboratoryRanges(), GRID, seed=4)
    asked, wanted = [], []
    for i, mask in enumerate(scans.mask):
        numbers = table.atomic_numbers[table.offsets[i] : table.offsets[i + 1]].unique()
        symbols = [gemmi.Element(int(z)).name for z in numbers] if i % 2 else []
        wavelength = MO if i == 3 else GRID.wavelength
        x, y = GRID.two_theta[mask], scans.counts[i][mask].double()
        pattern = Pattern(x.clone(), y.clone(), wavelength)
        wanted.append(read_network(shipped_reader(), pattern, elements=symbols or None))
        points = {"twoTheta": x.tolist(), "intensity": y.tolist(), "wavelength": wavelength}
        asked.append(points | {"symbols": symbols})
    said = node(ROOT / "browser/node/evidence.mjs", str(exported), given={"patterns": asked})
    pairs = [(one["read"], other) for one, other in zip(said, wanted, strict=True) if "read" in one]
    assert len(pairs) >= 8  # the search refuses what hardly has lines
    for mine, true in pairs:
        assert np.abs(np.array(mine["groups"]) - true.group).max() < 1e-3
        assert np.abs(np.array(mine["systems"]) - true.system).max() < 1e-3
        cells = {one["bravais"]: one for one in mine["cells"]}
        for cell in true.cells:
            found = cells[cell.bravais]
            assert np.abs(np.log(np.array(found["lengths"]) / cell.lengths)).max() < 1e-3
            assert (
                np.abs(np.cos(np.radians(found["angles"])) - np.cos(np.radians(cell.angles))).max()
                < 1e-3
            )
            assert found["probability"] == pytest.approx(cell.probability, abs=1e-3)
            assert np.allclose(found["error"], cell.length_error, rtol=1e-2)


def compare(paths: list[Path]) -> int:
    """How many files the page reads; each as the command does, or not at all."""
    script = ROOT / "tests/browser/read_files.mjs"
    reading = str(ROOT / "browser/reading.mjs")
    (said,) = node(script, reading, given=[str(path) for path in paths])
    for path, one in zip(paths, said, strict=True):
        if "error" in one:
            assert one["kind"] == "NoAnswer", f"{path.name}: {one['error']}"
            continue
        try:
            true = read_pattern(path)
        except PatternError as error:
            pytest.fail(f"{path.name}: the page reads what the command refuses: {error}")
        assert len(one["twoTheta"]) == len(true.two_theta), path.name
        assert np.allclose(one["twoTheta"], true.two_theta, atol=1e-9), path.name
        assert np.allclose(one["intensity"], true.intensity), path.name
        assert one["wavelength"] == pytest.approx(true.wavelength, rel=1e-4), path.name
        assert one["from"] == true.wavelength_from, path.name
    return sum("error" not in one for one in said)


def test_a_crystal_system_is_named_where_the_network_is_sure(exported: Path) -> None:
    x = np.arange(10, 80, 0.02)
    lines = [np.exp(-(((x - place) / 0.05) ** 2)) for place in (20, 31, 47, 58)]
    pattern = {"twoTheta": x.tolist(), "intensity": (10 + 900 * sum(lines)).tolist()}
    given = {"pattern": pattern | {"wavelength": 1.54184}, "chances": [0.9, 0.7, 0.4]}
    given["calibration"] = json.loads((exported / "facts.json").read_text())["calibration"]
    script = ROOT / "tests/browser/verdicts.mjs"
    said = node(script, str(ROOT / "browser"), str(exported), given=given)
    assert [one["verdict"] for one in said] == ["system", "none", "none"]
    assert said[0]["system"] == {"name": "cubic", "probability": 0.9}


def test_examples_are_read_alike(exported: Path) -> None:
    files = [p for p in (exported / "examples").iterdir() if p.suffix != ".xrdml"]
    assert compare(sorted(files)) == len(files)  # XML needs a browser


def test_hard_files_are_read_alike_or_refused() -> None:
    files = sorted(case_patterns().iterdir())
    assert compare([path for path in files if path.suffix != ".xrdml"]) >= 5


@pytest.mark.parametrize("mark", [";", "\t"])
def test_thousands_beside_decimal_commas_are_read_alike(tmp_path: Path, mark: str) -> None:
    path = tmp_path / "export.txt"
    rows = [(f"{10 + i / 20:.2f}".replace(".", ","), f"{500 + i}") for i in range(60)]
    rows += [(f"{13 + i / 20:.2f}".replace(".", ","), f"{1 + i % 9}.230") for i in range(60)]
    path.write_text("".join(f"{x}{mark}{y}\n" for x, y in rows))
    assert compare([path]) == 1


@pytest.mark.parametrize("ratio", ["0.000", "0.500"])
def test_wavelengths_of_exported_columns_are_read_alike(tmp_path: Path, ratio: str) -> None:
    head = "[Measurement conditions]\nAnode material,Cu\nK-Alpha1 wavelength,1.5405980\n"
    head += f"K-Alpha2 wavelength,1.5444260\nRatio K-Alpha2/K-Alpha1,{ratio}\n"
    head += "Generator voltage, 40\nScan step size,0.05\n[Scan points]\nAngle,Intensity\n"
    path = tmp_path / "export.csv"
    path.write_text(head + "".join(f"{10 + i / 20:.9f},{500 + i % 7}.0\n" for i in range(200)))
    assert compare([path]) == 1


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_columns_are_read_alike_or_refused(tmp_path: Path, data: st.DataObject) -> None:
    files = []
    for number in range(12):
        mark = data.draw(st.sampled_from([" ", "\t", ",", ";", "  ", ", "]))
        start = data.draw(st.floats(2, 40).map(lambda x: round(x, 2)))
        step = data.draw(st.sampled_from([0.01, 0.02, 0.05, 0.1]))
        top = data.draw(st.integers(1, 10**6))
        head = data.draw(
            st.sampled_from(
                ["", "# wavelength: 1.5406\n", "2theta,intensity\n", "'CuKa\n", "! Anode: Co\n"]
            )
        )
        end = data.draw(st.sampled_from(["\n", "\r\n"]))
        draw = np.random.default_rng(number)
        rows = [f"{start + i * step:.2f}{mark}{draw.integers(0, top + 1)}" for i in range(120)]
        path = tmp_path / f"{number}.{data.draw(st.sampled_from(['xy', 'csv', 'dat']))}"
        path.write_text(head + end.join(rows) + end, newline="")
        files.append(path)
    compare(files)
