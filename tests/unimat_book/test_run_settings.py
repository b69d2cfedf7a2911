"""Parameters from params.yml and the command line: mistakes, and files made to do harm."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_book import PARAMS, Tool, edit, files, make_toy_book

from unimat_book.run.commands import parser
from unimat_book.run.plain_yaml import LARGEST, BookError, read_yaml
from unimat_book.run.sources import Book, coerce, parse_settings


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
        ("quick: {all: {rate: .nan}}", "rate is nan: expected finite numbers"),
        ("quick: {all: {rate: .inf}}", "rate is inf: expected finite numbers"),
        ("quick: {all: {mode: 2026-01-01}}", "expected finite numbers, text, lists of them"),
        ("quick: {all: [1]}", "expected name: value lines"),
        ("quick: [1]", "params.yml, quick: expected chapters"),
        ("quick: {all: {epochs: 1, epochs: 2}}", "'epochs' twice: keep one"),
        ("quick: {}\nquick: {}", "'quick' twice: keep one"),
        ("quick: {", "params.yml cannot be read"),
        ("- quick", "params.yml: expected name: value lines, got a list"),
        ("quick", "params.yml: expected name: value lines, got a str"),
        ("1: {}", "no profile 1"),
        ("quick: {yes: {}}", "no chapter True"),
        ("quick: {all: {null: 1}}", "no chapter has a parameter None"),
        ("? [a]\n: 1", "params.yml cannot be read"),
    ],
)
def test_params_yml_mistakes(root: Path, params: str, message: str) -> None:
    (root / "params.yml").write_text(params)
    with pytest.raises(BookError) as caught:
        Book(root).parameters("quick")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


BOMB = "\n".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}' if i else '1'] * 9)}]" for i in range(9))
HOSTILE = {
    "tag": b"quick: !!python/object/apply:os.system ['touch executed']",
    "new object": b"quick: !!python/object/new:os.mkdir ['executed']",
    "tag of YAML": b"quick: !!timestamp x",
    "alias": b"quick: &a {all: {}}\nfull: *a",
    "anchor of itself": b"&a [*a]",
    "billion laughs": BOMB.encode(),
    "merge": b"full: &a {all: {}}\nquick:\n  <<: *a",
    "nesting": b"quick: " + b"[" * 90_000,
    "closed nesting": b"quick: " + b"[" * 5_000 + b"]" * 5_000,
    "mappings": b"quick: " + b"{a: " * 20_000,
    "indentation": "\n".join(" " * i + "quick:" for i in range(400)).encode(),
    "dashes": b"- " * 40_000,
    "UTF-16": PARAMS.encode("utf-16"),
    "Latin-1": b"quick: {all: {mode: caf\xe9}}",
    "NUL": b"quick: {all: {mode: a\0}}",
    "zeros": b"\0" * 1000,
    "huge": b"# " + b"x" * LARGEST,
    "huge number": b"quick: {all: {epochs: " + b"9" * 5_000 + b"}}",
    "no date": b"quick: {all: {mode: 2026-13-45}}",
    "many keys": b"quick: {all: {" + b", ".join(b"k%d: 1" % i for i in range(8_000)) + b"}}",
    "long key": b"quick: {" + b"k" * 1_000 + b": 1}",
    "two documents": b"quick: {}\n---\nquick: {}",
}


READERS = {
    "params.yml": lambda book: book.parameters("quick"),
    "chapters/pending.yml": lambda book: book.pending,
    "_toc.yml": lambda book: book.toc,
    "_config.yml": lambda book: read_yaml(book.root / "_config.yml"),
}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("case", HOSTILE)
def test_a_file_made_to_do_harm_is_one_line(
    case: str, name: str, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name == "_config.yml" and case in ("many keys", "long key"):
        pytest.skip("a configuration may have any keys")
    monkeypatch.chdir(root)
    (root / name).write_bytes(HOSTILE[case])
    begun = time.process_time()
    with pytest.raises(BookError) as caught:
        READERS[name](Book(root))
    message = str(caught.value)
    assert "\n" not in message and len(message) < 500
    assert time.process_time() - begun < 2
    assert not (root / "executed").exists()


def test_what_is_no_file_is_refused(root: Path, tool: Tool) -> None:
    for name, words in (
        ("params.yml", ("run", "01")),
        ("_toc.yml", ("check",)),
        ("chapters/pending.yml", ("check",)),
        ("chapters/src/01_first.md", ("check",)),
    ):
        path = root / name
        kept = path.read_text() if path.is_file() else None
        path.unlink(missing_ok=True)
        for make in (path.mkdir, lambda path=path: os.mkfifo(path)):
            if name.endswith(".md") and make != path.mkdir:
                continue
            make()
            done = tool(*words)
            assert done.returncode == 1 and done.stderr.startswith("error: ")
            assert "Traceback" not in done.stderr
            path.rmdir() if path.is_dir() else path.unlink()
        if kept is not None:
            path.write_text(kept)
    (root / "params.yml").write_bytes(b"\xef\xbb\xbf" + PARAMS.encode())  # a mark, and all is well
    assert Book(root).parameters("full")["01_first"]["epochs"] == 5


def test_a_chapter_that_is_no_notebook_is_one_line(root: Path, tool: Tool) -> None:
    for content in (b"\xff\xfe\0", b"---\njupytext: !!python/name:os.system\n---\n"):
        (root / "chapters/src/01_first.md").write_bytes(content)
        done = tool("check")
        assert done.returncode == 1 and "01_first.md" in done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_command_line_mistakes(root: Path, tool: Tool) -> None:
    for words, message in [
        (("run", "01", "--set", "epoch=3"), "did you mean 'epochs'?"),
        (("run", "02", "--set", "epochs=3"), "none of the chosen chapters"),
        (("run", "01", "--set", "epochs=three"), "epochs must be int, got str 'three'"),
        (("run", "01", "--set", "epochs"), "expected name=value"),
        (("run", "01", "--set", "a.b=1"), "expected name=value"),
        (("run", "01", "--set", "a\nb=1"), "expected name=value"),
        (("run", "01", "--set", "=1"), "expected name=value"),
        (("run", "01", "--set", "rate=nan"), "rate must be float, got str 'nan'"),
        (("run", "01", "--set", "rate=1e999"), "rate is inf: expected finite numbers"),
        (("run", "01", "--set", f"rate={'9' * 400}"), ": expected finite numbers, text"),
        (("run", "01", "--set", f"epochs={'9' * 5000}"), "too long or too deeply nested"),
        (("run", "01", "--set", f"epochs={'[' * 100_000}"), "too long or too deeply nested"),
        (("run", "01", "--set", f"epochs={'[' * 900}{']' * 900}"), "must be int, got str"),
        (("run", "01", "--set", "epochs={1, 2}"), "expected finite numbers, text, lists"),
        (("run", "01", "--set", "mode=b'x'"), "expected finite numbers, text, lists"),
        (("run", "01", "--set", "mode='\\ud800'"), "expected finite numbers, text, lists"),
        (("run", "01", "--set", f"epochs={'x' * 1999}"), "epochs must be int, got str 'xxx"),
        (("run", "07"), "no chapter '07'"),
    ]:
        done = tool(*words)
        assert done.returncode == 1
        assert message in done.stderr
        assert len(done.stderr.splitlines()) == 1 and len(done.stderr) < 500
    assert not (root / "_build").exists()
    for words in (("--jobs", "0"), ("--gpus", "-1"), ("--jobs", "x")):
        with pytest.raises(SystemExit):
            parser().parse_args(["run", "all", *words])


def test_run_dir_stays_in_the_book_unless_asked(root: Path, tool: Tool) -> None:
    outside = root.parent / f"{root.name}-outside"
    outside.mkdir()
    (root / "way_out").symlink_to(outside)
    (root / "_build").mkdir()
    before = files(root)
    for run_dir in ("data", ".", "_build/quick/../../data", str(outside), "way_out", "_build/full"):
        done = tool("run", "01", "--set", f"run_dir={run_dir}")
        assert done.returncode == 1 and "quick profile writes only under" in done.stderr
    for run_dir in ("..", "../x", "data/../..", str(outside), "way_out", "way_out/deeper", "/"):
        (root / "params.yml").write_text(f"full: {{all: {{run_dir: {run_dir}}}}}")
        done = tool("run", "01", "--profile", "full")
        assert done.returncode == 1 and "outside of the book: correct it" in done.stderr
    for run_dir in ("''", '"a\\0b"'):
        (root / "params.yml").write_text(f"full: {{all: {{run_dir: {run_dir}}}}}")
        assert "needs a parameter run_dir" in tool("run", "01", "--profile", "full").stderr
    (root / "_build/quick").symlink_to(outside)
    (root / "params.yml").write_text(PARAMS)
    assert "outside of the book" in tool("run", "01").stderr
    assert files(root) == before and not list(outside.iterdir())

    asked = tool("run", "01", "--profile", "full", "--set", f"run_dir={outside}")
    assert asked.returncode == 0, asked.stderr
    assert (outside / "results/01_first.json").is_file()
    assert not (root / "data/results").exists()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("rate = epochs * 0.1", "01_first.md:22"),
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


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_toy_book(tmp_path_factory.mktemp("fuzzed"))


# Pieces from which YAML and Python literals are made, so that some of it is read.
PIECES = ["quick", "full", "all", "01_first", "epochs", "rate", ": ", ":", "\n", "  ", "{", "}"]
PIECES += ["[", "]", ", ", "- ", "&a ", "*a", "!!int ", "<<: ", "'", '"', "|", "> ", "# ", "? "]
PIECES += ["1", "-", "1.5", ".nan", "1e999", "~", "2026-01-01", "0x1", "1:30", "\ufeff", "\t", "é"]
TEXT = st.one_of(st.text(), st.lists(st.sampled_from(PIECES), max_size=30).map("".join))


@settings(max_examples=150)
@given(text=TEXT)
def test_any_text_of_params_yml_is_read_or_refused(text: str, fuzzed: Path) -> None:
    (fuzzed / "params.yml").write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        values = Book(fuzzed).parameters("quick")
    except BookError as error:
        assert "\n" not in str(error)
    else:
        assert type(values["01_first"]["epochs"]) is int


@settings(max_examples=150)
@given(text=TEXT, name=st.sampled_from(["epochs", "rate", "mode", "run_dir", "", "x"]))
def test_any_setting_is_read_or_refused(text: str, name: str, fuzzed: Path) -> None:
    (fuzzed / "params.yml").write_text(PARAMS)
    book = Book(fuzzed)
    try:
        values = book.parameters("quick", parse_settings([f"{name}={text}"]))["01_first"]
        source = book.chapters["01_first"].source_with(values)
    except BookError as error:
        assert "\n" not in str(error)
    else:
        scope: dict[str, object] = {}
        exec(source, scope)
        assert scope[name] == values[name]


def test_papermill_reads_the_parameters_of_a_chapter(
    root: Path, tool: Tool, tmp_path: Path
) -> None:
    for profile in ("quick", "full"):
        done = tool("parameters", "1", "--profile", profile)
        path = tmp_path / f"{profile}.yml"
        path.write_text(done.stdout, encoding="utf-8")
        assert read_yaml(path) == Book(root).parameters(profile)["01_first"]
    refused = tool("parameters", "7")
    assert refused.returncode == 1 and "no chapter '7'" in refused.stderr
