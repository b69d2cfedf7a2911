"""The examples of the README run as they are printed."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from unimat_lib.datasets.prototypes import worked_crystal

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.M | re.S)


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
    (tmp_path / "params.yml").touch()  # so that the prepared table stays in this folder
    model = tmp_path / "data/pretrained"
    model.parent.mkdir()
    model.symlink_to(ROOT / "data/pretrained")
    (tmp_path / "script.py").write_text(example)
    command = [sys.executable, "script.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "TiO2" in done.stdout or "tetragonal" in done.stdout
