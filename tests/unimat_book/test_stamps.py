"""What makes `check` fail, each with its reason and remedy in one line, and what does not."""

from __future__ import annotations

import importlib.util
import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest
import yaml
from toy_book import Tool, edit, files, hashes, stamp

from unimat_book.record import STAGED
from unimat_book.run.order import READS, chapter_waits
from unimat_book.run.sources import Book
from unimat_book.run.stamps import locked_versions, output_problems, with_prose
from unimat_lib.identity import SETTINGS_DO_NOT_COUNT, WORDS_DO_NOT_COUNT

FIRST, SECOND = "chapters/01_first.ipynb", "chapters/02_second.ipynb"
RUN_1, RUN_2 = (f"unimat-book run 0{n} --profile full" for n in (1, 2))


def change_notebook(path: Path, change: Callable[[nbformat.NotebookNode], object]) -> None:
    notebook = nbformat.read(path, as_version=4)
    change(notebook)
    nbformat.write(notebook, path)


def change_output(notebook: nbformat.NotebookNode) -> None:
    (output,) = (o for o in notebook.cells[2].outputs if "execute_result" in o.output_type)
    output.data["text/plain"] = output.data["text/plain"].replace("5", "6")


def change_code(notebook: nbformat.NotebookNode) -> None:
    notebook.cells[2].source = notebook.cells[2].source.replace("double(epochs)", "10")


def change_text(notebook: nbformat.NotebookNode) -> None:
    notebook.cells[0].source += " A word more."


def change_stamp(part: str, name: str, value: object) -> Callable[[nbformat.NotebookNode], object]:
    return lambda notebook: notebook.metadata["unimat"][part].update({name: value})


def on_first(change: Callable[[nbformat.NotebookNode], object]) -> Callable[[Path], object]:
    return lambda root: change_notebook(root / FIRST, change)


TAMPERING = {
    "table repointed": (
        lambda root: (root / "data/cache/toys.json").write_text('{"table": "toys-9.parquet"}'),
        "01_first: the table of toys is toys-9.parquet now, was toys-0123.parquet",
        RUN_1,
    ),
    "output edited": (on_first(change_output), "01_first: an output in the notebook is not", RUN_1),
    "results edited": (
        lambda root: edit(root / "data/results/02_second.json", "15", "16"),
        "02_second: wrote data/results/02_second.json, which was changed by hand",
        RUN_2,
    ),
    "results edited that another chapter read": (
        lambda root: edit(root / "data/results/01_first.json", "10", "11"),
        "02_second: read data/results/01_first.json, which has changed since",
        RUN_2,
    ),
    "prediction edited": (
        lambda root: (root / "data/results/predictions/xrd.txt").write_text("6"),
        "01_first: wrote data/results/predictions/xrd.txt, which was changed by hand",
        RUN_1,
    ),
    "model edited": (
        lambda root: (root / "data/pretrained/model.txt").write_text("6"),
        "01_first: wrote data/pretrained/model.txt, which was changed by hand",
        RUN_1,
    ),
    "model removed": (
        lambda root: (root / "data/pretrained/model.txt").unlink(),
        "01_first: data/pretrained/model.txt of the run is missing",
        RUN_1,
    ),
    "other version": (
        lambda root: (root / "requirements.lock").write_text("pyyaml==0.1 \\\n  --hash=sha256:0\n"),
        f"01_first: package PyYAML was {yaml.__version__} in the run, is 0.1 in requirements.lock",
        RUN_1,
    ),
    "README's table edited": (
        lambda root: edit(root / "README.md", "No results yet", "Good results"),
        "README.md: the results table is not that of data/results/ledger.json",
        "unimat-book readme",
    ),
    "README's marker removed": (
        lambda root: edit(root / "README.md", "<!-- results:end -->", ""),
        "README.md: expected the lines <!-- results:begin --> and <!-- results:end -->",
        "unimat-book readme",
    ),
    "code edited": (on_first(change_code), "01_first: the notebook's code was edited", RUN_1),
    "text edited": (
        on_first(change_text),
        "01_first: the notebook's text was edited by hand",
        "unimat-book refresh 01 --profile full",
    ),
    "parameters edited": (
        on_first(lambda n: n.cells[1].update(source=n.cells[1].source.replace("= 5", "= 7"))),
        "01_first: the notebook's text was edited by hand",
        "unimat-book refresh 01 --profile full",
    ),
    "stamp removed": (
        on_first(lambda n: n.metadata.pop("unimat")),
        "01_first: its stamp is missing: it was not made by unimat-book run",
        RUN_1,
    ),
    "half a stamp": (
        on_first(lambda n: n.metadata["unimat"].pop("outputs")),
        "01_first: its stamp lacks outputs: it was not made by unimat-book run",
        RUN_1,
    ),
    "notebook of another chapter": (
        lambda root: (root / SECOND).write_bytes((root / FIRST).read_bytes()),
        "02_second: is stamped 01_first, profile full",
        RUN_2,
    ),
    "stamp that leads out of the book": (
        on_first(change_stamp("wrote", "../../etc/hosts", "0")),
        "01_first: names ../../etc/hosts, which is not in the book",
        RUN_1,
    ),
    "stamp of other kinds": (
        on_first(change_stamp("code", "unimat_toy", {"a": []})),
        "01_first.ipynb has a stamp that no run made",
        RUN_1,
    ),
    "chapter missing": (lambda root: (root / SECOND).unlink(), "02_second.ipynb is missing", RUN_2),
    "not run": (
        on_first(lambda n: n.cells[2].update(execution_count=None)),
        "01_first: code cell 2 was not run",
        RUN_1,
    ),
    "code of a chapter": (
        lambda root: edit(root / "chapters/src/01_first.md", "double(epochs))", "1 + epochs)"),
        "01_first: the chapter's code changed",
        RUN_1,
    ),
    "code that it runs": (
        lambda root: edit(root / "unimat_toy/base.py", "2 *", "3 *"),
        "01_first: the code it runs changed: unimat_toy.base",
        RUN_1,
    ),
    "number in a figure": (
        lambda root: edit(root / "unimat_toy/figures/draw.py", ", x\n", ", x + 1\n"),
        "01_first: the code it runs changed: unimat_toy.figures.draw",
        RUN_1,
    ),
    "parameter": (
        lambda root: edit(root / "params.yml", "epochs: 5", "epochs: 7"),
        "01_first: parameter epochs is 7 now, was 5 in the run",
        RUN_1,
    ),
    "newer text": (
        lambda root: edit(root / "chapters/src/01_first.md", "A sentence", "An edited sentence"),
        "01_first: the text is newer than the notebook; no run is needed",
        "unimat-book refresh 01 --profile full",
    ),
}


@pytest.mark.parametrize("case", TAMPERING)
def test_check_fails_with_reason_and_remedy(case: str, published: Path, tool: Tool) -> None:
    (published / "requirements.lock").write_text(f"PyYAML=={yaml.__version__}\n")
    clean = tool("check")
    assert clean.returncode == 0, clean.stdout
    change, reason, remedy = TAMPERING[case]
    change(published)
    checked = tool("check")
    assert checked.returncode == 1
    (line,) = (line for line in checked.stdout.splitlines() if reason in line)
    assert line.endswith(remedy), line
    assert "Traceback" not in checked.stderr
    refused = tool("build", "--profile", "full")
    assert refused.returncode == 1 and reason in refused.stderr and "not built" in refused.stderr


HARMLESS = {
    "label in a figure": ("unimat_toy/figures/draw.py", '"a label"', '"another label"'),
    "comment": ("unimat_toy/tiny.py", "return FACTOR * x", "return FACTOR * x  # twice"),
    "docstring": ("unimat_toy/tiny.py", "Twice x.", "Two times x."),
    "layout": ("unimat_toy/tiny.py", "return FACTOR * x", "return (\n        FACTOR * x\n    )"),
    "launch setting": ("unimat_toy/kernels/launch.py", "_ROWS = 64", "_ROWS = 32"),
    "function not reached": ("unimat_toy/tiny.py", "return 1", "return 2"),
    "module not imported": ("unimat_toy/unused.py", "X = 1", "X = 2"),
    "default that params.yml sets": ("chapters/src/01_first.md", "epochs = 2 ", "epochs = 3 "),
}


@pytest.mark.parametrize("case", HARMLESS)
def test_check_stays_green(case: str, published: Path, tool: Tool) -> None:
    name, old, new = HARMLESS[case]
    edit(published / name, old, new)
    checked = tool("check")
    assert checked.returncode == 0, checked.stdout


def test_the_packages_whose_words_and_settings_do_not_count_are_there() -> None:
    for name in (WORDS_DO_NOT_COUNT, SETTINGS_DO_NOT_COUNT):
        assert importlib.util.find_spec(name)


def test_a_chapter_run_again_makes_what_read_it_old(published: Path, tool: Tool) -> None:
    edit(published / "params.yml", "epochs: 5", "epochs: 6")
    assert tool("run", "01", "--profile", "full").returncode == 0
    checked = tool("check")
    assert checked.returncode == 1
    assert checked.stdout.splitlines() == [
        f"02_second: read data/results/{name}, which has changed since; run: {RUN_2}"
        for name in ("01_first.json", "predictions/xrd.txt")
    ]
    assert tool("run", "02", "--profile", "full").returncode == 0
    assert tool("check").returncode == 0
    assert json.loads((published / "data/results/02_second.json").read_text()) == {"sum": 18}


def test_files_that_a_run_no_longer_writes_go_and_no_others(published: Path, tool: Tool) -> None:
    """Even if a stamp claims to have written them."""
    (published / "data/results/older.txt").write_text("of another seed")
    outside = published.parent / f"{published.name}-outside.txt"
    outside.write_text("precious")
    claimed = ("data/results/older.txt", "params.yml", "data/cache/toys.json")
    for name in (*claimed, f"../{outside.name}", str(outside)):
        change_notebook(published / FIRST, change_stamp("wrote", name, "0"))
    assert tool("run", "01", "--profile", "full").returncode == 0
    gone = {name for name in claimed if not (published / name).is_file()}
    assert gone == {"data/results/older.txt"}
    assert outside.read_text() == "precious"
    assert tool("check").returncode == 0


PENDING = "01_first: The machine is being repaired.\n"


def test_a_pending_chapter_may_be_stale_and_says_so(published: Path, tool: Tool) -> None:
    pending = published / "chapters/pending.yml"
    pending.write_text(PENDING)
    fresh = tool("check")
    assert fresh.returncode == 1
    assert "01_first: is up to date: take it out of chapters/pending.yml" in fresh.stdout
    edit(published / "unimat_toy/tiny.py", "FACTOR * x", "x * FACTOR")
    edit(published / "chapters/src/01_first.md", "A sentence", "An edited sentence")
    checked = tool("check")
    assert checked.returncode == 0, checked.stdout
    assert "01_first is older than its source" in checked.stdout
    assert "The machine is being repaired." in checked.stdout


@pytest.mark.parametrize(
    "case",
    [name for name in TAMPERING if name.split()[-1] == "edited"] + ["half a stamp"],
)
def test_a_pending_chapter_must_not_be_edited(case: str, published: Path, tool: Tool) -> None:
    (published / "chapters/pending.yml").write_text(PENDING)
    edit(published / "unimat_toy/tiny.py", "FACTOR * x", "x * FACTOR")
    assert tool("check").returncode == 0
    change, reason, _ = TAMPERING[case]
    change(published)
    checked = tool("check")
    assert checked.returncode == 1 and reason in checked.stdout


def test_what_a_pending_chapter_made_may_be_withdrawn(published: Path, tool: Tool) -> None:
    change, reason, _ = TAMPERING["model removed"]
    change(published)
    checked = tool("check")
    assert checked.returncode == 1 and reason in checked.stdout
    (published / "chapters/pending.yml").write_text(PENDING)
    assert tool("check").returncode == 0


def test_refresh_renews_the_text_and_keeps_the_outputs(published: Path, tool: Tool) -> None:
    source = published / "chapters/src/01_first.md"
    outputs = nbformat.read(published / FIRST, as_version=4).cells[2].outputs
    assert "text was up to date" in tool("refresh", "01").stdout
    edit(source, "A sentence of prose", "An edited sentence of prose")
    edit(source, "epochs = 2  # passes", "epochs = 2  # passes over the data")
    assert "text renewed" in tool("refresh", "01").stdout
    assert tool("check").returncode == 0
    notebook = nbformat.read(published / FIRST, as_version=4)
    assert "An edited sentence" in notebook.cells[0].source
    assert "epochs = 5  # passes over the data" in notebook.cells[1].source
    assert notebook.cells[2].outputs == outputs

    # What was typed into the notebook itself goes.
    change_notebook(published / FIRST, change_text)
    assert tool("check").returncode == 1
    assert tool("refresh", "01").returncode == 0
    assert tool("check").returncode == 0

    edit(source, 'rec("doubled", double(epochs))', 'rec("doubled", 1 + double(epochs))')
    refused = tool("refresh", "01")
    assert refused.returncode == 1 and f"run: {RUN_1}" in refused.stderr


def test_status_shows_the_state_of_each_chapter(published: Path, tool: Tool) -> None:
    edit(published / "params.yml", "epochs: 5", "epochs: 7")
    (published / SECOND).write_bytes(b"\0" * 100)
    lines = tool("status").stdout.splitlines()
    assert sum("not run" in line for line in lines) == 2  # the quick profile
    (first,) = (line for line in lines if line.startswith("| {doc}`/chapters/01_first` | 2"))
    assert "`toys-0123`" in first and first.endswith("| stale: parameter epochs |")
    assert any("02_second.ipynb is not a notebook" in line for line in lines)
    assert str(published) not in "\n".join(lines)  # the table is a page of the book


def test_status_says_in_few_words_what_check_says_in_full(published: Path, tool: Tool) -> None:
    edit(published / "unimat_toy/tiny.py", "FACTOR * x", "x * FACTOR")
    edit(
        published / "chapters/src/01_first.md",
        'rec("doubled", double(epochs))',
        'rec("doubled", 1)',
    )
    assert "the code it runs changed: unimat_toy.base, unimat_toy.tiny;" in tool("check").stdout
    lines = tool("status").stdout.splitlines()
    (first,) = (line for line in lines if line.startswith("| {doc}`/chapters/01_first` | 2"))
    assert first.endswith("| stale: the chapter's code, the code it runs (2 modules) |")

    (published / "chapters/pending.yml").write_text(PENDING)
    assert "| pending: " in tool("status").stdout


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"\0" * 5000, b"[" * 100_000, b"[]", b"{}", b'{"cells": 5}', b"\xff\xfe{\0}\0"),
        b'{"cells": [{}], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}',
        *(0.5, 0.99),  # cut there
    ],
)
def test_a_broken_notebook_is_one_line(content: bytes | float, published: Path, tool: Tool) -> None:
    path = published / FIRST
    whole = path.read_bytes()
    path.write_bytes(content if isinstance(content, bytes) else whole[: int(content * len(whole))])
    for words in (("check",), ("build", "--profile", "full")):
        done = tool(*words)
        assert done.returncode == 1
        lines = (done.stdout + done.stderr).splitlines()
        assert sum("01_first.ipynb is not a notebook" in line for line in lines) == 1
        assert not any("Traceback" in line or "Notebook JSON" in line for line in lines)
    assert "is not a notebook" in tool("status").stdout
    assert tool("refresh", "01").returncode == 1


def test_a_broken_notebook_is_made_anew(published: Path, tool: Tool) -> None:
    before = hashes(published)
    (published / FIRST).write_bytes(b"\0" * 5000)
    assert tool("run", "01", "--profile", "full").returncode == 0
    assert tool("check").returncode == 0
    assert hashes(published) == before


def test_what_was_read_is_what_was_waited_for(published: Path, tool: Tool, monkeypatch) -> None:
    assert set(stamp(published / SECOND)["read"]) == {
        *("data/results/01_first.json", "data/results/predictions/xrd.txt")
    }
    # Of a file that several write alike it is enough to have waited for one.
    shared = "data/results/predictions/xrd.txt"
    same = stamp(published / FIRST)["wrote"][shared]
    change_notebook(published / SECOND, change_stamp("wrote", shared, same))
    assert tool("check").returncode == 0
    monkeypatch.setitem(READS, "02_second", ())
    checked = tool("check")
    assert checked.returncode == 1
    assert "02_second read data/results/01_first.json, which 01_first wrote, without" in (
        checked.stdout
    )
    monkeypatch.delitem(READS, "02_second")
    change_notebook(published / SECOND, change_stamp("read", "data/results/orphan.json", "0"))
    assert "orphan.json, which no chapter writes" in tool("check").stdout
    change_notebook(published / SECOND, change_stamp("read", "data/results/grid/a.parquet", "0"))
    told = tool("check").stdout  # a command writes it
    assert "orphan.json, which no" in told and "a.parquet, which no" not in told


def test_a_chapter_that_reads_its_own_old_results_is_a_circle(published: Path, tool: Tool) -> None:
    source = published / "chapters/src/01_first.md"
    edit(
        source,
        "rec = Recorder",
        "from unimat_book.record import chapter_results\n"
        'old = chapter_results("01_first", run_dir)\nrec = Recorder',
    )
    assert tool("run", "01", "--profile", "full").returncode == 0
    assert "01_first read data/results/01_first.json, which 01_first wrote" in tool("check").stdout


def test_no_chapter_waits_for_itself_and_each_for_all_whose_results_it_names() -> None:
    book = Book(Path(__file__).resolve().parents[2])
    waits = chapter_waits(list(book.chapters))
    assert set(READS) <= set(book.chapters)
    done: set[str] = set()
    while ready := {name for name in waits if waits[name] <= done} - done:
        done |= ready
    assert done == set(book.chapters)
    for name, chapter in book.chapters.items():
        code = "\n".join(c.source for c in chapter.notebook.cells if c.cell_type == "code")
        named = {other for other in book.chapters if f'"{other}"' in code} - {name}
        named |= {other for other in book.chapters if f"run {other[:2]} --profile" in code}
        assert named <= waits[name], name


def test_the_stamp_names_all_that_was_used(published: Path) -> None:
    first = stamp(published / FIRST)
    assert {f"unimat_toy.{module}" for module in ("base", "tiny", "figures.draw")} <= set(
        first["code"]
    )
    assert "unimat_toy.unused" not in first["code"]
    assert first["data"] == {"toys": "toys-0123.parquet"} and first["read"] == {}
    places = {Path(name).relative_to("data").parts[0] for name in first["wrote"]}
    assert places == set(STAGED) and len(first["wrote"]) == 3
    assert first["commit"] is None  # no repository


def test_the_commit_is_noted_when_nothing_was_edited(root: Path, tool: Tool) -> None:
    def git(*words: str) -> str:
        who = ("-c", "user.name=A", "-c", "user.email=a@example.org")
        answer = subprocess.run(["git", *who, *words], cwd=root, capture_output=True, check=True)
        return answer.stdout.decode().strip()

    git("init")
    git("add", ".")
    git("commit", "-m", "toy")
    assert tool("run", "02", "--profile", "quick").returncode == 1  # nothing to read yet
    assert tool("run", "01").returncode == 0
    assert stamp(root / "_build/quick" / FIRST)["commit"] == git("rev-parse", "HEAD")


def test_versions_are_read_from_locks_with_and_without_hashes(tmp_path: Path) -> None:
    path = tmp_path / "requirements.lock"
    path.write_text(
        "# a==1\nTorch_geometric==2.7.0 \\\n    --hash=sha256:aa\nb.c==1.0+cpu ; x\nd>=1\n"
    )
    assert locked_versions(path) == {"torch-geometric": "2.7.0", "b-c": "1.0"}
    assert locked_versions(tmp_path / "none") == {}


def test_stderr_errors_and_unrun_cells_are_problems() -> None:
    cell = nbformat.v4.new_code_cell
    stream = nbformat.v4.new_output("stream", name="stderr", text="UserWarning: no\n")
    failure = nbformat.v4.new_output("error", ename="KeyError", evalue="'x'", traceback=[])
    notebook = nbformat.v4.new_notebook(
        cells=[
            nbformat.v4.new_markdown_cell("# T"),
            cell("1", execution_count=1),
            cell("2", execution_count=2, outputs=[stream]),
            cell("3", execution_count=3, outputs=[failure]),
            cell("4"),
            cell(""),
        ]
    )
    assert output_problems(notebook) == [
        "code cell 2 wrote to stderr: UserWarning: no",
        "code cell 3 failed: KeyError: 'x'",
        "code cell 4 was not run",
    ]


def test_text_goes_into_a_notebook_only_if_its_code_is_the_same(published: Path) -> None:
    chapter = Book(published).chapters["01_first"]
    notebook = nbformat.read(published / FIRST, as_version=4)
    used = notebook.metadata["unimat"]["parameters"]
    before = files(published)
    assert with_prose(chapter, notebook, used) == notebook
    assert with_prose(chapter, notebook, {**used, "more": 1}) is None
    notebook.cells.append(nbformat.v4.new_code_cell("1", id="one-more"))
    assert with_prose(chapter, notebook, used) is None
    assert files(published) == before
