"""The examples of the README run as they are printed."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from unimat_lib.datasets.prototypes import worked_crystal

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.M | re.S)
EXAMPLES = BLOCK.findall((ROOT / "README.md").read_text())
RECOUNTED, PREDICTED = BLOCK.findall((ROOT / "data/README.md").read_text())


def test_readme_has_examples() -> None:
    assert len(EXAMPLES) == 2


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda text: text.split()[1])
def test_example_runs(example: str, tmp_path: Path) -> None:
    structure = worked_crystal().structure(0)
    (tmp_path / "my_cifs").mkdir()
    for number, size in enumerate((0.97, 1.0, 1.03)):
        strained = structure.copy()
        strained.scale_lattice(structure.volume * size)
        strained.to(str(tmp_path / f"my_cifs/rutile_{number}.cif"))
    lines = ((27.4, 1000), (36.1, 450), (41.2, 180), (54.3, 550), (56.6, 150), (69.0, 200))
    with open(tmp_path / "scan.xy", "w") as file:
        for step in range(4200):
            angle = 5 + 0.02 * step
            height = sum(h * 2 ** -(((angle - at) / 0.05) ** 2) for at, h in lines)
            file.write(f"{angle:.2f} {20 + height:.2f}\n")
    (tmp_path / "scan.xrdml").write_bytes((tmp_path / "scan.xy").read_bytes())  # content decides
    said = printed_by(example, tmp_path)
    assert "TiO2" in said or "tetragonal" in said


def printed_by(example: str, folder: Path) -> str:
    """What an example prints in a folder with the published weights and results."""
    (folder / "params.yml").touch()  # so that the prepared table stays in this folder
    (folder / "data").mkdir()
    for name in ("pretrained", "results"):
        (folder / "data" / name).symlink_to(ROOT / "data" / name)
    (folder / "script.py").write_text(example)
    command = [sys.executable, "script.py"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_number_of_the_ledger_is_made_again(tmp_path: Path) -> None:
    row = re.search(r"^\| XRD \|.*$", (ROOT / "README.md").read_text(), re.M).group()
    assert f"| {printed_by(RECOUNTED, tmp_path).strip()} |" in row


def test_the_published_model_predicts_for_a_cif(tmp_path: Path) -> None:
    (tmp_path / "my_cifs").mkdir()
    worked_crystal().structure(0).to(str(tmp_path / "my_cifs/rutile.cif"))
    said = printed_by(PREDICTED, tmp_path)
    assert "p_tetragonal" in said and "scaled_a" in said
