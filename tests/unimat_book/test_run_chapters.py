"""Chapters run, built, failed and refused, on the toy book."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
import threading
import time
from pathlib import Path

import nbformat
import pytest
from toy_book import FIRST, Tool, edit, files, hashes, scratch, stamp, start, wait_until

from unimat_book.run import execute, kernels, pages
from unimat_book.run.execute import publish
from unimat_book.run.order import READS
from unimat_book.run.pages import stage
from unimat_book.run.sources import Book


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
    (printed,) = (o.text for o in notebook.cells[2].outputs if o.output_type == "stream")
    assert printed == "True\n"  # it ran in the folder of the book
    assert not any(cell.metadata.get("papermill") for cell in notebook.cells)
    made = notebook.metadata["unimat"]
    assert made["parameters"]["epochs"] == 3
    assert made["versions"]["python"] == sys.version.split()[0]

    # It was run with an override, so it is not what params.yml gives.
    other = tool("build", "--profile", "quick")
    assert "parameter epochs is 2 now, was 3 in the run" in other.stderr

    assert tool("run", "1", "--profile", "quick").returncode == 0
    assert tool("run", "2", "--profile", "quick").returncode == 0
    built = tool("build", "--profile", "quick")
    assert built.returncode == 0, built.stdout + built.stderr
    index = Path(built.stdout.split()[-1])
    page = index.read_text()
    assert "no claim rests on its numbers" in page
    assert "fresh" in page
    assert '<span class="pasted-text">4</span>' in page
    assert files(root) == before
    assert scratch(root) == []


def test_a_failed_run_touches_nothing_that_is_published(published: Path, tool: Tool) -> None:
    before = files(published)
    failed = tool("run", "01", "--profile", "full", "--set", "mode='raise'")
    assert failed.returncode == 1
    assert "01_first did not run through" in failed.stderr
    assert "cell 2" in failed.stderr
    assert "RuntimeError: as asked" in failed.stderr
    assert str(published / "_build/failed/01_first.ipynb") in failed.stderr
    assert (published / "_build/failed/01_first.ipynb").is_file()
    died = tool("run", "01", "--profile", "full", "--set", "mode=die")
    assert died.returncode == 1
    assert "DeadKernelError" in died.stderr
    assert files(published) == before
    assert scratch(published) == []


def test_independent_chapters_of_a_book_run_at_once(root: Path, tool: Tool, monkeypatch) -> None:
    third = FIRST.replace("01_first", "03_third").replace("First", "Third")
    (root / "chapters/src/03_third.md").write_text(third)
    monkeypatch.setitem(READS, "03_third", ())
    # Each goes on when the other has come as far: one after the other, the first would fail.
    ran = tool("run", "01", "03", "--jobs", "2", "--set", "epochs=4", "--set", "mode=meet")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    for name in ("01_first", "03_third"):
        path = root / f"_build/quick/results/{name}.json"
        assert json.loads(path.read_text()) == {"doubled": 8}
    failed = tool("run", "01", "02", "--jobs", "2", "--set", "mode=raise")
    assert failed.returncode == 1
    assert "RuntimeError: as asked" in failed.stderr
    assert "failed: 01_first (see above); not run: 02_second" in failed.stderr


def test_what_was_true_when_a_run_began_counts(published: Path, tool: Tool, monkeypatch) -> None:
    """The table and the code may change while it lasts: the stamp must not name the new ones."""
    run_cells = execute.execute_cells

    def edited_meanwhile(*args):
        notebook = run_cells(*args)
        (published / "data/cache/toys.json").write_text('{"table": "toys-new.parquet"}')
        edit(published / "unimat_toy/base.py", "2 *", "3 *")
        return notebook

    monkeypatch.setattr(execute, "execute_cells", edited_meanwhile)
    assert tool("run", "01", "--profile", "full").returncode == 0
    checked = tool("check").stdout
    assert "the table of toys is toys-new.parquet now, was toys-0123.parquet" in checked
    assert "the code it runs changed: unimat_toy.base" in checked


def test_a_second_run_is_refused_and_does_not_slow_the_first(root: Path, tool: Tool) -> None:
    first = start(root, "run", "01", "--set", "mode=wait")
    wait_until((root / "_build/waiting").is_file)
    begun = time.process_time()
    second = tool("run", "01")  # one that waited for the first would wait for long
    assert time.process_time() - begun < 2
    assert second.returncode == 1
    assert "another process is at quick-01_first: wait until it has ended" in second.stderr
    assert first.poll() is None
    first.terminate()
    out, err = first.communicate(timeout=240)
    assert first.returncode == 143, out + err


def test_a_second_build_is_refused_and_does_not_slow_the_first(
    root: Path, tool: Tool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in ("01", "02"):
        assert tool("run", number).returncode == 0
    refused = []

    def staged_meanwhile(*args):
        staged = stage(*args)
        begun = time.process_time()
        refused.append(tool("build"))  # while the first one is at it
        assert time.process_time() - begun < 2
        return staged

    monkeypatch.setattr(pages, "stage", staged_meanwhile)
    first = tool("build")
    assert first.returncode == 0, first.stdout + first.stderr
    (second,) = refused
    assert second.returncode == 1
    assert "another process is at quick-build: wait until it has ended" in second.stderr


def test_a_pending_chapter_says_so_on_its_page(published: Path, tool: Tool) -> None:
    (published / "chapters/pending.yml").write_text("01_first: The machine is being repaired.\n")
    staged = stage(Book(published), "full")
    assert "The machine is being repaired." in (staged / "chapters/01_first.ipynb").read_text()
    assert "repaired" not in (published / "chapters/01_first.ipynb").read_text()


def test_only_harmless_warnings_are_kept_from_a_page(root: Path, tool: Tool) -> None:
    edit(
        root / "chapters/src/01_first.md",
        'rec = Recorder("01_first", run_dir)\n',
        """import warnings

import numpy as np
import torch

column = np.arange(3)
column.flags.writeable = False  # as pandas hands out its columns
torch.from_numpy(column)
if mode == "good":
    warnings.warn("what matters", stacklevel=1)
rec = Recorder("01_first", run_dir)
""",
    )
    assert "wrote to stderr" in tool("run", "01").stdout
    assert "wrote to stderr" not in tool("run", "01", "--set", "mode=quiet").stdout


def full_disk(*args, **kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def failing_at(function, count: int):
    """A function that finds the disk full at its call of that number, and from then on."""
    calls = iter(range(1, 1000))
    return lambda *a, **k: full_disk() if next(calls) == count else function(*a, **k)


FULL_DISK = {
    "a file moved": ("shutil.move", 1),
    "a later file moved": ("shutil.move", 3),
    "the notebook moved": ("shutil.move", 4),
    "an old file kept": ("shutil.copy2", 2),
    "a rename": ("os.replace", 2),
    "the source written": ("nbformat.write", 1),
    "the finished notebook written": ("nbformat.writes", 3),
    "the scratch folder": ("tempfile.mkdtemp", 1),
    "papermill": ("papermill.execute_notebook", 1),
}


@pytest.mark.parametrize("case", FULL_DISK)
def test_a_full_disk_leaves_all_as_it_was(
    case: str, published: Path, tool: Tool, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = files(published)
    name, count = FULL_DISK[case]
    module, function = name.split(".")
    target = getattr(__import__(module), function)
    with monkeypatch.context() as patch:
        patch.setattr(name, failing_at(target, count))
        done = tool("run", "01", "--profile", "full", "--set", "epochs=6")
    assert done.returncode == 1
    assert "No space left on device" in done.stderr and "Traceback" not in done.stderr
    assert files(published) == before
    assert scratch(published) == []
    assert tool("check").returncode == 0


def test_a_full_disk_in_the_kernel_is_a_failed_chapter(published: Path, tool: Tool) -> None:
    source = published / "chapters/src/01_first.md"
    edit(source, 'rec("doubled"', 'raise OSError(28, "No space left on device")\nrec("doubled"')
    before = files(published)
    done = tool("run", "01", "--profile", "full")
    assert done.returncode == 1 and "No space left on device" in done.stderr
    assert files(published) == before


def test_a_full_disk_while_pages_are_built(published: Path, tool: Tool, monkeypatch) -> None:
    before = files(published)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfile", full_disk)
        done = tool("build", "--profile", "full")
    assert done.returncode == 1 and "No space left on device" in done.stderr
    assert "Traceback" not in done.stderr
    assert files(published) == before


def test_publishing_is_all_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def book() -> tuple[dict[Path, Path], list[Path], Path]:
        shutil.rmtree(tmp_path)
        scratch_folder = tmp_path / "scratch"
        scratch_folder.mkdir(parents=True)
        for name in ("a", "gone"):
            (tmp_path / name).write_text("old")
        new = {tmp_path / name: scratch_folder / name for name in ("a", "deep/b")}
        for path in new.values():
            path.parent.mkdir(exist_ok=True)
            path.write_text("new")
        return new, [tmp_path / "gone", tmp_path / "never"], scratch_folder

    def state() -> dict[str, str]:
        names = ("a", "deep/b", "gone")
        return {n: (tmp_path / n).read_text() for n in names if (tmp_path / n).is_file()}

    publish(*book())
    assert state() == {"a": "new", "deep/b": "new"}
    for name, last in (("shutil.copy2", 2), ("shutil.move", 2), ("pathlib.Path.unlink", 3)):
        module, *parts = name.split(".")
        function = __import__(module)
        for part in parts:
            function = getattr(function, part)
        for count in range(1, last + 1):
            given = book()
            with monkeypatch.context() as patch:
                patch.setattr(name, failing_at(function, count))
                with pytest.raises(OSError, match="No space"):
                    publish(*given)
            assert state() == {"a": "old", "gone": "old"}, (name, count)


def test_a_run_of_a_killed_process_is_swept_but_not_that_of_a_living_one(root: Path) -> None:
    book = Book(root)
    with kernels.scratch_folder(book, "living") as living:
        dead = living.parent / "dead-1234"
        (dead / "inside").mkdir(parents=True)
        with kernels.scratch_folder(book, "other") as other:
            assert not dead.exists()
            assert set(scratch(root)) == {living, other}
    assert scratch(root) == []


def test_many_processes_may_sweep_and_begin_at_once(root: Path) -> None:
    book, failures = Book(root), []

    def work() -> None:
        for _ in range(20):
            with kernels.scratch_folder(book, "x") as folder:
                (folder / "file").write_text("x")
                time.sleep(0.001)
                if not (folder / "file").is_file():
                    failures.append(folder)

    with pytest.MonkeyPatch.context() as patch:  # signals belong to the main thread
        patch.setattr(kernels, "uninterrupted", lambda: threading.Lock())
        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not failures and scratch(root) == []


def test_the_same_run_twice_has_the_same_hashes(published: Path, tool: Tool) -> None:
    before = hashes(published)
    date = stamp(published / "chapters/01_first.ipynb")["date"]
    for number in ("01", "02"):
        assert tool("run", number, "--profile", "full").returncode == 0
    assert hashes(published) == before and date
