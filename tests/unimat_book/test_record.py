"""Recording numbers and tables, in and out of a notebook."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from unimat_book.record import (
    READ_NOTES,
    RUN_DIR,
    STAGED,
    STAGING,
    Recorder,
    chapter_results,
    data_note,
    plural,
    product,
    project_root,
    require_file,
)
from unimat_book.tables import stacked
from unimat_lib.files import file_hash


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty book."""
    (tmp_path / "params.yml").write_text("")
    monkeypatch.setenv("UNIMAT_ROOT", str(tmp_path))
    monkeypatch.delenv("UNIMAT_STAGING", raising=False)
    monkeypatch.setattr("unimat_lib.paths._CHECKOUT", tmp_path)  # not the book of these tests
    return tmp_path


def test_project_root(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert project_root() == root
    monkeypatch.setenv("UNIMAT_ROOT", str(root / "nowhere"))
    with pytest.raises(FileNotFoundError, match="not a folder"):
        project_root()
    monkeypatch.delenv("UNIMAT_ROOT")
    (root / "a/b").mkdir(parents=True)
    monkeypatch.chdir(root / "a/b")
    assert project_root() == root
    (root / "params.yml").unlink()
    with pytest.raises(FileNotFoundError, match="inside a clone of the book"):
        project_root()


def test_missing_input_names_the_command(root: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"unimat-book run 03 --profile quick"):
        require_file("data/x.bin", made_by="unimat-book run 03 --profile quick")
    with pytest.raises(FileNotFoundError, match=r"unimat-book run 03 --profile quick"):
        chapter_results("03_encoders", "_build/quick")
    with pytest.raises(FileNotFoundError, match=r"unimat-book run 03 --profile full"):
        chapter_results("03_encoders", "data")
    (root / "x.txt").write_text("x")
    assert require_file("x.txt", made_by="never") == root / "x.txt"


def test_numbers_become_plain_json(root: Path) -> None:
    rec = Recorder("01_x", "data")
    assert rec("mae", np.float32(0.5)) == 0.5
    rec("count", np.int64(3))
    rec("tensor", torch.tensor(2.0))
    rec("flag", np.bool_(True))
    rec("formula", "TiO2")
    rec("shown", 0.123, ".2f")
    saved = json.loads((root / "data/results/01_x.json").read_text())
    assert saved == {
        **{"mae": 0.5, "count": 3, "tensor": 2.0, "flag": True},
        **{"formula": "TiO2", "shown": 0.123},
    }
    assert type(saved["count"]) is int
    assert chapter_results("01_x", "data") == saved
    assert list(saved) == sorted(saved)
    assert [p.name for p in (root / "data/results").iterdir()] == ["01_x.json"]


@pytest.mark.parametrize(
    ("key", "value", "error", "message"),
    [
        ("mae", float("nan"), ValueError, "only finite numbers"),
        ("mae", np.inf, ValueError, "only finite numbers"),
        ("mae", np.zeros(3), TypeError, r"shape \(3,\)"),
        ("mae", None, TypeError, "got NoneType"),
        ("mae-1", 1.0, ValueError, "underscores"),
        ("Mae", 1.0, ValueError, "lower-case"),
    ],
)
def test_bad_records(
    root: Path, key: str, value: object, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        Recorder("01_x", "data")(key, value)
    assert not (root / "data").exists()


def test_a_key_is_recorded_once(root: Path) -> None:
    rec = Recorder("01_x", "data")
    rec("mae", 1)
    with pytest.raises(ValueError, match="already recorded"):
        rec("mae", 2)


def test_tables(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    glued = {}
    monkeypatch.setattr("unimat_book.record._glue", lambda key, bundle: glued.update({key: bundle}))
    frame = pd.DataFrame(
        {"n": [1200, 3], "MAE": [0.5, np.nan], "note": ["a|b", "c"]},
        index=pd.Index(["cubic", "other"], name="system"),
    )
    rec = Recorder("01_x", "data")
    rec.table("per_system", frame, caption="One\nline.", float_format={"MAE": ".1f"})
    assert glued["per_system"]["text/markdown"] == (
        "```{table} One line.\n:name: tab-per-system\n\n"
        "| system | n | MAE | note |\n"
        "| :--- | ---: | ---: | :--- |\n"
        "| cubic | 1,200 | 0.5 | a\\|b |\n"
        "| other | 3 | – | c |\n```\n"
    )
    assert chapter_results("01_x", "data")["per_system"][1] == {
        **{"system": "other", "n": 3, "MAE": None, "note": "c"}
    }
    with pytest.raises(ValueError, match="no rows"):
        rec.table("empty", frame[:0], caption="x")
    with pytest.raises(ValueError, match=r"bad\[MAE\] is inf"):
        rec.table("bad", frame.replace(0.5, np.inf), caption="x")


def test_a_page_shows_six_columns_and_a_file_holds_all(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    glued = {}
    monkeypatch.setattr("unimat_book.record._glue", lambda key, bundle: glued.update({key: bundle}))
    frame = pd.DataFrame({name: [1.25, np.nan] for name in "abcdefg"}).assign(name=["nan", "x"])
    rec = Recorder("01_x", "data")
    with pytest.raises(ValueError, match="shows 8 columns, a page has room for 6"):
        rec.table("wide", frame, caption="x")
    shown = pd.DataFrame({"name": frame["name"], "a, b": stacked(frame, "{a:.1f}", "b = {b:.2f}")})
    rec.table("wide", frame, shown=shown, caption="x")
    assert glued["wide"]["text/markdown"].splitlines()[3:7] == [
        *("| name | a, b |", "| :--- | :--- |"),
        *("| nan | 1.2<br><small>b = 1.25</small> |", "| x | –<br><small>b = –</small> |"),
    ]
    assert set(chapter_results("01_x", "data")["wide"][0]) == {*"abcdefg", "name"}


def test_a_number_of_things() -> None:
    assert plural(1, "seed") == "1 seed" and plural(1200, "seed") == "1,200 seeds"


@pytest.fixture
def staging(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What unimat-book sets while it runs a chapter."""
    monkeypatch.setenv(STAGING, str(root / "_build/scratch/staging"))
    monkeypatch.setenv(RUN_DIR, str(root / "data"))
    return root / "_build/scratch/staging"


def test_staging_keeps_the_last_good_file(root: Path, request: pytest.FixtureRequest) -> None:
    Recorder("01_x", "data")("mae", 1.0)
    staging = request.getfixturevalue("staging")
    Recorder("01_x", "data")("mae", 2.0)
    assert json.loads((root / "data/results/01_x.json").read_text()) == {"mae": 1.0}
    assert json.loads((staging / "results/01_x.json").read_text()) == {"mae": 2.0}
    assert chapter_results("01_x", "data") == {"mae": 2.0}  # what this very run has written


def test_only_what_is_published_waits_in_the_staging_folder(root: Path, staging: Path) -> None:
    for kind in STAGED:
        assert product(f"data/{kind}/a/b.txt") == staging / kind / "a/b.txt"
        assert product(root / "data" / kind) == staging / kind
    for name in ("data/runs/01_x/a.ckpt", "data/x.json", "elsewhere/results/a.json"):
        assert product(name) == root / name


def test_what_another_chapter_wrote_is_noted_when_it_is_read(root: Path, staging: Path) -> None:
    noted = ("data/results/03_x.json", "data/published.yml")
    for name in (*noted, "data/runs/01_x/kept.parquet"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("{}")
        require_file(name, made_by="never")
    outside = root.parent / f"{root.name}-outside.txt"
    outside.write_text("mine")
    require_file(outside, made_by="never")
    Recorder("01_x", "data")("mae", 1.0)
    chapter_results("01_x", "data")
    lines = (staging / READ_NOTES).read_text().splitlines()
    assert dict(map(json.loads, lines)) == {name: file_hash(root / name) for name in noted}


def test_glue_is_what_myst_nb_makes(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same display call, byte for byte."""
    import IPython
    import IPython.display
    from myst_nb import glue

    calls: list[tuple] = []
    monkeypatch.setattr(
        IPython.display, "display", lambda *args, **options: calls.append((args, options))
    )
    monkeypatch.setattr("myst_nb.ext.glue.IPython.display.display", IPython.display.display)

    class Shell:
        kernel = object()

    monkeypatch.setattr(IPython, "get_ipython", Shell)
    Recorder("01_x", "data")("mae", 0.25)
    glue("mae", 0.25, display=False)
    assert len(calls) == 2
    assert calls[0] == calls[1]


def test_data_note() -> None:
    note = data_note({"name": "mp_20", "text": "A copy.", "splits": {"train": 26282, "val": 1}})
    assert note.data == "> **Data: `mp_20`.** A copy.\n>\n> Splits: train 26,282, val 1."
    with pytest.raises(ValueError, match="no 'text'"):
        data_note({"name": "mp_20"})


def test_import_needs_neither_sphinx_nor_ipython() -> None:
    code = (
        "import sys, unimat_book.record; "
        "assert not {'sphinx', 'IPython', 'myst_nb', 'pandas', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
