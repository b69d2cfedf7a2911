"""The folder that the page loads, and what its examples are to the command's own reader."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from unimat_book.browser.examples import EXAMPLES
from unimat_book.browser.export import export, main
from unimat_powder.network.groups import BRAVAIS, GROUPS
from unimat_powder.reading import read_pattern


@pytest.fixture(scope="module")
def folder(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shutil.copytree(exported, tmp_path_factory.mktemp("export") / "browser")


def test_folder_holds_what_the_page_loads(folder: Path) -> None:
    facts = json.loads((folder / "facts.json").read_text())
    assert facts["dataset"] == "prototypes" and "AFLOW" in facts["attribution"]
    assert len(facts["bravais"]) == len(facts["symbols"]) == GROUPS
    assert max(facts["bravais"]) == len(BRAVAIS) - 1
    assert [facts["symbols"][n - 1] for n in (14, 136, 166)] == ["P21/c", "P42/mnm", "R-3m"]
    assert [one["title"] for one in facts["examples"]] == [title for title, *_ in EXAMPLES]
    for name in ("page.mjs", "worker.mjs", "page.css", *facts["versions"]):
        assert (folder / name).is_file(), name
    assert sum(path.stat().st_size for path in folder.rglob("*")) < 12e6


def test_second_export_computes_nothing(folder: Path) -> None:
    names = ("index.safetensors", "facts.json")
    before = [(folder / name).read_bytes() for name in names]
    when = (folder / "index.safetensors").stat().st_mtime_ns
    (folder / "left_over.mjs").write_text("")
    export(folder, dataset="prototypes")
    assert [(folder / name).read_bytes() for name in names] == before
    assert (folder / "index.safetensors").stat().st_mtime_ns == when
    assert not (folder / "left_over.mjs").exists()


def test_examples_are_read_by_the_command_too(folder: Path) -> None:
    for one in json.loads((folder / "facts.json").read_text())["examples"]:
        pattern = read_pattern(folder / "examples" / one["file"])
        assert len(pattern.two_theta) == 4251
        assert pattern.wavelength == pytest.approx(1.54184, abs=1e-5)
        assert pattern.wavelength_from == ("default" if one["file"].endswith("csv") else "file")
        assert (
            b"simulated" in (folder / "examples" / one["file"]).read_bytes() or "csv" in one["file"]
        )


def test_unknown_data_sets_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="dataset must be one of"):
        export(tmp_path, dataset="mp_extra")
    with pytest.raises(SystemExit):
        main(["--out", str(tmp_path), "--dataset", "everything"])
