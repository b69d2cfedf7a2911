"""The tutorials: they keep to their form, run as a reader runs them, and find what they claim."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import types
from pathlib import Path

import jupytext
import nbformat
import papermill
import pytest
from case_patterns import case_patterns

from unimat_book.run import stamps
from unimat_book.run import tutorials as tool
from unimat_book.run.plain_yaml import BookError
from unimat_book.run.sources import Book, Chapter
from unimat_powder.library.file import VARIABLE, embedded_library

ROOT = Path(__file__).resolve().parents[1]
SOURCES = tool.sources(Book(ROOT))

KEY = {
    "T1_your_pattern": """{
        "assumed": [answer.verdict, answer.verdict_text],
        "told": [right.verdict, right.phases[0].formula],
        "lines": new.cells[0].source,
        "new": list(new.cells[0].lengths),
        "true": true,
        "yours": yours.verdict,
    }""",
    "T2_your_cifs": """{
        "dropped": [row["material_id"] for row in report.dropped],
        "crystals": len(table),
        "searched": list(answer.cells[0].lengths),
        "true": table.lengths[row].tolist(),
        "named": [m.material_id for m in told.phases],
        "error": float(errors.mean().mean()),
        "guess": float(guess.mean()),
    }""",
    "T3_change_the_encoder": """{
        "equal": [sum(same), len(same)],
        "runs": sorted(map(list, runs)),
        "summary": summary.astype(float).values.tolist(),
    }""",
    "T4_week_in_a_table": """{
        "code": done.returncode,
        "rows": table[["file", "verdict", "note"]].astype(str).values.tolist(),
        "crystals": dict(zip(table["file"], table["crystal"].fillna(""))),
        "kept": len(pd.read_csv(made / "week.csv")),
    }""",
}
"""What each leaves behind, as an expression."""

SMALL = {
    "T1_your_pattern": {"file": str(case_patterns() / "k_alpha_doublet.xy")},
    "T2_your_cifs": {"epochs": 30},
    "T3_change_the_encoder": {"num_crystals": 400, "seeds": [0, 1], "epochs": 1},
    "T4_week_in_a_table": {},
}
"""Parameters that keep the suite short."""


def code_of(name: str) -> list[str]:
    return [cell.source for cell in SOURCES[name].notebook.cells if cell.cell_type == "code"]


def test_there_are_four() -> None:
    assert list(SOURCES) == list(KEY) == list(SMALL)


@pytest.mark.parametrize("name", SOURCES)
def test_form(name: str) -> None:
    notebook = SOURCES[name].notebook
    prose = "\n".join(c.source for c in notebook.cells if c.cell_type == "markdown")
    assert "\n\n**At the end you have " in prose
    assert 5 <= len(code_of(name)) <= 10
    assert code_of(name)[0] == code_of("T1_your_pattern")[0], "one set-up cell for all"
    assert max(map(len, "\n".join(code_of(name)).splitlines())) < 80
    exercises = prose.split("## Exercises")[1]
    assert 1 <= exercises.count("\n**") <= 3
    assert exercises.count("\n**") == exercises.count("<details>") == exercises.count("</details>")
    figures = [c.metadata["mystnb"] for c in notebook.cells if "mystnb" in c.metadata]
    assert figures
    for figure in figures:
        assert figure["figure"]["name"].startswith("fig-tutorial-")
        assert figure["figure"]["caption"] and figure["image"]["alt"]
    # JupyterLab and Colab know no directive, only plain Markdown.
    assert not [mark for mark in ("```{", ":::", ")=\n", "{doc}", "{term}") if mark in prose]


@pytest.mark.parametrize("name", SOURCES)
def test_published_notebook_is_that_of_the_source(name: str) -> None:
    book = Book(ROOT)
    notebook = stamps.read_notebook(tool.notebook_path(book, name), f"{tool.AGAIN} {name}")
    assert stamps.text_hash(notebook) == stamps.text_hash(SOURCES[name].notebook)
    assert notebook.metadata["unimat_tutorial"]["outputs"] == stamps.outputs_hash(notebook)
    assert stamps.output_problems(notebook) == []
    outputs = json.dumps([c.outputs for c in notebook.cells if c.cell_type == "code"])
    assert "image/svg+xml" in outputs or "image/png" in outputs
    assert str(ROOT) not in outputs and "/tmp" not in outputs
    assert Path(tool.notebook_path(book, name)).stat().st_size < 400_000


def set_up(folder: Path, monkeypatch: pytest.MonkeyPatch, run) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setattr(subprocess, "run", run)
    exec(code_of("T1_your_pattern")[0], {})
    assert (folder / "made").is_dir()


def test_set_up_installs_nothing_here(tmp_path: Path, monkeypatch, capsys) -> None:
    def refused(*_, **__):
        raise AssertionError("nothing is to be installed")

    set_up(tmp_path, monkeypatch, refused)
    assert capsys.readouterr() == ("", "")


def test_set_up_installs_the_book_on_colab(tmp_path: Path, monkeypatch, capsys) -> None:
    commands = []

    def noted(command, **_):
        commands.append(command)
        return subprocess.CompletedProcess(command, 0, "much", "more")

    monkeypatch.setitem(sys.modules, "google.colab", types.ModuleType("google.colab"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    set_up(tmp_path, monkeypatch, noted)
    (command,) = commands
    address = command[-1].removeprefix("git+")
    assert command[:4] == [sys.executable, "-m", "pip", "install"]
    assert f"git clone -q {address}" in (ROOT / "README.md").read_text()
    assert capsys.readouterr() == ("", "")


def test_set_up_says_why_it_failed(tmp_path: Path, monkeypatch) -> None:
    failed = subprocess.CompletedProcess([], 1, "", "no network")
    monkeypatch.setitem(sys.modules, "google.colab", types.ModuleType("google.colab"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(AssertionError, match="no network"):
        set_up(tmp_path, monkeypatch, lambda *_, **__: failed)


def executed(name: str, folder: Path) -> dict:
    """Run the published notebook as a reader's kernel does; what it leaves behind."""
    notebook = nbformat.read(ROOT / f"tutorials/{name}.ipynb", as_version=4)
    keep = f'import json\nPath("key.json").write_text(json.dumps({KEY[name]}))'
    notebook.cells.append(nbformat.v4.new_code_cell(keep))
    nbformat.write(notebook, folder / "in.ipynb")
    papermill.execute_notebook(
        folder / "in.ipynb",
        folder / "out.ipynb",
        parameters=SMALL[name],
        cwd=folder,
        progress_bar=False,
        start_timeout=180,
    )
    assert stamps.output_problems(nbformat.read(folder / "out.ipynb", as_version=4)) == []
    return json.loads((folder / "key.json").read_text())


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(VARIABLE, str(embedded_library()))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return tmp_path


def test_your_pattern(folder: Path) -> None:
    found = executed("T1_your_pattern", folder)
    verdict, text = found["assumed"]
    assert verdict == "tentative" and "by that of a Co tube TiO2 fits as well" in text
    assert found["told"] == ["confident", "TiO2"]
    assert found["lines"] == "indexing"
    assert found["new"] == pytest.approx(found["true"], rel=0.025)
    assert found["yours"] in ("confident", "tentative", "none")


def test_your_cifs(folder: Path) -> None:
    found = executed("T2_your_cifs", folder)
    assert found["dropped"] == ["notes"]
    assert found["crystals"] == 233
    assert found["searched"] == pytest.approx(found["true"], rel=0.01)
    assert found["named"] == ["Al2ZnO4_cF56"]
    assert found["error"] < found["guess"] / 4


def test_change_the_encoder(folder: Path) -> None:
    found = executed("T3_change_the_encoder", folder)
    assert found["equal"] == [32, 32]
    assert found["runs"] == [["average", 0], ["average", 1], ["positions", 0], ["positions", 1]]
    for difference, low, high in found["summary"]:
        assert low <= difference <= high


def test_week_in_a_table(folder: Path) -> None:
    found = executed("T4_week_in_a_table", folder)
    assert found["code"] == 2
    assert len(found["rows"]) == found["kept"] == 13
    verdicts = [verdict for _, verdict, _ in found["rows"]]
    order = ["confident", "tentative", "none", "not read"]
    assert verdicts == sorted(verdicts, key=order.index)
    assert verdicts.count("confident") >= 7
    bad = {file: note for file, verdict, note in found["rows"] if verdict == "not read"}
    assert bad.keys() == {"tu_aborted", "we_photo", "th_empty"}
    assert "a picture" in bad["we_photo"] and "empty" in bad["th_empty"]
    assert found["crystals"]["mo_rutile"] == "TiO2"


def toy(folder: Path, code: str) -> tuple[Book, Chapter]:
    """A book with one tutorial of one cell."""
    (folder / "params.yml").write_text("quick: {}\n")
    (folder / "_toc.yml").write_text(
        "root: index.md\nchapters:\n  - file: tutorials/T1_toy.ipynb\n"
    )
    (folder / "tutorials/src").mkdir(parents=True, exist_ok=True)
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    jupytext.write(notebook, folder / "tutorials/src/T1_toy.md", fmt="md:myst")
    book = Book(folder)
    return book, tool.sources(book)["T1_toy"]


def test_published_tutorial_is_whole_until_something_changes(tmp_path: Path) -> None:
    book, tutorial = toy(tmp_path, "import os\nprint(os.environ['UNIMAT_LIBRARY'][-11:])")
    assert tool.problems(book) == [
        "tutorials/T1_toy.ipynb is missing; make it with: unimat-book tutorials T1_toy"
    ]
    tool.publish(book, tutorial)
    assert tool.problems(book) == []
    path = tool.notebook_path(book, "T1_toy")
    assert "safetensors" in path.read_text()
    text = path.read_text()
    path.write_text(text.replace("safetensors", "somethingels"))
    assert ["an output" in problem for problem in tool.problems(book)] == [True]
    path.write_text(text)
    book, _ = toy(tmp_path, "print('other')")
    assert ["not that of its source" in problem for problem in tool.problems(book)] == [True]
    (tmp_path / "_toc.yml").write_text("root: index.md\n")
    assert tool.problems(Book(tmp_path))[-1] == "_toc.yml lacks tutorials/T1_toy.ipynb"
    (tmp_path / "tutorials/src/T1_toy.md").unlink()
    (tmp_path / "_toc.yml").write_text("root: tutorials/T2_gone.ipynb\n")
    assert tool.problems(Book(tmp_path)) == [
        "_toc.yml lists tutorials/T2_gone.ipynb, which has no source"
    ]


@pytest.mark.parametrize(
    ("code", "what"),
    [
        ("1 / 0", "ZeroDivisionError"),
        ("import sys\nprint('hm', file=sys.stderr)", "wrote to stderr: hm"),
    ],
)
def test_failed_tutorial_leaves_the_published_one(tmp_path: Path, code: str, what: str) -> None:
    book, tutorial = toy(tmp_path, code)
    path = tool.notebook_path(book, "T1_toy")
    path.write_text("before")
    with pytest.raises(BookError, match=what):
        tool.publish(book, tutorial)
    assert path.read_text() == "before"
    scratch = tmp_path / "_build/scratch"
    assert [p for p in scratch.iterdir() if p.is_dir()] == []
    shutil.rmtree(tmp_path / "_build")
