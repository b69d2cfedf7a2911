"""unimat-book on a book of two small chapters in a temporary folder."""

from __future__ import annotations

import ast
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import nbformat
import pytest
from book import (
    LEDGER_VARIANTS,
    READS,
    RETRIEVALS,
    SETTINGS,
    chapter_waits,
    fill,
    main,
    page_problems,
    results_block,
    run_side_by_side,
    running_order,
    stage,
)
from sources import Book, BookError, coerce, parse_settings
from stamps import library_hashes, normal_form, output_problems, prose_differs, stale_reasons

REPOSITORY = Path(__file__).resolve().parents[2]
TOOL = REPOSITORY / "tools" / "book.py"
HEADER = """\
---
jupytext:
  text_representation:
    extension: .md
    format_name: myst
kernelspec:
  name: python3
  display_name: Python 3
  language: python
---

"""
FIRST = (
    HEADER
    + """\
# First

A sentence of prose that is long enough for the page not to count as empty.

```{code-cell} ipython3
:tags: [parameters]

run_dir = "_build/quick"  # where results go
epochs = 2  # passes
rate = 0.1  # per step
mode = "good"  # what to do
```

```{code-cell} ipython3
import os
import sys
import time

from unimat_lib.record import Recorder
from unimat_lib.tiny import double

rec = Recorder("01_first", run_dir)
rec("doubled", double(epochs))
if mode == "raise":
    raise RuntimeError("as asked")
if mode == "wait":
    open("_build/waiting", "w").close()
    time.sleep(60)
if mode == "die":
    os._exit(1)
if mode == "warn":
    print("careful", file=sys.stderr)
print(sys.executable, os.getcwd())
```

The value is {glue:text}`doubled:d`.
"""
)
SECOND = (
    HEADER
    + """\
# Second

Reads what the first chapter wrote, and says so in a sentence of some length.

```{code-cell} ipython3
:tags: [parameters]

run_dir = "_build/quick"
```

```{code-cell} ipython3
from unimat_lib.record import results

results("01_first", run_dir)["doubled"]
```
"""
)
PARAMS = """\
quick:
  all: {run_dir: _build/quick}
full:
  all: {run_dir: data}
  01_first: {epochs: 5}
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A book of two chapters with a library of two modules of its own."""
    for folder in ("chapters/src", "unimat_lib", "_static"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "chapters/src/01_first.md").write_text(FIRST)
    (tmp_path / "chapters/src/02_second.md").write_text(SECOND)
    (tmp_path / "params.yml").write_text(PARAMS)
    for module in ("record.py", "files.py"):
        shutil.copy(REPOSITORY / "unimat_lib" / module, tmp_path / "unimat_lib" / module)
    (tmp_path / "unimat_lib/__init__.py").write_text("")
    (tmp_path / "unimat_lib/base.py").write_text("FACTOR = 2\n")
    (tmp_path / "unimat_lib/unused.py").write_text("X = 1\n")
    (tmp_path / "unimat_lib/tiny.py").write_text(
        'from .base import FACTOR\n\n\ndef double(x):\n    """Twice x."""\n    return FACTOR * x\n'
    )
    (tmp_path / "index.md").write_text(
        "# A small book\n\nIt has a landing page with one cross-page number, "
        "{glue:text}`chapters/01_first.ipynb::doubled:d`.\n\n"
        "<!-- results:begin -->\n<!-- results:end -->\n\n"
        "<!-- status:begin -->\n<!-- status:end -->\n"
    )
    (tmp_path / "_toc.yml").write_text(
        "format: jb-book\nroot: index.md\nchapters:\n"
        "  - file: chapters/01_first.ipynb\n  - file: chapters/02_second.ipynb\n"
    )
    (tmp_path / "_config.yml").write_text(
        'title: Small\nonly_build_toc_files: true\nexecute:\n  execute_notebooks: "off"\n'
    )
    return tmp_path


@dataclass
class Done:
    returncode: int
    stdout: str
    stderr: str


Tool = Callable[..., Done]


@pytest.fixture
def tool(
    root: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Iterator[Tool]:
    """The command line, in this process (importing the notebook tools takes seconds)."""
    monkeypatch.setenv("UNIMAT_ROOT", str(root))
    handler = signal.getsignal(signal.SIGTERM)

    def call(*words: str) -> Done:
        capfd.readouterr()
        code = main(words)
        return Done(code, *capfd.readouterr())

    yield call
    signal.signal(signal.SIGTERM, handler)


def files(root: Path) -> dict[str, bytes]:
    """Everything outside ``_build``."""
    paths = (p for p in root.rglob("*") if p.is_file() and "__pycache__" not in p.parts)
    return {
        str(p.relative_to(root)): p.read_bytes()
        for p in paths
        if p.relative_to(root).parts[0] != "_build"
    }


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def stale(root: Path) -> list[str]:
    book = Book(root)
    notebook = nbformat.read(book.notebook_path("01_first", "full"), as_version=4)
    parameters = book.parameters("full")["01_first"]
    return stale_reasons(book, book.chapters["01_first"], notebook, "full", parameters)


def test_quick_profile_runs_builds_and_leaves_the_tree_alone(root: Path, tool: Tool) -> None:
    before = files(root)

    missing = tool("build", "--profile", "quick")
    assert missing.returncode == 1
    assert "unimat-book run 01 --profile quick" in missing.stderr

    ran = tool("run", "all", "--profile", "quick", "--set", "epochs=3")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert json.loads((root / "_build/quick/results/01_first.json").read_text()) == {"doubled": 6}
    notebook = nbformat.read(root / "_build/quick/chapters/01_first.ipynb", as_version=4)
    assert "epochs = 3  # passes" in notebook.cells[1].source  # the value used, comment kept
    assert notebook.cells[2].outputs[-1].text.split() == [sys.executable, str(root)]
    assert not any(cell.metadata.get("papermill") for cell in notebook.cells)
    stamp = notebook.metadata["unimat"]
    assert stamp["parameters"]["epochs"] == 3
    assert set(stamp["library"]) == {
        "unimat_lib",
        *(f"unimat_lib.{module}" for module in ("base", "files", "record", "tiny")),
    }
    assert stamp["versions"]["python"] == sys.version.split()[0]

    # It was run with an override, so it is not what params.yml gives.
    other = tool("build", "--profile", "quick")
    assert "parameter epochs is 2 now, was 3 in the run" in other.stderr

    assert tool("run", "1", "--profile", "quick").returncode == 0
    built = tool("build", "--profile", "quick")
    assert built.returncode == 0, built.stdout + built.stderr
    index = Path(built.stdout.split()[-1])
    page = index.read_text()
    assert "no claim rests on its numbers" in page
    assert "fresh" in page
    assert '<span class="pasted-text">4</span>' in page
    assert files(root) == before
    assert not list((root / "_build/scratch").iterdir())


def test_failed_and_killed_runs_never_touch_what_is_published(root: Path, tool: Tool) -> None:
    assert tool("run", "01", "--profile", "full").returncode == 0
    before = files(root)
    assert "chapters/01_first.ipynb" in before
    assert json.loads(before["data/results/01_first.json"]) == {"doubled": 10}

    failed = tool("run", "01", "--profile", "full", "--set", "mode='raise'")
    assert failed.returncode == 1
    assert "01_first did not run through" in failed.stderr
    assert "cell 2" in failed.stderr
    assert "RuntimeError: as asked" in failed.stderr
    assert str(root / "_build/failed/01_first.ipynb") in failed.stderr
    assert (root / "_build/failed/01_first.ipynb").is_file()
    assert files(root) == before

    died = tool("run", "01", "--profile", "full", "--set", "mode=die")
    assert died.returncode == 1
    assert "DeadKernelError" in died.stderr
    assert files(root) == before

    for sign in (signal.SIGTERM, signal.SIGKILL):
        waiting = root / "_build/waiting"
        waiting.unlink(missing_ok=True)
        process = subprocess.Popen(
            [sys.executable, str(TOOL), "run", "01", "--profile", "full", "--set", "mode=wait"],
            env={**os.environ, "UNIMAT_ROOT": str(root)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 60
        while not waiting.is_file():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.1)
        process.send_signal(sign)
        assert process.wait(timeout=30) != 0
        assert files(root) == before
    assert stale(root) == []


def test_check_staleness_and_refresh(root: Path, tool: Tool) -> None:
    assert tool("run", "all", "--profile", "full").returncode == 0
    assert tool("readme").returncode == 0  # the line that says what is missing
    checked = tool("check")
    assert checked.returncode == 0, checked.stdout
    source, published = root / "chapters/src/01_first.md", root / "chapters/01_first.ipynb"
    made = published.read_bytes()

    # Layout, comments and docstrings of the library, and modules not imported, do not matter.
    edit(root / "unimat_lib/tiny.py", '"""Twice x."""', '"""Two times x."""  # why not')
    edit(root / "unimat_lib/unused.py", "1", "2")
    assert stale(root) == []

    # Prose and comments need no run, but a refresh.
    edit(source, "A sentence of prose", "An edited sentence of prose")
    edit(source, "epochs = 2  # passes", "epochs = 2  # passes over the data")
    assert stale(root) == []
    assert "no run is needed: unimat-book refresh 01" in tool("check").stdout
    assert tool("refresh", "01").returncode == 0
    assert tool("check").returncode == 0
    notebook = nbformat.read(published, as_version=4)
    assert "An edited sentence" in notebook.cells[0].source
    assert "epochs = 5  # passes over the data" in notebook.cells[1].source
    assert notebook.cells[2].outputs == nbformat.reads(made.decode(), as_version=4).cells[2].outputs

    # Code does.
    edit(source, 'rec("doubled", double(epochs))', 'rec("doubled", 1 + double(epochs))')
    assert stale(root) == ["the chapter's code changed"]
    refused = tool("refresh", "01")
    assert refused.returncode == 1
    assert "run: unimat-book run 01 --profile full" in refused.stderr
    edit(source, "1 + double", "double")

    edit(root / "unimat_lib/base.py", "2", "3")
    assert stale(root) == ["library changed: unimat_lib.base"]
    edit(root / "unimat_lib/base.py", "3", "2")

    edit(root / "params.yml", "epochs: 5", "epochs: 7")
    assert stale(root) == ["parameter epochs is 7 now, was 5 in the run"]
    assert "stale: parameter epochs" in tool("status").stdout
    edit(root / "params.yml", "epochs: 7", "epochs: 5")

    notebook.cells[2].source = notebook.cells[2].source.replace("double(epochs)", "10")
    nbformat.write(notebook, published)
    assert stale(root) == ["the notebook's code was edited by hand"]
    del notebook.metadata["unimat"]
    nbformat.write(notebook, published)
    assert stale(root) == ["has no stamp: it was not made by unimat-book run"]

    published.unlink()
    assert "run 01 --profile full" in tool("check").stdout


def side_by_side(folder: Path, waits: dict[str, set[str]], scripts: dict[str, str]) -> None:
    """Run small Python scripts in place of chapters; each leaves a file of its name at its end."""

    def command(name: str) -> list[str]:
        script = f"{scripts.get(name, '')}\nopen({name!r}, 'w').close()"
        return [sys.executable, "-c", f"import os, sys, time\nos.chdir({str(folder)!r})\n{script}"]

    run_side_by_side(waits, command, jobs=2, environment=os.environ, cores=4)


def test_chapters_run_side_by_side_but_not_before_what_they_read(tmp_path: Path) -> None:
    until = "while not os.path.exists({!r}): time.sleep(0.01)"
    scripts = {
        "a": "open('a_began', 'w').close()\n" + until.format("b_began"),
        "b": "open('b_began', 'w').close()\n" + until.format("a_began"),
        "c": "assert os.path.exists('a')\nassert os.environ['OMP_NUM_THREADS'] == '2'",
        "d": "assert os.path.exists('b') and os.path.exists('c')",
    }
    side_by_side(tmp_path, {"a": set(), "b": set(), "c": {"a"}, "d": {"b", "c"}}, scripts)
    assert {"a", "b", "c", "d"} <= {path.name for path in tmp_path.iterdir()}


def test_what_most_wait_for_goes_first(tmp_path: Path) -> None:
    log = "open('log', 'a').write({!r})\ntime.sleep(0.2)"
    waits = {"a": set(), "b": set(), "c": set(), "d": {"c"}, "e": {"d"}}
    side_by_side(tmp_path, waits, {name: log.format(name) for name in waits})
    assert "c" in (tmp_path / "log").read_text()[:2]


def test_after_a_failure_running_chapters_finish_and_no_other_begins(tmp_path: Path) -> None:
    waits = {"a": set(), "b": set(), "c": {"a"}, "d": set()}
    scripts = {"a": "sys.exit(1)", "b": "time.sleep(1)"}
    with pytest.raises(BookError, match=r"failed: a \(see above\); not run: c, d"):
        side_by_side(tmp_path, waits, scripts)
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_each_chapter_waits_for_all_whose_results_it_names() -> None:
    """And one that nobody listed waits for all before it."""
    book = Book(REPOSITORY)
    assert set(READS) <= set(book.chapters)
    for name, chapter in book.chapters.items():
        code = "\n".join(c.source for c in chapter.notebook.cells if c.cell_type == "code")
        named = {other for other in book.chapters if f'"{other}"' in code} - {name}
        named |= {other for other in book.chapters if f"run {other[:2]} --profile" in code}
        assert named <= chapter_waits(list(book.chapters))[name], name
    assert chapter_waits(["01_crystals_and_splits", "99_new"]) == {
        "01_crystals_and_splits": set(),
        "99_new": {"01_crystals_and_splits"},
    }
    assert chapter_waits(["04_alignment", "05_fusion"])["05_fusion"] == set()


def test_independent_chapters_of_a_book_run_at_once(root: Path, tool: Tool, monkeypatch) -> None:
    third = FIRST.replace("01_first", "03_third").replace("First", "Third")
    (root / "chapters/src/03_third.md").write_text(third)
    monkeypatch.setitem(READS, "03_third", ())
    ran = tool("run", "01", "03", "--jobs", "2", "--set", "epochs=4")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    begun = [line.endswith("running (quick)") for line in ran.stdout.splitlines()]
    assert begun[:2] == [True, True]  # both, before either was done
    for name in ("01_first", "03_third"):
        path = root / f"_build/quick/results/{name}.json"
        assert json.loads(path.read_text()) == {"doubled": 8}
    failed = tool("run", "01", "02", "--jobs", "2", "--set", "mode=raise")
    assert failed.returncode == 1
    assert "RuntimeError: as asked" in failed.stderr
    assert "failed: 01_first (see above); not run: 02_second" in failed.stderr
    with pytest.raises(SystemExit):
        tool("run", "all", "--jobs", "0")


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


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ("quick: {all: {epoch: 3}}", "did you mean 'epochs'?"),
        ("quick: {01_first: {epoch: 3}}", "quick/01_first: the chapter has no parameter 'epoch'"),
        ("quick: {02_second: {epochs: 3}}", "has no parameter 'epochs'"),
        ("quick: {01_frist: {epochs: 3}}", "did you mean '01_first'?"),
        ("quik: {all: {}}", "did you mean 'quick'?"),
        ("quick: {all: {epochs: 3.5}}", "epochs must be int, got float 3.5"),
        ("quick: {all: {epochs: true}}", "epochs must be int, got bool"),
        ("quick: {all: {epochs: '3'}}", "epochs must be int, got str"),
        ("quick: {all: {rate: 1e-3}}", "YAML reads 1e-3 as text: write 1.000000e-03"),
        ("quick: {all: [1]}", "expected name: value lines"),
        ("quick: {", "params.yml cannot be read"),
    ],
)
def test_params_yml_mistakes(root: Path, params: str, message: str) -> None:
    (root / "params.yml").write_text(params)
    with pytest.raises(BookError) as caught:
        Book(root).parameters("quick")
    assert message in str(caught.value)


def test_command_line_mistakes(root: Path, tool: Tool) -> None:
    for words, message in [
        (("run", "01", "--set", "epoch=3"), "did you mean 'epochs'?"),
        (("run", "02", "--set", "epochs=3"), "none of the chosen chapters"),
        (("run", "01", "--set", "epochs=three"), "epochs must be int, got str 'three'"),
        (("run", "01", "--set", "epochs"), "expected name=value"),
        (("run", "07"), "no chapter '07'"),
        (("run", "01", "--set", "run_dir=data"), "quick profile writes only under"),
    ]:
        done = tool(*words)
        assert done.returncode == 1
        assert message in done.stderr
    assert not (root / "_build").exists()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("rate = epochs * 0.1", "01_first.md:21"),
        ("import os", "`import os`"),
        ("a = b = 1", "holds only `name = literal`"),
        ("rate = ", "parameters cell"),
    ],
)
def test_parameters_cell_holds_literals_only(root: Path, line: str, message: str) -> None:
    edit(root / "chapters/src/01_first.md", "rate = 0.1  # per step", line)
    with pytest.raises(BookError) as caught:
        _ = Book(root).chapters["01_first"].parameters
    assert message in str(caught.value)


def test_profile_values_are_written_in_place(root: Path) -> None:
    edit(root / "chapters/src/01_first.md", "rate = 0.1  # per step", "rate = (\n  0.1,\n)  # Å⁻¹")
    chapter = Book(root).chapters["01_first"]
    assert chapter.parameters["rate"] == (0.1,)
    assert "rate = (0.2, 0.3)  # Å⁻¹\nmode" in chapter.source_with({"rate": [0.2, 0.3]})
    assert chapter.source_with({}) == chapter.notebook.cells[1].source


def test_a_pending_chapter_says_so_and_does_not_stay_listed(root: Path, tool: Tool) -> None:
    assert tool("run", "all", "--profile", "full").returncode == 0
    assert tool("readme").returncode == 0
    pending = root / "chapters/pending.yml"
    pending.write_text("01_first: The machine is being repaired.\n")
    fresh = tool("check")
    assert fresh.returncode != 0
    assert "01_first is up to date: take it out of chapters/pending.yml" in fresh.stdout

    edit(root / "unimat_lib/tiny.py", "FACTOR * x", "x * FACTOR")
    pending.unlink()
    assert tool("check").returncode != 0
    pending.write_text("01_first: The machine is being repaired.\n")
    checked = tool("check")
    assert checked.returncode == 0, checked.stdout
    assert "01_first is older than its source" in checked.stdout
    assert "The machine is being repaired." in checked.stdout
    staged = stage(Book(root), "full")
    assert "The machine is being repaired." in (staged / "chapters/01_first.ipynb").read_text()
    assert "repaired" not in (root / "chapters/01_first.ipynb").read_text()

    # Unfinished output is never published, pending or not.
    notebook = root / "chapters/01_first.ipynb"
    edit(notebook, '"execution_count": 1', '"execution_count": null')
    assert tool("check").returncode != 0
    for bad, message in (("99_gone: x", "no chapter"), ("01_first: ", "needs a sentence")):
        pending.write_text(bad)
        assert message in (answer := tool("check")).stdout + answer.stderr


def test_values_are_checked_against_the_default() -> None:
    assert coerce(1, 0.5, "x") == 1.0 and isinstance(coerce(1, 0.5, "x"), float)
    assert coerce([1, 2], (0,), "x") == (1, 2)
    assert coerce([], [1], "x") == []
    for value, default in [(True, 1), (True, 0.5), (1, True), (None, 1), ([1, "a"], [0]), (1, "a")]:
        with pytest.raises(BookError):
            coerce(value, default, "x")
    assert parse_settings(["a=1", "b=x y", "c=[0, 1]", "d="]) == {
        **{"a": 1, "b": "x y", "c": [0, 1], "d": ""}
    }


def test_normal_form_ignores_the_empty_parts_that_python_3_12_adds(monkeypatch) -> None:
    code = 'text = f"{x:+{spec}} to {y}"'
    expected, parse = normal_form(code), ast.parse

    def as_python_3_12(source):
        tree = parse(source)
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr):
                node.values.append(ast.Constant(""))
        return tree

    monkeypatch.setattr(ast, "parse", as_python_3_12)
    assert normal_form(code) == expected


def test_normal_form_ignores_comments_and_docstrings_only() -> None:
    code = 'def f(x):\n    """Doc."""\n    return x + 1  # why\n'
    assert normal_form(code) == normal_form("def f(x):\n\n    return (x+1)\n")
    assert normal_form(code) != normal_form("def f(x):\n    return x + 2\n")
    assert normal_form("x = 1") != normal_form("x = True")
    assert normal_form("x = None") != normal_form("x = 1")
    assert normal_form("x;") != normal_form("x")
    assert normal_form("%matplotlib inline\n") == normal_form("%matplotlib inline")


def test_library_hashes_follow_imports(root: Path) -> None:
    assert set(library_hashes(root, ["from unimat_lib import base"])) == {
        *("unimat_lib", "unimat_lib.base")
    }
    magic = "%time\nfrom unimat_lib.tiny import double\n"
    assert "unimat_lib.base" in library_hashes(root, [magic])
    assert library_hashes(root, ["import numpy"]) == {}


def test_settings_are_called_as_in_the_ledger() -> None:
    from unimat_book.ledger.settings import RANKS, SETTINGS, VARIANTS

    assert dict(SETTINGS) == SETTINGS
    assert set(LEDGER_VARIANTS) == {"paper", *VARIANTS}
    assert set(RETRIEVALS) == set(RANKS)


def test_the_ledger_waits_for_all_that_it_counts() -> None:
    from unimat_book.ledger.settings import PREDICTIONS, RANKS

    numbers = {name[:2] for name in READS["08_ledger"]}
    assert numbers == {*PREDICTIONS.values(), *RANKS.values()}


def test_a_chapter_runs_after_a_later_one_that_it_reads() -> None:
    names = ["03_encoders", "07_crystal_systems", "08_ledger", "A1_performance", "06_refinement"]
    ordered = running_order(names)
    assert sorted(ordered) == names
    for name, before in chapter_waits(names).items():
        assert all(ordered.index(other) < ordered.index(name) for other in before)
    assert ordered.index("06_refinement") < ordered.index("08_ledger")
    assert running_order(["b", "a"]) == ["b", "a"]  # not listed: reading order


def test_check_notices_an_outdated_readme(root: Path, tool: Tool) -> None:
    (root / "README.md").write_text("# B\n\n<!-- results:begin -->\n<!-- results:end -->\n")
    assert tool("run", "all", "--profile", "full").returncode == 0
    assert tool("readme").returncode == 0
    assert tool("check").returncode == 0
    entry = {"setting": "xrd", "variant": "ours", "metric": "scaled_length_mae", "mean": 0.1}
    (root / "data/results").mkdir(parents=True, exist_ok=True)
    (root / "data/results/ledger.json").write_text(json.dumps([entry]))
    refused = tool("check")
    assert refused.returncode == 1
    assert "README.md: the results table is not that of data/results/ledger.json" in refused.stdout
    assert tool("readme").returncode == 0
    assert tool("check").returncode == 0
    assert "| XRD | – | – | 0.100 |" in (root / "README.md").read_text()


def test_results_table_and_blocks(root: Path) -> None:
    book = Book(root)
    assert "unimat-book run all --profile full" in results_block(book, "full")

    def entry(setting, variant, metric, mean, std=None):
        numbers = {"mean": mean, "std": std, "seeds": 3, "ci95": [0, 1], "n_test": 9046}
        return {"setting": setting, "variant": variant, "metric": metric} | numbers

    fused = "xrd_composition_aligned_fused"
    entries = [
        entry("xrd", "paper", "scaled_length_mae", 0.17),
        entry("xrd", "ours", "scaled_length_mae", 0.0861, 0.0012),
        entry("xrd", "ours_refined", "scaled_length_mae", 0.0449, 0.0004),
        entry("xrd", "ours", "length_mae", 0.1234, 0.001),
        entry("xrd", "ours", "crystal_system_accuracy", 92.04, 0.1),
        entry(fused, "paper", "crystal_system_accuracy", 85.1),
    ]
    folder = root / "data/results"
    folder.mkdir(parents=True)
    (folder / "ledger.json").write_text(json.dumps(entries))
    lines = results_block(book, "full").splitlines()
    table = [line for line in lines if line.startswith("|")]
    assert len({line.count("|") for line in table}) == 1 and len(table) == 2 + len(SETTINGS)
    assert (
        "| XRD | 0.17 | – | 0.086 ± 0.001 | 0.045 ± 0.000 | 0.123 ± 0.001 | 92.0 ± 0.1 |" in table
    )
    assert "| composition | – | – | – | – | – | – |" in table
    assert "the paper's best is 85.1 %" in lines[-1]

    # The line on retrieval: ours before the reproduction, beside what others have published.
    recall = [entry("structure_aligned_xrd", "reproduction", f"recall_at_{k}", k) for k in (1, 10)]
    (folder / "ledger.json").write_text(json.dumps(entries + recall))
    assert "first in 1.0 % and among ten in 10.0 %" in results_block(book, "full")
    recall += [entry("all_three", "ours", f"recall_at_{k}", 50 + k, 0.2) for k in (1, 10)]
    (folder / "ledger.json").write_text(json.dumps(entries + recall))
    last = results_block(book, "full").splitlines()[-1]
    assert "all 9,046 test crystals" in last and "PXRDGen" not in last
    assert "first in 51.0 ± 0.2 % and among ten in 60.0 ± 0.2 % of cases (ours; " in last
    (root / "data/published.yml").write_text((REPOSITORY / "data/published.yml").read_text())
    assert "PXRDGen's logs hold 47.0 % and 92.4 %" in results_block(book, "full")

    text = "a\n<!-- results:begin -->\nold\n<!-- results:end -->\nb"
    filled = fill(text, "results", r"new \1")
    assert "old" not in filled and r"new \1" in filled
    assert fill(filled, "results", r"new \1") == filled
    assert fill("no marker", "results", "x") == "no marker"
    (folder / "ledger.json").write_text('[{"setting": "XRD"}]')
    with pytest.raises(BookError, match="expected a list of objects"):
        results_block(book, "full")


def test_missing_untitled_and_empty_pages_are_found(root: Path, tmp_path: Path) -> None:
    pages = tmp_path / "html"
    (pages / "chapters").mkdir(parents=True)
    (pages / "index.html").write_text("<title>T</title><article>" + "word " * 20 + "</article>")
    (pages / "chapters/01_first.html").write_text("<title> </title><article>short</article>")
    problems = page_problems(Book(root), pages)
    assert [p.split(": ")[1].split(" (")[0] for p in problems[:2]] == [
        *("the page has no title", "the page is all but empty")
    ]
    assert "02_second.ipynb: no page" in problems[2]


def test_prose_comparison_is_about_the_text(root: Path) -> None:
    chapter = Book(root).chapters["01_first"]
    notebook = nbformat.from_dict(json.loads(json.dumps(chapter.notebook)))
    notebook.metadata["unimat"] = {"parameters": chapter.parameters}
    assert not prose_differs(chapter, notebook)
    notebook.cells[0].source += " More."
    assert prose_differs(chapter, notebook)
